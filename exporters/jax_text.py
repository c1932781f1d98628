"""What a bundle says of text, taken from where the checkpoint's tokenizer is."""

from dataclasses import replace
from pathlib import Path

from onnxloc.bundle import TOKENIZER_FILE, BundleInfo, checkpoint_info
from onnxloc.errors import BundleError, ExportError

__all__ = ["find_text", "read_text"]

MAGIC = b"GGUF"


def find_text(source: str | Path | None) -> Path | None:
    """Where a function's argument is a GGUF file, or a folder of a checkpoint: that; else None."""
    if source is None:
        return None
    path = Path(source)
    try:
        if path.is_file():
            return path if _is_gguf(path) else None
        known = (TOKENIZER_FILE, "config.json")
        return path if any((path / name).is_file() for name in known) else None
    except (OSError, ValueError):  # a null byte, or too long a name
        # It is the function's argument, and need not be a path.
        return None


def read_text(source: Path | None, folder: Path) -> BundleInfo:
    """Write the tokenizer into a bundle's folder and tell its special tokens.

    Parameters
    ----------
    source : Path or None
        A GGUF file, a ``tokenizer.json``, or a folder that holds one; None for none.
    folder : Path
        The bundle's folder.

    Returns
    -------
    BundleInfo
        With tokens, limits, architecture and licence as far as they are known.

    Raises
    ------
    ExportError
        If there is no tokenizer, or it cannot be read.
    """
    if source is None:
        return BundleInfo(name="")
    if source.is_file() and _is_gguf(source):
        return _gguf(source, folder)
    tokenizer, target = source, None
    if source.is_dir():
        tokenizer = source / TOKENIZER_FILE
    try:
        # A checkpoint's folder may lack one; a file that was named must be there.
        if tokenizer.exists() or not source.is_dir():
            target = folder / TOKENIZER_FILE
            target.write_bytes(tokenizer.read_bytes())
        # Settings stand beside the tokenizer under the names that Hugging Face gives them.
        return checkpoint_info(tokenizer.parent / "model.onnx", target)
    except OSError as error:
        raise ExportError(f"cannot read {tokenizer}: {error.strerror}") from error
    except BundleError as error:
        raise ExportError(str(error)) from error


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error


def _gguf(source: Path, folder: Path) -> BundleInfo:
    from onnxloc_exporters.gguf_reader import GGUFFile
    from onnxloc_exporters.gguf_tokenizer import gguf_tokenizer

    file = GGUFFile(source)
    found = gguf_tokenizer(file)
    (folder / TOKENIZER_FILE).write_text(found.json, encoding="utf-8")
    architecture = file.text("general.architecture")
    info = BundleInfo(
        name="",
        architecture=architecture,
        license=file.text("general.license", ""),
        add_bos=found.add_bos,
        bos_token_id=found.bos,
        eos_token_id=found.eos,
        pad_token_id=found.pad,
    )
    longest = file.integer(f"{architecture}.context_length", 0)
    return replace(info, max_tokens=longest or None)
