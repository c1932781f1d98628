"""From a torch module, or a Hugging Face checkpoint, to a bundle, through ``torch.onnx.export``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxloc_exporters.bfloat16 import store_as_bfloat16
from onnxloc_exporters.hf_source import DTYPES, open_checkpoint, versions
from onnxloc_exporters.parity import Reference, record

from onnxloc.bundle import Bundle
from onnxloc.errors import ExportError, RuntimeMissingError
from onnxloc.folder import check_free

if TYPE_CHECKING:
    import torch

__all__ = ["PACKAGES", "TorchExporter", "checkpoint_reference", "need", "vocabulary"]

PACKAGES = ("torch", "transformers", "onnxscript", "onnx")
ROWS, TOKENS = 2, 5
AXES = {0: "batch", 1: "tokens"}


def need(extra: str, *packages: str) -> None:
    """Refuse to go on where a package of an extra is not installed.

    Raises
    ------
    RuntimeMissingError
        It names the extra.
    """
    for package in packages:
        try:
            missing = find_spec(package) is None
        except ModuleNotFoundError:
            # A part of a package, where the whole is missing.
            missing = True
        if missing:
            raise RuntimeMissingError(
                f"{package} is not installed; run pip install 'onnxloc[{extra}]'"
            )


@dataclass(frozen=True)
class TorchExporter:
    """Turns a Hugging Face checkpoint, or any torch module, into a bundle.

    Parameters
    ----------
    dtype : {"float32", "float16", "bfloat16"}
        Type of the weights, and of what is computed with them but for bfloat16 weights, with which
        float32 is computed.
    arguments : tuple of str
        What the function of ``module:function`` is called with.
    dynamic : tuple of str
        For a module of one's own: inputs and the axes of each that vary, as ``audio=0,1``. By
        default these are the first two axes of an integer input and the first of any other.
    tokenizer : Path or None
        For a module of one's own: its ``tokenizer.json``; BOS, EOS and the longest input are read
        from ``config.json`` and ``tokenizer_config.json`` beside it.
    allow_mismatch : bool
        Write a bundle even if it differs from the source by more than the tolerance.
    """

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    arguments: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    tokenizer: Path | None = None
    allow_mismatch: bool = False

    # Recorded in each bundle; raise it when the same source would give another bundle.
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ExportError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")

    def export(
        self, source: str | Path, output: Path, *, force: bool = False, name: str | None = None
    ) -> Path:
        """Write a bundle.

        Parameters
        ----------
        source : str or Path
            A folder of a checkpoint, a name on the hub, or ``module:function``; the function
            is imported and called.
        output : Path
            The bundle's folder.
        force : bool
            Replace a bundle that stands there.
        name : str or None
            The bundle's name; by default that of the source.

        Returns
        -------
        Path
            `output`.

        Raises
        ------
        ExportError
            If the source cannot be read or exported, or the graph differs from it.
        RuntimeMissingError
            If torch or transformers is missing.
        RunError
            If `output` is taken or cannot be written.
        """
        check_free(output, force=force)
        need("torch", "torch", "transformers", "onnxscript", "safetensors")
        if ":" in str(source) and not Path(source).exists():
            from onnxloc_exporters.torch_function import export_function

            return export_function(self, str(source), output, force=force, name=name)
        if self.arguments or self.dynamic or self.tokenizer:
            raise ExportError(
                "--arg, --dynamic and --tokenizer are for module:function; a checkpoint has its own"
            )
        checkpoint = open_checkpoint(str(source))
        with Bundle.writing(output, force=force) as staging:
            tokenizer = checkpoint.write_tokenizer(staging)
            info = checkpoint.info(
                tokenizer,
                name=name,
                framework="torch",
                exporter="torch",
                versions={"exporter": self.version} | versions(*PACKAGES, "tokenizers"),
                dtype=self.dtype,
            )
            model = checkpoint.load(self.dtype)
            info = replace(info, opset=_write(model, checkpoint.kind, staging))
            if self.dtype == "bfloat16":
                store_as_bfloat16(staging)
            record(
                staging,
                info,
                checkpoint_reference(model, checkpoint.kind),
                vocabulary=vocabulary(model),
                name=f"torch {info.versions['torch']}",
                allow_mismatch=self.allow_mismatch,
            )
        return output


def vocabulary(model: torch.nn.Module) -> int:
    """Number of token ids that a model of transformers takes."""
    embeddings: Any = model
    return int(embeddings.get_input_embeddings().num_embeddings)


def checkpoint_reference(model: torch.nn.Module, kind: str) -> Reference:
    """A model of transformers, called as its users call it, as the reference of `measure`.

    An encoder-decoder is given the same ids on both sides.
    """
    import numpy as np
    import torch

    output = "last_hidden_state" if kind == "encoder" else "logits"

    @torch.no_grad()
    def run(ids: Any, mask: Any) -> Any:
        given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if kind == "seq2seq":
            given["decoder_input_ids"] = given["input_ids"].clone()
        return np.asarray(model(**given)[output].float())

    return run


def _write(model: torch.nn.Module, kind: str, folder: Path) -> int:
    """Write the graph of a model of transformers; its opset is given."""
    import torch
    from onnxloc_exporters.torch_graph import TextModule, write_graph

    inputs = ["input_ids", "attention_mask"]
    if kind == "seq2seq":
        inputs.append("decoder_input_ids")
    elif kind == "causal" and "position_ids" in inspect.signature(model.forward).parameters:
        inputs.append("position_ids")
    ones = torch.ones((ROWS, TOKENS), dtype=torch.int64)
    positions = torch.arange(TOKENS).expand(ROWS, -1)
    # One tensor twice would be taken for one input.
    examples = [(positions if name == "position_ids" else ones).clone() for name in inputs]
    output = "last_hidden_state" if kind == "encoder" else "logits"
    module = TextModule(model, inputs, output).eval()
    return write_graph(module, examples, [AXES] * len(inputs), folder, inputs=inputs, output=output)
