"""Cutting a graph in two: what lies before a tensor need be run only once."""

from collections.abc import Iterable

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Plan
from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.graph.topology import Topology

__all__ = ["check_cut", "late_cut"]

HEAVY = {
    "Attention", "Conv", "ConvTranspose", "FusedMatMul", "Gemm", "GroupQueryAttention", "MatMul",
    "MatMulInteger", "MatMulNBits", "MultiHeadAttention", "QLinearMatMul",
}  # fmt: skip
# With less than this share of the work before the cut, running it apart costs more than it saves.
MIN_SHARE = 0.25


def late_cut(
    topology: Topology, sites: SiteTable, edited: Iterable[str], wanted: str
) -> Site | None:
    """Find the site at which a graph is best cut, so that all edits lie at the cut or behind it.

    Parameters
    ----------
    topology : Topology
        Of the graph.
    sites : SiteTable
        Its sites.
    edited : iterable of str
        The tensors that are edited.
    wanted : str
        The tensor that is computed in the end.

    Returns
    -------
    Site or None
        The first edited site, a tensor ``[batch, tokens, features]``; None if an edit does not
        follow from it, or too little of the work lies before it.
    """
    order = {name: i for i, site in enumerate(sites) for name in [site.tensor]}
    tensors = sorted(set(edited), key=lambda name: order[name])
    if not tensors:
        return None
    first, rest = tensors[0], set(tensors[1:])
    site = sites.tensor(first)
    fits = site.axes == (Axis.BATCH, Axis.TOKEN, Axis.FEATURE)
    if not fits or not rest | {wanted} <= topology.descendants([first]):
        return None
    whole = _heavy(topology, wanted, stop=())
    behind = _heavy(topology, wanted, stop=(first,))
    return site if whole and 1 - behind / whole >= MIN_SHARE else None


def _heavy(topology: Topology, wanted: str, *, stop: Iterable[str]) -> int:
    """Number of products that `wanted` needs if the tensors in `stop` are given."""
    given = set(stop)
    needed = (topology.ancestors([wanted], stop=given) | {wanted}) - given
    return sum(
        node.op_type in HEAVY and any(name in needed for name in node.output)
        for node in topology.nodes
    )


def check_cut(topology: Topology, sites: SiteTable, cut: Site, plan: Plan) -> None:
    """Refuse a cut that does not part a graph into what lies before a site and what lies behind it.

    What the rest needs beside the site is computed anew: masks, positions, whatever takes no
    product with a weight. Where it takes one, another path leads past the site.

    Parameters
    ----------
    topology : Topology
        Of the graph.
    sites : SiteTable
        Its sites.
    cut : Site
        Where it is cut.
    plan : Plan
        What is read and changed behind the cut.

    Raises
    ------
    OptionError
        If something that the plan reads does not follow from the site, an edit lies before it, or
        another tensor crosses the cut.
    """
    if cut.body or cut.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
        raise OptionError(
            f"a graph is cut at a tensor [batch, tokens, features], and {cut.name} is none; cut it "
            "at a block's output"
        )
    behind = topology.descendants([cut.tensor]) | {cut.tensor}
    before = topology.ancestors([cut.tensor])
    wanted = [tap.site for tap in plan.taps] + [head.logits for head in plan.heads]
    top_level = topology.producer.keys()
    for name in (*wanted, *plan.outputs):
        if name in top_level and name not in behind:
            raise OptionError(
                f"{_name(sites, name)} does not follow from {cut.name}; read it in a plan of its "
                "own, or cut earlier"
            )
    for edit in plan.edits:
        if edit.site in before:
            raise OptionError(
                f"{_name(sites, edit.site)} lies before the cut at {cut.name}, so an edit there "
                "would do nothing; cut earlier"
            )
    needed = _needed(topology, [name for name in (*wanted, *plan.outputs) if name], {cut.tensor})
    crossing = _crossing(topology, before, needed)
    if crossing:
        names = ", ".join(_name(sites, name) for name in crossing)
        raise OptionError(
            f"a cut at {cut.name} leaves other ways from the inputs to what is read: {names}; cut "
            "where all that lies behind goes through one tensor, as through a block's output"
        )


def _needed(topology: Topology, wanted: Iterable[str], given: set[str]) -> set[str]:
    """The tensors that `wanted` are computed from where some are given."""
    wanted = set(wanted)
    return set((topology.ancestors(wanted, stop=given) | wanted) - given)


def _crossing(topology: Topology, before: frozenset[str], needed: set[str]) -> list[str]:
    """Tensors before a cut, behind a product with a weight, that operations past it read."""
    found: list[str] = []
    for i, node in enumerate(topology.nodes):
        made = {name for name in node.output if name}
        if not made.isdisjoint(needed) and made.isdisjoint(before):
            found += [name for name in topology.reads[i] if name in before]
    worked = _worked(topology)
    return [
        name
        for name in dict.fromkeys(found)
        if name in worked or not worked.isdisjoint(topology.ancestors([name]))
    ]


def _worked(topology: Topology) -> set[str]:
    """What comes out of products of something that depends on the inputs and a weight.

    A mere vector is no weight: rotary positions are often a product with one of frequencies.
    """
    axes = {t.name: sum(size > 1 for size in t.dims) for t in topology.proto.graph.initializer}
    for node in topology.nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                axes[node.output[0]] = sum(size > 1 for size in attribute.t.dims)
    found: set[str] = set()
    for node in topology.nodes:
        weights = [name for name in node.input if name and name not in topology.dynamic]
        # What is computed from constants alone is a weight that was written in another form.
        if node.op_type in HEAVY and any(axes.get(name, 2) > 1 for name in weights):
            found.update(name for name in node.output if name in topology.dynamic)
    return found


def _name(sites: SiteTable, tensor: str) -> str:
    """How a tensor is called."""
    return next((site.name for site in sites if site.tensor == tensor), f"the tensor {tensor}")
