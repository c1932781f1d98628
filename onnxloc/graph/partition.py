"""Cutting a graph in two: what lies before the first edit need be run only once."""

from collections.abc import Iterable

from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.graph.topology import Topology

__all__ = ["late_cut"]

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
