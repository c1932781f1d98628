"""``onnxloc contrast``."""

from pathlib import Path
from typing import Any, Literal

import click

from onnxloc.cli.common import (
    force_option,
    json_option,
    output_option,
    print_json,
    printable,
    typed_command,
)
from onnxloc.cli.config import is_given
from onnxloc.cli.localize_ import show
from onnxloc.cli.selection import selection_of, selection_options, test_options
from onnxloc.errors import OptionError


@click.command("contrast")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--items",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Properties of the run's stimuli: a column row (from 0, as in stimuli.parquet) or text, "
    "and others. Default: the run's own conditions.",
)
@click.option(
    "--column",
    default="condition",
    show_default=True,
    help="The property that holds the conditions.",
)
@click.option("--positive", default="positive", show_default=True, help="Its value to look for.")
@click.option("--control", default="control", show_default=True, help="Its value to compare with.")
@click.option(
    "--correlate",
    metavar="COLUMN",
    help="Correlate every unit with a number of --items, in place of a contrast.",
)
@click.option("--ranks", is_flag=True, help="Correlate ranks (Spearman) instead of values.")
@click.option(
    "--magnitude/--signed",
    default=None,
    help="Absolute activations, or signed ones. Default: what the run did.",
)
@test_options
@selection_options
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of permutations, and of a random draw.",
)
@output_option("The run folder to write.", required=True)
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: Path,
    items: Path | None,
    column: str,
    positive: str,
    control: str,
    correlate: str | None,
    ranks: bool,
    magnitude: bool | None,
    test: Literal["welch", "student", "paired", "mannwhitney"],
    permutations: int,
    top: float | None,
    units: int | None,
    fdr: float | None,
    fwe: float | None,
    within: tuple[float, float] | None,
    seed: int,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Compare the stimuli of RUN in another way, without running the model again.

    RUN was made by localize --keep-activations. Another test, permutations, conditions of your own,
    or a correlation with a number of each stimulus: the result is a run like any other, for ablate
    --network and report.

    \b
    Examples:
      onnxloc contrast runs/language --permutations 1000 --fwe 0.05 -o runs/fwe
      onnxloc contrast runs/language --test mannwhitney -o runs/ranks
      onnxloc contrast runs/language --items lengths.csv --column length --positive long
        --control short -o runs/length
      onnxloc contrast runs/language --items words.csv --correlate n_words -o runs/words
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.studies.contrast import ContrastOptions, contrast

    _check(ctx, items, correlate, ranks)
    check_free(output, force=force)
    selection = selection_of(top, units, fdr, fwe, within)
    if correlate is not None and items is not None:
        from onnxloc.studies.correlation import CorrelateOptions, correlate_run

        followed = correlate_run(
            run,
            CorrelateOptions(
                items=items,
                column=correlate,
                method="spearman" if ranks else "pearson",
                magnitude=magnitude,
                selection=selection,
                seed=seed,
            ),
            command=typed_command(),
            show_progress=True,
        )
        followed.save(output, force=force)
        summary, say = followed.summary, _show_correlation
    else:
        found = contrast(
            run,
            ContrastOptions(
                items=items,
                column=column,
                positive=positive,
                control=control,
                test=test,
                magnitude=magnitude,
                permutations=permutations,
                selection=selection,
                seed=seed,
            ),
            command=typed_command(),
            show_progress=True,
        )
        found.save(output, force=force)
        summary, say = found.summary, show
    if as_json:
        print_json({"run": str(output), **summary})
        return
    say(summary["correlate" if "correlate" in summary else "localize"])
    click.echo(f"wrote {printable(output)}")


def _check(ctx: click.Context, items: Path | None, correlate: str | None, ranks: bool) -> None:
    """Refuse options that would be ignored."""

    def given(*names: str) -> list[str]:
        return [f"--{name}" for name in names if is_given(ctx, name)]

    if items is None:
        useless = [*given("column", "positive", "control"), *given("correlate", "ranks")]
        if useless:
            raise OptionError(f"{useless[0]} needs --items, a CSV with properties of the stimuli")
    if correlate is None and ranks:
        raise OptionError("--ranks needs --correlate; for a contrast see --test mannwhitney")
    if correlate is not None:
        useless = given("column", "positive", "control", "test", "permutations", "fwe")
        if useless:
            raise OptionError(f"--correlate does not go with {useless[0]}")


def _show_correlation(summary: dict[str, Any]) -> None:
    share = 100 * summary["n_selected"] / summary["n_units"]
    click.echo(
        f"{summary['n_selected']:,} of {summary['n_units']:,} units ({share:.3g} %) chosen, by "
        f"{summary['method'].title()}'s correlation with {printable(summary['column'])} over "
        f"{summary['n_stimuli']:,} stimuli"
    )
    click.echo(
        f"{summary['n_significant']:,} units rise with it at a false discovery rate of 5 %; "
        f"{summary['n_undefined']:,} have no r (no variance, or NaN)"
    )
