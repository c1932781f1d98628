"""``onnxloc export jax``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, json_option, output_option
from onnxloc.cli.export_options import allow_mismatch_option, export, name_option


@click.command("jax")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--arg", "arguments", multiple=True, metavar="TEXT",
    help="An argument of the function, such as the path of a checkpoint; may be given again.",
)  # fmt: skip
@click.option(
    "--opset", type=click.IntRange(18, 24), default=22, show_default=True,
    help="Version of the ONNX operators. From 23 on, the attention of Flax and of jax.nn becomes "
    "one operator that does not show its probabilities.",
)  # fmt: skip
@click.option(
    "--scans", type=click.Choice(["keep", "unroll"]), default="keep", show_default=True,
    help="What lax.scan becomes: one Loop, or a copy of its body for each step, whose tensors are "
    "sites like any others.",
)  # fmt: skip
@click.option(
    "--dynamic", multiple=True, metavar="INPUT=AXES",
    help="Axes of an input that vary, such as audio=0,1; may be given again. Default: the first "
    "two axes of an integer input, the first of any other.",
)  # fmt: skip
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), default=None, metavar="FILE|FOLDER",
    help="A tokenizer.json, a folder that holds one, or a GGUF file. BOS, EOS and the longest "
    "input are read there too. Default: the first argument, if it is such a folder or GGUF file.",
)  # fmt: skip
@click.option(
    "--bos/--no-bos", default=None,
    help="Whether a BOS token is put in front of each text. Default: as the tokenizer's files say.",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(1), default=None,
    help="Longest input that the model takes. Default: as the tokenizer's files say.",
)  # fmt: skip
@name_option
@output_option("The bundle to write.", required=True)
@allow_mismatch_option
@force_option
@json_option
def command(
    source: str,
    arguments: tuple[str, ...],
    opset: int,
    scans: str,
    dynamic: tuple[str, ...],
    tokenizer: Path | None,
    bos: bool | None,
    max_tokens: int | None,
    name: str | None,
    output: Path,
    allow_mismatch: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a JAX function and its parameters into a bundle, through jax2onnx.

    SOURCE is module:function. The module is imported, from the current folder or an installed
    package, and the function is called: that runs its code. It returns (apply, params, example
    inputs): apply(params, *inputs) in plain JAX or Flax Linen, or a Flax NNX or Equinox module and
    None. onnxloc_models.jax has Llama and GPT-2 that read checkpoints without torch.

    \b
    Examples:
      onnxloc export jax onnxloc_models.jax.llama:from_gguf --arg model.gguf -o bundles/model
      onnxloc export jax onnxloc_models.jax.gpt2_nnx:from_folder --arg checkpoint -o bundles/gpt2
      onnxloc export jax my_models:autoencoder --dynamic pixels=0 -o bundles/autoencoder
    """  # noqa: D301
    settings = {
        "arguments": arguments,
        "opset": opset,
        "scans": scans,
        "dynamic": dynamic,
        "tokenizer": tokenizer,
        "bos": bos,
        "max_tokens": max_tokens,
        "allow_mismatch": allow_mismatch,
    }
    export("jax", settings, source, output, force=force, name=name, as_json=as_json)
