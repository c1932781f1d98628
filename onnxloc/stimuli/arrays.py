"""Stimuli that are no texts: ``.npz`` files with an array for each input of a model.

The file is data from outside. Nothing in it is unpickled. Every array's header is checked before
anything else of it is read, and what the arrays hold is read a few stimuli at a time, so that a
small file that unpacks to a large one costs time and no memory.
"""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxloc.errors import StimulusError
from onnxloc.folder import sha256_file
from onnxloc.registry import did_you_mean, one_line
from onnxloc.stimuli.model import MIN_TEXTS

__all__ = ["CONDITION", "ArrayInfo", "ArraySet", "load_arrays"]

Array = NDArray[Any]

CONDITION = "condition"
CONDITIONS = ("positive", "control")
KINDS = "biuf"
MAX_CONDITION_BYTES = 64 * 2**20
# One stimulus: an image of 8192 x 8192 with three channels in float32 is 768 MB.
MAX_STIMULUS_BYTES = 2**30
MAX_NAMES = 1000
MAX_HEADER = 10_000
# What zipfile, zlib and numpy's header parser raise for damaged files.
UNREADABLE = (
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ArrayInfo:
    """What an array's header says.

    Attributes
    ----------
    dtype : numpy.dtype
        Its element type.
    shape : tuple of int
        Its sizes, the stimuli first; empty for a single number that holds for all stimuli.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one stimulus."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class ArraySet:
    """Stimuli of two conditions as arrays in a file.

    Attributes
    ----------
    path : Path
        The ``.npz`` file.
    arrays : mapping of str to ArrayInfo
        The arrays by name, but for `condition`.
    is_positive : ndarray of bool, [stimuli]
        Which stimuli are of the positive condition.
    positive_label, control_label : str
        The conditions' names for people.

    Raises
    ------
    StimulusError
        If a condition has fewer than three stimuli.
    """

    path: Path
    arrays: Mapping[str, ArrayInfo]
    is_positive: NDArray[np.bool_] = field(repr=False)
    positive_label: str = "positive"
    control_label: str = "control"

    def __post_init__(self) -> None:
        counts = (int(self.is_positive.sum()), int((~self.is_positive).sum()))
        for count, label in zip(counts, (self.positive_label, self.control_label), strict=True):
            if count < MIN_TEXTS:
                raise StimulusError(
                    f"{self.path} has {count} stimuli of {label}; at least {MIN_TEXTS} of each "
                    "condition are needed"
                )

    def __len__(self) -> int:
        return len(self.is_positive)

    @property
    def name(self) -> str:
        """What the set calls itself: the file's name."""
        return self.path.stem

    @property
    def version(self) -> str:
        """Empty: a file has none."""
        return ""

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the file."""
        return sha256_file(self.path)

    def head(self, rows: int) -> dict[str, Array]:
        """The first stimuli, at most `rows` of them."""
        return next(self.batches(rows))[1]

    def batches(self, rows: int) -> Iterator[tuple[NDArray[np.int64], dict[str, Array]]]:
        """The stimuli in the order of the file: where they stand, and their arrays.

        Parameters
        ----------
        rows : int
            Stimuli at a time, at most.

        Raises
        ------
        StimulusError
            If the file cannot be read or is damaged.
        """
        with ExitStack() as stack:
            try:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                streams = {
                    name: stack.enter_context(archive.open(f"{name}.npy")) for name in self.arrays
                }
                found = {name: _header(stream) for name, stream in streams.items()}
            except (KeyError, *UNREADABLE) as error:
                raise StimulusError(f"cannot read {self.path}: {one_line(error)}") from error
            if found != self.arrays:
                raise StimulusError(f"{self.path} has changed while it was used")
            fixed = {
                name: self._read(name, streams[name], 1)
                for name, info in self.arrays.items()
                if not info.shape
            }
            for start in range(0, len(self), rows):
                places = np.arange(start, min(start + rows, len(self)))
                yield (
                    places,
                    {
                        name: fixed[name]
                        if name in fixed
                        else self._read(name, stream, len(places))
                        for name, stream in streams.items()
                    },
                )

    def _read(self, name: str, stream: IO[bytes], rows: int) -> Array:
        info = self.arrays[name]
        wanted = rows * info.row_bytes
        try:
            data = stream.read(wanted)
        except UNREADABLE as error:
            raise StimulusError(f"{self.path}: {name} is damaged: {one_line(error)}") from error
        if len(data) < wanted:
            raise StimulusError(f"{self.path}: {name} ends too early; save the file again")
        shape = (rows, *info.shape[1:]) if info.shape else ()
        return np.frombuffer(data, dtype=info.dtype).reshape(shape).copy()

    @classmethod
    def open(cls, path: Path, positive: str | None = None) -> Self:
        """See `load_arrays`."""
        with _opened(path) as archive:
            infos: dict[str, ArrayInfo] = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in infos:
                    why = "stands twice" if name in infos else "is no array"
                    raise StimulusError(f"{path}: {member.filename!r:.60} {why}")
                infos[name] = _checked(path, archive, member, name)
            if CONDITION not in infos:
                raise StimulusError(
                    f"{path} has no array 'condition'; add one with positive or control (or 1 or "
                    "0) for each stimulus"
                )
            info = infos.pop(CONDITION)
            if not infos:
                raise StimulusError(f"{path} has no array beside 'condition'")
            values = _conditions(path, archive, info)
        for name, one in infos.items():
            if one.shape and one.shape[0] != len(values):
                raise StimulusError(
                    f"{path}: {name} has {one.shape[0]} stimuli, condition {len(values)}; the "
                    "first axis of every array runs over the stimuli"
                )
        if not any(one.shape for one in infos.values()):
            raise StimulusError(f"{path}: no array has an axis of stimuli")
        is_positive, labels = _split(path, values, positive)
        return cls(
            path=path,
            arrays=infos,
            is_positive=is_positive,
            positive_label=labels[0],
            control_label=labels[1],
        )


def load_arrays(path: str | Path, positive: str | None = None) -> ArraySet:
    """Read stimuli that are no texts from an ``.npz`` file, as ``numpy.savez`` writes it.

    Parameters
    ----------
    path : str or Path
        The file. It holds an array for each input of the model, named as the input, its first axis
        the stimuli; and an array `condition`, ``[stimuli]``: "positive" or "control", 1 or 0, or
        two names of your own.
    positive : str, optional
        Which of two names of your own is the positive condition.

    Raises
    ------
    StimulusError
        If there is no such file, or it is no such file.
    """
    return ArraySet.open(Path(path), positive)


def _opened(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise StimulusError(f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise StimulusError(
            f"{path} is no .npz file: {one_line(error)}; write it with numpy.savez"
        ) from error
    if len(archive.infolist()) > MAX_NAMES:
        archive.close()
        raise StimulusError(f"{path} holds more than {MAX_NAMES} arrays")
    return archive


def _checked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> ArrayInfo:
    try:
        with archive.open(member) as stream:
            info = _header(stream)
            before = stream.tell()
    except UNREADABLE as error:
        raise StimulusError(f"{path}: {name!r:.60} cannot be read: {one_line(error)}") from error
    if info.dtype.hasobject:
        raise StimulusError(
            f"{path}: {name!r:.60} holds Python objects, which are not read; save it as numbers"
        )
    if name != CONDITION and info.dtype.kind not in KINDS:
        raise StimulusError(f"{path}: {name!r:.60} is {info.dtype}; inputs are arrays of numbers")
    size = math.prod(info.shape) * info.dtype.itemsize
    if min(info.shape, default=1) < 1:
        raise StimulusError(f"{path}: {name!r:.60} is empty: its shape is {list(info.shape)}")
    if before + size != member.file_size:
        raise StimulusError(
            f"{path}: {name!r:.60} says that it is {size} bytes and is "
            f"{member.file_size - before}; save the file again"
        )
    if info.row_bytes > MAX_STIMULUS_BYTES:
        raise StimulusError(
            f"{path}: one stimulus of {name!r:.60} has {info.row_bytes} bytes, more than "
            f"{MAX_STIMULUS_BYTES}; make it smaller"
        )
    return info


def _header(stream: IO[bytes]) -> ArrayInfo:
    """Read what stands in front of an array's values.

    Raises
    ------
    ValueError
        If it is no such header, or the values stand column by column.
    """
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is unknown")
    shape, fortran, dtype = readers[version](stream, max_header_size=MAX_HEADER)
    if fortran and len(shape) > 1:
        raise ValueError("its values stand column by column; save numpy.ascontiguousarray of it")
    return ArrayInfo(dtype, shape)


def _conditions(path: Path, archive: zipfile.ZipFile, info: ArrayInfo) -> Array:
    if len(info.shape) != 1:
        raise StimulusError(f"{path}: condition has the shape {list(info.shape)}, not [stimuli]")
    size = info.shape[0] * info.dtype.itemsize
    if info.dtype.kind not in "biuUS" or size > MAX_CONDITION_BYTES:
        raise StimulusError(
            f"{path}: condition is {info.dtype} with {size} bytes; it must be short texts, or 1 "
            "and 0"
        )
    try:
        with archive.open(f"{CONDITION}.npy") as stream:
            _header(stream)
            values = np.frombuffer(stream.read(size), dtype=info.dtype)
            if info.dtype.kind == "S":
                values = np.char.decode(values, "ascii")
            return values
    except UNREADABLE as error:
        raise StimulusError(f"{path}: condition is damaged: {one_line(error)}") from error


def _split(
    path: Path, values: Array, positive: str | None
) -> tuple[NDArray[np.bool_], tuple[str, str]]:
    """Which stimuli are positive, and the labels of both conditions."""
    found = [str(value) for value in np.unique(values)]
    if values.dtype.kind in "biu":
        if not set(np.unique(values).astype(int).tolist()) <= {0, 1}:
            raise StimulusError(f"{path}: condition must be 1 (positive) or 0 (control)")
        if positive is not None:
            raise StimulusError(f"{path}: condition is 1 and 0, and 1 is positive")
        return values.astype(np.bool_), CONDITIONS
    if set(found) <= set(CONDITIONS) and positive is None:
        return values == CONDITIONS[0], CONDITIONS
    if len(found) != 2:
        listed = ", ".join(repr(name[:40]) for name in found[:5])
        raise StimulusError(f"{path}: condition must be two names; it has {len(found)}: {listed}")
    if positive is None:
        raise StimulusError(
            f"{path}: condition is {found[0][:40]!r} or {found[1][:40]!r}; say which is positive "
            f"with --positive"
        )
    if positive not in found:
        hint = did_you_mean(positive, found)
        raise StimulusError(
            f"{path}: no stimulus is {positive!r:.60}{hint} (there is {found[0][:40]!r} and "
            f"{found[1][:40]!r})"
        )
    other = found[1 - found.index(positive)]
    return values == positive, (positive, other)
