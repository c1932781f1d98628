"""Options that several commands share."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxloc.errors import ModelError, OptionError
from onnxloc.registry import did_you_mean, one_line

if TYPE_CHECKING:
    from onnxloc.runtime.model import Model

__all__ = [
    "PercentRange",
    "Percents",
    "apply",
    "force_model_option",
    "force_option",
    "model_argument",
    "network_option",
    "open_model",
    "output_option",
    "printable",
    "runtime_options",
    "table",
    "typed_command",
]

F = TypeVar("F", bound=Callable[..., Any])

model_argument = click.argument("model", metavar="MODEL")

force_option = click.option(
    "--force", is_flag=True, help="Replace an output folder that onnxloc wrote before."
)


def output_option(help_text: str, **settings: Any) -> Callable[[F], F]:
    """``-o`` for a folder to write."""
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), help=help_text, **settings
    )


def network_option(help_text: str, *, required: bool = True) -> Callable[[F], F]:
    """``--network``, a run or a network file."""
    return click.option(
        "--network",
        required=required,
        type=click.Path(path_type=Path),
        metavar="RUN|FILE",
        help=help_text,
    )


force_model_option = click.option(
    "--force-model", is_flag=True, help="Use a network of another model."
)

_RUNTIME = (
    click.option("--provider", default="cpu", show_default=True,
                 help="What runs the graph: cpu, cuda or openvino."),
    click.option("--threads", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Threads within an operator; 0: one for each core."),
    click.option("--precision", default="fp32", show_default=True,
                 help="What float32 is computed in: fp32; cuda also tf32, openvino also bf16 and "
                 "fp16."),
)  # fmt: skip


def runtime_options(function: F) -> F:
    """``--provider``, ``--threads`` and ``--precision``."""
    return apply(function, _RUNTIME)


def apply(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """Add options in the order in which they are to be listed."""
    for option in reversed(options):
        function = option(function)
    return function


def open_model(name: str) -> "Model":
    """The model at a path, or fetched under a recipe's name.

    Raises
    ------
    ModelError
        If there is none.
    """
    from onnxloc.runtime.model import Model

    try:
        stands = Path(name).exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"{name[:80]!r} is no usable path: {one_line(error)}") from error
    if stands:
        return Model.open(name)
    from onnxloc.recipes import home, recipes

    if name in recipes():
        folder = home() / "bundles" / name
        if not folder.exists():
            raise ModelError(f"{name} is not fetched yet; run: onnxloc fetch {name}")
        return Model.open(folder)
    known = recipes()
    raise ModelError(
        f"there is no model at {name}{did_you_mean(name, known)} "
        f"(names that can be fetched: {', '.join(known)})"
    )


def printable(text: object) -> str:
    r"""The text on one line, with control characters written as ``\n`` and the like.

    File names, and whatever models hold or write, may be anything, and a terminal obeys control
    characters.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def typed_command() -> str:
    """The command line that is being run, for the record."""
    return shlex.join(["onnxloc", *click.get_current_context().find_root().obj])


class Percents(click.ParamType[tuple[float, ...]]):
    """Percentages with commas between."""

    name = "PERCENT[,PERCENT…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse ``0.125,0.25``."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(word) for word in str(value).split(","))
        except ValueError:
            raise OptionError(f"{value!r} is no list of percentages, such as 0.5,1") from None


class PercentRange(click.ParamType[tuple[float, float]]):
    """Two percentiles with a dash between."""

    name = "LOW-HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Parse ``80-90``."""
        if isinstance(value, tuple):
            return value
        low, dash, high = str(value).partition("-")
        try:
            if dash:
                return float(low), float(high)
        except ValueError:
            pass
        raise OptionError(f"{value!r} is no range of percentiles, such as 80-90")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
        click.echo("  ".join([first, *(cell.rjust(width) for cell, width in rest)]).rstrip())
