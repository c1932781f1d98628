"""``onnxloc robustness``."""

from pathlib import Path
from typing import TYPE_CHECKING

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
    runtime_options,
    table,
    typed_command,
)
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.studies.robustness import Robustness

# What else finds the same network, of the localizers that ship.
SECOND = {"language": "language-2", "language-2": "language"}


@click.command("robustness")
@model_argument
@click.option(
    "--localizer",
    default="language",
    shell_complete=completers.localizers,
    show_default=True,
    help="A localizer's name, or a file or folder of texts.",
)
@click.option(
    "--second",
    shell_complete=completers.localizers,
    help="Another localizer of the same network. Default: language-2 for language, and the other "
    "way round; else none.",
)
@click.option(
    "--copy",
    "copy",
    metavar="MODEL",
    shell_complete=completers.models,
    help="A copy of MODEL in another precision, or through another exporter.",
)
@click.option(
    "--sites",
    multiple=True,
    shell_complete=completers.sites,
    default=("block.*.out",),
    show_default=True,
    help="Pattern of the sites to read; may be given again.",
)
@click.option("--top", type=float, metavar="PERCENT", help="Size of a network (default: 1).")
@click.option("--units", type=int, metavar="N", help="Size of a network in units.")
@click.option(
    "--effects/--no-effects",
    default=True,
    show_default=True,
    help="Ablate each network, and score minimal pairs and the localizer's sentences.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Score so many minimal pairs of each phenomenon; 0: all.",
)
@click.option(
    "--sentences",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="Score so many of the localizer's sentences; 0: all.",
)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Random networks, matched by site, that are ablated beside.",
)
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
    help="Of the halves, the controls and the bootstrap.",
)
@runtime_options
@output_option("A folder to write: robustness.html, .json, .csv, and each variant's network.")
@force_option
@json_option
def command(
    model: str,
    localizer: str,
    second: str | None,
    copy: str | None,
    sites: tuple[str, ...],
    top: float | None,
    units: int | None,
    effects: bool,
    limit: int,
    sentences: int,
    controls: int,
    batch_size: int,
    seed: int,
    provider: str,
    threads: int,
    precision: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find a network of MODEL again, under choices that ought not to matter.

    Each variant differs from the default in one choice: a BOS token or none, texts cut or whole,
    the last token or the mean, absolute or signed activations, Welch's or Mann and Whitney's test,
    half of the stimuli, other stimuli, another precision. What the networks share is shown beside
    chance, and each one is ablated.

    \b
    Examples:
      onnxloc robustness smollm2-135m -o robustness/language
      onnxloc robustness smollm2-135m --no-effects --json
      onnxloc robustness smollm2-135m --copy bundles/smollm2-fp16 -o robustness/fp16
    """  # noqa: D301
    from onnxloc.cli.selection import selection_of
    from onnxloc.folder import check_free, new_folder
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.robustness import RobustnessOptions, robustness

    options = RobustnessOptions(
        sites=sites,
        selection=selection_of(top, units, None, None, None),
        effects=effects,
        limit=limit,
        sentences=sentences,
        controls=controls,
        batch_size=batch_size,
        seed=seed,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    if force and output is None:
        raise OptionError("--force replaces an output folder: name one with -o")
    if output is not None:
        check_free(output, force=force)
    other = SECOND.get(localizer) if second is None else second
    found = robustness(
        open_model(model),
        load_stimuli(localizer),
        options,
        runtime,
        second=None if other is None else load_stimuli(other),
        copy=None if copy is None else open_model(copy),
        command=typed_command(),
        show_progress=True,
    )
    if output is not None:
        from onnxloc.report.robustness_page import write_robustness_page

        with new_folder(output, force=force) as staging:
            found.write(staging, output.name)
            write_robustness_page(staging, found, output.name)
    if as_json:
        print_json(found.as_dict())
        return
    show(found)
    if output is not None:
        click.echo(f"wrote {printable(output)}")


def show(found: "Robustness") -> None:
    """Print the variants, what their networks share, and what their ablation does."""
    click.echo(
        f"networks of {found.k:,} of {found.n_units:,} units; Dice of two random ones: "
        f"{found.chance.estimate:.3f} ({found.chance.low:.3f} to {found.chance.high:.3f})"
    )
    effects = {(e["task"], e["condition"]): e for e in found.effects}
    tasks = list(dict.fromkeys(e["task"] for e in found.effects))
    rows = []
    for i, name in enumerate(found.names):
        correlation = f"{found.correlation[0, i]:.3f}"
        scores = [_score(effects[task, name]) for task in tasks]
        rows.append([name, f"{found.dice[0, i]:.3f}", correlation, *scores])
    for name in ("intact", *_controls(found)):
        if effects:
            rows.append([name, "-", "-", *(_score(effects[task, name]) for task in tasks)])
    heads = [_head(found, task) for task in tasks]
    table(["variant", "Dice with default", "rank r of t", *heads], rows)
    click.echo("\nDice of each two networks")
    table(
        ["", *(str(i) for i in range(len(found.names)))],
        [
            [f"{i} {name}", *(f"{value:.2f}" for value in found.dice[i])]
            for i, name in enumerate(found.names)
        ],
    )
    for note in found.notes:
        click.echo(f"note: {printable(note)}")


def _controls(found: "Robustness") -> list[str]:
    return list(dict.fromkeys(e["condition"] for e in found.effects if e["kind"] == "site"))


def _head(found: "Robustness", task: str) -> str:
    is_text = any(e["perplexity"] is not None for e in found.effects if e["task"] == task)
    return f"{task}: perplexity" if is_text else f"{task}: accuracy"


def _score(entry: dict[str, float | None]) -> str:
    value = entry["perplexity"]
    return f"{entry['score']:.3f}" if value is None else f"{value:,.4g}"
