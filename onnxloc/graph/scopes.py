"""Names and order: each tensor of a model gets a name of its own, each node its place.

ONNX lets the branches of an ``If`` and the bodies of loops use names over again. Here a tensor in a
body is called after its place: ``z/then/a`` is the tensor ``a`` in the then-branch of the ``If``
that makes ``z``; ``z/body/a`` lies in a loop or scan. Where that name is taken, ``_`` is put behind
it.
"""

import heapq
from collections import Counter
from collections.abc import Mapping

from onnx import GraphProto, NodeProto

from onnxloc.errors import ModelError
from onnxloc.graph.walk import defined, node_reads

__all__ = ["CONTROL_FLOW", "body_name", "is_control_flow", "settle"]

# Operators with bodies whose tensors can be read and edited, and what their bodies are called.
CONTROL_FLOW = {
    "If": {"then_branch": "then", "else_branch": "else"},
    "Loop": {"body": "body"},
    "Scan": {"body": "body"},
}
# These match what their bodies take and give by position; others may go by name.
BY_POSITION = {*CONTROL_FLOW, "SequenceMap"}


def is_control_flow(node: NodeProto) -> bool:
    """Whether a node is an If, a Loop or a Scan."""
    return node.op_type in CONTROL_FLOW and node.domain in ("", "ai.onnx")


def body_name(node: NodeProto, attribute: str) -> str:
    """The name of a body: that of the node's first output, and which body it is."""
    label = CONTROL_FLOW.get(node.op_type, {}).get(attribute, attribute)
    return f"{next((name for name in node.output if name), node.op_type)}/{label}"


def settle(graph: GraphProto) -> None:
    """Sort a graph's nodes and name the tensors in its bodies apart, in place.

    Raises
    ------
    ModelError
        If a node or body reads what nothing makes, a tensor is made twice, or a tensor is
        computed from itself.
    """
    taken = set(defined(graph))
    _settle(graph, {}, None, taken)


def _settle(
    graph: GraphProto, outer: Mapping[str, str], place: str | None, taken: set[str]
) -> None:
    """Settle a graph that may read the tensors `outer`, by their names in the file."""
    where = f" in {place}" if place else ""
    _check_made_once(graph, where)
    names = dict.fromkeys(defined(graph), "")
    for name in names:
        names[name] = name if place is None else _free(f"{place}/{name}", taken)
    seen = {**outer, **names}
    for node in graph.node:
        for name in node.input:
            if name and name not in seen:
                label = node.name or node.op_type
                raise ModelError(
                    f"the model is damaged: {label!r:.100}{where} reads {name!r:.100}, which "
                    "nothing makes"
                )
    for value in graph.output:
        if value.name not in seen:
            raise ModelError(
                f"the model is damaged: its output {value.name!r:.100}{where} is made by nothing"
            )
    _sort(graph, frozenset(names), where)
    _rename(graph, seen)
    for node in graph.node:
        by_position = node.op_type in BY_POSITION and node.domain in ("", "ai.onnx")
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                own = body_name(node, attribute.name) if by_position else None
                _settle(inner, seen, own, taken)


def _check_made_once(graph: GraphProto, where: str) -> None:
    outputs = [name for node in graph.node for name in node.output if name]
    others = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    counts = Counter(outputs)
    twice = [name for name in counts if counts[name] > 1 or name in others]
    if twice:
        raise ModelError(f"the model is damaged: {twice[0]!r:.100}{where} is made twice")


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _sort(graph: GraphProto, own: frozenset[str], where: str) -> None:
    """Put each node behind those whose outputs it reads; the order is kept where it can be."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        {producer[name] for name in node_reads(node) if name in own and name in producer}
        for node in graph.node
    ]
    if all(j < i for i, before in enumerate(needs) for j in before):
        return
    users: dict[int, list[int]] = {}
    for i, before in enumerate(needs):
        for j in before:
            users.setdefault(j, []).append(i)
    left = [len(before) for before in needs]
    ready = [i for i, count in enumerate(left) if not count]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in users.get(order[-1], ()):
            left[i] -= 1
            if not left[i]:
                heapq.heappush(ready, i)
    if len(order) < len(needs):
        stuck = graph.node[next(i for i, count in enumerate(left) if count)]
        name = next((name for name in stuck.output if name), stuck.name)
        raise ModelError(f"the model is damaged: {name!r:.100}{where} is computed from itself")
    nodes = [graph.node[i] for i in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give the tensors of a graph their new names; bodies are left as they are."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for sparse in graph.sparse_initializer:
        sparse.values.name = names[sparse.values.name]
    for entry in graph.quantization_annotation:
        entry.tensor_name = names.get(entry.tensor_name, entry.tensor_name)
    for node in graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)
