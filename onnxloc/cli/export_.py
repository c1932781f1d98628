"""``onnxloc export``: a command for each exporter, each in its own ``export_NAME_.py``.

Exporters of other packages get a command too; `onnxloc.cli.export_other` makes it.
"""

import click

from onnxloc.cli.lazy import LazyGroup
from onnxloc.registry import Registry

EXPORTERS = {
    "gguf": "A GGUF file of a Llama-family model; no training framework is needed.",
    "jax": "A function of JAX, Flax or Equinox and its parameters.",
    "optimum": "A Hugging Face model, through optimum-onnx.",
    "torch": "A Hugging Face model or any torch module, through torch.onnx.",
}


class ExportGroup(LazyGroup):
    """The exporters that ship, and those that other packages register."""

    def _others(self) -> list[str]:
        return [name for name in Registry("exporter", "onnxloc.exporters") if name not in EXPORTERS]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all exporters, sorted."""
        return sorted([*EXPORTERS, *self._others()])

    def describe(self, name: str) -> str:
        """What an exporter is for; that of another package is not imported to know."""
        return EXPORTERS.get(name) or "An exporter of another package."

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command, or make one for another package's exporter."""
        if name in EXPORTERS or name not in self._others():
            return super().get_command(ctx, name)
        from onnxloc.cli.export_other import other_command

        return other_command(name)


@click.group("export", cls=ExportGroup, described=EXPORTERS, modules="onnxloc.cli.export_{}_")
def command() -> None:
    """Turn a model of another framework into a bundle.

    \b
    Examples:
      onnxloc export gguf model.gguf -o bundles/model
      onnxloc export torch path/to/checkpoint -o bundles/model
    """  # noqa: D301
