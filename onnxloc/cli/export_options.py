"""Options that several exporters share, and how parity is printed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxloc.bundle import Bundle, Parity
from onnxloc.cli.common import print_json, printable, table
from onnxloc.progress import Working
from onnxloc.registry import Registry

__all__ = ["allow_mismatch_option", "dtype_option", "export", "name_option", "parity_line", "wrote"]

F = TypeVar("F", bound=Callable[..., Any])

allow_mismatch_option = click.option(
    "--allow-mismatch",
    is_flag=True,
    help="Write the bundle even if its outputs differ from the source's by more than the "
    "tolerance; the difference is recorded.",
)
name_option = click.option(
    "--name", default=None, help="Name of the model. Default: that of the source."
)


def dtype_option(*types: str) -> Callable[[F], F]:
    """``--dtype``, of which the first is the default."""
    return click.option(
        "--dtype",
        type=click.Choice(types),
        default=types[0],
        show_default=True,
        help="Type of the weights."
        + (" With bfloat16 weights, float32 is computed." if "bfloat16" in types else ""),
    )


def parity_line(parity: Parity | None) -> str:
    """A bundle's parity in one line."""
    if parity is None:
        return "parity: not measured"
    verdict = "within" if parity.within else "OVER"
    return (
        f"parity: {parity.output} against {parity.reference}: relative {parity.max_rel:.1e}, "
        f"absolute {parity.max_abs:.1e}, {verdict} the tolerance of {parity.tolerance:g}"
    )


def export(
    exporter: str,
    settings: Mapping[str, Any],
    source: str | Path,
    output: Path,
    *,
    force: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Run the exporter of a name, and say what it wrote."""
    made = Registry("exporter", "onnxloc.exporters").load(exporter)(**settings)
    with Working(f"exporting through {printable(exporter)}"):
        made.export(source, output, force=force, name=name)
    wrote(output, as_json=as_json)


def wrote(folder: Path, *, as_json: bool = False) -> None:
    """Say which bundle was written, and how far it is from its source."""
    parity = Bundle.open(folder).info.parity
    if as_json:
        found = None if parity is None else {**asdict(parity), "within": parity.within}
        print_json({"bundle": str(folder), "parity": found})
        return
    if parity is not None:
        rows = [
            [
                f"{case.rows} × {case.tokens}" if case.tokens else f"{case.rows}",
                "yes" if case.padded else "no",
                f"{case.max_abs:.1e}",
                f"{case.max_rel:.1e}",
            ]
            for case in parity.cases
        ]
        table(["rows × tokens", "padded", "absolute", "relative"], rows)
        click.echo(printable(parity_line(parity)))
    click.echo(f"wrote {printable(folder)}")
