"""Options that say what becomes of a network's units, and at which tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxloc.cli.common import F
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.studies.edits import UnitEdit

__all__ = ["edit_of", "patch_options", "tokens_option", "with_option"]

FIXED = (
    "zero; mean; force=NUMBER or FILE.npy; scale=FACTOR; steer=FILE.npy*STRENGTH or "
    "contrast*STRENGTH (of a run of localize --signed)"
)
BY_TEXT = (
    "noise=STD in units of each unit's own standard deviation, or absolute:STD; patch, from "
    "--patch-from"
)


def with_option(help_text: str, *, by_text: bool = True) -> Callable[[F], F]:
    """``--with``, what becomes of the units; `by_text` if that may differ from token to token."""
    kinds = f"{FIXED}; {BY_TEXT}" if by_text else FIXED
    return click.option(
        "--with",
        "replacement",
        metavar="EDIT",
        default="zero",
        show_default=True,
        help=f"{help_text}: {kinds}.",
    )


def tokens_option(help_text: str) -> Callable[[F], F]:
    """``--tokens``, where it is done."""
    return click.option(
        "--tokens", metavar="WHICH", default="all", show_default=True, help=help_text
    )


def patch_options(function: F) -> F:
    """``--patch-from`` and ``--patch-tokens``."""
    for option in (
        click.option(
            "--patch-tokens",
            metavar="WHICH",
            help="Which of its tokens: all, last, or positions such as 0,-1. Default: as --tokens.",
        ),
        click.option("--patch-from", metavar="TEXT", help="The text that --with patch takes from."),
    ):
        function = option(function)
    return function


def edit_of(
    replacement: str,
    network: Path | None,
    *,
    seed: int = 0,
    patch_from: str | None = None,
    patch_tokens: str | None = None,
) -> "UnitEdit":
    """The edit that the options name.

    Parameters
    ----------
    replacement : str
        What ``--with`` was given.
    network : Path or None
        What ``--network`` was given; a run's contrast can be steered along.
    seed : int
        Of noise.
    patch_from, patch_tokens : str or None
        What the options of these names were given.

    Raises
    ------
    OptionError
        If they do not go together.
    """
    from onnxloc.runtime.tokens import Tokens
    from onnxloc.store import Run
    from onnxloc.studies.edits import EditInputs, as_edit

    patched = replacement.partition("=")[0] == "patch"
    for name, value in (("--patch-from", patch_from), ("--patch-tokens", patch_tokens)):
        if value is not None and not patched:
            raise OptionError(f"{name} goes with --with patch")
    inputs = EditInputs(
        seed=seed,
        run=Run.open(network) if network is not None and network.is_dir() else None,
        source=patch_from,
        source_tokens=None if patch_tokens is None else Tokens.parse(patch_tokens),
    )
    return as_edit(replacement, inputs)
