"""Which tensor comes from which: producers, consumers and ancestry in the top-level graph."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from onnx import ModelProto, NodeProto

from onnxloc.graph.walk import node_reads

__all__ = ["Topology"]


@dataclass(frozen=True)
class Topology:
    """Index of a graph's nodes and tensors.

    Attributes
    ----------
    proto : onnx.ModelProto
        The model; only its top-level graph is indexed. A node that holds subgraphs counts the
        outer tensors which they capture among its inputs.
    """

    proto: ModelProto

    @cached_property
    def nodes(self) -> tuple[NodeProto, ...]:
        """The nodes, in the order of the file."""
        return tuple(self.proto.graph.node)

    @cached_property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """For each node, the tensors that it reads, captured ones included."""
        return tuple(tuple(dict.fromkeys(node_reads(node))) for node in self.nodes)

    @cached_property
    def producer(self) -> dict[str, int]:
        """Tensor name to the index of the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to the indices of the nodes that read it, in order."""
        found: dict[str, list[int]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                found.setdefault(name, []).append(i)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def dynamic(self) -> frozenset[str]:
        """Tensors that depend on an input of the graph."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        constants |= {sparse.values.name for sparse in self.proto.graph.sparse_initializer}
        inputs = [v.name for v in self.proto.graph.input if v.name not in constants]
        return frozenset(inputs) | self.descendants(inputs)

    def descendants(self, tensors: Iterable[str]) -> frozenset[str]:
        """Every tensor computed from any of `tensors`, themselves excluded."""
        found: set[str] = set()
        stack = list(tensors)
        while stack:
            for i in self.consumers.get(stack.pop(), ()):
                for name in self.nodes[i].output:
                    if name and name not in found:
                        found.add(name)
                        stack.append(name)
        return frozenset(found)

    def ancestors(self, tensors: Iterable[str], *, stop: Iterable[str] = ()) -> frozenset[str]:
        """Every tensor that `tensors` are computed from, not looking past those in `stop`."""
        barrier = frozenset(stop)
        found: set[str] = set()
        stack = list(tensors)
        while stack:
            i = self.producer.get(stack.pop())
            for name in self.reads[i] if i is not None else ():
                if name and name not in found:
                    found.add(name)
                    if name not in barrier:
                        stack.append(name)
        return frozenset(found)
