"""Keep the help of every command in its page under docs/commands.

``python tools/command_pages.py`` writes what is out of date, and ``--check`` only names it. What
stands above the help of a page is written by people and stays as it is.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import click

from onnxloc.cli import cli
from onnxloc.cli.invocation import Invocation

FOLDER = Path(__file__).parents[1] / "docs" / "commands"
BEGIN = "<!-- help of the command; tools/command_pages.py writes it -->"
END = "<!-- end of the help -->"
WIDTH = 90


def commands() -> Iterator[list[str]]:
    """The words of every command, without exporters that other packages bring."""
    root = click.Context(cli, info_name="onnxloc")
    for name in cli.list_commands(root):
        yield [name]
        command = cli.get_command(root, name)
        if isinstance(command, click.Group):
            for word in command.list_commands(click.Context(command, parent=root)):
                if (FOLDER.parent / "exporters" / f"{word}.md").is_file():
                    yield [name, word]


def path_of(words: list[str]) -> Path:
    """The page of a command."""
    return FOLDER / f"{'-'.join(words)}.md"


def help_of(words: list[str]) -> str:
    """The help as ``--help`` prints it, at a fixed width."""
    out = io.StringIO()
    call = Invocation(words)
    with redirect_stdout(out):
        cli.main(
            [*words, "--help"], prog_name="onnxloc", standalone_mode=False, obj=call,
            terminal_width=WIDTH, color=False,
        )  # fmt: skip
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip()


def page_of(text: str, words: list[str]) -> str:
    """The text of a page with the help of its command as it is now."""
    said = help_of(words)
    about = f"{BEGIN}\n## All options\n\n```text\n{said}\n```\n{END}\n"
    if not text:
        first = " ".join(said.split("\n\n")[1].split())
        return f"# onnxloc {' '.join(words)}\n\n{first}\n\n{about}"
    before, begin, rest = text.partition(BEGIN)
    if not begin:
        return f"{before.rstrip()}\n\n{about}"
    return before + about + rest.partition(END)[2].lstrip("\n")


def stale() -> dict[Path, str]:
    """The pages that are missing or out of date, and what they ought to hold."""
    found = {}
    for words in commands():
        path = path_of(words)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        wanted = page_of(text, words)
        if wanted != text:
            found[path] = wanted
    return found


def main() -> int:
    """Write the pages, or with ``--check`` say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    check = parser.parse_args().check
    found = stale()
    for path, text in found.items():
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(FOLDER.parents[1])}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
