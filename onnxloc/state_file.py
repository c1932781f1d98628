"""The file of an unfinished state: arrays and a JSON header, replaced as a whole."""

import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STATE_SUFFIX", "UNREADABLE", "read_state", "write_state"]

STATE_SUFFIX = ".npz"
# Of a file that is being written.
HALF_SUFFIX = ".half"
HEADER = "header"
# What a damaged .npz file raises, whatever part of it is damaged.
UNREADABLE = (
    OSError, EOFError, KeyError, MemoryError, NotImplementedError, ValueError, RuntimeError,
    SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write_state(file: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a state; what stood there stays until the new one is whole and on the disk.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    members: dict[str, Any] = {HEADER: text, **arrays}
    half = file.with_suffix(HALF_SUFFIX)
    try:
        with half.open("wb") as stream:
            # numpy below 2.1 takes allow_pickle for an array; the arrays are of numbers.
            np.savez(stream, **members)
            stream.flush()
            os.fsync(stream.fileno())
        half.replace(file)
    finally:
        with suppress(OSError):
            half.unlink()


def read_state(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays of a state.

    Raises
    ------
    Exception
        One of `UNREADABLE`, if the file is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        # What is not compressed is no larger than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(arrays.pop(HEADER).tobytes())
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")  # noqa: TRY004
    return header, arrays
