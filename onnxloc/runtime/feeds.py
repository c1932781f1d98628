"""What a model's own inputs are fed, told by their names and types."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import InputSpec
from onnxloc.runtime.batches import Batch

__all__ = ["fixed_sizes", "input_role", "is_text_model", "model_feeds"]

INTEGERS = {TensorProto.INT64, TensorProto.INT32}
FLOAT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
ROLES = (
    ("mask", ("attention_mask", "input_mask", "padding_mask")),
    ("positions", ("position_ids", "positions", "cache_position")),
    ("types", ("token_type_ids", "segment_ids")),
    ("ids", ("input_ids", "token_ids", "tokens", "ids")),
)
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
