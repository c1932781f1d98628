"""Sizes that no model has: refused before anything of that size is made."""

import math
from collections.abc import Iterable

from onnx import GraphProto, SparseTensorProto, TensorProto

from onnxloc.errors import ModelError
from onnxloc.graph.walk import attribute_graphs, walk_tensors

__all__ = ["MAX_ELEMENTS", "check_sizes", "refuse_absurd"]

# As float32 that is 16 GiB in one tensor.
MAX_ELEMENTS = 2**32


def check_sizes(graph: GraphProto) -> None:
    """Check the sizes of constants and of what type inference knows.

    Raises
    ------
    ModelError
        If a tensor would have more than `MAX_ELEMENTS` numbers, or a constant fewer than none.
    """
    for tensor in walk_tensors(graph):
        # What lies in another file is as large as that file, at most.
        if tensor.data_location != TensorProto.EXTERNAL:
            refuse_absurd(tensor.name, tensor.dims)
    graphs = [graph]
    while graphs:
        one = graphs.pop()
        for sparse in _sparse(one):
            refuse_absurd(sparse.values.name, sparse.dims)
        for value in (*one.input, *one.value_info, *one.output):
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
                refuse_absurd(value.name, [dim.dim_value for dim in dims])
        graphs.extend(inner for node in one.node for inner in attribute_graphs(node))


def refuse_absurd(name: str, dims: Iterable[int]) -> None:
    """Raise ModelError for a shape that no memory holds."""
    dims = list(dims)
    if any(size < 0 for size in dims):
        raise ModelError(f"the model is damaged: {name!r:.100} has the shape {dims!r:.100}")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise ModelError(
            f"{name!r:.100} has the shape {dims!r:.100}: {count:.1e} numbers are more than "
            f"onnxloc takes in one tensor ({MAX_ELEMENTS:.1e})"
        )


def _sparse(graph: GraphProto) -> Iterable[SparseTensorProto]:
    yield from graph.sparse_initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
