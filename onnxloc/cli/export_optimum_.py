"""``onnxloc export optimum``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, json_option, output_option
from onnxloc.cli.export_options import allow_mismatch_option, dtype_option, export, name_option


@click.command("optimum")
@click.argument("source", metavar="SOURCE")
@dtype_option("float32", "float16", "bfloat16")
@click.option(
    "--with-past",
    is_flag=True,
    help="Take and give the keys and values of earlier tokens (a KV cache): for onnxloc generate.",
)
@name_option
@output_option("The bundle to write.", required=True)
@allow_mismatch_option
@force_option
@json_option
def command(
    source: str,
    dtype: str,
    with_past: bool,
    name: str | None,
    output: Path,
    allow_mismatch: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a Hugging Face checkpoint into a bundle, through optimum-onnx.

    SOURCE is a folder of a checkpoint, or a name on the Hugging Face hub. Only configuration,
    tokenizer and safetensors are read: no pickle, and no code of the checkpoint.

    \b
    Examples:
      onnxloc export optimum checkpoints/smollm2 -o bundles/smollm2
      onnxloc export optimum checkpoints/smollm2 --with-past -o bundles/smollm2-past
    """  # noqa: D301
    settings = {"dtype": dtype, "with_past": with_past, "allow_mismatch": allow_mismatch}
    export("optimum", settings, source, output, force=force, name=name, as_json=as_json)
