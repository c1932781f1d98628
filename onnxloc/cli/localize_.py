"""``onnxloc localize``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    force_option,
    json_option,
    model_argument,
    open_model,
    output_option,
    print_json,
    printable,
    resume_option,
    runtime_options,
    typed_command,
)
from onnxloc.cli.selection import selection_of, selection_options, test_options
from onnxloc.errors import OptionError
from onnxloc.progress import Working

if TYPE_CHECKING:
    from onnxloc.stimuli import StimulusSet
    from onnxloc.stimuli.arrays import ArraySet


@click.command("localize")
@model_argument
@click.option(
    "--localizer",
    "--stimuli",
    "localizer",
    default="language",
    shell_complete=completers.localizers,
    show_default=True,
    help="A localizer's name; a CSV or JSONL with condition (positive, control) and text; "
    "a folder of langloc_fmri_run*_stim_set*.csv files; or an .npz with an array for each input "
    "of the model, and condition.",
)
@click.option(
    "--positive",
    metavar="NAME",
    help="The positive condition of an .npz whose two conditions have names of their own.",
)
@click.option(
    "--sites",
    multiple=True,
    shell_complete=completers.sites,
    default=("block.*.out",),
    show_default=True,
    help="Pattern of the sites to read; may be given again. op:* is every operation, and the "
    "default where an .npz is shown to a model without blocks.",
)
@click.option(
    "--pool",
    type=click.Choice(["last", "mean", "sum", "max"]),
    default=None,
    help="How the tokens of a text are pooled; for a model of text only. Default: the "
    "localizer's own (last, unless its file says another).",
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
@test_options
@selection_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Texts run at a time.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of permutations, and of a random draw.",
)
@click.option(
    "--keep-activations",
    is_flag=True,
    help="Keep the pooled activations of every text in the run, for contrast and reliability.",
)
@runtime_options
@click.option(
    "--agreement/--no-agreement",
    default=True,
    show_default=True,
    help="Where not run in float32 on the CPU: run all stimuli once more so, and report how far "
    "both agree.",
)
@output_option("The run folder to write.", required=True)
@force_option
@resume_option
@json_option
def command(
    model: str,
    localizer: str,
    positive: str | None,
    sites: tuple[str, ...],
    pool: Literal["last", "mean", "sum", "max"] | None,
    max_tokens: int | None,
    bos: bool | None,
    magnitude: bool,
    test: Literal["welch", "student", "paired", "mannwhitney"],
    permutations: int,
    top: float | None,
    units: int | None,
    fdr: float | None,
    fwe: float | None,
    within: tuple[float, float] | None,
    batch_size: int,
    seed: int,
    keep_activations: bool,
    provider: str,
    threads: int,
    precision: str,
    agreement: bool,
    output: Path,
    force: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Find the units of MODEL that respond more to one condition than to another.

    MODEL is a bundle, an .onnx file, or the name of a fetched model. For each unit, activations are
    pooled over each text's tokens and the two conditions are compared, by Welch's t-test unless
    --test says otherwise.

    \b
    Examples:
      onnxloc localize smollm2-135m -o runs/language
      onnxloc localize smollm2-135m --sites 'block.*.mlp.hidden' --top 0.5 -o runs/mlp
      onnxloc localize smollm2-135m --keep-activations --permutations 1000 -o runs/kept
      onnxloc localize model.onnx --localizer my.csv --max-tokens 0 --fdr 0.05 -o runs/mine
      onnxloc localize vision.onnx --stimuli faces.npz --positive faces -o runs/faces
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.localize import LocalizeOptions, localize_into

    options = LocalizeOptions(
        sites=sites,
        pool=pool,
        max_tokens=max_tokens,
        bos=bos,
        magnitude=magnitude,
        test=test,
        permutations=permutations,
        selection=selection_of(top, units, fdr, fwe, within),
        batch_size=batch_size,
        seed=seed,
        agreement=agreement,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    check_free(output, force=force)
    stimuli = _stimuli(localizer, positive)
    opened, line = open_model(model), typed_command()
    if pool is not None and not opened.takes_text:
        raise OptionError("--pool is for models of text; this model has no tokens to pool")
    with Working("localizing") as working:
        found = localize_into(
            output,
            opened,
            stimuli,
            options,
            runtime,
            force=force,
            resume=resume,
            keep_activations=keep_activations,
            command=line,
            show_progress=True,
            report=partial(working.say, err=as_json),
        )
    if as_json:
        print_json({"run": str(output), **found.summary})
        return
    show(found.summary["localize"])
    click.echo(f"wrote {printable(output)}")


def _stimuli(source: str, positive: str | None) -> "StimulusSet | ArraySet":
    from onnxloc.stimuli import load_stimuli
    from onnxloc.stimuli.arrays import load_arrays

    if Path(source).suffix.lower() == ".npz":
        return load_arrays(source, positive)
    if positive is not None:
        raise OptionError("--positive is for .npz files; others say which texts are positive")
    return load_stimuli(source)


def show(summary: dict[str, Any]) -> None:
    """Say in a few lines what was found."""
    counted = [row for row in summary["by_site"] if row["selected"]]
    share = 100 * summary["n_selected"] / summary["n_units"]
    click.echo(
        f"{summary['n_selected']:,} of {summary['n_units']:,} units ({share:.3g} %) chosen in "
        f"{len(counted)} of {summary['n_sites']} sites"
    )
    if summary["smallest_t"] is not None:
        click.echo(f"smallest t among them: {summary['smallest_t']:.2f}")
    positive, control = printable(summary["positive_label"]), printable(summary["control_label"])
    count = summary["n_significant"]
    said = f"{count:,} units respond" if count else "nothing is significant: no unit responds"
    click.echo(
        f"{said} more to {positive} than to {control} at a false discovery rate of 5 %; "
        f"{summary['n_undefined']:,} have no t (no variance, or NaN)"
    )
    if "n_significant_fwe" in summary:
        click.echo(
            f"{summary['n_significant_fwe']:,} do so at a family-wise error rate of 5 % "
            f"({summary['permutations']:,} permutations)"
        )
    if "agreement" in summary:
        click.echo(_agreement(summary["agreement"]))


def _agreement(found: dict[str, Any]) -> str:
    text = f"beside fp32 on the CPU, over {found['n_stimuli']:,} stimuli: "
    if found["largest_t_difference"] is None:
        text += "no unit has a t in both"
    else:
        text += (
            f"t differs by {found['largest_t_difference']:.2g} at most "
            f"({printable(found['site'])}, unit {found['unit']}; "
            f"the largest |t| is {found['largest_t']:.3g})"
        )
    if found["dice"] is not None:
        text += f", Dice of the network {found['dice']:.3f}"
    return text
