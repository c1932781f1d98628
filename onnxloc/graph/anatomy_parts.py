"""The parts of a branch: queries, keys, values and heads of an attention, the units of an MLP."""

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto

from onnxloc.graph.anatomy_view import NONLINEAR, SHAPE_OPS, View
from onnxloc.graph.fused import shown

__all__ = ["Attention", "attention_parts", "find_attention", "is_mlp", "mlp_parts"]

SCORE_OPS = SHAPE_OPS | {"Mul", "Div", "Add", "Sub", "Where", "Tanh", "ReduceMax", "Max", "Clip"}
PROBABILITY_OPS = SHAPE_OPS | {"Where", "Mul", "Slice"}
SLICES = frozenset({"Split", "Slice", "Gather", "GatherND"})
# Fused attention that takes queries, keys and values as its first three inputs, to the position of
# a bias that it adds to them (None if there is none); the others project inside.
FUSED_OPEN: dict[tuple[str, str], int | None] = {
    ("", "Attention"): None,
    ("com.microsoft", "MultiHeadAttention"): 3,
    ("com.microsoft", "GroupQueryAttention"): None,
}
FUSED_CLOSED = {
    "Attention", "QAttention", "PackedAttention", "PackedMultiHeadAttention", "SparseAttention",
    "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "PagedAttention",
    "GatedRelativePositionBias", "LongformerAttention",
}  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """One attention: the tensors that meet in it. What cannot be seen is None."""

    q: str | None
    k: str | None
    v: str | None
    probs: str | None
    mixed: str


def find_attention(view: View, region: frozenset[str]) -> list[Attention]:
    """The attentions among the tensors of a region."""
    found = []
    for i in sorted({view.producer[name] for name in region}):
        node = view.nodes[i]
        if (node.domain, node.op_type) in FUSED_OPEN or node.op_type in FUSED_CLOSED:
            found.append(_fused(view, node))
        elif node.op_type == "Softmax":
            found.extend(_written_out(view, node, node.input[0]))
        elif node.op_type == "Div" and (exponent := _softmax_exponent(view, node)) is not None:
            found.extend(_written_out(view, node, exponent))
    return found


def _fused(view: View, node: NodeProto) -> Attention:
    domain = "" if node.domain == "ai.onnx" else node.domain
    inputs = [*node.input, "", "", "", ""]
    q, k, v = (name if name in view.data else None for name in inputs[:3])
    if (domain, node.op_type) not in FUSED_OPEN or k is None or v is None:
        q = k = v = None
    else:
        bias = FUSED_OPEN[domain, node.op_type]
        if bias is not None and inputs[bias]:
            q = k = v = None
    return Attention(q, k, v, shown(node), node.output[0])


def _softmax_exponent(view: View, node: NodeProto) -> str | None:
    """What a softmax that is written out as exp(x) / sum(exp(x)) takes."""
    top = view.maker(view.back(node.input[0]))
    bottom = view.maker(view.back(node.input[1]))
    if top is None or bottom is None or (top.op_type, bottom.op_type) != ("Exp", "ReduceSum"):
        return None
    return top.input[0] if view.back(bottom.input[0]) == top.output[0] else None


def _written_out(view: View, softmax: NodeProto, scores: str) -> list[Attention]:
    """Attention around a softmax: a product before it, and one with the values behind it."""
    probs = softmax.output[0]
    products = _mixes_above(view, scores)
    found = []
    for i, through in _mixes_below(view, probs):
        node = view.nodes[i]
        if not products or node.input[0] != through:
            continue
        q = k = None
        if len(products) == 1:
            product = view.nodes[next(iter(products))]
            if _last_axis(view, softmax, scores, product.output[0]):
                q, k = _queries_and_keys(view, product)
        found.append(Attention(q, k, node.input[1], probs, node.output[0]))
    return found


def _mixes_above(view: View, scores: str) -> set[int]:
    """The products of two tensors above a softmax: behind scaling, masks and casts."""
    found: set[int] = set()
    seen: set[str] = set()
    stack = [scores]
    while stack:
        name = stack.pop()
        i = view.producer.get(name)
        if name in seen or i is None:
            continue
        seen.add(name)
        if view.is_mix(i):
            found.add(i)
        elif view.nodes[i].op_type in SCORE_OPS:
            stack.extend(view.inputs(i))
    return found


def _mixes_below(view: View, probs: str) -> list[tuple[int, str]]:
    """The products that read probabilities, and the tensor through which each reads them."""
    found: list[tuple[int, str]] = []
    seen, stack = {probs}, [probs]
    while stack:
        name = stack.pop()
        for i in view.consumers(name):
            node = view.nodes[i]
            if view.is_mix(i):
                found.append((i, name))
            elif node.op_type in PROBABILITY_OPS and node.output[0] not in seen:
                seen.add(node.output[0])
                stack.append(node.output[0])
    return found


def _last_axis(view: View, softmax: NodeProto, scores: str, product: str) -> bool:
    """Whether a softmax runs over the last axis of the product, which is that of the keys."""
    if softmax.op_type != "Softmax":
        return True
    site = view.sites.get(softmax.output[0])
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    # What turns a mask that is added turns no scores.
    turned = any(
        view.nodes[view.producer[name]].op_type == "Transpose" and view.depends(name, product)
        for name in _score_path(view, scores)
    )
    return not turned and (axis == -1 or (site is not None and axis == len(site.axes) - 1))


def _score_path(view: View, scores: str) -> list[str]:
    path, stack = list[str](), [scores]
    while stack:
        name = stack.pop()
        i = view.producer.get(name)
        if i is None or name in path or view.is_mix(i) or view.nodes[i].op_type not in SCORE_OPS:
            continue
        path.append(name)
        stack.extend(view.inputs(i))
    return path


def _queries_and_keys(view: View, product: NodeProto) -> tuple[str | None, str | None]:
    a, b = product.input[:2]
    if product.op_type != "Einsum":
        return a, b
    equation = next((x.s.decode() for x in product.attribute if x.name == "equation"), "")
    operands, arrow, out = equation.replace(" ", "").partition("->")
    first, _, second = operands.partition(",")
    if not arrow or not out or "," in second:
        return None, None
    key = out[-1]
    if key in second and key not in first:
        return a, b
    return (b, a) if key in first and key not in second else (None, None)


# --- where the parts come from -----------------------------------------------------------------


def _projections(
    view: View, tensors: Iterable[str], region: frozenset[str], *, slices: bool = False
) -> set[str]:
    """The ends of the weight products nearest above some tensors.

    With `slices`, a slice of such a product counts in its place.
    """
    found: set[str] = set()
    seen: set[str] = set()
    stack = [name for name in tensors if name in region]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        i = view.producer[name]
        is_slice = view.nodes[i].op_type in SLICES and (
            view.product_of(view.back(view.nodes[i].input[0])) is not None
        )
        if view.product_of(name) is not None or (slices and is_slice):
            found.add(name)
        else:
            stack.extend(x for x in view.inputs(i) if x in region)
    return found


def attention_parts(
    view: View,
    attention: Attention,
    branch: str,
    region: frozenset[str],
    memory: frozenset[str],
) -> dict[str, str]:
    """The sites of an attention branch: ``q``, ``k``, ``v``, ``probs`` and ``heads``.

    Parameters
    ----------
    view, attention, branch
        The attention, and the tensor that its branch ends in.
    region
        Tensors between the stream and the branch's end.
    memory
        Where keys and values come from: the same region, unless they come from another stack.
    """
    found: dict[str, str] = {}
    if attention.probs is not None:
        found["probs"] = attention.probs
    operands = {
        role: (tensor, region if role == "q" else memory)
        for role, tensor in (("q", attention.q), ("k", attention.k), ("v", attention.v))
        if tensor is not None
    }
    above = {
        role: (view.above(tensor) & space) | {tensor} for role, (tensor, space) in operands.items()
    }
    for role, (tensor, space) in operands.items():
        own = _projections(view, [tensor], space)
        if len(own) != 1:
            continue
        projection = own.pop()
        others = frozenset[str]().union(*(above[other] for other in above if other != role))
        if projection not in others:
            found[role] = projection
        else:
            parting = _parting(view, projection, above[role], others)
            if parting is not None:
                found[role] = parting
    heads = _heads(view, attention, branch, region)
    if heads is not None:
        found["heads"] = heads
    return found


def _parting(
    view: View, projection: str, own: frozenset[str], others: frozenset[str]
) -> str | None:
    """Where one of queries, keys and values parts from the rest of a product that they share."""
    found = {
        name
        for name in own - others
        if any(
            x in others and (x == projection or view.depends(x, projection))
            for x in view.inputs(view.producer[name])
        )
    }
    if len(found) != 1:
        return None
    name = found.pop()
    return name if view.nodes[view.producer[name]].op_type in SLICES else None


def _last_product(view: View, branch: str, region: frozenset[str]) -> int | None:
    """The one weight product nearest above the end of a branch."""
    ends = _projections(view, [branch], region)
    return view.product_of(ends.pop()) if len(ends) == 1 else None


def _heads(view: View, attention: Attention, branch: str, region: frozenset[str]) -> str | None:
    """What the output projection reads, if that is what the attention gave and nothing beside."""
    product = _last_product(view, branch, region)
    if product is None or not view.depends(view.nodes[product].output[0], attention.mixed):
        return None
    heads = view.product_input(product)
    stack, seen = [heads], set[str]()
    while stack:
        name = stack.pop()
        if name in seen or name not in region or name == attention.mixed:
            continue
        seen.add(name)
        if view.product_of(name) is not None:
            return None
        stack.extend(view.inputs(view.producer[name]))
    return heads


# --- MLPs --------------------------------------------------------------------------------------


def is_mlp(view: View, region: frozenset[str]) -> bool:
    """Whether a region holds two weight products and a nonlinearity."""
    nodes = {view.producer[name] for name in region}
    nonlinear = any(view.nodes[i].op_type in NONLINEAR for i in nodes)
    return nonlinear and sum(view.is_weight_product(i) for i in nodes) >= 2


def mlp_parts(view: View, branch: str, region: frozenset[str]) -> dict[str, str]:
    """The sites of an MLP branch: ``pre`` and ``hidden``."""
    down = _last_product(view, branch, region)
    if down is None:
        return {}
    hidden = view.product_input(down)
    if hidden not in region:
        return {}
    inner = (view.above(hidden) & region) | {hidden}
    nonlinear = [
        i
        for i in sorted({view.producer[name] for name in inner})
        if view.nodes[i].op_type in NONLINEAR
    ]
    if not nonlinear:
        return {}
    found = {"hidden": hidden}
    before = {
        source
        for i in nonlinear
        for source in _projections(view, view.inputs(i), inner, slices=True)
    }
    # An activation that adds a bias itself never shows what it acts on.
    if len(before) == 1 and not any(_adds_bias(view, i) for i in nonlinear):
        found["pre"] = before.pop()
    return found


def _adds_bias(view: View, node: int) -> bool:
    proto = view.nodes[node]
    return (
        proto.op_type in ("BiasGelu", "FastGelu") and len(proto.input) > 1 and bool(proto.input[1])
    )
