"""``onnxloc export``: a command for each exporter, each in its own ``export_NAME_.py``.

Exporters of other packages get a command too; `onnxloc.cli.export_other` makes it.
"""

from collections.abc import Mapping

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

    def sections(self) -> Mapping[str, Mapping[str, str]]:
        """All exporters and what each is for; those of other packages are not imported to know."""
        others = dict.fromkeys(self._others(), "An exporter of another package.")
        return {"Exporters": dict(sorted({**EXPORTERS, **others}.items()))}

    def load(self, name: str) -> click.Command:
        """Import a command, or make one for another package's exporter."""
        if name in EXPORTERS:
            return super().load(name)
        from onnxloc.cli.export_other import other_command

        return other_command(name)


@click.group("export", cls=ExportGroup, described={}, modules="onnxloc.cli.export_{}_")
def command() -> None:
    """Turn a model of another framework into a bundle.

    \b
    Examples:
      onnxloc export gguf model.gguf -o bundles/model
      onnxloc export torch path/to/checkpoint -o bundles/model
    """  # noqa: D301
