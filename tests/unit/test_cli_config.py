"""--config and --print-config, for every option of every command."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import click
import pytest
from helpers.cli_walk import command_context, commands
from helpers.tiny_bundle import snapshot, write_work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxloc.cli import main
from onnxloc.cli.config import config_text, configurable, key_of, spelled
from onnxloc.store import Run

pytestmark = pytest.mark.unit

CONFIGURED = [words for words in commands() if words != ["lm-eval"]]
LOCALIZE = ["--localizer", "stimuli.csv", "--top", "5", "--threads", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return write_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def here(work, tmp_path, monkeypatch):
    folder = shutil.copytree(work, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    return folder


def printed(capsys, *words):
    assert main([*map(str, words), "--print-config"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def sample(param, number):
    """Words that give a parameter a value that is not its default."""
    kind = param.type
    if isinstance(kind, click.Choice):
        value = next(c for c in reversed(kind.choices) if c != param.default)
    elif isinstance(kind, click.types.IntParamType):
        value = max(getattr(kind, "min", 0) or 0, 1) + number % 3
    elif isinstance(kind, click.types.FloatParamType):
        value = 0.1 + number / 1000
    elif kind.name == "PERCENT[,PERCENT…]":
        value = "0.125,1e-05,3"
    elif kind.name == "LOW-HIGH":
        value = "12.5-90"
    else:
        value = f"a é \"b\" \\ '{number}'\t\x7f#"
    return [str(value)]


def typed(param, number):
    if isinstance(param, click.Argument):
        return sample(param, number) * (2 if param.nargs != 1 else 1)
    if param.is_flag:
        option = param.opts[0] if not param.default else (param.secondary_opts or param.opts)[0]
        return [option]
    times = 2 if param.multiple else 1
    return [word for _ in range(times) for word in (param.opts[0], *sample(param, number))]


@pytest.mark.parametrize("words", CONFIGURED, ids=" ".join)
def test_every_option_goes_into_a_file_and_comes_back(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with command_context(words) as empty:
        params = configurable(empty)
    given_words = [word for i, p in enumerate(params.values()) for word in typed(p, i)]
    text = printed(capsys, *words, *given_words)
    table = tomllib.loads(text)
    for word in words:
        table = table[word]
    assert set(table) == set(params)
    Path("c.toml").write_text(text, encoding="utf-8")
    assert printed(capsys, *words, "--config", "c.toml") == text
    with (
        command_context(words, *given_words) as one,
        command_context(words, "--config", "c.toml") as other,
    ):
        assert other.params == one.params
        again = spelled(other)
    assert again[: len(words)] == words
    with command_context(words, *again[len(words) :]) as typed_again:
        assert typed_again.params == one.params
    # Not a default among them, or nothing would have been shown.
    with command_context(words, "--print-config") as default:
        same = [n for n, v in one.params.items() if v == default.params[n]]
    assert same == []


@pytest.mark.parametrize("words", CONFIGURED, ids=" ".join)
def test_defaults_come_back_as_they_are(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, *words)
    Path("c.toml").write_text(text, encoding="utf-8")
    assert printed(capsys, *words, "--config", "c.toml") == text
    assert all(len(line) <= 100 for line in text.splitlines())
    with command_context(words) as ctx:
        assert all(f"\n{key} = " in text or f"\n# {key} =" in text for key in configurable(ctx))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_text_and_number_come_back(tmp_path_factory, text, number):
    file = tmp_path_factory.mktemp("c") / "c.toml"
    words = [f"--sites={text}", f"--top={number!r}", "--positive", f"x{text}"]
    with command_context(["localize"], "m", *words, "--print-config") as one:
        file.write_text(config_text(one), encoding="utf-8", newline="")
    with command_context(["localize"], "--config", str(file), "--print-config") as other:
        assert other.params == one.params


def test_a_run_from_a_file_is_the_run_that_was_typed(here, capsys):
    words = ["localize", "tiny", *LOCALIZE, "--range", "50-80"]
    Path("c.toml").write_text(printed(capsys, *words, "-o", "one"), encoding="utf-8")
    assert main([*words, "-o", "typed"]) == 0
    assert main(["localize", "--config", "c.toml"]) == 0
    one, typed_run = Run.open("one"), Run.open("typed")
    assert (here / "one/units.parquet").read_bytes() == (here / "typed/units.parquet").read_bytes()
    assert one.manifest.steps[0].parameters == typed_run.manifest.steps[0].parameters
    # The record does without the file, which may change.
    command = shlex.split(one.manifest.steps[0].command)
    assert "--config" not in command
    assert main([*command[1:], "-o", "again"]) == 0
    assert (here / "again/units.parquet").read_bytes() == (here / "one/units.parquet").read_bytes()
    again = Run.open("again").manifest.steps[0]
    assert again.parameters == one.manifest.steps[0].parameters


def test_what_is_typed_goes_first(here, capsys):
    Path("c.toml").write_text(
        '[localize]\nmodel = "tiny"\nseed = 3\nsites = ["a", "b"]\nmagnitude = false\nbos = true\n'
        '[ablate]\nseed = 8\n'
    )  # fmt: skip
    words = ["--config", "c.toml", "--seed", "4", "--sites", "c", "--magnitude"]
    found = tomllib.loads(printed(capsys, "localize", *words))["localize"]
    assert (found["model"], found["seed"], found["sites"]) == ("tiny", 4, ["c"])
    assert (found["magnitude"], found["bos"]) == (True, True)
    # One file serves several commands.
    assert tomllib.loads(printed(capsys, "ablate", "--config", "c.toml"))["ablate"]["seed"] == 8


def test_paths_are_those_of_the_current_folder(here, capsys):
    Path("deep").mkdir()
    Path("deep/c.toml").write_text(
        '[localize]\nmodel = "tiny"\nlocalizer = "stimuli.csv"\noutput = "run"\ntop = 5\n'
    )
    assert main(["localize", "--config", "deep/c.toml"]) == 0
    assert (here / "run" / "manifest.json").is_file()


def test_quiet_and_json_may_stand_in_a_file(here, capsys):
    Path("c.toml").write_text('[inspect]\nmodel = "tiny"\nquiet = true\n')
    assert main(["inspect", "--config", "c.toml"]) == 0
    assert capsys.readouterr() == ("", "")
    Path("c.toml").write_text('[inspect]\nmodel = "tiny"\nquiet = true\njson = true\n')
    assert main(["inspect", "--config", "c.toml"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["blocks"] == 3


BAD = {
    "colour = 1": ["'colour'", "is no command", "[localize]"],
    "seed = 1": ["'seed' is no command", "[localize]"],
    "localize = 1": ["localize must be a table", "[localize]"],
    "[ablate]\nseed = 1": ["has no table [localize]"],
    "[localise]\nseed = 1": ["did you mean 'localize'?"],
    "[localize]\nbatch_size = 1": ["unknown key 'batch_size'", "did you mean 'batch-size'?"],
    "[localize]\nhelp = true": ["unknown key 'help'"],
    "[localize]\nconfig = 'c.toml'": ["unknown key 'config'"],
    "[localize]\nseed = '1'": ["seed in [localize] must be a whole number"],
    "[localize]\nseed = true": ["seed in [localize] must be a whole number"],
    "[localize]\nseed = 1.0": ["seed in [localize] must be a whole number"],
    "[localize]\nseed = -1": ["seed in [localize]", "-1 is not in the range"],
    "[localize]\ntop = '5'": ["top in [localize] must be a number"],
    "[localize]\nforce = 1": ["force in [localize] must be true or false"],
    "[localize]\nmodel = 1": ["model in [localize] must be a string"],
    "[localize]\nmodel = 2020-01-01": ["model in [localize] must be a string"],
    "[localize]\nsites = 'x'": ["sites in [localize] must be an array, each entry a string"],
    "[localize]\nsites = [1]": ["sites in [localize] must be an array, each entry a string"],
    "[localize]\npool = 'median'": ["pool in [localize]", "'median' is not one of", "'mean'"],
    "[localize]\nrange = '90'": ["range in [localize]", "no range of percentiles"],
    "[localize]\nseed = {a = 1}": ["seed in [localize] must be a whole number"],
    '[localize]\noutput = "a\\u0000b"': ["output in [localize] holds a NUL character"],
    '[localize]\nsites = ["a\\u0000b"]': ["sites in [localize] holds a NUL character"],
    "[localize": ["c.toml is not TOML"],
    "[localize]\nseed = 1\nseed = 2": ["c.toml is not TOML"],
    "[localize]\nx = " + "[" * 5000: ["c.toml is not TOML"],
    "#" * (1 << 20) + "\n": ["larger than 1 MB"],
    b"[localize]\nmodel = '\xff'": ["not UTF-8"],
}


@pytest.mark.parametrize("text", BAD, ids=lambda t: repr(t)[:40])
def test_a_bad_file_is_one_line(here, capsys, text):
    Path("c.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = snapshot(here)
    words = ["localize", "tiny", *LOCALIZE, "-o", "out", "--config", "c.toml"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("onnxloc: error: c.toml")
    assert all(part in said.err for part in BAD[text]), said.err
    assert snapshot(here) == before


@pytest.mark.parametrize("name", ["nowhere.toml", "tiny", "lines.txt/c.toml", "x" * 5000])
def test_a_file_that_cannot_be_read(here, capsys, name):
    assert main(["localize", "tiny", "-o", "out", "--config", name]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert name[:20] in said.err


def test_what_is_needed_is_needed_with_a_file_too(here, capsys):
    Path("c.toml").write_text("[localize]\nseed = 1\n")
    assert main(["localize", "tiny", "--config", "c.toml"]) == 2
    assert "Missing option '-o' / '--output'" in capsys.readouterr().err
    assert main(["localize", "--config", "c.toml", "-o", "x"]) == 2
    assert "Missing argument 'MODEL'" in capsys.readouterr().err
    # Writing a file needs nothing, and leaves the command as it is for the next call.
    assert "# model =" in printed(capsys, "localize")
    assert main(["localize"]) == 2
    assert "Missing" in capsys.readouterr().err


def test_text_that_toml_cannot_hold(capsys):
    assert main(["localize", "\udcff", "--print-config"]) == 2
    assert "is not UTF-8, as TOML has to be" in capsys.readouterr().err


def test_an_option_that_needs_another_counts_as_given_by_a_file(here, capsys):
    keep = ["--keep-activations", "-o", "run"]
    assert main(["localize", "tiny", *LOCALIZE, *keep]) == 0
    for line, status in (('column = "x"', 2), ('column = "condition"', 0)):
        Path("c.toml").write_text(f"[contrast]\n{line}\n")
        assert main(["contrast", "run", "--top", "5", "--config", "c.toml", "-o", "c"]) == status
    assert "--column needs --items" in capsys.readouterr().err


def test_the_documented_file_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    Path("study.toml").write_text(block)
    for words in (["localize"], ["ablate"], ["export", "gguf"]):
        table, found = tomllib.loads(block), printed(capsys, *words, "--config", "study.toml")
        found = tomllib.loads(found)
        for word in words:
            table, found = table[word], found[word]
        assert table
        assert table.items() <= found.items()


def test_words_that_begin_with_a_dash_stay_arguments(tmp_path):
    (tmp_path / "c.toml").write_text('[inspect]\nmodel = "-x"\nsites = ["-y"]\njson = true\n')
    with command_context(["inspect"], "--config", str(tmp_path / "c.toml")) as ctx:
        words = spelled(ctx)
        with command_context(words[:1], *words[1:]) as other:
            assert other.params == ctx.params


def test_keys_are_the_options_without_dashes():
    with command_context(["ablate"]) as ctx:
        found = {param.name: key_of(param) for param in ctx.command.params}
    assert found["percents"] == "percent"
    assert found["replacement"] == "with"
    assert found["output"] == "output"
    assert found["batch_size"] == "batch-size"
