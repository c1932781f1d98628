"""Narrowing: where only the last token of each row is read, only the last token is computed.

Behind the last mixing of tokens a network works on each token by itself. If all that is read there
is pooled by "last", gathering that token before those operations gives the same values and saves
most of their work: the whole product with the vocabulary, for one.
"""

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxloc.graph.sites import Axis, Site
from onnxloc.graph.topology import Topology

__all__ = ["narrow"]

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


def narrow(
    proto: ModelProto,
    sites: Iterable[Site],
    taken_last: Iterable[str],
    taken_whole: Iterable[str],
    last_index: str,
) -> frozenset[str]:
    """Compute for the last token alone whatever is read for the last token alone.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place. Its nodes are in topological order.
    sites : iterable of Site
        Its sites.
    taken_last, taken_whole : iterable of str
        Tensors of which the last token is read, and of which everything is.
    last_index : str
        The input ``[batch]`` that holds the index of each row's last token; the caller declares it.

    Returns
    -------
    frozenset of str
        The tensors that now have one token: ``[batch, 1, ...]``.
    """
    by_name = {site.tensor: site for site in sites}
    topology = Topology(proto)
    chosen = _nodes(topology, by_name, set(taken_last), set(taken_whole))
    if not chosen:
        return frozenset()
    made = {name for i in chosen for name in topology.nodes[i].output}
    gathers = _Gathers(last_index)
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
    topology: Topology, sites: dict[str, Site], last: set[str], whole: set[str]
) -> frozenset[int]:
    """Nodes whose every use is of the last token."""
    needed = topology.ancestors(last | whole) | last | whole
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
    """Nodes that take the last token of a tensor ``[batch, tokens, ...]``: ``[batch, 1, ...]``."""

    def __init__(self, last_index: str) -> None:
        self._last_index = last_index
        self._done: dict[str, str] = {}
        self._axes = f"{PREFIX}axes"
        self._index = f"{PREFIX}index"

    def of(self, tensor: str, nodes: list[NodeProto]) -> str:
        """Name of the gathered tensor; nodes that make it are appended when it is new."""
        if not self._done:
            inputs = [self._last_index, self._axes]
            nodes.append(helper.make_node("Unsqueeze", inputs, [self._index], name=self._index))
        if tensor not in self._done:
            name = f"{PREFIX}{len(self._done)}"
            inputs = [tensor, self._index]
            nodes.append(helper.make_node("GatherND", inputs, [name], name=name, batch_dims=1))
            self._done[tensor] = name
        return self._done[tensor]

    def constants(self) -> list[TensorProto]:
        """What the nodes need: an index ``[batch, 1, 1]`` is one gathered token of each row."""
        return [numpy_helper.from_array(np.array([1, 2], dtype=np.int64), self._axes)]
