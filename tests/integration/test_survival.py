"""Full disks, killed downloads, and two processes that want the same: each leaves things whole."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from helpers.kill_driver import Driver
from helpers.tiny_bundle import MODEL, snapshot, write_work

from onnxloc.bundle import Bundle
from onnxloc.store import Run

pytestmark = pytest.mark.integration

LOCALIZE = [
    *["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "--threads", "1"],
    *["--batch-size", "1"],
]
ABLATE = ["ablate", "tiny", "--network", "old", "--task", "pairs.jsonl", "--threads", "1"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    work = write_work(tmp_path_factory.mktemp("work"))
    content = MODEL.write(work / "m.gguf").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    recipe = f'source = "file:m.gguf"\nsha256 = "{digest}"\nsize = {len(content)}\n'
    (work / "small.toml").write_text(f'{recipe}exporter = "gguf"\n')
    return work


@pytest.fixture(scope="module")
def driver(original):
    driver = Driver(original, ONNXLOC_HOME=str(original / "home"))
    driver.must(*LOCALIZE, "--signed", "-o", "old")
    yield driver
    driver.close()


def outputs(work):
    """Everything but the cache, whose locks stay."""
    files = snapshot(work)
    return {name: content for name, content in files.items() if name.partition("/")[0] != "home"}


def tables(folder):
    Run.open(folder)
    return {name: (folder / name).read_bytes() for name in ("network.parquet", "summary.json")}


@pytest.mark.parametrize("words", [LOCALIZE, ABLATE], ids=["localize", "ablate"])
def test_a_full_disk_is_one_line_and_the_run_can_go_on(original, driver, words):
    before = outputs(original)
    sizes = set()
    for limit in (0, 500, 2000, 4000, 8000):
        for replaced in ("out", "old"):
            force = ["--force"] if replaced == "old" else []
            done = driver(*words, "-o", replaced, *force, limit=limit)
            if done["status"] == 0:
                continue
            sizes.add(limit)
            assert done["status"] == 2
            *_, line = done["said"].splitlines()
            assert line.startswith("onnxloc: error: cannot write ")
            assert "File too large" in line
            after = outputs(original)
            assert {name: after.get(name) for name in before} == before
            assert {name for name in set(after) - set(before) if ".partial" not in name} == set()
            kept = original / f".{replaced}.partial"
            assert kept.exists() == line.endswith("run the same command with --resume")
            shutil.rmtree(kept, ignore_errors=True)
        assert limit in sizes or limit > 2000
    assert {0, 500} <= sizes


def test_what_a_full_disk_stopped_goes_on(original, driver):
    steps = driver.must(*LOCALIZE, "-o", "whole")["events"]
    # Most steps are those of saving the state.
    assert driver(*LOCALIZE, "-o", "out", event=steps // 2)["status"] == -9
    state = original / ".out.partial" / "000.npz"
    before = state.read_bytes()
    done = driver(*LOCALIZE, "-o", "out", "--resume", limit=100)
    assert done["status"] == 2
    assert state.read_bytes() == before
    done = driver.must(*LOCALIZE, "-o", "out", "--resume")
    assert "were done before" in done["said"]
    assert tables(original / "out") == tables(original / "whole")
    assert not state.parent.exists()


def two(words, work):
    """Run a command twice at the same time; status and last line of each."""
    command = [sys.executable, "-m", "onnxloc", *words]
    settings = {"cwd": work, "env": {**os.environ, "ONNXLOC_HOME": str(work / "home")}}
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    return sorted((p.returncode, text.strip()) for p, text in zip(started, said, strict=True))


def test_two_processes_on_one_output(original, driver):
    driver.must(*LOCALIZE, "-o", "alone")
    first, second = two([*LOCALIZE, "-o", "both"], original)
    assert first == (0, "")
    assert second[0] == 2
    # The second comes while the first is at work, or after it has ended.
    assert "another process is writing both" in second[1] or "both exists" in second[1]
    assert tables(original / "both") == tables(original / "alone")
    assert not (original / ".both.partial").exists()


def test_two_processes_on_one_cache(original):
    assert [status for status, _ in two(["fetch", "small.toml"], original)] == [0, 0]
    folder = original / "home" / "bundles" / "small"
    assert Bundle.open(folder).info.source_sha256 in (original / "small.toml").read_text()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_a_killed_fetch_is_done_again(original, driver):
    home = original / "home"
    shutil.rmtree(home, ignore_errors=True)
    steps = driver.must("fetch", "small.toml")["events"]
    expected = snapshot(home / "bundles")
    for place in range(1, 11):
        shutil.rmtree(home)
        event = 1 + place * (steps - 1) // 10 - (place == 10)
        assert driver("fetch", "small.toml", event=event)["status"] == -9
        driver.must("fetch", "small.toml")
        assert snapshot(home / "bundles") == expected
        left = [path for path in home.rglob("*") if "partial" in path.name]
        assert left == []
