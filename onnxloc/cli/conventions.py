"""What every command has beside its own options: ``--config``, ``--print-config``, -q and -v."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxloc.cli.invocation import invocation

__all__ = ["conventional", "quiet_option", "verbose_option"]

PRINTING = "onnxloc.print_config"


def _level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Note --quiet or --verbose, whether it stands before the command or behind it."""
    if value:
        setattr(invocation(ctx), str(param.name), True)


def quiet_option() -> click.Option:
    """``-q``."""
    return click.Option(
        ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_level,
        help="Say nothing but errors, and JSON where it is asked for.",
    )  # fmt: skip


def verbose_option() -> click.Option:
    """``-v``."""
    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_level,
        help="Say on standard error what runs where, and how long each part takes.",
    )  # fmt: skip


def _read(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None or ctx.resilient_parsing:
        return
    from onnxloc.cli.config import read_config

    ctx.default_map = read_config(ctx, path)
    invocation(ctx).configured = True


def _will_print(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[PRINTING] = value
    if value:
        # What is needed to run the command is not needed to write the file. These parameters are
        # this call's own.
        for param in ctx.command.params:
            param.required = False


def _config_options() -> tuple[click.Option, click.Option]:
    return (
        click.Option(
            ["--config"], type=click.Path(path_type=Path), metavar="FILE.toml", is_eager=True,
            expose_value=False, callback=_read,
            help="Take options from a file; what is typed goes first.",
        ),
        click.Option(
            ["--print-config"], is_flag=True, is_eager=True, expose_value=False,
            callback=_will_print, help="Write such a file with the options as they are, and exit.",
        ),
    )  # fmt: skip


def conventional(command: click.Command) -> click.Command:
    """A copy of a command that has the options of all commands, too.

    A command that passes all it is given to another program, and a group, stay as they are. An
    option of the command's own goes before one of the same name.
    """
    if isinstance(command, click.Group) or command.ignore_unknown_options:
        return command
    made = copy.copy(command)
    # click notes things in parameters: no call may see those of another.
    made.params = [copy.copy(param) for param in command.params]
    taken = {option for param in made.params for option in param.opts}
    common = (*_config_options(), quiet_option(), verbose_option())
    made.params += [option for option in common if not taken.intersection(option.opts)]
    if command.callback is not None:
        made.callback = _run(command.callback)
    return made


def _run(callback: Callable[..., Any]) -> Callable[..., Any]:
    def run(**values: Any) -> Any:
        ctx = click.get_current_context()
        if ctx.meta.get(PRINTING):
            from onnxloc.cli.config import config_text

            click.echo(config_text(ctx))
            return None
        as_json = any(
            "--json" in param.opts and ctx.params.get(str(param.name))
            for param in ctx.command.params
        )
        with invocation(ctx).saying(keep_output=as_json):
            return callback(**values)

    return run
