"""What holds for one call of ``onnxloc``: its words, how much it says, and its colours."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click

from onnxloc.errors import OptionError

__all__ = ["Colour", "Invocation", "colour_of", "invocation"]

Colour = Literal["auto", "always", "never"]


@dataclass
class Invocation:
    """One call of the command line.

    Attributes
    ----------
    words : list of str
        The words behind ``onnxloc``.
    quiet, verbose : bool
        Whether nothing but errors is said, or where the time goes as well.
    colour : bool or None
        Whether colours are used; None on a terminal only.
    configured : bool
        Whether a file gave options of the command.
    """

    words: list[str] = field(default_factory=list)
    quiet: bool = False
    verbose: bool = False
    colour: bool | None = None
    configured: bool = False

    @contextmanager
    def saying(self, *, keep_output: bool) -> Iterator[None]:
        """Say as much as was asked for, while a command runs.

        Parameters
        ----------
        keep_output : bool
            Whether standard output stays even if quiet: it is JSON that was asked for.

        Raises
        ------
        OptionError
            If it is to be quiet and verbose.
        """
        if self.quiet and self.verbose:
            raise OptionError("give one of --quiet and --verbose")
        with ExitStack() as stack:
            if self.quiet:
                # Whatever a command, or an exporter of another package, prints. Errors are printed
                # after the command has ended.
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stderr(nowhere))
                if not keep_output:
                    stack.enter_context(redirect_stdout(nowhere))
            elif self.verbose:
                from onnxloc.cli.verbose import told

                stack.enter_context(told())
            yield


def invocation(ctx: click.Context) -> Invocation:
    """What holds for the call that a context belongs to."""
    return ctx.ensure_object(Invocation)


def colour_of(choice: Colour, environment: Mapping[str, str] | None = None) -> bool | None:
    """Whether to use colours; None leaves it to whether a stream is a terminal.

    ``NO_COLOR`` and ``FORCE_COLOR`` count if they are not empty (https://no-color.org,
    https://force-color.org), and the first before the second.

    Parameters
    ----------
    choice : {"auto", "always", "never"}
        What the option says.
    environment : mapping of str to str, optional
        By default that of the process.
    """
    if choice != "auto":
        return choice == "always"
    environment = os.environ if environment is None else environment
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return True if environment.get("FORCE_COLOR") else None
