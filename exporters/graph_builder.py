"""A small builder of ONNX graphs whose weights live in a file of their own."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["GraphBuilder", "WeightFile"]

ALIGNMENT = 4096


class WeightFile:
    """An external data file, written one tensor at a time.

    Offsets are multiples of 4096 bytes, so that a runtime can map each tensor into memory.

    Parameters
    ----------
    path : Path
        The file to write; the graph must stand in the same folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, name: str, array: NDArray[Any]) -> TensorProto:
        """Append an array and return an initializer that points to it."""
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        # ONNX stores raw data in little-endian order.
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tofile(self._file)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", self._path.name),
            ("offset", str(offset)),
            ("length", str(array.nbytes)),
        ):
            tensor.external_data.add(key=key, value=value)
        return tensor


class GraphBuilder:
    """Collects nodes, constants and weights, and names them by their scope.

    A node ``MatMul`` in the scope ``/model/layers.3/mlp`` is ``/model/layers.3/mlp/MatMul``, a
    second one ``.../MatMul_1``; its output is ``.../MatMul_output_0``.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._names: set[str] = set()
        self._types: list[onnx.ValueInfoProto] = []

    def add(
        self, op: str, scope: str, inputs: Sequence[str], *, output: str = "", **attributes: Any
    ) -> str:
        """Add a node of one output and return the output's name."""
        return self.add_many(op, scope, inputs, [output], **attributes)[0]

    def add_many(
        self, op: str, scope: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add a node; outputs given as empty strings are named after it."""
        name = stem = f"{scope}/{op}"
        count = 0
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        named = [given or f"{name}_output_{i}" for i, given in enumerate(outputs)]
        self._nodes.append(helper.make_node(op, inputs, named, name=name, **attributes))
        return named

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a small constant that is stored in the graph itself; equal names share one."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(value, name)
        return name

    def integers(self, *values: int) -> str:
        """Add a list of int64, as Reshape, Unsqueeze and the like take it."""
        name = "/constants/" + "_".join(map(str, values))
        return self.constant(name, np.array(values, np.int64))

    def declare(self, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """State a type and shape that inference could not find by itself."""
        self._types.append(helper.make_tensor_value_info(name, kind, shape))

    def weight(self, tensor: TensorProto) -> str:
        """Add a weight written by `WeightFile`."""
        self._initializers[tensor.name] = tensor
        return tensor.name

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        opset: int,
        ir_version: int,
        producer: tuple[str, str],
    ) -> onnx.ModelProto:
        """Return the checked model, with the types and shapes of all intermediate tensors."""
        graph = helper.make_graph(
            self._nodes,
            name,
            inputs,
            outputs,
            list(self._initializers.values()),
            value_info=self._types,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name=producer[0],
            producer_version=producer[1],
        )
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
