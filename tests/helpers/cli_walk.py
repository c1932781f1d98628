"""Every command of the command line, groups walked."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from onnxloc.cli import cli
from onnxloc.cli.invocation import Invocation

__all__ = ["command_context", "commands"]


def commands() -> list[list[str]]:
    """The words of every command that is no group."""
    return list(_walk(cli, []))


def _walk(group: click.Group, words: list[str]) -> Iterator[list[str]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from _walk(command, [*words, name])
        else:
            yield [*words, name]


@contextmanager
def command_context(words: list[str], *given: str) -> Iterator[click.Context]:
    """The context of a command as it is just before it runs; without words, before it is parsed."""
    ctx = click.Context(cli, info_name="onnxloc", obj=Invocation([*words, *given]))
    with ctx:
        for number, word in enumerate(words):
            group = ctx.command
            assert isinstance(group, click.Group)
            command = group.get_command(ctx, word)
            assert command is not None
            if number == len(words) - 1 and given:
                ctx = command.make_context(word, list(given), parent=ctx)
            else:
                ctx = click.Context(command, info_name=word, parent=ctx)
        with ctx:
            yield ctx
