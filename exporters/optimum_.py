"""From a Hugging Face checkpoint to a bundle, through optimum-onnx."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from onnxloc_exporters.bfloat16 import save_weights_beside, store_as_bfloat16
from onnxloc_exporters.hf_source import DTYPES, Checkpoint, open_checkpoint, quiet, versions
from onnxloc_exporters.parity import record
from onnxloc_exporters.torch_ import PACKAGES, checkpoint_reference, need, vocabulary

from onnxloc.bundle import MODEL_FILE, Bundle
from onnxloc.errors import ExportError
from onnxloc.folder import check_free
from onnxloc.registry import one_line

__all__ = ["OptimumExporter"]

# What optimum calls the task of each kind of model.
TASKS = {
    "causal": "text-generation",
    "masked": "fill-mask",
    "seq2seq": "text2text-generation",
    "classifier": "text-classification",
    "tagger": "token-classification",
    "encoder": "feature-extraction",
}
# Weights are rounded to bfloat16 afterwards.
DTYPE_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "fp32"}
RAW, ROUNDED = ".optimum", ".rounded"


@dataclass(frozen=True)
class OptimumExporter:
    """Turns a Hugging Face checkpoint into a bundle as optimum's ``main_export`` does.

    Parameters
    ----------
    dtype : {"float32", "float16", "bfloat16"}
        Type of the weights, and of what is computed with them but for bfloat16 weights, with which
        float32 is computed.
    with_past : bool
        Give the graph inputs and outputs for the keys and values of earlier tokens.
    allow_mismatch : bool
        Write a bundle even if it differs from the source by more than the tolerance.
    """

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    with_past: bool = False
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
            A folder of a checkpoint, or a name on the hub.
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
            If optimum-onnx, torch or transformers is missing.
        RunError
            If `output` is taken or cannot be written.
        """
        check_free(output, force=force)
        need("optimum", "torch", "transformers", "optimum", "optimum.exporters.onnx")
        checkpoint = open_checkpoint(str(source))
        if self.with_past and checkpoint.kind != "causal":
            raise ExportError(f"--with-past is for causal language models, not a {checkpoint.kind}")
        with Bundle.writing(output, force=force) as staging:
            tokenizer = checkpoint.write_tokenizer(staging)
            info = checkpoint.info(
                tokenizer,
                name=name,
                framework="torch",
                exporter="optimum",
                versions={"exporter": self.version}
                | versions("optimum-onnx", "optimum", *PACKAGES, "tokenizers"),
                dtype=self.dtype,
            )
            info = replace(info, opset=self._write(checkpoint, staging))
            model = checkpoint.load(self.dtype)
            record(
                staging,
                info,
                checkpoint_reference(model, checkpoint.kind),
                vocabulary=vocabulary(model),
                name=f"torch {info.versions['torch']}",
                allow_mismatch=self.allow_mismatch,
            )
        return output

    def _write(self, checkpoint: Checkpoint, staging: Path) -> int:
        """Let optimum write its files and keep the graph; its opset is given."""
        from optimum.exporters.onnx import main_export  # type: ignore[import-untyped]

        raw = staging / RAW
        folder = checkpoint.folder
        if self.dtype == "bfloat16":
            # optimum reads weights from a folder only, so they are rounded there.
            folder = staging / ROUNDED
            with quiet():
                rounded: Any = checkpoint.load(self.dtype)
                rounded.save_pretrained(folder, safe_serialization=True)
        task = TASKS[checkpoint.kind] + ("-with-past" if self.with_past else "")
        try:
            with quiet():
                main_export(
                    str(folder),
                    output=raw,
                    task=task,
                    dtype=DTYPE_NAMES[self.dtype],
                    # One graph, for encoder and decoder too.
                    monolith=not self.with_past,
                    library_name="transformers",
                    local_files_only=True,
                    trust_remote_code=False,
                    # onnxloc's own comparison follows.
                    do_validation=False,
                )
        except Exception as error:  # tracing runs the model, which may raise anything
            raise ExportError(
                f"optimum cannot export {checkpoint.folder}: {one_line(error)}"
            ) from error
        if not (raw / MODEL_FILE).is_file():
            raise ExportError(f"optimum wrote no {MODEL_FILE} for {checkpoint.folder}")
        opset = _arrange(raw / MODEL_FILE, staging)
        shutil.rmtree(raw)
        if self.dtype == "bfloat16":
            shutil.rmtree(folder)
            store_as_bfloat16(staging)
        return opset


def _arrange(file: Path, folder: Path) -> int:
    """Save a model with all its weights in one file beside it; its opset is given."""
    import onnx

    model = onnx.load(file)
    for node in model.graph.node:
        # Paths of the machine that exported it.
        node.ClearField("doc_string")
    save_weights_beside(model, folder)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
