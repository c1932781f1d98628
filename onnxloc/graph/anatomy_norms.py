"""Norms: fused, or written out as a mean of squares, a root and a division."""

import heapq
from collections.abc import Iterator

from onnxloc.graph.anatomy_view import PASS, View

__all__ = ["SKIP_NORMS", "norms_of"]

# Fused sums with a norm behind them, to the position of the bias that they may add too.
SKIP_NORMS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}
FUSED_NORMS = {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"}
WIDE_OPS = PASS | {"Sub", "Mul", "Pow", "Abs"}
STATISTIC_OPS = PASS | {
    "Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Reciprocal", "Max", "Clip", "Abs", "Neg",
    "Unsqueeze", "Reshape", "Expand",
}  # fmt: skip


def norms_of(view: View, tensor: str) -> tuple[str, ...]:
    """The outputs of the norms that read a tensor, in the order of the graph."""
    found = []
    maker = view.maker(tensor)
    if maker is not None and maker.op_type in SKIP_NORMS and tensor in maker.output[1:]:
        found.append(maker.output[0])
    for copy in _copies(view, tensor):
        for i in view.consumers(copy):
            node = view.nodes[i]
            if node.op_type in FUSED_NORMS and node.input[0] == copy:
                found.append(node.output[0])
        for scaled in _decomposed(view, copy):
            found.extend(_with_gain_and_bias(view, scaled))
    return tuple(dict.fromkeys(found))


def _copies(view: View, tensor: str) -> Iterator[str]:
    yield tensor
    for i in view.consumers(tensor):
        if view.is_copy(i):
            yield from _copies(view, view.nodes[i].output[0])


def _decomposed(view: View, tensor: str) -> list[str]:
    """Where a tensor is divided by a statistic of itself.

    A statistic depends on the tensor only through reductions; what is "wide" still has a value for
    each feature.
    """
    wide, statistics = {tensor}, set[str]()
    queue = list(view.consumers(tensor))
    heapq.heapify(queue)
    ends: list[str] = []
    done: set[int] = set()
    while queue:
        # Nodes are in topological order: all that a node reads has been seen before it.
        i = heapq.heappop(queue)
        if i in done:
            continue
        done.add(i)
        node, read = view.nodes[i], view.inputs(i)
        out = node.output[0]
        from_wide = [name for name in read if name in wide]
        from_statistics = [name for name in read if name in statistics]
        if not read or len(from_wide) + len(from_statistics) != len(read):
            continue
        if node.op_type in REDUCTIONS or (not from_wide and node.op_type in STATISTIC_OPS):
            statistics.add(out)
        elif from_wide and from_statistics and node.op_type in ("Mul", "Div"):
            ends.append(out)
            continue
        elif node.op_type in WIDE_OPS and not _scaled_by_constant(view, i):
            wide.add(out)
        else:
            continue
        for j in view.consumers(out):
            heapq.heappush(queue, j)
    return ends


def _scaled_by_constant(view: View, node: int) -> bool:
    proto = view.nodes[node]
    return proto.op_type in ("Mul", "Sub") and any(name not in view.data for name in proto.input)


def _with_gain_and_bias(view: View, scaled: str) -> list[str]:
    """The ends of a norm: behind its gain and its bias, where it has them."""
    ends = [scaled]
    for op in ("Mul", "Add"):
        after: list[str] = []
        for tensor in ends:
            gained, plain = list[str](), False
            for copy in _copies(view, tensor):
                for i in view.consumers(copy):
                    node = view.nodes[i]
                    # A scalar is no gain: it scales what the norm gave (T5's tied head does).
                    vector = not any(view.is_scalar(name) for name in node.input)
                    if node.op_type == op and len(view.inputs(i)) == 1 and vector:
                        gained.append(node.output[0])
                    elif not view.is_copy(i):
                        plain = True
            after += gained if gained and not plain else [tensor, *gained]
        ends = after
    return ends
