"""Commands of exporters that other packages register."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from onnxloc.cli import export_options, export_other
from onnxloc.errors import OptionError

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Every:
    """Has a field of every kind.

    More of it.
    """

    must: int
    word: str = "a"
    number: float = 0.5
    flag: bool = True
    place: Path | None = None
    many: tuple[str, ...] = ()
    one_of: Literal["x", "y"] = field(default="x", metadata={"help": "Which of the two."})

    def export(self, source, output, *, force, name):
        seen.append((self, source, output, force, name))
        return output


@dataclass(frozen=True)
class Odd:
    table: dict[str, int]

    def export(self, source, output, *, force, name): ...


class Own:
    command = click.Command("own")


seen: list = []


@pytest.fixture
def made(monkeypatch):
    def make(exporter):
        monkeypatch.setattr(export_other.Registry, "load", lambda *_: exporter)
        return export_other.other_command("it")

    monkeypatch.setattr(
        export_options, "wrote", lambda folder, *, as_json: click.echo(f"wrote {folder}")
    )
    seen.clear()
    return make


def test_fields_become_options(made):
    words = ["src", "-o", "out", "--must", "3", "--no-flag", "--many", "p", "--many", "q"]
    done = CliRunner().invoke(made(Every), [*words, "--place", "here", "--one-of", "y", "--force"])
    assert done.output == "wrote out\n"
    expected = Every(3, "a", 0.5, False, Path("here"), ("p", "q"), "y")
    assert seen == [(expected, "src", Path("out"), True, None)]
    CliRunner().invoke(made(Every), ["src", "-o", "out", "--must", "3", "--name", "n"])
    assert seen[1] == (Every(3), "src", Path("out"), False, "n")


def test_help_and_what_must_be_given(made):
    said = CliRunner().invoke(made(Every), ["--help"]).output
    assert "Has a field of every kind." in said
    assert "More of it" not in said
    assert "Which of the two." in said
    assert "Missing option '--must'" in CliRunner().invoke(made(Every), ["s", "-o", "o"]).output


def test_what_no_command_can_be_made_for(made):
    with pytest.raises(OptionError, match="field 'table'"):
        made(Odd)
    with pytest.raises(OptionError, match="is not a dataclass with a method export"):
        made(sys)
    assert made(Own) is Own.command
