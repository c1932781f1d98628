"""``onnxloc localize``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from onnxloc.cli.common import (
    PercentRange,
    force_option,
    model_argument,
    open_model,
    output_option,
    printable,
    runtime_options,
    typed_command,
)
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.choose import Selection


@click.command("localize")
@model_argument
@click.option(
    "--localizer",
    default="language",
    show_default=True,
    help="A localizer's name; a CSV or JSONL with condition (positive, control) and text; "
    "or a folder of langloc_fmri_run*_stim_set*.csv files.",
)
@click.option(
    "--sites",
    multiple=True,
    default=("block.*.out",),
    show_default=True,
    help="Pattern of the sites to read; may be given again. op:* is every operation.",
)
@click.option(
    "--pool",
    type=click.Choice(["last", "mean", "sum", "max"]),
    default="last",
    show_default=True,
    help="How the tokens of a text are pooled.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=None,
    help="Cut texts to so many tokens, a BOS token counted; 0: no cut. Default: the "
    "localizer's own (12 for language).",
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Put a BOS token in front. Default: what the model's metadata says.",
)
@click.option(
    "--magnitude/--signed",
    default=True,
    show_default=True,
    help="Compare absolute activations, or signed ones.",
)
@click.option(
    "--top",
    type=float,
    metavar="PERCENT",
    help="Choose so many percent of the units with the largest t (default: 1).",
)
@click.option("--units", type=int, metavar="N", help="Choose N units.")
@click.option("--fdr", type=float, metavar="Q", help="Choose every unit with t > 0 and q <= Q.")
@click.option(
    "--range",
    "within",
    type=PercentRange(),
    help="Draw the units at random from between two percentiles of t; 0-0: the least "
    "selective ones.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Texts run at a time.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of a random draw."
)
@runtime_options
@output_option("The run folder to write.", required=True)
@force_option
def command(
    model: str,
    localizer: str,
    sites: tuple[str, ...],
    pool: Literal["last", "mean", "sum", "max"],
    max_tokens: int | None,
    bos: bool | None,
    magnitude: bool,
    top: float | None,
    units: int | None,
    fdr: float | None,
    within: tuple[float, float] | None,
    batch_size: int,
    seed: int,
    provider: str,
    threads: int,
    output: Path,
    force: bool,
) -> None:
    """Find the units of MODEL that respond more to one condition than to another.

    MODEL is a bundle, an .onnx file, or the name of a fetched model. For each unit, activations are
    pooled over each text's tokens and the two conditions are compared by Welch's t-test.

    \b
    Examples:
      onnxloc localize smollm2-135m -o runs/language
      onnxloc localize smollm2-135m --sites 'block.*.mlp.hidden' --top 0.5 -o runs/mlp
      onnxloc localize model.onnx --localizer my.csv --max-tokens 0 --fdr 0.05 -o runs/mine
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.localize import LocalizeOptions, localize

    options = LocalizeOptions(
        sites=sites,
        pool=pool,
        max_tokens=max_tokens,
        bos=bos,
        magnitude=magnitude,
        selection=_selection(top, units, fdr, within),
        batch_size=batch_size,
        seed=seed,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads)
    check_free(output, force=force)
    stimuli = load_stimuli(localizer)
    found = localize(
        open_model(model), stimuli, options, runtime, command=typed_command(), show_progress=True
    )
    found.save(output, force=force)
    show(found.summary["localize"])
    click.echo(f"wrote {printable(output)}")


def _selection(
    top: float | None,
    units: int | None,
    fdr: float | None,
    within: tuple[float, float] | None,
) -> "Selection":
    from onnxloc.choose import Selection

    given = {"top": top, "units": units, "fdr": fdr}
    named = [(how, value) for how, value in given.items() if value is not None]
    if len(named) > 1:
        words = " and ".join(f"--{how}" for how, _ in named)
        raise OptionError(f"give one of --top, --units and --fdr, not {words}")
    how, value = named[0] if named else ("top", 1.0)
    return Selection(how=how, value=value, within=within)  # type: ignore[arg-type]


def show(summary: dict[str, Any]) -> None:
    """Say in three lines what was found."""
    counted = [row for row in summary["by_site"] if row["selected"]]
    share = 100 * summary["n_selected"] / summary["n_units"]
    click.echo(
        f"{summary['n_selected']:,} of {summary['n_units']:,} units ({share:.3g} %) chosen in "
        f"{len(counted)} of {summary['n_sites']} sites"
    )
    if summary["smallest_t"] is not None:
        click.echo(f"smallest t among them: {summary['smallest_t']:.2f}")
    positive, control = printable(summary["positive_label"]), printable(summary["control_label"])
    click.echo(
        f"{summary['n_significant']:,} units respond more to {positive} than to {control} at a "
        f"false discovery rate of 5 %; {summary['n_undefined']:,} have no t (no variance, or NaN)"
    )
