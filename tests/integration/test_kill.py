"""Runs that are killed at any moment: nothing finished is lost, and what was done goes on."""

import random
import shutil
import signal

import pytest
from helpers.kill_driver import Driver
from helpers.tiny_bundle import snapshot, write_work

from onnxloc.claim import partial_folder
from onnxloc.errors import RunError
from onnxloc.store import Run

pytestmark = pytest.mark.integration

KILLS = 50
LOCALIZE = ["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "--batch-size", "1"]
ABLATE = [
    *["ablate", "tiny", "--network", "found", "--task", "pairs.jsonl", "--task", "text:lines.txt"],
    *["--controls", "3", "--batch-size", "4"],
]
COMMANDS = {
    "localize": [*LOCALIZE, "--threads", "1"],
    "ablate": [*ABLATE, "--threads", "1"],
    "kept": [*LOCALIZE, "--threads", "1", "--keep-activations"],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return write_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def driver(work):
    driver = Driver(work)
    yield driver
    driver.close()


def result(folder):
    """All that a run holds but its record, which has times; its tables are equal bit by bit."""
    Run.open(folder)
    files = snapshot(folder)
    del files["manifest.json"]
    return files


@pytest.fixture(scope="module")
def whole(work, driver):
    """For each command what an undisturbed run gives, how long it takes and its steps on files."""
    driver.must(*LOCALIZE, "-o", "found")
    driver.must(*LOCALIZE, "--signed", "-o", "old")
    found = {}
    for name, words in COMMANDS.items():
        done = driver.must(*words, "-o", f"whole-{name}")
        found[name] = (result(work / f"whole-{name}"), done["seconds"], done["events"])
    return found


def moments(seed):
    """Where to kill: half of them at a time, half before a step on files, spread over the run."""
    rng = random.Random(seed)
    commands = ["localize", "ablate", "localize", "ablate", "kept"]
    for number in range(KILLS):
        place = (number // 2 + rng.random()) / (KILLS / 2)
        yield number, commands[number % 5], "event" if number % 2 else "after", place


def kill(driver, words, at, prepare):
    """Run a command and kill it; one that ends before it is killed is killed earlier."""
    for _ in range(6):
        prepare()
        if driver(*words, **at)["status"] == -signal.SIGKILL:
            return at
        shorter = {key: at[key] * 0.7 for key in ("after", "event") if key in at}
        at = {**at, **{key: type(at[key])(value) for key, value in shorter.items()}}
    raise AssertionError(f"{words} cannot be killed")


def test_killed_runs_go_on_to_the_same_result(work, driver, whole, figure):
    killed, resumed = 0, {"event": 0, "after": 0}
    old = result(work / "old")
    for number, name, how, place in moments(seed=0):
        expected, seconds, events = whole[name]
        out = work / f"out-{number}"
        replaces = number % 3 == 0
        words = [*COMMANDS[name], "-o", out.name, *(["--force"] if replaces else [])]
        before = set(snapshot(work))

        def prepare(out=out, replaces=replaces):
            shutil.rmtree(out, ignore_errors=True)
            if replaces:
                shutil.copytree(work / "old", out)

        if how == "event":
            at = {"event": 1 + int(place * events)}
        else:
            # Until the run is claimed, there is nothing that could be lost.
            claimed = {} if number % 5 == 0 else {"seen": partial_folder(out).name}
            at = {"after": place * seconds / (2 if claimed else 1), **claimed}
        where = (number, name, kill(driver, words, at, prepare))
        killed += 1
        with pytest.raises(RunError):
            Run.open(partial_folder(out))
        if replaces:
            assert result(out) in (old, expected), where
        finished = not replaces and out.exists()
        if finished:
            # Only the removal of the unfinished state was missed.
            assert result(out) == expected, where
        again = ["--force"] if finished else ["--resume"]
        done = driver.must(*words, *again)
        resumed[how] += "were done before" in done["said"]
        assert result(out) == expected, where
        # Nothing is left of the killed process.
        beside = {path.split("/")[0] for path in set(snapshot(work)) - before}
        assert beside <= {out.name}, where
    assert killed == KILLS
    figure("kills survived", killed)
    figure("of these, resumed from a saved state", sum(resumed.values()))
    figure("of these, killed before a chosen step", resumed["event"])
    assert resumed["event"] >= KILLS // 5
