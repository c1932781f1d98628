"""A file that appears under its name only once it is whole."""

import os
import tempfile
from pathlib import Path

from onnxloc.errors import RunError

__all__ = ["write_whole"]


def write_whole(target: Path, text: str) -> None:
    """Write text as UTF-8; an older file is replaced once the new one is whole.

    Half a surrogate pair, which may stand in a file's name, is written as a question mark.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        staged = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n", errors="replace") as file:
                file.write(text)
            staged.chmod(0o644)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}") from error
