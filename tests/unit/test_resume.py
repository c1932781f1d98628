"""Stopped runs of ``localize`` and ``ablate`` go on to the same result, bit by bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_bundle import POSITIVE, write_work

from onnxloc import Model, Network, ablate_into, load_stimuli, load_task, localize_into
from onnxloc.claim import partial_folder
from onnxloc.cli import main
from onnxloc.errors import RunError
from onnxloc.runtime.session import Session
from onnxloc.store import Run
from onnxloc.studies.ablate import AblateOptions
from onnxloc.studies.localize import LocalizeOptions

pytestmark = pytest.mark.unit

TABLES = ("units.parquet", "network.parquet", "effects.parquet", "summary.json")
LOCALIZE = ["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "--batch-size", "1"]
ABLATE = ["ablate", "tiny", "--network", "found", "--controls", "3", "--batch-size", "5"]
PAIRS = ["--task", "pairs.jsonl"]
COMMANDS = {
    "localize": (LOCALIZE, "taps"),
    "every operation": ([*LOCALIZE, "--sites", "op:*", "--pool", "mean", "--signed"], "taps"),
    "pairs and text": ([*ABLATE, *PAIRS, "--task", "text:lines.txt"], "target_logprobs"),
    "sizes": ([*ABLATE, *PAIRS, "--percent", "2,5", "--match", "norm"], "target_logprobs"),
    "means": ([*ABLATE, *PAIRS, "--with", "mean", "--tokens", "0,1"], "target_logprobs"),
    "guesses": ([*ABLATE, "--task", "cloze:words.txt", "--with", "noise=1"], "read"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    work = write_work(tmp_path_factory.mktemp("work"))
    (work / "words.txt").write_text("".join(f"{text}\n" for text in POSITIVE))
    return work


@pytest.fixture
def work(original, monkeypatch):
    monkeypatch.chdir(original)
    if not Path("found").exists():
        assert main([*LOCALIZE, "-o", "found"]) == 0
    return original


@pytest.fixture
def stop_at(monkeypatch):
    """Let a method of a session be interrupted when it is called for the n-th time."""

    def stop_at(method, number):
        real, calls = getattr(Session, method), []

        def counted(self, *args, **settings):
            calls.append(1)
            if len(calls) == number:
                monkeypatch.setattr(Session, method, real)
                raise KeyboardInterrupt
            return real(self, *args, **settings)

        monkeypatch.setattr(Session, method, counted)

    return stop_at


@pytest.mark.parametrize("name", COMMANDS)
def test_the_result_is_that_of_an_undisturbed_run(work, tmp_path, capsys, stop_at, name):
    words, method = COMMANDS[name]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*words, "-o", str(whole)]) == 0
    capsys.readouterr()
    # A model that is asked whether it is causal is run once before.
    for number in (3, 4):
        stop_at(method, number)
        resume = ["--resume"] if partial_folder(out).exists() else []
        assert main([*words, "-o", str(out), *resume]) == 130
        assert capsys.readouterr().err.strip().endswith("same command with --resume")
        assert not out.exists()
    assert main([*words, "-o", str(out), "--resume"]) == 0
    said = capsys.readouterr()
    assert "were done before" in said.out
    assert said.err == ""
    for table in TABLES:
        if (whole / table).exists():
            assert (out / table).read_bytes() == (whole / table).read_bytes(), table
    step, other = (Run.open(folder).manifest.steps[-1] for folder in (out, whole))
    assert step.seconds["earlier"] > 0
    assert "earlier" not in other.seconds
    assert (step.parameters, step.hashes) == (other.parameters, other.hashes)
    assert not partial_folder(out).exists()


@pytest.mark.parametrize(
    ("name", "more", "differs"),
    [
        ("localize", ["--batch-size", "2"], "batch_size"),
        ("localize", ["--signed"], "magnitude"),
        ("localize", ["--sites", "block.1.out"], "plan, sites"),
        ("localize", ["--threads", "1"], "threads"),
        ("localize", ["--localizer", "other.csv"], "stimuli"),
        ("pairs and text", ["--controls", "4"], "networks, controls"),
        ("pairs and text", ["--with", "scale=0.5"], "replacement"),
        ("pairs and text", ["--limit", "2"], "task, token ids"),
        ("pairs and text", ["--seed", "1"], "seed"),
        ("pairs and text", ["--network", "found/network.parquet"], ""),
    ],
)
def test_other_options_are_named(work, tmp_path, capsys, stop_at, name, more, differs):
    words, method = COMMANDS[name]
    (work / "other.csv").write_text((work / "stimuli.csv").read_text() + "control,1 2 3\n")
    out = str(tmp_path / "out")
    stop_at(method, 5)
    assert main([*words, "-o", out]) == 130
    capsys.readouterr()
    status = main([*words, *more, "-o", out, "--resume"])
    said = capsys.readouterr().err
    if not differs:
        # The same network in another place.
        assert (status, said) == (0, "")
        return
    assert status == 2
    assert said.startswith("onnxloc: error: the unfinished run at ")
    assert said.count("\n") == 1
    named = said.partition(": ")[2].partition(" (")[2].partition(")")[0].partition(": ")[2]
    assert set(differs.split(", ")) <= set(named.split(", "))
    assert not Path(out).exists()


def tree(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


@pytest.mark.parametrize("stops", [[1], [2], [4], [6], [2, 3], [1, 1, 1]])
def test_kept_activations_are_resumed(work, tmp_path, capsys, monkeypatch, stop_at, stops):
    # 12 rows in chunks of 5, of batches of 2: a stop falls between the chunks' ends.
    monkeypatch.setattr("onnxloc.activation_writer.BUFFER_BYTES", 5 * row_bytes())
    words = [*LOCALIZE, "--batch-size", "2", "--keep-activations", "--permutations", "20"]
    assert main([*words, "-o", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    for stop in stops:
        stop_at("taps", stop)
        assert main([*words, "-o", str(out), "--resume"]) == 130
    assert main([*words, "-o", str(out), "--resume"]) == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "whole"]


def row_bytes():
    model = Model.open("tiny")
    return sum(site.units for site in model.sites.match(["block.*.out"])) * 4


def test_kept_activations_that_were_changed_are_refused(work, tmp_path, capsys, stop_at):
    words = [*LOCALIZE, "--keep-activations", "-o", str(tmp_path / "out")]
    stop_at("taps", 4)
    assert main(words) == 130
    kept = tmp_path / ".out.partial" / "kept" / "activations.zarr"
    chunk = next(file for file in kept.rglob("*") if file.parent.parent.name == "c")
    damaged = bytearray(chunk.read_bytes())
    damaged[3] ^= 1
    chunk.write_bytes(damaged)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    said = capsys.readouterr().err
    assert "are not those written; --force starts afresh" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main([*words, "--force"]) == 0
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_from_python(work, tmp_path, stop_at):
    model, stimuli = Model.open("tiny"), load_stimuli("stimuli.csv")
    options = LocalizeOptions(batch_size=2)
    settings = {"resume": True}
    stop_at("taps", 3)
    with pytest.raises(KeyboardInterrupt):
        localize_into(tmp_path / "run", model, stimuli, options, **settings)
    said = []
    found = localize_into(tmp_path / "run", model, stimuli, options, **settings, report=said.append)
    assert said[-1] == "localize: 4 of 12 stimuli were done before"
    alone = localize_into(tmp_path / "alone", model, stimuli, options, keep_activations=False)
    assert not (tmp_path / "alone" / "activations.json").exists()
    assert (tmp_path / "run" / "activations.json").is_file()
    np.testing.assert_array_equal(found.contrast.t, alone.contrast.t)
    task, network = load_task("pairs.jsonl"), Network.load("found")
    options = AblateOptions(controls=1, batch_size=4)
    stop_at("target_logprobs", 4)
    with pytest.raises(KeyboardInterrupt):
        ablate_into(tmp_path / "ablation", model, network, [task], options)
    with pytest.raises(RunError, match="an unfinished run lies at"):
        ablate_into(tmp_path / "ablation", model, network, [task], options)
    done = ablate_into(tmp_path / "ablation", model, network, [task], options, resume=True)
    record = json.loads((tmp_path / "ablation" / "manifest.json").read_text())
    assert record["steps"][0]["seconds"]["earlier"] == done.step.seconds["earlier"] > 0
