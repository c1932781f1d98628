"""``onnxloc export torch``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, json_option, output_option
from onnxloc.cli.export_options import allow_mismatch_option, dtype_option, export, name_option


@click.command("torch")
@click.argument("source", metavar="SOURCE")
@dtype_option("float32", "float16", "bfloat16")
@click.option(
    "--arg", "arguments", multiple=True, metavar="TEXT",
    help="For module:function: an argument of the function; may be given again.",
)  # fmt: skip
@click.option(
    "--dynamic", multiple=True, metavar="INPUT=AXES",
    help="For module:function: axes of an input that vary, such as audio=0,1; may be given again. "
    "Default: the first two axes of an integer or boolean input, the first of any other.",
)  # fmt: skip
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), default=None, metavar="FILE",
    help="For module:function: a tokenizer.json. BOS and EOS are read from the config.json and "
    "tokenizer_config.json beside it.",
)  # fmt: skip
@name_option
@output_option("The bundle to write.", required=True)
@allow_mismatch_option
@force_option
@json_option
def command(
    source: str,
    dtype: str,
    arguments: tuple[str, ...],
    dynamic: tuple[str, ...],
    tokenizer: Path | None,
    name: str | None,
    output: Path,
    allow_mismatch: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a torch model into a bundle, through torch.onnx.export.

    SOURCE is a folder of a Hugging Face checkpoint, a name on the Hugging Face hub, or
    module:function. Of a checkpoint only configuration, tokenizer and safetensors are read: no
    pickle, and no code of the checkpoint. module:function imports the module, from the current
    folder or an installed package, and calls the function: that runs its code. It returns a
    torch.nn.Module and example inputs: a tensor, a tuple of tensors, or a dict by name.

    \b
    Examples:
      onnxloc export torch checkpoints/smollm2 -o bundles/smollm2
      onnxloc export torch HuggingFaceTB/SmolLM2-135M -o bundles/smollm2
      onnxloc export torch my_models:small_cnn --dynamic image=0 -o bundles/cnn
    """  # noqa: D301
    settings = {
        "dtype": dtype,
        "arguments": arguments,
        "dynamic": dynamic,
        "tokenizer": tokenizer,
        "allow_mismatch": allow_mismatch,
    }
    export("torch", settings, source, output, force=force, name=name, as_json=as_json)
