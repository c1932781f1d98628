"""``onnxloc reliability``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxloc.cli.common import json_option, print_json, table
from onnxloc.cli.selection import selection_of

if TYPE_CHECKING:
    from onnxloc.stats.resample import Interval
    from onnxloc.studies.reliability import Reliability


@click.command("reliability")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--splits",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Split the stimuli N times.",
)
@click.option(
    "--top",
    type=float,
    metavar="PERCENT",
    help="Size of a network in percent of all units. Default: as many as the run's network has.",
)
@click.option("--units", type=int, metavar="N", help="Size of a network.")
@click.option(
    "--magnitude/--signed",
    default=None,
    help="Absolute activations, or signed ones. Default: what the run did.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the splits."
)
@click.option("--save", is_flag=True, help="Write reliability.json into RUN, for its report.")
@json_option
def command(
    run: Path,
    splits: int,
    top: float | None,
    units: int | None,
    magnitude: bool | None,
    seed: int,
    save: bool,
    as_json: bool,
) -> None:
    """Say how well a network holds from one half of the stimuli of RUN to the other.

    RUN was made by localize --keep-activations. The stimuli are split into random halves, half of
    each condition in each; the units with the largest t of both halves are compared, and the
    effect of the units of one half is measured in the other. The same with shuffled conditions, and
    with random networks, says what chance gives.

    \b
    Examples:
      onnxloc reliability runs/language
      onnxloc reliability runs/language --top 0.5 --splits 1000 --json
      onnxloc reliability runs/language --save && onnxloc report runs/language
    """  # noqa: D301
    from onnxloc.studies.reliability import ReliabilityOptions, reliability

    selection = None
    if top is not None or units is not None:
        selection = selection_of(top, units, None, None, None)
    found = reliability(
        run,
        ReliabilityOptions(splits=splits, selection=selection, magnitude=magnitude, seed=seed),
        show_progress=True,
    )
    if save:
        found.save(run)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)


def _show(found: "Reliability") -> None:
    click.echo(
        f"networks of {found.k:,} of {found.n_units:,} units, from halves of {found.n_positive} + "
        f"{found.n_control} stimuli; {len(found.splits)} splits: median, and the middle 95 %"
    )
    rows = {
        "Dice of both networks": "dice",
        "rank correlation of t": "correlation",
        "  Spearman-Brown": "spearman_brown",
        "d where chosen": "d_chosen",
        "d in the other half": "d_held_out",
        "difference where chosen": "difference_chosen",
        "difference in the other half": "difference_held_out",
    }
    table(
        ["", "stimuli as they are", "conditions shuffled"],
        [
            [what, *(_said(found.interval(name, shuffled=shuffle)) for shuffle in (False, True))]
            for what, name in rows.items()
        ],
    )
    click.echo(f"Dice of two random networks of that size: {_said(found.chance)}")


def _said(interval: "Interval") -> str:
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
