"""Options that several commands share."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxloc.cli import completers
from onnxloc.cli.invocation import invocation
from onnxloc.errors import ModelError, OptionError
from onnxloc.progress import Working
from onnxloc.registry import did_you_mean, one_line

if TYPE_CHECKING:
    from onnxloc.runtime.model import Model

__all__ = [
    "PercentRange",
    "Percents",
    "apply",
    "force_model_option",
    "force_option",
    "json_option",
    "model_argument",
    "network_option",
    "open_model",
    "output_option",
    "print_json",
    "printable",
    "resume_option",
    "runtime_options",
    "table",
    "typed_command",
    "warn",
]

F = TypeVar("F", bound=Callable[..., Any])

model_argument = click.argument("model", metavar="MODEL", shell_complete=completers.models)

force_option = click.option(
    "--force", is_flag=True, help="Replace an output folder that onnxloc wrote before."
)


resume_option = click.option(
    "--resume", is_flag=True,
    help="Go on with this command's unfinished run, if one was stopped or killed.",
)  # fmt: skip

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else."
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
                 shell_complete=completers.providers,
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
    try:
        stands = Path(name).exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"{name[:80]!r} is no usable path: {one_line(error)}") from error
    if stands:
        return _opened(Path(name))
    from onnxloc.recipes import home, recipes

    if name in recipes():
        folder = home() / "bundles" / name
        if not folder.exists():
            raise ModelError(f"{name} is not fetched yet; run: onnxloc fetch {name}")
        return _opened(folder)
    known = recipes()
    raise ModelError(
        f"there is no model at {name}{did_you_mean(name, known)} "
        f"(names that can be fetched: {', '.join(known)})"
    )


def _opened(path: Path) -> "Model":
    from onnxloc.runtime.model import Model

    with Working(f"reading {printable(path)}"):
        return Model.open(path)


def printable(text: object) -> str:
    r"""The text on one line, with control characters written as ``\n`` and the like.

    File names, and whatever models hold or write, may be anything, and a terminal obeys control
    characters.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def typed_command() -> str:
    """The command line that is being run, for the record.

    What a file gave is spelled out: the file may change.
    """
    ctx = click.get_current_context()
    call = invocation(ctx)
    if not call.configured:
        return shlex.join(["onnxloc", *call.words])
    from onnxloc.cli.config import spelled

    return shlex.join(["onnxloc", *spelled(ctx)])


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

    def written(self, value: tuple[float, ...]) -> str:
        """What `convert` reads as that value."""
        return ",".join(repr(percent) for percent in value)


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

    def written(self, value: tuple[float, float]) -> str:
        """What `convert` reads as that value."""
        return f"{value[0]!r}-{value[1]!r}"


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, text_last: bool = False
) -> None:
    """Print a table: the first column to the left, the others to the right.

    With `text_last` the last column holds text, and is to the left, too.
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for number, row in enumerate(cells):
        aligned = [row[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        if text_last:
            aligned[-1] = row[-1]
        line = "  ".join(aligned).rstrip()
        click.echo(line if number else click.style(line, bold=True))


def warn(text: object) -> None:
    """Say on standard error what people should know, in one line."""
    click.echo(f"{click.style('note:', fg='yellow')} {printable(text)}", err=True)


def print_json(value: object) -> None:
    """Print a value as the only JSON document of a command; what is not finite becomes null."""
    from onnxloc.store import finite

    click.echo(json.dumps(finite(value), indent=2, allow_nan=False))
