"""Bad input gets one line on standard error, exit status 2, and every folder stays as it was."""

import os
import subprocess
import sys

import pytest
from bad_inputs.builders import write_bad_folder
from bad_inputs.cases import CASES
from helpers.tiny_bundle import snapshot

from onnxloc.cli import main

pytestmark = pytest.mark.unit

ALL = [pytest.param(words, keys, id=f"{group}-{' '.join(words)[:60]}")
       for group, cases in CASES.items() for words, keys in cases]  # fmt: skip
# Of each group one in a process of its own: the last, which differs most from the first.
ALONE = [pytest.param(*cases[-1], id=group) for group, cases in CASES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of bad things, and what is in it; no test may change it."""
    work = write_bad_folder(tmp_path_factory.mktemp("work"))
    return work, snapshot(work)


@pytest.fixture
def work(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder[0])
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    return folder[0]


def check_error(out, err, keys):
    assert err.startswith("onnxloc: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    for key in keys:
        assert key in err
    assert out == ""


def test_there_are_cases_of_every_kind():
    assert sum(map(len, CASES.values())) >= 400
    assert {"models", "bundles", "stimuli", "arrays", "tasks", "networks", "runs", "configs",
            "fetch"} <= set(CASES)  # fmt: skip
    assert min(map(len, CASES.values())) >= 4
    typed = [tuple(words) for cases in CASES.values() for words, _ in cases]
    assert len(set(typed)) == len(typed)
    assert all(keys and all(keys) for cases in CASES.values() for _, keys in cases)


@pytest.mark.parametrize(("words", "keys"), ALL)
def test_bad_input_is_one_line_and_leaves_nothing(folder, work, capsys, monkeypatch, words, keys):
    import onnxruntime

    # What a GPU build would offer is not what is tested here.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status = main(words)
    said = capsys.readouterr()
    check_error(said.out, said.err, keys)
    assert status == 2
    assert snapshot(work) == folder[1]


@pytest.mark.parametrize(("words", "keys"), ALONE)
def test_the_process_itself(folder, work, words, keys):
    done = subprocess.run(
        [sys.executable, "-m", "onnxloc", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    check_error(done.stdout, done.stderr, keys)
    assert done.returncode == 2
    assert snapshot(work) == folder[1]
