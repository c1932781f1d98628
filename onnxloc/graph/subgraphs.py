"""Branches and loop bodies: where they are, what they make, and what depends on the inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxloc.graph.flow import Flow
from onnxloc.graph.scopes import CONTROL_FLOW, body_name, is_control_flow

__all__ = ["DTYPES", "Body", "bodies_of", "body_floats", "dependent", "find_bodies", "is_free"]

DTYPES: Mapping[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}


@dataclass(frozen=True, eq=False)
class Body:
    """A branch of an If, or the body of a Loop or Scan.

    Attributes
    ----------
    name : str
        Its name, which its tensors' names begin with: ``z/then``.
    kind : str
        "If", "Loop" or "Scan".
    graph : onnx.GraphProto
        What it holds.
    node : onnx.NodeProto
        The node whose body it is.
    holder : onnx.GraphProto
        The graph in which that node stands.
    parent : Body or None
        The body that `holder` is; None for the model's own graph.
    """

    name: str
    kind: str
    graph: GraphProto
    node: NodeProto
    holder: GraphProto
    parent: "Body | None"

    @property
    def chain(self) -> tuple["Body", ...]:
        """The bodies that lead here, the outermost first, this one last."""
        return (*(self.parent.chain if self.parent else ()), self)

    @property
    def is_loop(self) -> bool:
        """Whether it may run any number of times."""
        return self.kind != "If"

    @property
    def siblings(self) -> tuple[GraphProto, ...]:
        """The other bodies of its node: of a branch, the other branch."""
        bodies = bodies_of(self.node, self.holder, self.parent)
        return tuple(body.graph for body in bodies if body.name != self.name)


def bodies_of(node: NodeProto, holder: GraphProto, parent: Body | None = None) -> Iterator[Body]:
    """The bodies of one node, in the order in which ONNX names them: then, else."""
    if not is_control_flow(node):
        return
    graphs = {a.name: a.g for a in node.attribute if a.HasField("g")}
    for attribute in CONTROL_FLOW[node.op_type]:
        if attribute in graphs:
            name = body_name(node, attribute)
            yield Body(name, node.op_type, graphs[attribute], node, holder, parent)


def find_bodies(proto: ModelProto) -> dict[str, Body]:
    """Every body of a model, by name, outer ones before those that they hold."""
    found: dict[str, Body] = {}
    stack: list[tuple[GraphProto, Body | None]] = [(proto.graph, None)]
    while stack:
        holder, parent = stack.pop()
        for node in holder.node:
            for body in bodies_of(node, holder, parent):
                found[body.name] = body
                stack.append((body.graph, body))
    return found


def body_floats(body: Body, dynamic: frozenset[str]) -> dict[str, str]:
    """The tensors of a body that may be sites, by name, with numpy's name of their type.

    Those that nodes of the body make, that depend on an input of the model (are in `dynamic`),
    and that type inference knows to be floats.
    """
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*body.graph.value_info, *body.graph.output)
        if value.type.HasField("tensor_type")
    }
    return {
        name: DTYPES[types[name]]
        for node in body.graph.node
        for name in node.output
        if name in dynamic and types.get(name) in DTYPES
    }


def dependent(proto: ModelProto, *, by_value: bool = False) -> frozenset[str]:
    """Every tensor, in bodies too, that depends on an input; with `by_value`, not only by shape.

    Tensors are told apart by name alone, as `onnxloc.graph.scopes` names them.
    """
    flow = Flow(proto)
    below: dict[str, set[str]] = {}
    for op in flow.ops:
        if not (by_value and op.node.op_type in ("Shape", "Size")):
            made = {ref.name for ref in op.outputs if ref is not None}
            for ref in op.inputs:
                if ref is not None:
                    below.setdefault(ref.name, set()).update(made)
    for ref, outs in flow.links.items():
        below.setdefault(ref.name, set()).update(out.name for out, _ in outs)
    for body in find_bodies(proto).values():
        # What decides whether or how often a body runs decides what comes out.
        for name in _deciding(body):
            below.setdefault(name, set()).update(body.node.output)
    found = {ref.name for ref in flow.inputs}
    stack = list(found)
    while stack:
        more = below.get(stack.pop(), set()) - found
        found |= more
        stack.extend(more)
    return frozenset(found)


def _deciding(body: Body) -> list[str]:
    """The tensors that decide whether a body runs, or how often."""
    # A damaged node may lack any of these; onnxruntime refuses it later.
    if body.kind == "If":
        return list(body.node.input[:1])
    if body.kind == "Loop":
        values = (*body.graph.input[1:2], *body.graph.output[:1])
        return [*body.node.input[:2], *(value.name for value in values)]
    return []


def is_free(body: Body, valued: frozenset[str]) -> bool:
    """Whether how often a body runs depends on what an input holds.

    A Scan runs once for each slice of what it scans. A Loop runs a number of times that is given,
    unless its condition ends it before.

    Parameters
    ----------
    body : Body
        The body of a loop.
    valued : frozenset of str
        What depends on the values of the inputs, as `dependent` gives it.
    """
    return body.is_loop and any(name in valued for name in _deciding(body))
