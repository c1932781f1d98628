"""A group of commands that are imported when they are called, so that ``--help`` is quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from onnxloc.cli.conventions import conventional
from onnxloc.registry import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands each lie in a module of their own, under the name ``command``.

    Parameters
    ----------
    described : mapping of str to (mapping of str to str)
        For each heading of the help its commands, and what each does, in one line.
    modules : str
        The module of a command, with ``{}`` for its name.
    **settings
        As `click.Group` has them.
    """

    def __init__(
        self, *, described: Mapping[str, Mapping[str, str]], modules: str, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._described = described
        self._modules = modules

    def sections(self) -> Mapping[str, Mapping[str, str]]:
        """The commands and what each does, by the headings of the help."""
        return self._described

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, sorted."""
        return sorted(name for section in self.sections().values() for name in section)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command, and give it the options that all commands have."""
        if name not in self.list_commands(ctx):
            return None
        return conventional(self.load(name))

    def load(self, name: str) -> click.Command:
        """Import a command of this group."""
        command = import_module(self._modules.format(name.replace("-", "_"))).command
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        names = [name for section in self.sections().values() for name in section]
        # All descriptions begin in one column.
        width = max(len(name) for name in names)
        for heading, section in self.sections().items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem[str]"]:
        """Complete the name of a command, or an option, without importing the commands."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text)
            for section in self.sections().values()
            for name, text in section.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

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
