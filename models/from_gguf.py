"""A GGUF file as a Hugging Face checkpoint, for the exporters that read nothing else."""

import json
import os
from pathlib import Path

from onnxloc_exporters.gguf_reader import GGUFFile
from onnxloc_exporters.gguf_tokenizer import gguf_tokenizer
from onnxloc_exporters.hf_source import quiet
from onnxloc_exporters.torch_ import need

from onnxloc.errors import ExportError
from onnxloc.registry import one_line

__all__ = ["checkpoint"]


def checkpoint(source: Path, folder: Path) -> None:
    """Let transformers read a GGUF file and write a checkpoint in float32.

    The tokenizer is onnxloc's own conversion: that of transformers 4.57 forgets a step of SmolLM2's
    pre-tokenizer and begins texts with a token that the file does not ask for.

    Parameters
    ----------
    source : Path
        The GGUF file of a causal language model.
    folder : Path
        Where the checkpoint is written.

    Raises
    ------
    ExportError
        If transformers cannot read the file.
    RuntimeMissingError
        If a package is missing.
    """
    need("torch", "torch", "transformers", "accelerate", "safetensors")
    found = gguf_tokenizer(GGUFFile(source))
    # transformers looks on the hub for a chat template that is not needed.
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        from transformers import AutoModelForCausalLM

        with quiet():
            AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
            ).save_pretrained(folder, safe_serialization=True)
    except Exception as error:  # whatever a damaged file leads transformers to may be raised
        raise ExportError(f"transformers cannot read {source.name}: {one_line(error)}") from error
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
    (folder / "tokenizer.json").write_text(found.json, encoding="utf-8")
    settings = json.dumps({"add_bos_token": found.add_bos})
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
