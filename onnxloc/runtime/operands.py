"""What the edits and the given tensors of a plan are fed."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.rewrite import Instrumented
from onnxloc.registry import did_you_mean
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.binding import Held

__all__ = ["EditValues", "Operands"]

Array = NDArray[Any]
EditValues = Mapping[str, tuple[Array, ...]]
TYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}
# What each operand of an edit is where the edit changes nothing: x + -0.0 is x, -0.0 included.
IDENTITY = {"mask": False, "value": 0.0, "scale": 1.0, "shift": -0.0}


class Operands:
    """Checks what edits and given tensors are fed, and fills in what is left out.

    Parameters
    ----------
    instrumented : Instrumented
        The graph with the plan built in.
    session : onnxruntime.InferenceSession
        Its session.
    """

    def __init__(self, instrumented: Instrumented, session: Any) -> None:
        self._made = instrumented
        self._session = session
        self._inputs = instrumented.input_names

    def of_edits(self, batch: Batch | ArrayBatch, edits: EditValues) -> dict[str, Array]:
        """Every operand of every edit, by the graph's input; those not given change nothing.

        Raises
        ------
        OptionError
            If an edit is not the plan's, or an operand does not fit.
        """
        known = self._made.edit_inputs
        for tensor in edits:
            if tensor not in known:
                hint = did_you_mean(tensor, known)
                raise OptionError(f"the plan does not edit {tensor!r}{hint}")
        operands: dict[str, Array] = {}
        for tensor, inputs in known.items():
            given = edits.get(tensor)
            if given is not None and len(given) != len(inputs):
                kinds = ", ".join(name.rpartition(".")[2] for name in inputs)
                raise OptionError(f"the edit of {tensor!r} takes {kinds}; got {len(given)} arrays")
            for i, name in enumerate(inputs):
                # An edit behind all that is read has been pruned.
                if name in self._inputs:
                    value = None if given is None else given[i]
                    operands[name] = self._operand(batch, name, value)
        return operands

    def of_given(
        self, batch: Batch | ArrayBatch, given: Mapping[str, Array | Held]
    ) -> dict[str, Array | Held]:
        """The plan's given tensors, by the graph's input.

        Raises
        ------
        OptionError
            If one is missing, is not the plan's, or does not fit.
        """
        inputs = self._made.given_inputs
        if set(given) != set(inputs):
            raise OptionError(f"the plan is given {sorted(inputs)}, not {sorted(given)}")
        found: dict[str, Array | Held] = {}
        for tensor, value in given.items():
            if value.ndim != 3 or value.shape[:2] != batch.shape:
                rows, tokens = batch.shape
                raise OptionError(
                    f"{tensor!r} is given as {list(value.shape)}; "
                    f"it takes [{rows}, {tokens}, units]"
                )
            # A tap reads half precision as float32; the graph goes on in its own type.
            dtype = np.dtype(self._types[inputs[tensor]][0])
            if isinstance(value, Held) and value.dtype != dtype:
                value = value.numpy()
            found[inputs[tensor]] = (
                value if isinstance(value, Held) else np.asarray(value, dtype=dtype)
            )
        return found

    def _operand(self, batch: Batch | ArrayBatch, name: str, value: Array | None) -> Array:
        dtype, dims = self._types[name]
        kind = name.rpartition(".")[2]
        whole = name in self.whole
        if value is None:
            shape = [1] * len(dims) if whole else [1, 1, dims[-1]]
            return np.full(shape, IDENTITY[kind], dtype=dtype)
        value = np.asarray(value, dtype=dtype)
        if whole:
            if value.ndim != len(dims):
                raise OptionError(
                    f"the {kind} of a whole edit has {value.ndim} axes; its tensor has {len(dims)}"
                )
            return value
        rows, tokens = batch.shape
        units = dims[-1]
        fits = value.ndim == 3 and value.shape[0] in (1, rows) and value.shape[1] in (1, tokens)
        if not fits or value.shape[2] != units:
            raise OptionError(
                f"the {kind} of an edit has shape {list(value.shape)}; it takes "
                f"[{rows} or 1, {tokens} or 1, {units}]"
            )
        return value

    @cached_property
    def whole(self) -> frozenset[str]:
        """The operands of edits that take a tensor's own axes."""
        whole = [edit.site for edit in self._made.plan.edits if edit.form == "whole"]
        return frozenset(n for site in whole for n in self._made.edit_inputs[site])

    @cached_property
    def _types(self) -> dict[str, tuple[str, list[Any]]]:
        """Dtype and sizes of each operand and given tensor, as onnxruntime has them."""
        names = {name for inputs in self._made.edit_inputs.values() for name in inputs}
        names |= set(self._made.given_inputs.values())
        return {
            value.name: (TYPES[value.type], list(value.shape))
            for value in self._session.get_inputs()
            if value.name in names
        }
