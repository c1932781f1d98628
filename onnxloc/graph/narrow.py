"""Narrowing: where only some tokens are read, only these are computed.

Behind the last mixing of tokens a network works on each token by itself. If all that is read there
is read at the last token, or at given positions, gathering these before those operations gives the
same values and saves most of their work: the whole product with the vocabulary, for one.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxloc.graph.load import PREFIX as NEW
from onnxloc.graph.load import InputSpec
from onnxloc.graph.plan import Plan
from onnxloc.graph.sites import Axis, Site
from onnxloc.graph.subgraphs import find_bodies
from onnxloc.graph.topology import Topology

__all__ = ["INDICES", "LAST_INDEX", "POSITIONS", "narrow", "narrow_plan"]

LAST_INDEX = f"{NEW}last_index"
POSITIONS = f"{NEW}positions"
# Inputs that say which tokens are read: the last one of each row; the row and token of each.
INDICES: dict[str, tuple[int, list[int | str]]] = {
    LAST_INDEX: (TensorProto.INT64, ["onnxloc.batch"]),
    POSITIONS: (TensorProto.INT64, ["onnxloc.positions", 2]),
}
PREFIX = "onnxloc.narrow."
ELEMENTWISE = {
    "Abs", "Add", "BiasGelu", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp",
    "FastGelu", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max",
    "Min", "Mish", "Mul", "Neg", "Pow", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Silu", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh",
    "ThresholdedRelu", "Where",
}  # fmt: skip
ROW_NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare"}


def narrow_plan(
    proto: ModelProto, sites: Sequence[Site], plan: Plan, inputs: Iterable[InputSpec]
) -> dict[str, frozenset[str]]:
    """Narrow a model to what a plan reads.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place.
    sites : sequence of Site
        Its sites.
    plan : Plan
        The plan.
    inputs : iterable of InputSpec
        The model's inputs.

    Returns
    -------
    dict of str to frozenset of str
        For each index of `INDICES`, the tensors that are now of its tokens alone.
    """
    found: dict[str, frozenset[str]] = dict.fromkeys(INDICES, frozenset())
    # Keys and values of earlier tokens have four axes, and a fixed number of heads there.
    flat = [spec for spec in inputs if len(spec.dims) != 4]
    if any(isinstance(size, int) for spec in flat for size in spec.dims[1:2]):
        # Where the length is fixed, a constant may have a token axis: a table of positions.
        return found
    reads = [(head.at, head.logits) for head in plan.heads]
    reads += [("last" if tap.pool == "last" else "all", tap.site) for tap in plan.taps]
    taken = {at: {name for kind, name in reads if kind == at} for at in ("last", "given", "all")}
    taken["all"] |= {edit.site for edit in plan.edits} | set(plan.outputs) | set(plan.given)
    inside = {site.tensor: site.body for site in sites if site.body}
    bodies = find_bodies(proto) if inside else {}
    for name in set[str]().union(*taken.values()) & inside.keys():
        # Narrowing sees the model's own graph: the node that holds the body.
        for tensors in taken.values():
            tensors.discard(name)
        taken["all"].update(out for out in bodies[inside[name]].chain[0].node.output if out)
    for index, at, other in ((LAST_INDEX, "last", "given"), (POSITIONS, "given", "last")):
        whole = taken["all"] | taken[other]
        found[index] = narrow(proto, sites, taken[at], whole, index, pairs=index == POSITIONS)
    return found


def narrow(
    proto: ModelProto,
    sites: Iterable[Site],
    taken: Iterable[str],
    taken_whole: Iterable[str],
    index: str,
    *,
    pairs: bool = False,
) -> frozenset[str]:
    """Compute for some tokens alone whatever is read of these tokens alone.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place. Its nodes are in topological order.
    sites : iterable of Site
        Its sites.
    taken, taken_whole : iterable of str
        Tensors of which these tokens are read, and of which everything is.
    index : str
        The input that says which: ``[batch]``, one token of each row. With `pairs`, ``[n, 2]``: the
        row and the token of each. The caller declares it.
    pairs : bool
        Which of the two `index` is.

    Returns
    -------
    frozenset of str
        The tensors that now have one token: ``[batch, 1, ...]``, or ``[n, 1, ...]``.
    """
    by_name = {site.tensor: site for site in sites}
    topology = Topology(proto)
    chosen = _nodes(topology, by_name, set(taken), set(taken_whole))
    if not chosen:
        return frozenset()
    made = {name for i in chosen for name in topology.nodes[i].output}
    gathers = _Gathers(index, pairs=pairs)
    rewritten: list[NodeProto] = []
    for i, node in enumerate(topology.nodes):
        if i in chosen:
            for k, name in enumerate(node.input):
                if name in topology.dynamic and name not in made:
                    node.input[k] = gathers.of(name, rewritten)
        rewritten.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(rewritten)
    proto.graph.initializer.extend(gathers.constants())
    return frozenset(made)


def _nodes(
    topology: Topology, sites: dict[str, Site], taken: set[str], whole: set[str]
) -> frozenset[int]:
    """Nodes whose every use is of the tokens taken."""
    needed = topology.ancestors(taken | whole) | taken | whole
    chosen: set[int] = set()
    for i in reversed(range(len(topology.nodes))):
        node = topology.nodes[i]
        outputs = [name for name in node.output if name]
        if not any(name in needed for name in outputs) or not _by_token(node, i, topology, sites):
            continue
        users = [
            user
            for name in outputs
            for user in topology.consumers.get(name, ())
            if any(made in needed for made in topology.nodes[user].output)
        ]
        if not whole & set(outputs) and all(user in chosen for user in users):
            chosen.add(i)
    return frozenset(chosen)


def _by_token(node: NodeProto, i: int, topology: Topology, sites: dict[str, Site]) -> bool:
    """Whether a node works on each token by itself, on tensors ``[batch, tokens, ...]``."""
    dynamic = [name for name in topology.reads[i] if name in topology.dynamic]
    outputs = [name for name in node.output if name]
    for name in (*dynamic, *outputs):
        site = sites.get(name)
        if site is None or site.axes[:2] != (Axis.BATCH, Axis.TOKEN) or not site.units:
            return False
    rank = len(sites[outputs[0]].axes)
    kind = node.op_type
    if kind in ELEMENTWISE:
        return True
    if kind == "MatMul":
        return dynamic == [node.input[0]] and rank > 2
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if kind in ROW_NORMS:
        return attributes.get("axis", -1) in (-1, rank - 1) and len(outputs) == 1
    if kind in ("Softmax", "LogSoftmax", "Split"):
        default = 0 if kind == "Split" else -1
        return attributes.get("axis", default) in (-1, rank - 1) and rank > 2
    if kind in REDUCTIONS:
        axes = attributes.get("axes")
        if axes is None and len(node.input) > 1:
            axes = _constant(topology, node.input[1])
        return axes is not None and list(axes) in ([-1], [rank - 1]) and rank > 2
    return False


def _constant(topology: Topology, name: str) -> list[int] | None:
    for tensor in topology.proto.graph.initializer:
        if tensor.name == name and tensor.data_location == 0:
            return [int(v) for v in numpy_helper.to_array(tensor).ravel()]
    producer = topology.producer.get(name)
    node = topology.nodes[producer] if producer is not None else None
    if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
        return [int(v) for v in numpy_helper.to_array(node.attribute[0].t).ravel()]
    return None


class _Gathers:
    """Nodes that take some tokens of a tensor ``[batch, tokens, ...]``, each as a row of one."""

    def __init__(self, index: str, *, pairs: bool) -> None:
        self._given = index
        self._pairs = pairs
        self._prefix = f"{PREFIX}pairs." if pairs else PREFIX
        self._done: dict[str, str] = {}
        self._axes = f"{self._prefix}axes"
        self._index = f"{self._prefix}index"

    def of(self, tensor: str, nodes: list[NodeProto]) -> str:
        """Name of the gathered tensor; nodes that make it are appended when it is new."""
        if not self._done:
            inputs = [self._given, self._axes]
            nodes.append(helper.make_node("Unsqueeze", inputs, [self._index], name=self._index))
        if tensor not in self._done:
            name = f"{self._prefix}{len(self._done)}"
            inputs, rows = [tensor, self._index], int(not self._pairs)
            nodes.append(helper.make_node("GatherND", inputs, [name], name=name, batch_dims=rows))
            self._done[tensor] = name
        return self._done[tensor]

    def constants(self) -> list[TensorProto]:
        """What the nodes need: an index ``[batch, 1, 1]`` or ``[n, 1, 2]`` gathers rows of one."""
        axes = [1] if self._pairs else [1, 2]
        return [numpy_helper.from_array(np.array(axes, dtype=np.int64), self._axes)]
