"""Where values go in a whole model: subgraphs and local functions laid out as one flat graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["Constant", "Flow", "Op", "Ref"]


class Ref(NamedTuple):
    """A value: the graph or function that makes it, counted from 0 for the top, and its name."""

    scope: int
    name: str


@dataclass(frozen=True)
class Op:
    """A node without a body of its own, with the values that it reads and makes."""

    node: NodeProto
    inputs: tuple[Ref | None, ...]
    outputs: tuple[Ref | None, ...]


@dataclass(frozen=True)
class Constant:
    """A tensor that the model file holds: an initializer, or the value of a Constant node.

    Attributes
    ----------
    ref : Ref
        The value that it is.
    tensor : onnx.TensorProto
        The tensor, as it lies in the model; of a sparse one, its values.
    dims : tuple of int
        Its shape.
    """

    ref: Ref
    tensor: TensorProto
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        """The tensor's name; within a subgraph or function its scope's number stands in front."""
        return self.ref.name if self.ref.scope == 0 else f"{self.ref.scope}:{self.ref.name}"

    @property
    def long_axes(self) -> int:
        """How many axes are longer than 1."""
        return sum(size > 1 for size in self.dims)


class Flow:
    """A model as one flat graph.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model. A local function is laid out once, with the values of all its calls flowing
        through it.

    Attributes
    ----------
    ops : list of Op
        Every node that has no body, in order.
    links : dict of Ref to list of (Ref, bool)
        Values handed on as they are: into and out of functions, branches and loop bodies. The flag
        is false where a loop hands on a slice.
    constants : dict of Ref to Constant
        Every constant tensor.
    inputs : list of Ref
        The model's inputs; those with a default value are constants instead.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.ops: list[Op] = []
        self.links: dict[Ref, list[tuple[Ref, bool]]] = {}
        self.constants: dict[Ref, Constant] = {}
        self._functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
        self._laid_out: dict[tuple[str, str, str], int] = {}
        self._scopes = 0
        self._graph(proto.graph, {})
        self.inputs = [
            ref for v in proto.graph.input if (ref := Ref(0, v.name)) not in self.constants
        ]

    @cached_property
    def consumers(self) -> dict[Ref, list[tuple[Op, int]]]:
        """The ops that read a value, and at which input."""
        found: dict[Ref, list[tuple[Op, int]]] = {}
        for op in self.ops:
            for i, ref in enumerate(op.inputs):
                if ref is not None:
                    found.setdefault(ref, []).append((op, i))
        return found

    @cached_property
    def dynamic(self) -> frozenset[Ref]:
        """Values that depend on an input of the model. A loop's counter does not."""
        found = set(self.inputs)
        stack = list(self.inputs)
        while stack:
            ref = stack.pop()
            below = [out for op, _ in self.consumers.get(ref, ()) for out in op.outputs]
            below += [out for out, _ in self.links.get(ref, ())]
            for out in below:
                if out is not None and out not in found:
                    found.add(out)
                    stack.append(out)
        return frozenset(found)

    @cached_property
    def sources(self) -> dict[Ref, list[Ref]]:
        """What a value is made of directly."""
        found: dict[Ref, list[Ref]] = {}
        for op in self.ops:
            for out in op.outputs:
                if out is not None:
                    found.setdefault(out, []).extend(ref for ref in op.inputs if ref is not None)
        for ref, outs in self.links.items():
            for out, _ in outs:
                found.setdefault(out, []).append(ref)
        return found

    # --- layout --------------------------------------------------------------------------------

    def _graph(self, graph: GraphProto, outer: Mapping[str, Ref]) -> tuple[list[Ref], list[Ref]]:
        """Lay out a graph that may read the values `outer`; its inputs and outputs are returned."""
        scope = self._new_scope()
        for tensor in graph.initializer:
            self._constant(Ref(scope, tensor.name), tensor, tensor.dims)
        for sparse in graph.sparse_initializer:
            self._constant(Ref(scope, sparse.values.name), sparse.values, sparse.dims)
        own = [value.name for value in graph.input]
        own += [ref.name for ref in self.constants if ref.scope == scope]
        seen = self._nodes(scope, own, graph.node, outer)
        # A branch may hand out a value that it captured.
        leave = [seen.get(value.name, Ref(scope, value.name)) for value in graph.output]
        return [Ref(scope, value.name) for value in graph.input], leave

    def _new_scope(self) -> int:
        self._scopes += 1
        return self._scopes - 1

    def _constant(self, ref: Ref, tensor: TensorProto, dims: Iterable[int]) -> None:
        self.constants[ref] = Constant(ref, tensor, tuple(dims))

    def _nodes(
        self, scope: int, own: list[str], nodes: Iterable[NodeProto], outer: Mapping[str, Ref]
    ) -> Mapping[str, Ref]:
        """Lay out nodes; what every name stands for among them is returned."""
        nodes = list(nodes)
        names = [*own, *(name for node in nodes for name in node.output if name)]
        seen = {**outer, **{name: Ref(scope, name) for name in names}}

        def refs(words: Iterable[str]) -> tuple[Ref | None, ...]:
            return tuple(seen.get(word, Ref(scope, word)) if word else None for word in words)

        for node in nodes:
            inputs, outputs = refs(node.input), refs(node.output)
            function = (node.domain, node.op_type, node.overload)
            bodies = {a.name: a.g for a in node.attribute if a.HasField("g")}
            if node.op_type == "Constant" and outputs and outputs[0] is not None:
                self._value(outputs[0], node)
            elif function in self._functions:
                self._call(function, inputs, outputs)
            elif bodies:
                self._bodies(node, bodies, inputs, outputs, seen)
            else:
                self.ops.append(Op(node, inputs, outputs))
        return seen

    def _value(self, ref: Ref, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                self._constant(ref, attribute.t, attribute.t.dims)
            elif attribute.HasField("sparse_tensor"):
                sparse = attribute.sparse_tensor
                self._constant(ref, sparse.values, sparse.dims)

    def _call(
        self,
        key: tuple[str, str, str],
        inputs: tuple[Ref | None, ...],
        outputs: tuple[Ref | None, ...],
    ) -> None:
        function = self._functions[key]
        if key not in self._laid_out:
            self._laid_out[key] = self._new_scope()
            self._nodes(self._laid_out[key], list(function.input), function.node, {})
        scope = self._laid_out[key]
        self._link(inputs, [Ref(scope, name) for name in function.input])
        self._link([Ref(scope, name) for name in function.output], outputs)

    def _bodies(
        self,
        node: NodeProto,
        bodies: Mapping[str, GraphProto],
        inputs: tuple[Ref | None, ...],
        outputs: tuple[Ref | None, ...],
        seen: Mapping[str, Ref],
    ) -> None:
        """Lay out branches and loop bodies, and link them as their operator does."""
        kind = node.op_type
        for graph in bodies.values():
            enter, leave = self._graph(graph, seen)
            if kind == "Loop":
                carried = len(inputs) - 2
                self._link(inputs[2:], enter[2:])
                self._link(leave[1 : 1 + carried], enter[2:])
                self._link(leave[1:], outputs)
            elif kind == "Scan":
                sliced = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
                carried = max(0, len(inputs) - sliced)
                self._link(inputs[:carried], enter)
                self._link(inputs[carried:], enter[carried:], whole=False)
                self._link(leave[:carried], enter)
                self._link(leave, outputs)
            elif kind == "If":
                self._link(leave, outputs)
            else:
                # What another operator does with its body is not known.
                self._link(inputs, enter, whole=False)
                self._link(leave, outputs, whole=False)

    def _link(
        self, above: Iterable[Ref | None], below: Iterable[Ref | None], *, whole: bool = True
    ) -> None:
        for ref, out in zip(above, below, strict=False):
            if ref is not None and out is not None:
                self.links.setdefault(ref, []).append((out, whole))
