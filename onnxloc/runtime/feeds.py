"""What a model's own inputs are fed, told by their names and types."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import InputSpec
from onnxloc.runtime.batches import Batch

__all__ = ["input_role", "model_feeds"]

INTEGERS = {TensorProto.INT64, TensorProto.INT32}


def input_role(spec: InputSpec) -> str:
    """What an input holds: "ids", "mask", "positions", "types", or "other"."""
    name = spec.name.lower()
    if spec.dtype not in INTEGERS and "mask" not in name:
        return "other"
    for role, words in (
        ("mask", ("attention_mask", "input_mask", "padding_mask")),
        ("positions", ("position_ids", "positions")),
        ("types", ("token_type_ids", "segment_ids")),
        ("ids", ("input_ids", "token_ids", "tokens", "ids")),
    ):
        if any(word in name for word in words):
            return role
    return "ids" if len(spec.dims) == 2 else "other"


def model_feeds(specs: Sequence[InputSpec], batch: Batch) -> dict[str, NDArray[Any]]:
    """Feeds for a text model.

    Raises
    ------
    ModelError
        If the model has an input that text cannot fill.
    """
    feeds: dict[str, NDArray[Any]] = {}
    for spec in specs:
        dtype = helper.tensor_dtype_to_np_dtype(spec.dtype)
        role = input_role(spec)
        if role == "ids":
            value: NDArray[Any] = batch.ids
        elif role == "mask":
            value = batch.mask
        elif role == "positions":
            value = np.broadcast_to(np.arange(batch.ids.shape[1]), batch.ids.shape)
        elif role == "types":
            value = np.zeros_like(batch.ids)
        else:
            raise ModelError(f"the model's input {spec.name!r} cannot be filled from text")
        # onnxruntime has written into callers' arrays: each run gets its own.
        feeds[spec.name] = np.array(value, dtype=dtype, order="C")
    return feeds
