"""``onnxloc where``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    from onnxloc.studies.where_result import Where


@click.command("where")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--predict",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Another run of the same model: does the network of the first tell where its network "
    "lies and what it does?",
)
@click.option(
    "--permutations",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Draws for p-values over sites; 0 for none.",
)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    metavar="N",
    help="Random networks that a prediction is compared with.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="N",
    help="Folds of the stimuli of a prediction.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws."
)
@json_option
@output_option("A folder to write: where.html, where.json, where.csv.")
@force_option
def command(
    run: Path,
    predict: Path | None,
    permutations: int,
    controls: int,
    folds: int,
    seed: int,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Say which operations, parts and blocks hold the network of RUN beyond their share of units.

    A ratio of 2 is twice the share. Units that only repeat others (views, reshapes) are left out.
    With --predict, or where RUN holds both block.*.mlp.hidden and block.*.out, the first network is
    asked whether it tells the second: by block, and, where activations of the same stimuli were
    kept, in held-out stimuli.

    \b
    Examples:
      onnxloc where runs/every-op
      onnxloc where runs/every-op -o where/every-op
      onnxloc where runs/hidden --predict runs/language --json
    """  # noqa: D301
    from onnxloc.folder import check_free, new_folder
    from onnxloc.studies.where import WhereOptions, where

    if force and output is None:
        raise OptionError("--force replaces an output folder: name one with -o")
    if output is not None:
        check_free(output, force=force)
    started = time.perf_counter()
    options = WhereOptions(permutations=permutations, controls=controls, folds=folds, seed=seed)
    found = where(run, predict, options, show_progress=True)
    seconds = time.perf_counter() - started
    if output is not None:
        from onnxloc.report.where_page import write_where_page

        with new_folder(output, force=force) as staging:
            found.write(staging, output.name, typed_command(), seconds)
            write_where_page(staging, found, output.name, typed_command())
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)
        if output is not None:
            click.echo(f"written to {printable(output)}")


def _show(found: "Where") -> None:
    about = found.about
    click.echo(
        f"{about['n_distinct_chosen']:,} of {about['n_distinct']:,} distinct units chosen "
        f"({about['n_chosen']:,} of {about['n_units']:,} with copies)"
    )
    for by in dict.fromkeys(found.groups["by"]):
        own = found.by(by)
        click.echo("")
        table(
            [by, "units", "chosen", "expected", "ratio", "p, units", "p, sites"],
            [
                [
                    row["group"],
                    f"{row['distinct']:,}",
                    f"{row['distinct_chosen']:,}",
                    f"{row['expected']:.1f}",
                    _said(row["ratio"], ".2f"),
                    _said(row["p_units_holm"], ".2g"),
                    _said(row["p_sites_holm"], ".2g"),
                ]
                for row in own.to_dict("records")
                if row["distinct"]
            ],
        )
    if found.depth:
        click.echo(
            f"\nmean relative depth: {_said(found.depth['network'], '.3f')} of the network, "
            f"{_said(found.depth['searched'], '.3f')} of all units "
            f"(p {_said(found.depth['p'], '.2g')})"
        )
    if found.prediction:
        _show_prediction(found.prediction)
    for note in found.notes:
        click.echo(f"note: {printable(note)}")


def _show_prediction(said: Any) -> None:
    click.echo(
        f"rank correlation of both networks over {said['blocks']} blocks: "
        f"{_said(said['spearman'], '.3f')} (p {_said(said['p_shift'], '.2g')}, circular shifts)"
    )
    if "r2" in said:
        click.echo(
            f"R² within conditions, in held-out stimuli: {_said(said['r2'], '.3f')}; "
            f"{len(said['r2_controls'])} random networks: median "
            f"{_said(said['r2_controls_median'], '.3f')} (p {_said(said['p_controls'], '.2g')})"
        )


def _said(value: float, form: str) -> str:
    return "–" if value != value else f"{value:{form}}"
