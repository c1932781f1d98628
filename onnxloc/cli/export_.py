"""``onnxloc export``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, output_option, printable


@click.group("export")
def command() -> None:
    """Turn a model of another framework into a bundle.

    \b
    Example:
      onnxloc export gguf model.gguf -o bundles/model
    """  # noqa: D301


@command.command("gguf")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the weights.",
)
@click.option(
    "--with-past",
    is_flag=True,
    help="Take and give the keys and values of earlier tokens (a KV cache): for onnxloc generate.",
)
@click.option("--name", default=None, help="Name of the model. Default: that of the file.")
@output_option("The bundle to write.", required=True)
@force_option
def gguf(
    file: Path, dtype: str, with_past: bool, name: str | None, output: Path, force: bool
) -> None:
    """Turn the GGUF file FILE of a Llama-family model into a bundle.

    \b
    Examples:
      onnxloc export gguf SmolLM2-135M-Instruct.Q4_1.gguf -o bundles/smollm2
      onnxloc export gguf model.gguf --with-past -o bundles/model-past
    """  # noqa: D301
    from onnxloc.registry import Registry

    exporter = Registry("exporter", "onnxloc.exporters").load("gguf")
    made = exporter(dtype=dtype, with_past=with_past)
    folder = made.export(file, output, force=force, name=name)
    click.echo(f"wrote {printable(folder)}")
