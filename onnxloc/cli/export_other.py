"""``onnxloc export NAME`` for an exporter that another package registers."""

import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import click

from onnxloc.cli.common import force_option, json_option, output_option
from onnxloc.cli.export_options import export, name_option
from onnxloc.errors import OptionError
from onnxloc.registry import Registry

__all__ = ["other_command"]

PLAIN = {str: click.STRING, int: click.INT, float: click.FLOAT}


def other_command(name: str) -> click.Command:
    """The command of an exporter: its own attribute ``command``, or one made of its fields.

    An exporter is a dataclass with a method ``export(source, output, *, force, name)`` that writes
    a bundle. Each field is an option: ``str``, ``int``, ``float``, ``bool``, ``Path``, a
    ``Literal`` of strings, any of these ``| None``, or ``tuple[str, ...]``, which may be given
    again. A field without a default must be given. Its help is ``metadata={"help": ...}``.

    Raises
    ------
    OptionError
        If the exporter cannot be imported, or is not such a class.
    """
    exporter = Registry("exporter", "onnxloc.exporters").load(name)
    own = getattr(exporter, "command", None)
    if isinstance(own, click.Command):
        return own
    if not (isinstance(exporter, type) and is_dataclass(exporter) and hasattr(exporter, "export")):
        raise OptionError(
            f"the exporter {name!r} is not a dataclass with a method export, and has no command "
            "of its own"
        )

    def run(
        source: str, output: Path, name: str | None, force: bool, as_json: bool, **options: Any
    ) -> None:
        export(registered, options, source, output, force=force, name=name, as_json=as_json)

    output_to = output_option("The bundle to write.", required=True)
    for add in (json_option, force_option, output_to, name_option):
        run = add(run)
    registered = name
    hints = _hints(exporter, name)
    for entry in reversed(fields(exporter)):
        if entry.init:
            run = _option(entry, hints[entry.name], name)(run)
    run = click.argument("source", metavar="SOURCE")(run)
    return click.command(name, help=(exporter.__doc__ or "").strip().split("\n\n")[0])(run)


def _hints(exporter: type, name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(exporter)
    except (NameError, TypeError) as error:
        raise OptionError(
            f"the exporter {name!r} has a field whose type cannot be read: {error}"
        ) from error


def _option(entry: Field[Any], hint: Any, exporter: str) -> Any:
    words = entry.name.replace("_", "-")
    settings: dict[str, Any] = {"help": entry.metadata.get("help")}
    if entry.default_factory is not MISSING:
        settings["default"] = entry.default_factory
    elif entry.default is not MISSING:
        settings |= {"default": entry.default, "show_default": entry.default not in (None, (), "")}
    else:
        settings["required"] = True
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        hint = kinds[0] if len(kinds) == 1 else None
    if hint is bool:
        return click.option(f"--{words}/--no-{words}", entry.name, **settings)
    if hint == tuple[str, ...]:
        settings.pop("required", None)
        settings.pop("show_default", None)
        return click.option(f"--{words}", entry.name, multiple=True, **settings)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if all(isinstance(choice, str) for choice in choices):
            return click.option(f"--{words}", entry.name, type=click.Choice(choices), **settings)
    if hint is Path:
        settings["type"] = click.Path(path_type=Path)
    elif hint in PLAIN:
        settings["type"] = PLAIN[hint]
    else:
        raise OptionError(
            f"the exporter {exporter!r} cannot have an option for its field {entry.name!r}; it may "
            "offer a click command of its own as the attribute command"
        )
    return click.option(f"--{words}", entry.name, **settings)
