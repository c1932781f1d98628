"""Tensors read as they are, joined over the parts of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError
from onnxloc.runtime.parts import Part

__all__ = ["join_whole"]


def join_whole(done: Sequence[tuple[Part, NDArray[Any]]], axis: int | None) -> NDArray[Any]:
    """The whole batch's tensor from those of its parts.

    Parameters
    ----------
    done : sequence of (Part, ndarray)
        Each part with its tensor.
    axis : int or None
        The batch axis; None if the tensor has none.

    Returns
    -------
    ndarray
        Along other axes as long as the longest part; what a shorter one lacks there is NaN.

    Raises
    ------
    ModelError
        If the batch was run in more than one part, and the tensor has no batch axis.
    """
    part, first = done[0]
    if axis is None:
        if len(done) > 1 or len(part.rows) != part.batch.shape[0]:
            raise ModelError(
                "a tensor without a batch axis can be read only where all rows run at once, and "
                "this model runs them in parts; read one text at a time"
            )
        return first
    count = sum(len(part.rows) for part, _ in done)
    sizes = [max(value.shape[i] for _, value in done) for i in range(first.ndim)]
    sizes[axis] = count
    out = np.full(sizes, np.nan, dtype=first.dtype)
    for part, value in done:
        rows = value.take(range(len(part.rows)), axis=axis)
        for k, row in enumerate(part.rows):
            one = rows.take(k, axis=axis)
            place: list[slice | int] = [slice(size) for size in one.shape]
            place.insert(axis, row)
            out[tuple(place)] = one
    return out
