"""Building an edit into a graph as constants, so that any runtime does it without being told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import Graph, attribute_graphs
from onnxloc.graph.sites import Axis, Site, SiteTable

__all__ = ["FixedEdit", "bake"]


@dataclass(frozen=True, eq=False)
class FixedEdit:
    """What becomes of some units of a site, at every token of every input.

    Attributes
    ----------
    mask : ndarray of bool, [units]
        Which units.
    values : ndarray of float, [units]
        What they become, or what is added to them; the others are not read.
    scale : ndarray of float, [units], optional
        What they are multiplied by before `values` is added. Without it they are replaced.
    """

    mask: NDArray[np.bool_]
    values: NDArray[Any]
    scale: NDArray[Any] | None = None


def bake(graph: Graph, sites: SiteTable, edits: Mapping[str, FixedEdit]) -> ModelProto:
    """A copy of a graph in which units have fixed values, or are scaled and shifted.

    Behind the node that makes an edited site stands a ``Where`` with constants that have the
    shape of the site, 1 along batch and tokens; before it, where units are scaled, a ``Mul`` and an
    ``Add``. It bears the site's name, so that all that read the
    site read the edited one: other nodes, branches that capture it, the graph's outputs. Inputs and
    outputs stay as they are.

    Parameters
    ----------
    graph : Graph
        The graph; not changed.
    sites : SiteTable
        Its sites.
    edits : mapping of str to FixedEdit
        By tensor.

    Raises
    ------
    ModelError
        If a site has no units, lies within a branch or loop, or a value is not finite in its type.
    AnatomyError
        If there is no such site.
    """
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    taken = _names(proto)
    chosen = {tensor: edit for tensor, edit in edits.items() if edit.mask.any()}
    constants = {tensor: _constants(sites.tensor(tensor), edit) for tensor, edit in chosen.items()}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        nodes.append(node)
        for i, tensor in enumerate(node.output):
            if tensor not in constants:
                continue
            intact = _free(f"{tensor}/intact", taken)
            node.output[i] = intact
            names = {end: _free(f"{tensor}/edit_{end}", taken) for end in constants[tensor]}
            for end, array in constants.pop(tensor).items():
                proto.graph.initializer.append(numpy_helper.from_array(array, names[end]))
            changed = names["value"]
            if "scale" in names:
                scaled, changed = (_free(f"{tensor}/{end}", taken) for end in ("scaled", "moved"))
                steps = (("Mul", intact, "scale", scaled), ("Add", scaled, "value", changed))
                for kind, source, operand, out in steps:
                    name = _free(f"{tensor}/{kind}", taken)
                    nodes.append(helper.make_node(kind, [source, names[operand]], [out], name=name))
            name = _free(f"{tensor}/Where", taken)
            inputs = [names["mask"], changed, intact]
            nodes.append(helper.make_node("Where", inputs, [tensor], name=name))
    if constants:
        site = sites.tensor(next(iter(constants)))
        raise ModelError(f"{site.name} lies within a branch or loop, where no edit can be built in")
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def _constants(site: Site, edit: FixedEdit) -> dict[str, NDArray[Any]]:
    """What the edit needs, in the shape of the site, 1 where an axis is no feature."""
    if site.body:
        raise ModelError(f"{site.name} lies within a branch or loop, where no edit can be built in")
    if not site.units:
        raise ModelError(f"the site {site.name} has no units and cannot be edited")
    parts = {"mask": edit.mask, "value": edit.values}
    if edit.scale is not None:
        parts["scale"] = edit.scale
    if any(part.shape != (site.units,) for part in parts.values()):
        raise ModelError(f"the edit of {site.name} is not for its {site.units} units")
    shape = [
        size if axis is Axis.FEATURE and size is not None else 1
        for size, axis in zip(site.shape, site.axes, strict=True)
    ]
    found = {"mask": edit.mask.reshape(shape)}
    for end in parts.keys() - {"mask"}:
        with np.errstate(over="ignore"):
            values = np.where(edit.mask, parts[end], 0).astype(site.dtype)
        if not np.isfinite(values).all():
            raise ModelError(f"an edit of {site.name} takes a number that {site.dtype} lacks")
        found[end] = values.reshape(shape)
    return found


def _names(proto: ModelProto) -> set[str]:
    """Every name of a tensor or node in the model."""
    found: set[str] = set()
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        found.update(value.name for value in (*graph.input, *graph.output, *graph.value_info))
        found.update(tensor.name for tensor in graph.initializer)
        found.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            found.update((node.name, *node.input, *node.output))
            graphs.extend(attribute_graphs(node))
    return found


def _free(name: str, taken: set[str]) -> str:
    """A name like `name` that nothing has yet; it is taken from now on."""
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    taken.add(free)
    return free
