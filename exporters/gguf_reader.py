"""GGUF files, read with the `gguf` package and checked on the way."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from onnxloc.errors import ExportError
from onnxloc.registry import did_you_mean

__all__ = ["GGUFFile"]

MAGIC = b"GGUF"
CHUNK = 1 << 20


class _StrictReader(GGUFReader):  # type: ignore[misc,unused-ignore]
    """A reader that stops where the file ends.

    The base class takes what is left of the file for what was asked, so that a length that lies
    keeps it busy for ever.
    """

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> NDArray[Any]:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError(f"it ends early, at byte {len(self.data)}")
        return np.asarray(super()._get(offset, dtype, count, override_order))


class GGUFFile:
    """Metadata and tensors of one GGUF file, memory-mapped.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ExportError
        If the file is missing, is not GGUF, is cut short, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A pipe would block.
        if path.exists() and not path.is_file():
            raise ExportError(f"cannot read {path}: it is not a file")
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise ExportError(f"cannot read {path}: {error.strerror}") from error
        if magic != MAGIC:
            raise ExportError(f"{path} is not a GGUF file")
        try:
            self._reader = _StrictReader(path)
        except Exception as error:  # the reader meets bad bytes with any exception there is
            raise ExportError(f"{path} is corrupt: {_line(error)}; get it again") from error
        if self._reader.byte_order == "S":
            raise ExportError(f"{path} has the byte order of another machine; convert it first")
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        end = 0
        for tensor in sorted(self._reader.tensors, key=lambda tensor: tensor.data_offset):
            if tensor.data_offset < end:
                raise ExportError(f"{self.path} is corrupt: {tensor.name} overlaps another tensor")
            end = tensor.data_offset + tensor.n_bytes

    @property
    def keys(self) -> list[str]:
        """Names of the metadata."""
        return list(self._reader.fields)

    @cached_property
    def tensors(self) -> Mapping[str, ReaderTensor]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, outermost axis first."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number that is not negative."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ExportError(f"{self.path}: {key} must be a whole number, not {_short(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
            raise ExportError(f"{self.path}: {key} must be a number, not {_short(value)}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise ExportError(f"{self.path}: {key} must be a text, not {_short(value)}")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a truth value."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ExportError(f"{self.path}: {key} must be true or false, not {_short(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        value = self._value(key, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ExportError(f"{self.path}: {key} must be a list of texts")
        return value

    def integers(self, key: str) -> list[int]:
        """Return a list of whole numbers."""
        value = self._value(key, None)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise ExportError(f"{self.path}: {key} must be a list of whole numbers")
        return value

    def _value(self, key: str, default: object) -> object:
        field = self._reader.fields.get(key)
        if field is None:
            if default is None:
                raise ExportError(f"{self.path}: the metadata lacks {key}")
            return default
        try:
            return field.contents()
        except (ValueError, IndexError) as error:
            raise ExportError(f"{self.path}: {key} cannot be read: {_line(error)}") from error

    def refuse_unknown(self, prefix: str, known: Iterable[str]) -> None:
        """Refuse metadata under `prefix` whose meaning is not known.

        Raises
        ------
        ExportError
            Naming the first key that is not in `known`.
        """
        known = set(known)
        for key in self.keys:
            if key.startswith(prefix) and key not in known:
                raise ExportError(
                    f"{self.path}: the metadata {key} is not known, and may change the model"
                    f"{did_you_mean(key, known)}"
                )

    def read(self, name: str) -> NDArray[np.float32]:
        """Dequantise one tensor.

        Raises
        ------
        ExportError
            If its type cannot be dequantised, or it holds values that are not finite.
        """
        tensor = self.tensors[name]
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        values = np.empty((len(data), self.shape(name)[-1]), np.float32)
        # A few rows at a time: dequantising takes several times the memory of its result.
        step = max(1, CHUNK // values.shape[1])
        try:
            for start in range(0, len(data), step):
                rows = slice(start, start + step)
                values[rows] = dequantize(data[rows], tensor.tensor_type)
        except (NotImplementedError, KeyError) as error:
            kind = tensor.tensor_type.name
            raise ExportError(f"{self.path}: {name} has the type {kind}, not known") from error
        except ValueError as error:
            raise ExportError(f"{self.path}: {name} cannot be read: {_line(error)}") from error
        # A NaN or an infinity anywhere makes one of the two not finite.
        if not np.isfinite([values.min(), values.max()]).all():
            raise ExportError(f"{self.path}: {name} holds values that are not finite")
        return values.reshape(self.shape(name))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
