"""``onnxloc compare``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    force_option,
    json_option,
    output_option,
    print_json,
    printable,
    table,
    typed_command,
)
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.studies.comparison import Comparison


@click.command("compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sites",
    multiple=True,
    shell_complete=completers.sites,
    help="Pattern of the sites whose representations are compared; may be given again. Default: "
    "the blocks' outputs.",
)
@click.option(
    "--representations/--no-representations",
    default=None,
    help="Compare representations (CKA, RSA). Default: where runs kept their activations of the "
    "same stimuli.",
)
@click.option(
    "--permutations",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    metavar="N",
    help="Draws for p-values; 0 for none.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws."
)
@json_option
@output_option("A folder to write: compare.html, compare.json, compare.csv, compare.parquet.")
@force_option
def command(
    runs: tuple[Path, ...],
    sites: tuple[str, ...],
    representations: bool | None,
    permutations: int,
    seed: int,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Compare what two or more RUNs found.

    Runs of one architecture, whichever exporter the model came through, are compared unit by unit:
    t-values and networks, beside what chance gives. Runs of different models are compared by the
    relative depth of their networks. Runs made by localize --keep-activations with the same
    stimuli are compared by their representations too: linear CKA and RSA, site against site.

    \b
    Examples:
      onnxloc compare runs/gguf runs/torch
      onnxloc compare runs/gguf runs/torch runs/jax -o comparisons/exporters
      onnxloc compare runs/large runs/small --permutations 1000 --json
    """  # noqa: D301
    from onnxloc.folder import check_free, new_folder
    from onnxloc.studies.compare import compare
    from onnxloc.studies.comparison import CompareOptions

    if force and output is None:
        raise OptionError("--force replaces an output folder: name one with -o")
    if output is not None:
        check_free(output, force=force)
    started = time.perf_counter()
    found = compare(
        runs,
        CompareOptions(
            sites=sites or None,
            representations=representations,
            permutations=permutations,
            seed=seed,
        ),
        show_progress=True,
    )
    seconds = time.perf_counter() - started
    if output is not None:
        from onnxloc.report.compare_page import write_comparison_page

        with new_folder(output, force=force) as staging:
            found.write(staging, output.name, typed_command(), seconds)
            write_comparison_page(staging, found, output.name, typed_command())
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)
        if output is not None:
            click.echo(f"written to {printable(output)}")


def _show(found: "Comparison") -> None:
    head = ["run", "model", "from", "blocks", "units", "network"]
    fields = ("run", "model", "framework", "blocks", "units", "chosen")
    table(head, [[_said(row[f], ",") for f in fields] for row in _rows(found.runs)])
    pairs = _rows(found.pairs)
    by_unit = [row for row in pairs if row["sites"]]
    if by_unit:
        click.echo("\nunit by unit")
        table(
            ["", "units", "Pearson", "Spearman", "largest |Δt|", "Dice", "by chance", "p"],
            [
                [
                    _pair(row),
                    _said(row["units"], ","),
                    _said(row["pearson"], ".6f"),
                    _said(row["spearman"], ".6f"),
                    _said(row["largest_t_difference"], ".3g"),
                    _said(row["dice"], ".4f"),
                    f"{row['dice_chance']:.4f} ({row['dice_low']:.4f} to {row['dice_high']:.4f})",
                    "< 1e-300" if row["dice_p"] < 1e-300 else _said(row["dice_p"], ".2g"),
                ]
                for row in by_unit
            ],
        )
    by_depth = [row for row in pairs if row["depth_distance"] == row["depth_distance"]]
    if any(row["depth_distance"] is not None for row in by_depth):
        click.echo("\ndepth of the networks")
        table(
            ["", "distance", "p"],
            [
                [_pair(row), _said(row["depth_distance"], ".4f"), _said(row["depth_p"], ".2g")]
                for row in by_depth
            ],
        )
    if len(found.representations):
        click.echo("\nrepresentations: means over sites")
        names = ("cka_same_site", "cka_debiased_same_site", "rsa_same_site", "cka_debiased_best")
        table(
            ["", "CKA, same site", "debiased", "RSA", "debiased, best site", "rank r of depths"],
            [
                [
                    _pair(row),
                    *(_said(row[name], ".4f") for name in names),
                    _said(row["best_depth_spearman"], ".3f"),
                ]
                for row in pairs
                if row["cka_debiased_best"] == row["cka_debiased_best"]
            ],
        )
    for note in found.notes:
        click.echo(f"note: {printable(note)}")


def _rows(frame: Any) -> list[dict[str, Any]]:
    return list(frame.to_dict("records"))


def _pair(row: dict[str, Any]) -> str:
    return f"{row['a']} – {row['b']}"


def _said(value: Any, form: str) -> str:
    """A number as the table has it; a dash where there is none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    if form == "," or isinstance(value, int):
        return f"{int(value):,}"
    return f"{value:{form}}"
