"""Completion in shells: the scripts, and what is offered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from helpers.tiny_bundle import write_tiny_bundle

from onnxloc.cli import COMMANDS, cli, main
from onnxloc.cli.completers import SITES
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import PROVIDERS
from onnxloc.stimuli.localizers import LOCALIZERS
from onnxloc.tasks import FORMS, TASKS

pytestmark = pytest.mark.unit


def offered(*words):
    """What is offered for the last of the words behind onnxloc."""
    shell = BashComplete(cli, {}, "onnxloc", "_ONNXLOC_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(list(words[:-1]), words[-1])]


def names(*words):
    return [value for kind, value in offered(*words) if kind == "plain"]


@pytest.fixture
def script(capsys):
    def script(shell):
        assert main(["completion", shell]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out

    return script


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_where_to_put_it(script, shell):
    text = script(shell)
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    assert any(f"onnxloc completion {shell} > ~/" in line for line in comments)
    assert f"_ONNXLOC_COMPLETE={shell}_complete" in text
    # zsh loads a file for the command that its first line names.
    assert (lines[0] == "#compdef onnxloc") == (shell == "zsh")
    assert "\n\n\n" not in text


def test_bash_completes(script, tmp_path):
    (tmp_path / "onnxloc.bash").write_text(script("bash"))
    (tmp_path / "onnxloc").write_text(f'#!/bin/sh\nexec {sys.executable} -m onnxloc "$@"\n')
    (tmp_path / "onnxloc").chmod(0o755)
    code = """
    source onnxloc.bash
    complete -p onnxloc
    compopt() { :; }
    try() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _onnxloc_completion onnxloc
        echo "${COMPREPLY[*]}"
    }
    try onnxloc localizer
    try onnxloc localize x --localizer lan
    try onnxloc localize x --sites 'block.*.mlp'
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eu", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "-F _onnxloc_completion onnxloc" in lines[0]
    assert lines[1:] == [
        "localizers", "language language-2", "block.*.mlp.pre block.*.mlp.hidden block.*.mlp.out"
    ]  # fmt: skip


def test_commands_are_offered_and_none_is_imported():
    assert sorted(names("")) == sorted(COMMANDS)
    assert names("export", "") == ["gguf", "jax", "optimum", "torch"]
    assert set(names("localize", "--p")) >= {"--provider", "--pool", "--print-config"}
    assert set(names("--ver")) == {"--version", "--verbose"}
    code = (
        "import sys; from click.shell_completion import BashComplete; from onnxloc.cli import cli; "
        "found = BashComplete(cli, {}, 'onnxloc', 'X').get_completions([], ''); "
        "assert len(found) > 10; "
        "print([m for m in sys.modules if m.startswith('onnxloc.cli.') and m.endswith('_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names_are_offered():
    assert names("localize", "x", "--localizer", "") == list(LOCALIZERS)
    assert names("ablate", "x", "--localizer", "math") == ["math"]
    assert names("localizers", "theory") == ["theory-of-mind"]
    assert set(names("ablate", "x", "--task", "")) == {*TASKS, *(f"{form}:" for form in FORMS)}
    assert names("fetch", "smollm2-135m-j") == ["smollm2-135m-jax"]
    assert "smollm2-135m" in names("inspect", "smo")
    assert names("inspect", "x", "--sites", "block.*.attn.") == [
        f"block.*.attn.{part}" for part in ("q", "k", "v", "probs", "heads", "out")
    ]
    assert names("check", "x", "--provider", "") == list(PROVIDERS)
    assert names("ablate", "x", "--match", "") == ["site", "count", "norm"]


def test_files_are_offered_where_a_path_may_stand():
    for words in (["inspect"], ["fetch"], ["localize", "x", "--localizer"], ["ablate", "--task"]):
        # The mark comes first: shells drop what they have when they meet it.
        assert offered(*words, "bun")[0] == ("file", "bun")
    assert offered("report", "ru") == [("file", "ru")]
    assert offered("inspect", "x", "--sites", "zzz") == []


def test_the_sites_that_are_offered_exist(tmp_path: Path):
    found = Model.open(write_tiny_bundle(tmp_path / "tiny")).sites
    for pattern in SITES:
        assert found.match([pattern], with_units=False), pattern
