"""Walking through a graph's nodes, with the graphs that they hold."""

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, TensorProto

__all__ = ["attribute_graphs", "captured", "defined", "node_reads", "node_tensors", "walk_tensors"]


def attribute_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The subgraphs of a node: branches of an If, bodies of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def walk_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every constant tensor of a graph and its subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from node_tensors(node)


def node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    """Every constant tensor of a node and its subgraphs."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for one in (*sparse, *attribute.sparse_tensors):
            yield from (one.values, one.indices)
    for inner in attribute_graphs(node):
        yield from walk_tensors(inner)


def defined(graph: GraphProto) -> Iterator[str]:
    """The tensors that a graph itself brings in or makes, subgraphs left out."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def captured(graph: GraphProto) -> Iterator[str]:
    """The outer tensors that a subgraph reads; the order of its nodes does not matter."""
    own = frozenset(defined(graph))
    for node in graph.node:
        yield from (name for name in node_reads(node) if name not in own)
    yield from (value.name for value in graph.output if value.name and value.name not in own)


def node_reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs capture included."""
    yield from (name for name in node.input if name)
    for graph in attribute_graphs(node):
        yield from captured(graph)
