"""Errors and interruptions beyond the table of bad inputs: nothing half-written is left."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios

import pytest
from bad_inputs.builders import write_bad_folder
from bad_inputs.words import ablate, localize
from helpers.tiny_bundle import POSITIVE, snapshot, write_stimuli

from onnxloc.cli import main
from onnxloc.network import Network
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder full of bad things; no test may change it."""
    return write_bad_folder(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    return folder


def check_error(said, keys):
    assert said.err.startswith("onnxloc: error: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    for key in keys:
        assert key in said.err
    assert said.out == ""


def test_both_hashes_are_named(work, capsys):
    model = Model.open("tiny").graph.hash
    assert main(ablate(network="foreign.parquet")) == 2
    said = capsys.readouterr().err
    assert "0123456789ab" in said
    assert model[:12] in said


def test_a_network_of_another_model_can_be_forced_where_it_fits(work, tmp_path):
    words = ablate("--controls", "1", "--force-model", model="other", out=str(tmp_path / "out"))
    assert main([word for word in words if word != "--force-model"]) == 2
    assert main(words) == 0


def test_a_refused_fetch_leaves_no_file(work, tmp_path, capsys):
    for name in ("wrong-sum.toml", "absent.toml"):
        assert main(["fetch", name]) == 2
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".lock"] == []


def test_control_characters_and_odd_bytes_of_names_are_escaped(work, tmp_path, capsys):
    assert main(["inspect", "a\x1b[31mb\nc"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "a\\x1b[31mb c" in said
    odd = os.fsdecode(b"caf\xe9")
    before = snapshot(work)
    for words in (localize(out=odd), ablate(out=f"{odd}/out"), ["demo", "-o", odd]):
        assert main(words) == 2
        check_error(capsys.readouterr(), ["'caf\\udce9", "is not UTF-8"])
    assert main(["report", odd]) == 2
    check_error(capsys.readouterr(), ["there is no run folder at caf\\udce9"])
    assert snapshot(work) == before
    # As the name of an input they do no harm.
    stimuli = write_stimuli(tmp_path / f"{odd}.csv")
    assert main(localize(stimuli=str(stimuli), out=str(tmp_path / "out"))) == 0
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert record["steps"][0]["parameters"]["localizer"] == str(stimuli)
    assert main(["report", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["run", "out"])
def test_an_interrupt_while_writing_leaves_what_was(work, capsys, monkeypatch, name):
    def stop(self, path):
        path.write_text("half a network")
        raise KeyboardInterrupt

    before = snapshot(work)
    monkeypatch.setattr(Network, "save", stop)
    assert main(localize("--force", out=name)) == 130
    said = capsys.readouterr().err
    assert said.strip() == "onnxloc: interrupted; to go on, run the same command with --resume"
    after = snapshot(work)
    hidden = f".{name}.partial"
    shutil.rmtree(hidden)
    assert set(after) - set(before) == {hidden, f"{hidden}/000.npz"}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["localize", "ablate"])
def test_a_signal_leaves_what_can_be_resumed(work, tmp_path, command, number):
    if command == "localize":
        texts = [f"{text} {i}" for i in range(1500) for text in POSITIVE]
        others = [f"{text}." for text in texts]
        stimuli = write_stimuli(tmp_path / "many.csv", texts, others)
        words, bar = localize("--batch-size", "1", stimuli=str(stimuli)), b"localizing"
    else:
        words, bar = ablate("--controls", "200", "--batch-size", "1", task="pairs"), b"ablating"
    before = snapshot(work)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen([sys.executable, "-m", "onnxloc", *words], stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        # The bar is drawn at 0 first, then at what need not be run; at a fourth number it is in the
        # middle of the work.
        while len(set(re.findall(bar + rb":[^\r]*\| *(\d+)/", shown))) < 4:
            shown += os.read(ours, 4096)
        process.send_signal(number)
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            # So a terminal says on Linux that nobody holds its other end.
            pass
        assert process.wait(timeout=30) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    line = b"onnxloc: interrupted; to go on, run the same command with --resume"
    assert shown.rstrip().endswith(line)
    assert b"Traceback" not in shown
    after = snapshot(work)
    shutil.rmtree(".out.partial")
    assert set(after) - set(before) == {".out.partial", ".out.partial/000.npz"}
    assert {path: after[path] for path in before} == before


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

sys.meta_path.insert(0, Blocker())
from onnxloc.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words", [localize(), ablate(), ["inspect", "tiny"]], ids=["localize", "ablate", "inspect"]
)
def test_without_onnxruntime_the_extras_are_named(work, words):
    before = snapshot(work)
    said = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("onnxloc: error: onnxruntime is not installed")
    assert said.stderr.count("\n") == 1
    assert "onnxloc[cpu]" in said.stderr
    assert "onnxloc[gpu]" in said.stderr
    assert snapshot(work) == before
