"""Runs whose inputs and results stay in the provider's own memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.registry import one_line
from onnxloc.runtime.engine import make_session
from onnxloc.runtime.providers import RuntimeOptions

__all__ = ["Held", "device_of", "run_bound"]

Array = NDArray[Any]


class Held:
    """A tensor that stays where a session computed it.

    Parameters
    ----------
    value : onnxruntime.OrtValue
        The tensor.
    options : RuntimeOptions
        Of the session that computed it.
    """

    def __init__(self, value: Any, options: RuntimeOptions) -> None:
        self.value = value
        self._options = options

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""
        return tuple(self.value.shape())

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""
        return helper.tensor_dtype_to_np_dtype(self.value.element_type())

    def numpy(self) -> Array:
        """A copy for the host."""
        return np.array(self.value.numpy())

    def __getitem__(self, rows: NDArray[np.int64]) -> "Held":
        """Some rows, any of them more than once, gathered where the tensor is."""
        if len(rows) == self.shape[0] and (rows == np.arange(len(rows))).all():
            return self
        feeds: dict[str, Array | Held] = {"x": self, "rows": np.array(rows, dtype=np.int64)}
        gather = _gather(int(self.value.element_type()), self._options)
        (found,) = run_bound(gather, ["y"], feeds, self._options, hold=True)
        assert isinstance(found, Held)  # noqa: S101
        return found


def device_of(options: RuntimeOptions) -> str:
    """Name of the memory that a provider computes in, as bindings take it."""
    return "cuda" if options.provider == "cuda" else "cpu"


def run_bound(
    session: Any,
    names: Sequence[str],
    feeds: Mapping[str, Array | Held],
    options: RuntimeOptions,
    *,
    hold: bool = False,
) -> list[Any]:
    """Run an onnxruntime session with its inputs and results bound.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        What is run.
    names : sequence of str
        The outputs that are wanted.
    feeds : mapping of str to ndarray or Held
        The inputs. Arrays are copied to the provider's memory; what is held is there already.
    options : RuntimeOptions
        Of the session.
    hold : bool
        Leave the results in the provider's memory.

    Returns
    -------
    list of ndarray, or of Held if `hold`
        The outputs.

    Raises
    ------
    ModelError
        If the run fails.
    """
    try:
        binding = session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, Held):
                binding.bind_ortvalue_input(name, value.value)
            else:
                binding.bind_cpu_input(name, value)
        for name in names:
            binding.bind_output(name, device_of(options) if hold else "cpu")
        session.run_with_iobinding(binding)
        found = binding.get_outputs()
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(f"onnxruntime failed while running: {one_line(error)}") from error
    if hold:
        return [Held(value, options) for value in found]
    return [np.array(value.numpy()) for value in found]


_gathers: dict[tuple[int, RuntimeOptions], Any] = {}


def _gather(elem_type: int, options: RuntimeOptions) -> Any:
    """A session that takes rows of a tensor; kept, one for each element type and provider."""
    key = (elem_type, options)
    if key not in _gathers:
        _gathers[key] = make_session(_gather_model(elem_type), Path.cwd(), options)
    return _gathers[key]


def _gather_model(elem_type: int) -> ModelProto:
    x = helper.make_tensor_value_info("x", elem_type, ["n", "t", "d"])
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["m"])
    y = helper.make_tensor_value_info("y", elem_type, ["m", "t", "d"])
    node = helper.make_node("Gather", ["x", "rows"], ["y"], axis=0)
    graph = helper.make_graph([node], "gather", [x, rows], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
