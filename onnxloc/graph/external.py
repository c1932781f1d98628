"""Writing a changed model as a bundle, with one tensor in memory at a time."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxloc.bundle import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleInfo
from onnxloc.errors import ModelError, RunError
from onnxloc.graph.load import MAX_PROTOBUF
from onnxloc.progress import Progress

__all__ = [
    "Change",
    "Span",
    "bits_per_element",
    "check_apart",
    "embedded_bytes",
    "external_span",
    "set_bytes",
    "set_note",
    "write_bundle",
    "write_model",
]

Bytes = NDArray[np.uint8]
Change = Callable[[Bytes], None]

# What is smaller stays in the graph, where shape inference and viewers read it.
LEAST_EXTERNAL = 64 << 10
ALIGNMENT = 4096
CHUNK = 4 << 20
BITS = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}


class Span(NamedTuple):
    """Where a tensor lies outside the graph. Tensors with one span are tied."""

    location: str
    offset: int
    size: int


def bits_per_element(data_type: int) -> int:
    """Bits that one element of an ONNX type takes; 0 for text.

    Raises
    ------
    ModelError
        If there is no such type.
    """
    if data_type == TensorProto.STRING:
        return 0
    try:
        name = TensorProto.DataType.Name(data_type)
        return BITS.get(name) or 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except (ValueError, KeyError) as error:
        raise ModelError(f"a tensor has the type {data_type}, which is unknown") from error


def external_span(tensor: TensorProto) -> Span | None:
    """Where an external tensor lies; None if it is embedded.

    Raises
    ------
    ModelError
        If its length does not fit its type and shape.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = math.ceil(math.prod(tensor.dims) * bits_per_element(tensor.data_type) / 8)
    length = int(entries.get("length", size))
    if length != size or min(tensor.dims, default=0) < 0:
        raise ModelError(
            f"{tensor.name}: external data of {length} bytes does not fit its shape, which takes "
            f"{size}; export the model again"
        )
    return Span(entries["location"], int(entries.get("offset", 0)), size)


def embedded_bytes(tensor: TensorProto) -> Bytes:
    """A copy of the bytes of an embedded tensor, little-endian, as ``raw_data`` has them.

    Raises
    ------
    ModelError
        If the tensor does not hold what its type and shape ask for.
    """
    try:
        if not tensor.HasField("raw_data"):
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the tensor {tensor.name} is damaged; export the model again") from error
    raw = np.frombuffer(tensor.raw_data, dtype=np.uint8).copy()
    wanted = math.ceil(math.prod(tensor.dims) * bits_per_element(tensor.data_type) / 8)
    if raw.size != wanted:
        raise ModelError(
            f"the tensor {tensor.name} has {raw.size} bytes, its shape takes {wanted}; export the "
            "model again"
        )
    return raw


def set_bytes(tensor: TensorProto, raw: Bytes) -> None:
    """Put bytes into an embedded tensor."""
    for field, _ in tensor.ListFields():
        if field.name.endswith("_data"):
            tensor.ClearField(field.name)
    tensor.raw_data = raw.tobytes()


def check_apart(bundle: Bundle, path: Path) -> None:
    """Refuse an output path that holds the model itself, which --force would replace.

    Raises
    ------
    RunError
        If the model lies at or under `path`.
    """
    if bundle.folder.resolve().is_relative_to(path.resolve()):
        raise RunError(f"{path} holds the model itself; choose another output path")


def write_bundle(
    bundle: Bundle,
    proto: ModelProto,
    path: Path,
    info: BundleInfo,
    changes: Mapping[Span, Change] | None = None,
    *,
    force: bool = False,
    show_progress: bool = False,
) -> None:
    """Write a changed model of `bundle` as a bundle of its own, whole or not at all.

    Parameters
    ----------
    bundle : Bundle
        Where the weights and the tokenizer are taken from; nothing in it is changed.
    proto : onnx.ModelProto
        The new model; changed in place.
    path : Path
        The folder to write.
    info : BundleInfo
        What ``bundle.json`` is to say; the files are filled in.
    changes
        As `write_model` takes them.
    force : bool
        Replace a bundle that stands at `path`.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    RunError
        If `path` is taken, holds the model itself, or cannot be written.
    ModelError
        As `write_model`.
    """
    check_apart(bundle, path)
    with Bundle.writing(path, force=force) as staging:
        write_model(proto, bundle.folder, staging, changes, show_progress=show_progress)
        if bundle.tokenizer_path is not None:
            shutil.copyfile(bundle.tokenizer_path, staging / TOKENIZER_FILE)
        Bundle.describe(staging, info)


def set_note(proto: ModelProto, key: str, value: str) -> None:
    """Set an entry of the model's metadata, in place of one with the same key."""
    kept = [entry for entry in proto.metadata_props if entry.key != key]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=key, value=value)


def write_model(
    proto: ModelProto,
    source: Path,
    target: Path,
    changes: Mapping[Span, Change] | None = None,
    *,
    show_progress: bool = False,
) -> None:
    """Write ``model.onnx`` and the one file with its weights.

    External tensors are copied as they are, or read one at a time and changed. The larger
    initializers of the top-level graph become external. Tied tensors stay tied.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, whose external data was checked when it was loaded; changed in place.
    source : Path
        The folder of its external data.
    target : Path
        The folder to write in.
    changes : mapping of Span to callable, optional
        What changes, in place, the bytes of the external tensors at some places.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    ModelError
        If a tensor and its data do not fit, or the graph itself is too large for a file.
    """
    changes = changes or {}
    done: dict[Span, int] = {}
    spans = {span for tensor in _tensors(proto) if (span := external_span(tensor)) is not None}
    with (
        (target / WEIGHTS_FILE).open("wb") as file,
        Progress("writing", sum(s.size for s in spans), show=show_progress, unit="B") as progress,
    ):
        for tensor in _tensors(proto):
            span = external_span(tensor)
            if span is None:
                continue
            if span not in done:
                done[span] = _align(file)
                _write_span(file, source, span, changes.get(span), tensor.name)
                progress.add(span.size)
            _point(tensor, done[span], span.size)
        for tensor in proto.graph.initializer:
            embedded = tensor.data_location != TensorProto.EXTERNAL
            large = math.prod(tensor.dims) * bits_per_element(tensor.data_type) // 8
            if embedded and large >= LEAST_EXTERNAL:
                raw = embedded_bytes(tensor)
                offset = _align(file)
                raw.tofile(file)
                set_bytes(tensor, raw[:0])
                tensor.ClearField("raw_data")
                _point(tensor, offset, raw.size)
        empty = file.tell() == 0
    if empty:
        (target / WEIGHTS_FILE).unlink()
    if proto.ByteSize() > MAX_PROTOBUF:
        raise ModelError("the constants in the graph's branches and nodes take more than 2 GiB")
    (target / MODEL_FILE).write_bytes(proto.SerializeToString())


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a message, wherever it stands."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in (value,) if isinstance(value, Message) else value:
            if isinstance(inner, TensorProto):
                yield inner
            elif isinstance(inner, Message):
                yield from _tensors(inner)


def _align(file: BinaryIO) -> int:
    # A tensor at the start of a page can be mapped into memory.
    file.write(bytes(-file.tell() % ALIGNMENT))
    return file.tell()


def _point(tensor: TensorProto, offset: int, size: int) -> None:
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    entries: dict[str, Any] = {"location": WEIGHTS_FILE, "offset": offset, "length": size}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def _write_span(file: BinaryIO, source: Path, span: Span, change: Change | None, name: str) -> None:
    with (source / span.location).open("rb") as data:
        data.seek(span.offset)
        if change is not None:
            raw = np.fromfile(data, dtype=np.uint8, count=span.size)
            _check_length(raw.size, span, name)
            change(raw)
            raw.tofile(file)
            return
        left = span.size
        while left and (chunk := data.read(min(left, CHUNK))):
            file.write(chunk)
            left -= len(chunk)
        _check_length(span.size - left, span, name)


def _check_length(found: int, span: Span, name: str) -> None:
    if found != span.size:
        raise ModelError(
            f"{span.location} is too short: {name} has {found} of its {span.size} bytes; export "
            "the model again"
        )
