"""Looking through edits that were built into a graph, so that its parts keep their names."""

from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from onnxloc.graph.sites import SIZED, Site
from onnxloc.graph.topology import Topology

__all__ = ["without_edits"]


def without_edits(sites: Mapping[str, Site], topology: Topology) -> Topology:
    """The graph as it was before units were given constant values.

    Such an edit is a ``Where`` between a site and constants, or the site scaled and shifted by
    constants, with a constant mask that is the same for every row and token. What it gives stands
    for the site again: the node that makes the site makes the edited tensor.

    Parameters
    ----------
    sites : mapping of str to Site
        The graph's sites, by tensor.
    topology : Topology
        Of the graph.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in topology.proto.graph.initializer}
    dropped: set[int] = set()
    renamed: dict[str, str] = {}
    for i, node in enumerate(topology.nodes):
        if node.op_type == "Where" and node.domain in ("", "ai.onnx"):
            found = _edited(topology, sites, shapes, node)
            if found is not None:
                raw, helpers = found
                # An edit of an edited tensor: the first one's output is what this one reads.
                renamed[raw] = node.output[0]
                dropped |= {i, *helpers}
    if not renamed:
        return topology
    proto = ModelProto()
    proto.CopyFrom(topology.proto)
    kept = [node for i, node in enumerate(proto.graph.node) if i not in dropped]
    for node in kept:
        for k, name in enumerate(node.output):
            while name in renamed:
                name = renamed[name]
            node.output[k] = name
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return Topology(proto)


def _edited(
    topology: Topology,
    sites: Mapping[str, Site],
    shapes: Mapping[str, tuple[int, ...]],
    node: NodeProto,
) -> tuple[str, set[int]] | None:
    """The tensor that a ``Where`` edits, and the nodes that make what it puts in."""
    mask, new, raw = node.input
    before, after = sites.get(raw), sites.get(node.output[0])
    if before is None or after is None or not before.units or raw not in topology.producer:
        return None
    if (before.axes, before.shape) != (after.axes, after.shape):
        return None
    if not _by_unit(shapes.get(mask), before):
        return None
    helpers = _scaled(topology, shapes, new, raw)
    if helpers is None:
        return None
    users = set(topology.consumers[raw])
    alone = users <= {topology.producer[node.output[0]], *helpers}
    outputs = {value.name for value in topology.proto.graph.output}
    return (raw, helpers) if alone and raw not in outputs else None


def _by_unit(shape: tuple[int, ...] | None, site: Site) -> bool:
    """Whether a constant is the same for every row and token of a site."""
    if shape is None or len(shape) > len(site.axes):
        return False
    pairs = zip(reversed(shape), reversed(site.axes), strict=False)
    return all(size == 1 or axis in SIZED for size, axis in pairs)


def _scaled(
    topology: Topology, shapes: Mapping[str, tuple[int, ...]], new: str, raw: str
) -> set[int] | None:
    """The nodes between a tensor and what replaces it: none for a constant."""
    helpers: set[int] = set()
    for kind in ("Add", "Mul"):
        if new in shapes:
            return helpers
        i = topology.producer.get(new)
        if i is None or topology.nodes[i].op_type != kind:
            return None
        inputs = list(topology.nodes[i].input)
        data = [name for name in inputs if name not in shapes]
        if len(data) != 1 or len(topology.consumers[new]) != 1:
            return None
        helpers.add(i)
        (new,) = data
    return helpers if new == raw else None
