"""What holds for every command: help, JSON, quiet and verbose, colours, hints, exit statuses."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.cli_walk import command_context, commands
from helpers.tiny_bundle import MODEL, write_work

from onnxloc.cli import COMMANDS, SECTIONS, main
from onnxloc.cli.invocation import colour_of
from onnxloc.folder import sha256_file
from onnxloc.studies.check import Check

pytestmark = pytest.mark.unit

ALL = commands()
OWN = [words for words in ALL if words != ["lm-eval"]]
THREADS = ["--threads", "1"]
KEPT = ["--localizer", "stimuli.csv", "--top", "5", *THREADS]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model, a run with activations, and another run."""
    folder = write_work(tmp_path_factory.mktemp("work"))
    MODEL.write(folder / "m.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["localize", "tiny", *KEPT, "--keep-activations", "-o", "run"]) == 0
        assert main(["localize", "tiny", *KEPT, "--pool", "mean", "-o", "other"]) == 0
    return folder


@pytest.fixture
def here(work, tmp_path, monkeypatch):
    folder = shutil.copytree(work, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


def said(capsys, *words, status=0):
    assert main([str(word) for word in words]) == status
    return capsys.readouterr()


def error(capsys, *words):
    """The one line that bad input gets."""
    found = said(capsys, *words, status=2)
    assert (found.out, found.err.count("\n")) == ("", 1)
    return found.err


# Help


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_help_has_examples_and_is_narrow(words, capsys, monkeypatch):
    texts = []
    for columns, home in (("200", "/nowhere"), ("200", "/elsewhere"), ("60", "/nowhere")):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("ONNXLOC_HOME", home)
        texts.append(said(capsys, *words, "--help").out)
    assert texts[0] == texts[1]
    for text in texts:
        assert max(map(len, text.splitlines())) < 100
        assert re.search(rf"\n  Examples?:\n +onnxloc {' '.join(words)}\b", text)
        assert "/nowhere" not in text
        assert str(Path.home()) not in text


@pytest.mark.parametrize("words", OWN, ids=" ".join)
def test_every_example_can_be_parsed(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = said(capsys, *words, "--help").out
    examples = text[re.search(r"\n  Examples?:\n", text).end() :].split("\n\n")[0]
    lines = re.sub(r"\n +(?! |onnxloc)", " ", examples).splitlines()
    own = [line for line in lines if line.split()[1 : 1 + len(words)] == words]
    assert own
    for line in own:
        # What stands behind these is the shell's.
        typed = shlex.split(re.split(r" (?:>|\||&&) ", line)[0])
        with command_context(words, *typed[1 + len(words) :], "--print-config") as ctx:
            assert ctx.params is not None


def test_the_help_is_grouped_and_imports_no_command():
    code = (
        "import sys; from onnxloc.cli import main; main(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('onnxloc.cli.') and m[-1] == '_'))"
        "; print(sorted({'numpy', 'onnx', 'onnxruntime', 'pandas', 'tqdm'} & set(sys.modules)))"
    )
    env = {**os.environ, "COLUMNS": "120"}
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert text.splitlines()[-2:] == ["[]", "[]"]
    places = [text.index(f"\n{heading}:\n") for heading in SECTIONS]
    assert places == sorted(places)
    for (heading, section), start in zip(SECTIONS.items(), places, strict=True):
        block = text[start:].split("\n\n")[0]
        assert re.findall(r"^  ([a-z-]+) ", block, re.MULTILINE) == list(section), heading
    for status in ("0", "1", "2", "130", "143"):
        assert re.search(rf"\b{status}\b", text[text.index("Exit status:") : text.index("Options")])
    assert sorted(COMMANDS) == sorted({words[0] for words in ALL})


@pytest.mark.parametrize("words", OWN, ids=" ".join)
def test_every_command_has_the_common_options(words):
    with command_context(words) as ctx:
        options = {option for param in ctx.command.params for option in param.opts}
    assert {"--config", "--print-config", "-q", "--quiet", "-v", "--verbose"} <= options


# JSON

PAIRS = ["--task", "pairs.jsonl", "--controls", "2", *THREADS]
JSON = {
    "inspect": [["tiny"], ["tiny", "--sites", "op:*"]],
    "check": [["tiny", *THREADS]],
    "localizers": [[], ["language"]],
    "providers": [[]],
    "fetch": [[]],
    "localize": [["tiny", *KEPT, "-o", "new"], ["tiny", *KEPT, "--keep-activations", "-o", "new"]],
    "ablate": [["tiny", "--network", "run", *PAIRS, "-o", "new"]],
    "contrast": [["run", "--test", "student", "-o", "new"]],
    "reliability": [["run", "--splits", "3"]],
    "compare": [["run", "other"]],
    "generate": [["tiny", "--prompt", "the dog", "--max-new-tokens", "2", *THREADS]],
    "export gguf": [["m.gguf", "-o", "new"]],
}
# These run in the tests of their own parts: they take long, or need a training framework.
ELSEWHERE = {
    "demo", "export jax", "export optimum", "export torch", "profile", "reproduce", "robustness",
    "where",
}  # fmt: skip


@pytest.mark.parametrize(
    "words", [[*name.split(), *rest] for name, cases in JSON.items() for rest in cases],
    ids=" ".join,
)  # fmt: skip
def test_json_is_all_that_is_printed(words, here, capsys):
    plain = said(capsys, *words, "-q")
    assert plain == ("", "")
    shutil.rmtree("new", ignore_errors=True)
    for level in ([], ["-q"]):
        found = said(capsys, *words, "--json", *level)
        assert "\x1b" not in found.out
        value = json.loads(found.out, parse_constant=lambda name: pytest.fail(name))
        assert value
        if level:
            assert found.err == ""
        if "-o" in words:
            assert "new" in (value.get("run"), value.get("bundle"))
            assert Path("new").is_dir()
        shutil.rmtree("new", ignore_errors=True)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_what_prints_a_table_prints_json(words):
    with command_context(words) as ctx:
        has = any("--json" in param.opts for param in ctx.command.params)
    module = import_module(f"onnxloc.cli.{'_'.join(words).replace('-', '_')}_")
    if {"table", "show", "wrote", "export"} & set(vars(module)):
        assert has
    if has:
        assert " ".join(words) in JSON.keys() | ELSEWHERE


def test_the_json_of_the_demo(here, capsys, monkeypatch):
    source = here / "m.gguf"
    (here / "small.toml").write_text(
        f'source = "file:{source}"\nsha256 = "{sha256_file(source)}"\n'
        f'size = {source.stat().st_size}\nexporter = "gguf"\n'
    )
    monkeypatch.setattr("onnxloc.studies.demo.RECIPE", str(here / "small.toml"))
    found = said(capsys, "demo", "-o", "new", "--limit", "1", *THREADS, "--json", "-q")
    value = json.loads(found.out)
    assert (found.err, value["run"], value["report"]) == ("", "new", "new/report.html")
    assert value["localize"]["n_units"] == 192
    assert [effect["task"] for effect in value["ablate"]["effects"]] == ["pairs", "text"]


def test_the_json_of_a_run_is_its_summary(here, capsys):
    found = json.loads(said(capsys, "localize", "tiny", *KEPT, "-o", "new", "--json").out)
    summary = json.loads(Path("new/summary.json").read_text())
    assert found == {"run": "new", **summary}
    tasks = json.loads(said(capsys, "ablate", "--list-tasks", "--json").out)
    assert {"pairs", "text", "text:PATH"} <= {entry["task"] for entry in tasks}
    listed = {entry["name"]: entry for entry in json.loads(said(capsys, "fetch", "--json").out)}
    assert listed["smollm2-135m"]["bundle"] is None
    assert listed["smollm2-135m"]["bytes"] == 92871040
    shutil.copytree("tiny", os.environ["ONNXLOC_HOME"] + "/bundles/smollm2-135m")
    row = next(
        line for line in said(capsys, "fetch").out.splitlines() if line.startswith("smollm2-135m ")
    )
    assert row.split()[1:4] == ["93", "MB", "yes"]


# Quiet and verbose


def test_quiet_says_errors_alone(here, capsys):
    for words in (["-q", "localize", "tiny"], ["localize", "--quiet", "tiny"]):
        assert said(capsys, *words, *KEPT, "-o", "new") == ("", "")
        assert Path("new/manifest.json").is_file()
        shutil.rmtree("new")
    assert "exists" in error(capsys, "-q", "localize", "tiny", *KEPT, "-o", "run")
    assert "--quiet and --verbose" in error(capsys, "-q", "inspect", "tiny", "-v")


def test_verbose_says_what_ran_where_and_how_long(here, capsys):
    plain = said(capsys, "localize", "tiny", *KEPT, "-o", "new").out
    for words in (["-v", "localize", "tiny"], ["localize", "tiny", "--verbose"]):
        found = said(capsys, *words, *KEPT, "--force", "-o", "new")
        assert found.out == plain
        for part in (
            r"^python \d.*, onnxloc \d.*, onnxruntime \d",
            rf"^onnxloc .*localize tiny .* in {re.escape(str(here))}$",
            r"^reading tiny: [\d.]+ s",
            r"^a session of tiny on CPUExecutionProvider, fp32, 1 threads: made in [\d.]+ s$",
            r"^localizing: 12 texts in [\d.]+ s \([\d.e+]+ a second\)$",
            r"^took [\d.]+ s, at most [\d,]+ MB of memory$",
        ):
            assert re.search(part, found.err, re.MULTILINE), part
    # It ends with the call that asked for it.
    assert said(capsys, "inspect", "tiny").err == ""


# Colours


@pytest.mark.parametrize(
    ("choice", "environment", "expected"),
    [
        ("auto", {}, None),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"NO_COLOR": ""}, None),
        ("auto", {"FORCE_COLOR": "1"}, True),
        ("auto", {"FORCE_COLOR": ""}, None),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("auto", {"TERM": "dumb"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {"FORCE_COLOR": "1"}, False),
    ],
)
def test_when_there_are_colours(choice, environment, expected):
    assert colour_of(choice, environment) is expected


def test_what_is_coloured(here, capsys, monkeypatch):
    head, *rows = said(capsys, "--color", "always", "inspect", "tiny").out.splitlines()[4:]
    assert head.startswith("\x1b[1msite")
    assert "\x1b" not in "".join(rows)
    red = "\x1b[31monnxloc: error:\x1b[0m there is no model"
    assert error(capsys, "--color", "always", "inspect", "nowhere").startswith(red)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert error(capsys, "inspect", "nowhere").startswith(red)
    assert said(capsys, "inspect", "tiny").out.count("\x1b[1m") == 1
    assert "\x1b" not in said(capsys, "inspect", "tiny", "--json").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in error(capsys, "inspect", "nowhere")
    assert "\x1b" not in said(capsys, "inspect", "tiny").out


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}])
def test_colours_on_a_terminal(here, more):
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **more}
    command = [sys.executable, "-m", "onnxloc", "inspect", "nowhere"]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, env=env, check=False)
    os.close(theirs)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert done.returncode == 2
    assert (b"\x1b[31m" in shown) == (not more)


# Hints


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["localise", "tiny"], "did you mean 'localize'?"),
        (["export", "ggfu"], "did you mean 'gguf'?"),
        (["localize", "tiny", "--batchsize", "3"], "--batch-size"),
        (["inspect", "tiny", "--sites", "block.*.uot"], "did you mean 'block.*.out'?"),
        (["inspect", "tiny", "--sites", "block.0.atn.out"], "did you mean 'block.0.attn.out'?"),
        (["localize", "tiny", "--localizer", "langage", "-o", "x"], "did you mean 'language'?"),
        (["localizers", "theory-of-mnd"], "did you mean 'theory-of-mind'?"),
        (["ablate", "tiny", "--network", "run", "--task", "pars", "-o", "x"], "mean 'pairs'?"),
        (["ablate", "tiny", "--network", "run", "--task", "tex:x", "-o", "x"], "mean 'text'?"),
        (["fetch", "smollm2"], "did you mean 'smollm2-135m'?"),
        (["inspect", "smollm2-153m"], "did you mean 'smollm2-135m'?"),
        (["check", "tiny", "--provider", "cdua"], "did you mean 'cuda'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_was_meant(words, hint, here, capsys):
    assert hint in error(capsys, *words)


def test_a_check_that_fails_is_status_1(here, capsys, monkeypatch):
    monkeypatch.setattr("onnxloc.studies.check.check", lambda *_, **__: [Check("x", False, "y")])
    assert json.loads(said(capsys, "check", "tiny", "--json", status=1).out)[0]["passed"] is False
    assert said(capsys, "-q", "check", "tiny", status=1) == ("", "")
