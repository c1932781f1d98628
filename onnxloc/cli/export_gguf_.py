"""``onnxloc export gguf``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, json_option, output_option
from onnxloc.cli.export_options import allow_mismatch_option, dtype_option, export, name_option


@click.command("gguf")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@dtype_option("float32", "float16")
@click.option(
    "--with-past",
    is_flag=True,
    help="Take and give the keys and values of earlier tokens (a KV cache): for onnxloc generate.",
)
@click.option(
    "--parity",
    is_flag=True,
    help="Compare the bundle with the model as transformers reads it from the file. Needs "
    "onnxloc[torch], and memory for that model.",
)
@name_option
@output_option("The bundle to write.", required=True)
@allow_mismatch_option
@force_option
@json_option
def command(
    file: Path,
    dtype: str,
    with_past: bool,
    parity: bool,
    name: str | None,
    output: Path,
    allow_mismatch: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn the GGUF file FILE of a Llama-family model into a bundle.

    \b
    Examples:
      onnxloc export gguf SmolLM2-135M-Instruct.Q4_1.gguf -o bundles/smollm2
      onnxloc export gguf model.gguf --with-past -o bundles/model-past
    """  # noqa: D301
    settings = {
        "dtype": dtype,
        "with_past": with_past,
        "parity": parity,
        "allow_mismatch": allow_mismatch,
    }
    export("gguf", settings, file, output, force=force, name=name, as_json=as_json)
