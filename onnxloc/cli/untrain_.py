"""``onnxloc untrain``."""

import re
from pathlib import Path
from typing import Literal

import click

from onnxloc.cli.common import force_option, model_argument, open_model, output_option


@click.command("untrain")
@model_argument
@click.option(
    "--how",
    type=click.Choice(["shuffle", "gaussian"]),
    default="shuffle",
    show_default=True,
    help="Permute the values of each weight tensor, or draw them from a normal distribution with "
    "its mean and standard deviation.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Equal seeds give equal models.",
)
@output_option("The bundle to write. Default: MODEL-HOW-SEED in this folder.")
@force_option
def command(
    model: str, how: Literal["shuffle", "gaussian"], seed: int, output: Path | None, force: bool
) -> None:
    """Write a copy of MODEL with its weights re-initialised: the untrained control.

    Matrices, kernels and embeddings are re-initialised, tensor by tensor. Vectors (norm scales,
    biases) and constants that are no weights (position tables, masks, scales of quantised weights)
    stay as they are. Quantised weights can be shuffled, not drawn.

    \b
    Examples:
      onnxloc untrain smollm2-135m --how shuffle --seed 1 -o bundles/untrained
      onnxloc localize bundles/untrained -o runs/untrained
    """  # noqa: D301
    from onnxloc.folder import check_free
    from onnxloc.graph.weights import UntrainOptions, untrain

    options = UntrainOptions(how=how, seed=seed)
    if output is not None:
        check_free(output, force=force)
    opened = open_model(model)
    if output is None:
        # The name comes from a file and may hold anything.
        name = re.sub(r"[^\w.-]+", "-", opened.bundle.info.name).strip(".-") or "model"
        output = Path(f"{name[:64]}-{how}-{seed}")
    made = untrain(opened.bundle, opened.graph, output, options, force=force, show_progress=True)
    click.echo(f"re-initialised {len(made.changed):,} tensors ({made.values:,} values)")
    if made.kept:
        click.echo(f"kept {len(made.kept):,} other tensors of two or more axes: {_some(made.kept)}")
    click.echo(f"wrote {output}")


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, …" if len(names) > 5 else shown
