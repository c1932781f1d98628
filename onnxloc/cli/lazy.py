"""A group of commands that are imported when they are called, so that ``--help`` is quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from onnxloc.registry import did_you_mean

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands each lie in a module of their own, under the name ``command``.

    Parameters
    ----------
    described : mapping of str to str
        Each command's name and what it does, in one line.
    modules : str
        The module of a command, with ``{}`` for its name.
    **settings
        As `click.Group` has them.
    """

    def __init__(self, *, described: Mapping[str, str], modules: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._described = described
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, sorted."""
        return sorted(self._described)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in self._described:
            return None
        command = import_module(self._modules.format(name.replace("-", "_"))).command
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def describe(self, name: str) -> str:
        """What a command does, in one line."""
        return self._described[name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.describe(name)) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was meant where there is none of that name."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            hint = did_you_mean(args[0], known)
            raise click.UsageError(
                f"there is no command {args[0]!r}{hint} (see {ctx.command_path} --help)"
            )
        return super().resolve_command(ctx, args)
