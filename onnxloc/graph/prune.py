"""Keeping what a plan reads of a graph, and dropping the rest."""

from collections.abc import Mapping, Sequence

from onnx import ModelProto, ValueInfoProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.topology import Topology
from onnxloc.registry import did_you_mean

__all__ = ["keep_outputs", "prune"]


def keep_outputs(proto: ModelProto, names: Sequence[str], types: Mapping[str, int]) -> None:
    """Make `names` the outputs of a model; those not in `types` must be its outputs already.

    Raises
    ------
    ModelError
        If the model has no such output.
    """
    known = {value.name: value for value in proto.graph.output}
    kept: list[ValueInfoProto] = []
    for name in names:
        if name in types:
            kept.append(helper.make_tensor_value_info(name, types[name], None))
        elif name in known:
            kept.append(known[name])
        else:
            hint = did_you_mean(name, known)
            raise ModelError(f"the model has no output {name!r}{hint}")
    del proto.graph.output[:]
    proto.graph.output.extend(kept)


def prune(proto: ModelProto) -> None:
    """Drop nodes, inputs and weights that no output needs."""
    topology = Topology(proto)
    wanted = [value.name for value in proto.graph.output]
    needed = topology.ancestors(wanted) | set(wanted)
    body = proto.graph
    nodes = [node for node in topology.nodes if needed.intersection(node.output)]
    inputs = [value for value in body.input if value.name in needed]
    weights = [tensor for tensor in body.initializer if tensor.name in needed]
    sparse = [tensor for tensor in body.sparse_initializer if tensor.values.name in needed]
    del body.node[:], body.input[:], body.initializer[:], body.sparse_initializer[:]
    body.node.extend(nodes)
    body.input.extend(inputs)
    body.initializer.extend(weights)
    body.sparse_initializer.extend(sparse)
    # Sizes inferred before the edits would be wrong behind them, and nothing reads them.
    del body.value_info[:]
