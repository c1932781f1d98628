"""``onnxloc localizers``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from onnxloc.cli import completers
from onnxloc.cli.common import json_option, print_json, printable

if TYPE_CHECKING:
    from onnxloc.errors import OnnxlocError
    from onnxloc.stimuli.localizers import LocalizerInfo


@click.command("localizers")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=completers.localizer_names)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the localizers, with the texts of each condition, or describe the one called NAME.

    A set of more than two conditions is for profiles. Packages add localizers by the entry-point
    group onnxloc.localizers.

    \b
    Examples:
      onnxloc localizers
      onnxloc localizers theory-of-mind
      onnxloc localizers --json
    """  # noqa: D301
    from onnxloc.stimuli.localizers import LocalizerInfo, describe, localizers

    if name is not None:
        found = describe(name)
        if as_json:
            print_json(asdict(found))
        else:
            _show(found)
        return
    listed = list(localizers())
    if as_json:
        entries = [
            asdict(info)
            if isinstance(info, LocalizerInfo)
            else {"name": info[0], "error": str(info[1])}
            for info in listed
        ]
        print_json(entries)
        return
    names = max(len(printable(_name(info))) for info in listed)
    for info in listed:
        click.echo(f"{printable(_name(info)).ljust(names)}  {_line(info)}")


def _name(info: "LocalizerInfo | tuple[str, OnnxlocError]") -> str:
    return info[0] if isinstance(info, tuple) else info.name


def _line(info: "LocalizerInfo | tuple[str, OnnxlocError]") -> str:
    if isinstance(info, tuple):
        return printable(f"cannot be read: {info[1]}")
    counts = "+".join(str(count) for _, count in info.conditions)
    return printable(f"{info.title or '(no title)'} ({counts} texts)")


def _show(info: "LocalizerInfo") -> None:
    version = f" version {info.version}" if info.version else ""
    click.echo(printable(f"{info.name}{version}: {info.title}"))
    kind = "compares" if info.is_localizer else "holds"
    parts = ", ".join(f"{count} {label}" for label, count in info.conditions)
    click.echo(printable(f"{kind}: {parts}"))
    for what, text in (("licence", info.licence), ("follows", info.reference)):
        if text:
            click.echo(printable(f"{what}: {text}"))
    if info.description:
        click.echo("\n" + printable(info.description))
