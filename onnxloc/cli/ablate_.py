"""``onnxloc ablate``."""

from pathlib import Path
from statistics import median
from typing import Any, Literal

import click

from onnxloc.cli.common import (
    Percents,
    force_model_option,
    force_option,
    model_argument,
    network_option,
    open_model,
    output_option,
    printable,
    runtime_options,
    table,
    typed_command,
    with_option,
)


@click.command("ablate")
@model_argument
@network_option("A run of onnxloc localize, or a network file.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=("pairs", "text"),
    show_default=True,
    help="What is scored; may be given again: pairs (built-in minimal pairs), a BLiMP "
    "JSONL file or folder, text (the localizer's sentences), text:FILE.",
)
@click.option(
    "--localizer",
    default=None,
    help="Whose sentences the task text takes. Default: that of the run; language for a "
    "network file.",
)
@with_option("What an ablated unit becomes.")
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Random control networks for each size.",
)
@click.option(
    "--match",
    type=click.Choice(["site", "count"]),
    default="site",
    show_default=True,
    help="Controls have as many units in each site as the network, or only in all.",
)
@click.option(
    "--percent",
    "percents",
    type=Percents(),
    default=(),
    help="Sizes in percent of the units, those with the largest t, such as 0.125,0.25,0.5,1. "
    "Default: the network as it is.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Score so many items of each group (of the task text: so many sentences); 0: all.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Rows run at a time; conditions share a batch.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the controls and the bootstrap.",
)
@force_model_option
@runtime_options
@output_option("The run folder to write.", required=True)
@force_option
def command(
    model: str,
    network: Path,
    tasks: tuple[str, ...],
    localizer: str | None,
    replacement: Literal["zero", "mean"],
    controls: int,
    match: Literal["site", "count"],
    percents: tuple[float, ...],
    limit: int,
    batch_size: int,
    seed: int,
    force_model: bool,
    provider: str,
    threads: int,
    output: Path,
    force: bool,
) -> None:
    """Score tasks with a network of MODEL ablated, and with random units ablated instead.

    \b
    Examples:
      onnxloc ablate smollm2-135m --network runs/language -o runs/ablation
      onnxloc ablate smollm2-135m --network runs/language --task blimp/ --controls 20 -o runs/blimp
      onnxloc ablate smollm2-135m --network runs/language --percent 0.125,0.25,0.5,1 -o runs/sizes
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.network import Network
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.store import Run
    from onnxloc.studies.ablate import AblateOptions, ablate, rank_of_run
    from onnxloc.studies.sentences import stimuli_of
    from onnxloc.tasks import TaskInputs, load_task

    options = AblateOptions(
        replacement=replacement,
        controls=controls,
        match=match,
        percents=percents,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads)
    check_free(output, force=force)
    run = Run.open(network) if network.is_dir() else None
    chosen = Network.load(network)
    inputs = TaskInputs()
    if "text" in tasks:
        stimuli = stimuli_of(run, localizer)
        inputs = TaskInputs(stimuli.positive, f"the localizer {stimuli.name}")
    found = ablate(
        open_model(model),
        chosen,
        [load_task(task, inputs) for task in tasks],
        options,
        runtime,
        t=rank_of_run(run, chosen) if run is not None and percents else None,
        command=typed_command(),
        force_model=force_model,
        show_progress=True,
    )
    found.save(output, localized=run, force=force)
    show(found.summary["ablate"])
    click.echo(f"wrote {printable(output)}")


def show(summary: dict[str, Any]) -> None:
    """Print one line a task and size."""
    rows = []
    for entry in summary["effects"]:
        text = entry["perplexity"]
        values = text or entry
        controls = sorted(values["controls"])

        def form(value: float, is_text: bool = text is not None) -> str:
            return f"{value:,.4g}" if is_text else f"{value:.3f}"

        middle = median(controls) if controls else None
        p = entry["p_empirical"]
        rows.append(
            [
                entry["task"],
                "perplexity" if text else entry["metric"],
                f"{entry['size']:.3g} %",
                f"{entry['n_items']:,}",
                form(values["intact"]),
                form(values["network"]),
                form(middle) if middle is not None else "-",
                f"{form(controls[0])} - {form(controls[-1])}" if controls else "-",
                f"{p:.3f}" if p is not None else "-",
            ]
        )
    head = [
        "task",
        "score",
        "units",
        "items",
        "intact",
        "network",
        "controls: median",
        "range",
        "p",
    ]
    table(head, rows)
