"""A GGUF file's model as transformers reads it, to compare a bundle with.

A GGUF file comes from llama.cpp, which has no Python interface to compare with here. transformers
dequantises the same tensors by code of its own, and runs them in torch.
"""

from pathlib import Path
from typing import Any

from onnxloc_exporters.hf_source import quiet
from onnxloc_exporters.parity import Reference
from onnxloc_exporters.torch_ import checkpoint_reference, need

from onnxloc.errors import ExportError
from onnxloc.registry import one_line

__all__ = ["gguf_reference"]


def gguf_reference(source: Path) -> tuple[Reference, str]:
    """The reference, and its name for the record. It computes in float32.

    Raises
    ------
    RuntimeMissingError
        If torch or transformers is missing.
    ExportError
        If transformers cannot read the file.
    """
    need("torch", "torch", "transformers", "accelerate")
    import torch
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    try:
        with quiet():
            model = loader.from_pretrained(
                source.parent,
                gguf_file=source.name,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # whatever its reader makes of a file may be raised
        raise ExportError(
            f"transformers cannot read {source}, so parity cannot be measured: {one_line(error)}"
        ) from error
    name = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return checkpoint_reference(model.eval(), "causal"), name
