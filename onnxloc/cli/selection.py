"""Options of how units are tested and chosen."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxloc.cli.common import PercentRange, apply
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.choose import Selection

__all__ = ["selection_of", "selection_options", "test_options"]

F = TypeVar("F", bound=Callable[..., Any])

_TEST = (
    click.option("--test", type=click.Choice(["welch", "student", "paired", "mannwhitney"]),
                 default="welch", show_default=True, help="The test of each unit."),
    click.option("--permutations", type=click.IntRange(min=0), default=0, show_default=True,
                 metavar="N", help="Permute the conditions N times for family-wise p-values."),
)  # fmt: skip

_SELECTION = (
    click.option("--top", type=float, metavar="PERCENT",
                 help="Choose so many percent of the units with the largest t (default: 1)."),
    click.option("--units", type=int, metavar="N", help="Choose N units."),
    click.option("--fdr", type=float, metavar="Q",
                 help="Choose every unit with t > 0 and q <= Q."),
    click.option("--fwe", type=float, metavar="P",
                 help="Choose every unit with t > 0 and family-wise p <= P (with --permutations)."),
    click.option("--range", "within", type=PercentRange(),
                 help="Draw the units at random from between two percentiles of t; 0-0: the least "
                      "selective ones."),
)  # fmt: skip


def test_options(function: F) -> F:
    """``--test`` and ``--permutations``."""
    return apply(function, _TEST)


def selection_options(function: F) -> F:
    """``--top``, ``--units``, ``--fdr``, ``--fwe`` and ``--range``."""
    return apply(function, _SELECTION)


def selection_of(
    top: float | None,
    units: int | None,
    fdr: float | None,
    fwe: float | None,
    within: tuple[float, float] | None,
) -> "Selection":
    """What the options of `selection_options` say.

    Raises
    ------
    OptionError
        If they contradict each other.
    """
    from onnxloc.choose import Selection

    given = {"top": top, "units": units, "fdr": fdr, "fwe": fwe}
    named = [(how, value) for how, value in given.items() if value is not None]
    if len(named) > 1:
        words = " and ".join(f"--{how}" for how, _ in named)
        raise OptionError(f"give one of --top, --units, --fdr and --fwe, not {words}")
    how, value = named[0] if named else ("top", 1.0)
    return Selection(how=how, value=value, within=within)  # type: ignore[arg-type]
