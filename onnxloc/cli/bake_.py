"""``onnxloc bake``."""

from pathlib import Path

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    force_model_option,
    force_option,
    model_argument,
    network_option,
    open_model,
    output_option,
    printable,
    runtime_options,
)
from onnxloc.cli.edit_options import edit_of, with_option
from onnxloc.progress import Working


@click.command("bake")
@model_argument
@network_option("A run of onnxloc localize, or a network file.")
@with_option("What becomes of the network's units", by_text=False)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    shell_complete=completers.tasks,
    default=("text",),
    show_default=True,
    help="Whose texts the means are taken over; may be given again: text (the localizer's "
    "sentences), text:FILE, pairs, a BLiMP JSONL file or folder.",
)
@click.option(
    "--localizer",
    default=None,
    shell_complete=completers.localizers,
    help="Whose sentences the task text takes. Default: that of the run; "
    "language for a network file.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Texts run at a time for the means.",
)
@force_model_option
@runtime_options
@output_option("The bundle to write.", required=True)
@force_option
def command(
    model: str,
    network: Path,
    replacement: str,
    tasks: tuple[str, ...],
    localizer: str | None,
    batch_size: int,
    force_model: bool,
    provider: str,
    threads: int,
    precision: str,
    output: Path,
    force: bool,
) -> None:
    """Write MODEL with a network's units edited, as an ordinary .onnx in a bundle.

    The inputs and outputs stay as they are; plain onnxruntime runs OUTPUT/model.onnx, and Netron
    shows it.

    \b
    Examples:
      onnxloc bake smollm2-135m --network runs/language -o bundles/ablated
      onnxloc bake smollm2-135m --network runs/language --with scale=0.5 -o bundles/half
      onnxloc bake smollm2-135m --network runs/language --with mean --task text:lines.txt -o baked
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.network import Network
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.store import Run
    from onnxloc.studies.bake import BakeOptions, bake_network
    from onnxloc.studies.sentences import stimuli_of
    from onnxloc.tasks import TaskInputs, load_task

    options = BakeOptions(replacement=edit_of(replacement, network), batch_size=batch_size)
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    check_free(output, force=force)
    chosen = Network.load(network)
    texts: list[str] = []
    if options.edit.needs:
        inputs = TaskInputs()
        if "text" in tasks:
            stimuli = stimuli_of(Run.open(network) if network.is_dir() else None, localizer)
            inputs = TaskInputs(stimuli.positive, f"the localizer {stimuli.name}")
        loaded = [load_task(task, inputs) for task in tasks]
        texts = [text for task in loaded for item in task.items for text in item.texts]
    with Working("baking"):
        baked = bake_network(
            open_model(model),
            chosen,
            output,
            options,
            runtime,
            texts=texts,
            force_model=force_model,
            force=force,
            show_progress=True,
        )
    click.echo(f"{baked.units:,} units in {baked.sites} sites {printable(options.edit.said)}")
    click.echo(f"wrote {output}")
