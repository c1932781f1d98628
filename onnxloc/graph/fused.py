"""Attention that is one operation: which of them can show their probabilities, and how."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from onnx import ModelProto, NodeProto, helper

from onnxloc.graph.load import PREFIX

if TYPE_CHECKING:
    from onnxloc.graph.sites import Site

__all__ = ["attention_note", "is_shown", "show", "shown", "with_probabilities"]

# Operators that hold a whole attention: scores, softmax and the sum of the values.
FUSED_ATTENTION = frozenset({
    "Attention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention",
    "GroupQueryAttention", "LongformerAttention", "MultiHeadAttention", "PackedAttention",
    "PackedMultiHeadAttention", "PagedAttention", "QAttention", "SparseAttention",
})  # fmt: skip
# An output of scores stands fourth in both operators that can give them behind the softmax; this
# attribute, with this value, says that it is to be that. Those without it have it nowhere.
_MODES = {("", "Attention"): ("qk_matmul_output_mode", 3),
          ("com.microsoft", "GroupQueryAttention"): ("qk_output", 2)}  # fmt: skip
_PLACE = 3
_SHOWN = f"{PREFIX}probs."


def is_shown(tensor: str) -> bool:
    """Whether a tensor is probabilities that `show` adds: nothing in the model reads it."""
    return tensor.startswith(_SHOWN)


def attention_note(sites: Iterable["Site"]) -> str:
    """What can be done with the probabilities of fused attention; empty if there is none.

    Parameters
    ----------
    sites : iterable of Site
        All sites of a model.
    """
    sites = tuple(sites)
    fused = [site for site in sites if site.op_type in FUSED_ATTENTION]
    probabilities = [site for site in sites if site.role.endswith("attn.probs")]
    if not fused or any(not is_shown(site.tensor) for site in probabilities):
        return ""
    if probabilities:
        return (
            f"attention is the one operation {fused[0].op_type}: its probabilities can be read and "
            "not changed"
        )
    return (
        f"attention is the one operation {fused[0].op_type}, which hides its probabilities; export "
        "the model with attention written out (torch: attn_implementation='eager'; JAX: opset 22) "
        "to read them"
    )


def shown(node: NodeProto) -> str | None:
    """The output of a fused attention that is its probabilities, if it has one."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    mode = _MODES.get((domain, node.op_type))
    if mode is None or len(node.output) <= _PLACE or not node.output[_PLACE]:
        return None
    value = next((a.i for a in node.attribute if a.name == mode[0]), 0)
    return str(node.output[_PLACE]) if value == mode[1] else None


def with_probabilities(proto: ModelProto) -> ModelProto | None:
    """A copy of a model that shows them; None if there are none to show."""
    kinds = {(node.domain, node.op_type) for node in proto.graph.node}
    if kinds.isdisjoint({*_MODES, ("ai.onnx", "Attention")}):
        return None
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy if show(copy) else None


def show(proto: ModelProto, wanted: Collection[str] | None = None) -> bool:
    """Let every fused attention that can put out its probabilities do so.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place.
    wanted : collection of str, optional
        Only these tensors, of those that `is_shown` knows.

    Returns
    -------
    bool
        Whether there is any.
    """
    found = False
    for node in proto.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        mode = _MODES.get((domain, node.op_type))
        if mode is None or (len(node.output) > _PLACE and node.output[_PLACE]):
            continue
        name = f"{_SHOWN}{node.output[0]}"
        if wanted is not None and name not in wanted:
            continue
        attributes = [a for a in node.attribute if a.name != mode[0]]
        del node.attribute[:]
        node.attribute.extend([*attributes, helper.make_attribute(*mode)])
        del node.output[_PLACE:]
        node.output.extend([""] * (_PLACE - len(node.output)))
        node.output.append(name)
        found = True
    return found
