"""What jax2onnx wrote, made into a model with named weights beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from onnxloc_exporters.graph_builder import WeightFile
from onnxloc_exporters.jax_trace import SCOPE

from onnxloc.errors import ExportError

__all__ = ["finish", "smallest_table"]

# Constants of more bytes lie beside the graph.
LARGE = 1024


def finish(
    model: onnx.ModelProto, params: Mapping[str, Any], weights: WeightFile
) -> onnx.ModelProto:
    """Turn parameters from inputs into initializers, and infer types.

    Parameters
    ----------
    model
        The graph whose first inputs are the parameters. It is changed.
    params
        Their values by name. Those that nothing reads are left out.
    weights
        The file that they are written to.

    Raises
    ------
    ExportError
        If a parameter's type is none of ONNX, or its values do not fit the graph's type.
    """
    graph = model.graph
    _drop_idle(graph)
    read = _prune(graph)
    inputs = []
    for value in graph.input:
        if value.name not in params:
            inputs.append(value)
        elif value.name in read:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            array = np.asarray(params[value.name])
            if array.dtype != kind:
                array = _converted(value.name, array, kind)
            graph.initializer.append(weights.write(value.name, array))
    _replace(graph.input, inputs)
    constants = [_beside(tensor, weights) for tensor in graph.initializer if tensor.name in read]
    _replace(graph.initializer, constants)
    _as_products(graph)
    for node in _nodes(graph):
        kept = [entry for entry in node.metadata_props if entry.key != SCOPE or entry.value]
        _replace(node.metadata_props, kept)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _converted(name: str, array: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    converted = array.astype(kind)
    if not np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
        raise ExportError(
            f"the parameter {name} is {array.dtype}, the graph takes {np.dtype(kind)}, and its "
            "values do not fit; convert it first"
        )
    return converted


def _beside(tensor: TensorProto, weights: WeightFile) -> TensorProto:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.ByteSize() <= LARGE:
        return tensor
    return weights.write(tensor.name, numpy_helper.to_array(tensor))


def _replace(field: Any, values: list[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _drop_idle(graph: GraphProto) -> None:
    """Pass by each Expand of a tensor to the shape that it has: jax2onnx writes many."""
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: _shape(value) for value in values}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Expand" and node.output[0] not in outputs:
            shape = shapes.get(node.output[0])
            if shape is not None and shape == shapes.get(node.input[0]):
                same[node.output[0]] = same.get(node.input[0], node.input[0])
    for node in _nodes(graph):
        for i, name in enumerate(node.input):
            node.input[i] = same.get(name, name)


def _shape(value: ValueInfoProto) -> tuple[int | str, ...] | None:
    """Sizes by number or name; None if any is not known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    sizes = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]
    return None if "" in sizes else tuple(sizes)


def _prune(graph: GraphProto) -> set[str]:
    """Remove nodes whose outputs nothing reads; the names of all that is read are given."""
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.isdisjoint(node.output):
            continue
        nodes.append(node)
        read.update(node.input)
        inside = (a.g for a in node.attribute if a.type == AttributeProto.GRAPH)
        read.update(name for body in inside for each in _nodes(body) for name in each.input)
        read.update(
            v.name for a in node.attribute if a.type == AttributeProto.GRAPH for v in a.g.output
        )
    _replace(graph.node, nodes[::-1])
    made = {name for node in nodes for name in node.output}
    _replace(graph.value_info, [value for value in graph.value_info if value.name in made])
    return read


def _as_products(graph: GraphProto) -> None:
    """Write an Einsum that is a product with a matrix as MatMul.

    A runtime can lay out the matrix of a MatMul once, when it loads the model.
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        if node.op_type != "Einsum" or len(node.input) != 2 or node.input[1] not in matrices:
            continue
        (equation,) = (a.s.decode() for a in node.attribute if a.name == "equation")
        operands, _, out = equation.replace(" ", "").partition("->")
        first, _, second = operands.partition(",")
        rows, inner = first[:-1], first[-1:]
        if second[:1] == inner and out == rows + second[1:] and second[1:] not in first:
            node.op_type = "MatMul"
            del node.attribute[:]


def smallest_table(model: onnx.ModelProto) -> int | None:
    """Rows of the smallest matrix that is looked up in; any token id below it can be."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    rows = [
        shapes[node.input[0]][0]
        for node in model.graph.node
        if node.op_type == "Gather" and len(shapes.get(node.input[0], ())) == 2
    ]
    return min(rows, default=None)
