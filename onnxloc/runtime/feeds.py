"""What a model's own inputs are fed, told by their names and types."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxloc.errors import ModelError, StimulusError
from onnxloc.graph.load import InputSpec
from onnxloc.registry import did_you_mean
from onnxloc.runtime.batches import ArrayBatch, Batch

__all__ = [
    "array_batch",
    "check_arrays",
    "fixed_rows",
    "fixed_sizes",
    "input_role",
    "is_text_model",
    "model_feeds",
]

INTEGERS = {TensorProto.INT64, TensorProto.INT32}
FLOAT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
ROLES = (
    ("mask", ("attention_mask", "input_mask", "padding_mask")),
    ("positions", ("position_ids", "positions", "cache_position")),
    ("types", ("token_type_ids", "segment_ids")),
    ("ids", ("input_ids", "token_ids", "tokens", "ids")),
)
NO_ARRAY = {TensorProto.UNDEFINED, TensorProto.STRING}
# A mask [batch, tokens] is 1 and 0 whatever its type; one that is added to scores has more axes.
TYPES = {"mask": INTEGERS | FLOAT_TYPES | {TensorProto.BOOL}}


def input_role(spec: InputSpec) -> str:
    """What an input holds: "ids", "mask", "positions", "types", "past", or "other"."""
    name = spec.name.lower()
    rank = len(spec.dims)
    if spec.dtype in FLOAT_TYPES and "past" in name and rank == 4 and isinstance(spec.dims[3], int):
        return "past"
    for role, words in ROLES:
        if any(word in name for word in words):
            # An input without a declared shape is taken at its name.
            fits = rank in (0, 2) or (role == "positions" and rank == 1)
            return role if fits and spec.dtype in TYPES.get(role, INTEGERS) else "other"
    return "ids" if rank == 2 and spec.dtype in INTEGERS else "other"


def is_text_model(specs: Sequence[InputSpec]) -> bool:
    """Whether token ids are all that has to be known to fill the inputs."""
    roles = [input_role(spec) for spec in specs]
    return "ids" in roles and "other" not in roles


def fixed_sizes(specs: Sequence[InputSpec]) -> tuple[int | None, int | None]:
    """Rows and tokens of the token ids where the graph fixes them."""
    for spec in specs:
        if input_role(spec) == "ids" and len(spec.dims) == 2:
            rows, tokens = (size if isinstance(size, int) else None for size in spec.dims)
            return rows, tokens
    return None, None


def fixed_rows(specs: Sequence[InputSpec]) -> int | None:
    """Rows that the graph takes at once, where the first axis of an input fixes them."""
    sizes = [spec.dims[0] for spec in specs if spec.dims]
    return next((size for size in sizes if isinstance(size, int)), None)


def model_feeds(specs: Sequence[InputSpec], batch: Batch) -> dict[str, NDArray[Any]]:
    """Feeds for a text model. Keys and values of earlier tokens are fed as empty.

    Raises
    ------
    ModelError
        If the model has an input that text cannot fill.
    """
    feeds: dict[str, NDArray[Any]] = {}
    rows, tokens = batch.ids.shape
    for spec in specs:
        role = input_role(spec)
        value: NDArray[Any]
        if role == "ids":
            value = batch.ids
        elif role == "mask":
            value = batch.mask
        elif role == "positions":
            value = np.arange(tokens)
            if len(spec.dims) != 1:
                value = np.broadcast_to(value, (rows, tokens))
        elif role == "types":
            value = np.zeros_like(batch.ids)
        elif role == "past":
            # [batch, heads, earlier tokens, features]
            sizes = [size if isinstance(size, int) else 0 for size in spec.dims[1:]]
            value = np.zeros((rows, *sizes))
        else:
            raise ModelError(
                f"the model's input {spec.name!r} cannot be filled from text; this command takes "
                "models whose inputs are token ids and masks"
            )
        # onnxruntime has written into callers' arrays: each run gets its own.
        feeds[spec.name] = np.array(
            value, dtype=helper.tensor_dtype_to_np_dtype(spec.dtype), order="C"
        )
    return feeds


# What a text model's arrays may leave out: it follows from the others.
DERIVED = ("mask", "positions", "types", "past")


def check_arrays(
    specs: Sequence[InputSpec], arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> None:
    """Check that a model can be fed arrays.

    Parameters
    ----------
    specs : sequence of InputSpec
        The graph's inputs.
    arrays : mapping of str to (dtype, shape)
        What there is. The first axis runs over stimuli; an array without axes is for all of them.

    Raises
    ------
    StimulusError
        If an input has no array, an array no input, or a dtype or a shape does not fit.
    """
    text = is_text_model(specs)
    known = {spec.name: spec for spec in specs}
    for name in arrays:
        if name not in known:
            hint = did_you_mean(name, known)
            raise StimulusError(
                f"the model has no input {name!r}{hint} (its inputs: {', '.join(known)})"
            )
    for spec in specs:
        if spec.name in arrays:
            _check_array(spec, *arrays[spec.name])
        elif not (text and input_role(spec) in DERIVED):
            raise StimulusError(
                f"the model's input {spec.name!r} has no array; add one, {_wanted(spec)}"
            )


def _check_array(spec: InputSpec, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if spec.dtype not in helper.get_all_tensor_dtypes() or spec.dtype in NO_ARRAY:
        raise StimulusError(f"the model's input {spec.name!r} is no tensor of numbers")
    wanted = helper.tensor_dtype_to_np_dtype(spec.dtype)
    if dtype != wanted:
        raise StimulusError(f"the array {spec.name!r} is {dtype}; save it as {wanted}")
    # Of an input without axes nothing is known, not even that it has none.
    fits = not spec.dims or (
        len(shape) == len(spec.dims)
        and all(
            not isinstance(size, int) or size == given
            for size, given in zip(spec.dims[1:], shape[1:], strict=True)
        )
    )
    if not fits:
        raise StimulusError(
            f"the array {spec.name!r} has the shape {list(shape)}; it must be {_wanted(spec)}"
        )


def _wanted(spec: InputSpec) -> str:
    dtype = TensorProto.DataType.Name(spec.dtype).lower()
    if not spec.dims:
        return f"{dtype}, of the model's own shape with the stimuli first, or a single number"
    rest = [str(size) if isinstance(size, int) else "any" for size in spec.dims[1:]]
    return f"{dtype} [{', '.join(['stimuli', *rest])}]"


def array_batch(
    specs: Sequence[InputSpec], rows: NDArray[np.int64], arrays: Mapping[str, NDArray[Any]]
) -> ArrayBatch:
    """Rows of arrays as a model takes them.

    For a model of text, the lengths follow from the attention mask, and inputs that have no array
    are filled as for texts.

    Raises
    ------
    StimulusError
        If a mask is not 1 for a row's tokens and 0 behind them.
    """
    feeds = dict(arrays)
    if not is_text_model(specs):
        return ArrayBatch(rows, feeds)
    by_role = {input_role(spec): spec.name for spec in reversed(specs)}
    ids = np.array(arrays[by_role["ids"]], dtype=np.int64)
    lengths = np.full(len(ids), ids.shape[1], dtype=np.int64)
    mask = arrays.get(by_role.get("mask", ""))
    if mask is not None:
        lengths = (mask != 0).sum(axis=1).astype(np.int64)
        expected = np.arange(ids.shape[1]) < lengths[:, None]
        wrong = np.flatnonzero(((mask != expected).any(axis=1)) | (lengths == 0))
        if wrong.size:
            raise StimulusError(
                f"row {rows[wrong[0]]} of {by_role['mask']!r} is not 1 for its tokens and 0 "
                "behind them; pad texts on the right"
            )
    text = Batch(rows, ids, lengths)
    missing = [spec for spec in specs if spec.name not in feeds]
    return ArrayBatch(rows, {**feeds, **model_feeds(missing, text)}, text)
