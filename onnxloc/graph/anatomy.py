"""Anatomy: which site is which part of a network, read off the graph's structure.

The residual stream is the chain of sums from the embedding to the last norm. What is added to it is
a branch. A branch in which a softmax weights values is attention; one with two weight products and
a nonlinearity between them is an MLP. Nothing is read from names, and where the structure is
ambiguous a site keeps its ``op:`` name.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxloc.graph.anatomy_edits import without_edits
from onnxloc.graph.anatomy_parts import (
    Attention,
    attention_parts,
    find_attention,
    is_mlp,
    mlp_parts,
)
from onnxloc.graph.anatomy_streams import Step, Stream, find_streams, parted
from onnxloc.graph.anatomy_view import SHAPE_OPS, View
from onnxloc.graph.sites import Site, named
from onnxloc.graph.topology import Topology

__all__ = ["label_sites"]

# What may stand between the last weight product and the logits: a cap, a scale.
LOGIT_OPS = SHAPE_OPS | {"Mul", "Div", "Tanh"}
LOOKUPS = {"Gather", "GatherBlockQuantized", "EmbedLayerNormalization", "MatMul"}


@dataclass(frozen=True)
class Branch:
    """What a step adds: attn, cross (keys and values from elsewhere), mlp or other."""

    end: str
    kind: str
    region: frozenset[str]
    attention: Attention | None = None


@dataclass(frozen=True)
class Part:
    """A step with its branches told apart."""

    step: Step
    branches: tuple[Branch, ...]

    @property
    def kinds(self) -> list[str]:
        return [branch.kind for branch in self.branches]


@dataclass
class Labels:
    """Canonical names found so far, by tensor."""

    names: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, tuple[int | None, str]] = field(default_factory=dict)

    def put(self, tensor: str | None, role: str, stack: str = "", block: int | None = None) -> None:
        if tensor is None:
            return
        name = f"{stack}{role}" if block is None else f"{stack}block.{block}.{role}"
        taken = self.names.setdefault(tensor, [])
        # A block's output is the next one's input; the output is the name to show.
        if role == "in":
            taken.append(name)
            self.places.setdefault(tensor, (block, f"{stack}{role}"))
        else:
            taken.insert(0, name)
            self.places[tensor] = (block, f"{stack}{role}")


def label_sites(sites: Iterable[Site], topology: Topology) -> tuple[Site, ...]:
    """Give sites their canonical names, in one pass over the graph's structure.

    A network of one stack has ``embed``, ``block.N.*``, ``final_norm`` and ``logits``; in one of an
    encoder and a decoder all but ``logits`` stand behind ``encoder.`` and ``decoder.``.

    Parameters
    ----------
    sites
        As `find_sites` returns them.
    topology
        Of the same graph.
    """
    sites = tuple(sites)
    by_tensor = {site.tensor: site for site in sites}
    labels = _labels(View(by_tensor, without_edits(by_tensor, topology)))
    out = []
    for site in sites:
        if site.tensor not in labels.names:
            out.append(site)
            continue
        block, role = labels.places[site.tensor]
        out.append(named(site, names=labels.names[site.tensor], block=block, role=role))
    return tuple(out)


def _labels(view: View) -> Labels:
    labels = Labels()
    streams = [s for s in find_streams(view) if _has_attention(view, s)]
    barriers = frozenset[str]().union(*(stream.points for stream in streams))
    stacks = []
    for name, stream in _stacks(view, streams):
        blocks = _blocks([_part(view, step, stream, barriers) for step in stream.steps])
        if not blocks:
            return labels
        stacks.append((name, stream, blocks))
    for name, stream, blocks in stacks:
        memory = frozenset[str]().union(*(s.points for _, s, _ in stacks if s is not stream))
        labels.put(blocks[0][0].step.before, "embed", name)
        for number, block in enumerate(blocks):
            _label_block(view, labels, name, number, block, memory, barriers)
        labels.put(stream.final_norm, "final_norm", name)
    if stacks:
        _, stream, _ = stacks[-1]
        labels.put(_logits(view, stream), "logits")
    return labels


def _has_attention(view: View, stream: Stream) -> bool:
    return any(
        find_attention(view, view.region(branch, stream.points, ()))
        for step in stream.steps
        for branch in step.branches
    )


def _stacks(view: View, streams: list[Stream]) -> list[tuple[str, Stream]]:
    """The streams with the names of their stacks; none if it is not clear what they are."""
    if len(streams) == 1:
        return [("", streams[0])]
    if len(streams) != 2:
        return []
    for encoder, decoder in (streams, streams[::-1]):
        reads = any(
            not view.above(branch, decoder.points | encoder.points).isdisjoint(encoder.points)
            for step in decoder.steps
            for branch in step.branches
        )
        begins = not view.above(decoder.start, encoder.points).isdisjoint(
            encoder.points - {encoder.start}
        )
        if reads and not begins:
            return [("encoder.", encoder), ("decoder.", decoder)]
    return []


def _part(view: View, step: Step, stream: Stream, barriers: frozenset[str]) -> Part:
    found: list[Branch] = []
    for end in step.branches:
        parts = [_branch(view, part, stream, barriers) for part in parted(view, end)]
        kinds = sorted(part.kind for part in parts)
        # A branch that is a sum is two branches only if these are an attention and an MLP.
        found.extend(parts if kinds == ["attn", "mlp"] else [_branch(view, end, stream, barriers)])
    return Part(step, tuple(sorted(found, key=lambda branch: branch.kind != "attn")))


def _branch(view: View, end: str, stream: Stream, barriers: frozenset[str]) -> Branch:
    region = view.region(end, stream.points, barriers)
    attentions = find_attention(view, region)
    if not attentions:
        return Branch(end, "mlp" if is_mlp(view, region) else "other", region)
    if len(attentions) > 1:
        return Branch(end, "attn", region)
    (attention,) = attentions
    outside = [name is not None and name not in region for name in (attention.k, attention.v)]
    return Branch(end, "cross" if all(outside) else "attn", region, attention)


def _blocks(parts: list[Part]) -> list[list[Part]]:
    """Steps grouped into blocks: one begins where attention does, or where a kind comes again."""
    found: list[list[Part]] = []
    current: list[Part] = []
    for part in parts:
        kinds = {kind for other in current for kind in other.kinds}
        if current and ("attn" in part.kinds or not kinds.isdisjoint(part.kinds)):
            # What is added before the first block (a convolution for positions) is no block.
            if found or kinds != {"other"}:
                found.append(current)
            current = []
        current.append(part)
    found.append(current)
    for block in found:
        all_kinds = [kind for part in block for kind in part.kinds]
        if all_kinds.count("mlp") > 1 or set(all_kinds) <= {"mlp"} or set(all_kinds) == {"other"}:
            return []
    return found


def _label_block(
    view: View,
    labels: Labels,
    stack: str,
    number: int,
    block: list[Part],
    memory: frozenset[str],
    barriers: frozenset[str],
) -> None:
    def put(tensor: str | None, role: str) -> None:
        labels.put(tensor, role, stack, number)

    put(block[-1].step.after, "out")
    for part in block:
        step = part.step
        for branch in part.branches:
            if branch.kind == "other" or part.kinds.count(branch.kind) > 1:
                continue
            if step.whole:
                put(branch.end, f"{branch.kind}.out")
            if branch.kind == "mlp":
                found = mlp_parts(view, branch.end, branch.region)
                if part is not block[0]:
                    put(step.before, "mid")
            else:
                found = _attention(view, branch, memory, barriers)
                if branch.kind == "cross" and part is not block[0]:
                    put(step.before, "cross.in")
            for role, tensor in found.items():
                put(tensor, f"{branch.kind}.{role}")
    put(block[0].step.before, "in")


def _attention(
    view: View, branch: Branch, memory: frozenset[str], barriers: frozenset[str]
) -> dict[str, str]:
    if branch.attention is None:
        return {}
    source = branch.region
    if branch.kind == "cross":
        source = (
            view.region(branch.end, memory, barriers)
            if memory
            else (view.above(branch.end, barriers) - barriers - branch.region)
        )
    return attention_parts(view, branch.attention, branch.end, branch.region, source)


def _logits(view: View, stream: Stream) -> str | None:
    """The graph's output that has one value for each token of the vocabulary.

    The vocabulary is what the embedding looks up: a classifier of tokens has no logits over it.
    """
    tables = _vocabularies(view, stream.start)
    end = stream.final_norm or stream.end
    found = []
    for value in view.topology.proto.graph.output:
        site = view.sites.get(value.name)
        if site is None or not site.has_tokens or site.units not in tables:
            continue
        above = value.name
        while view.product_of(above) is None:
            i = view.producer.get(above)
            if i is None or view.nodes[i].op_type not in LOGIT_OPS or len(view.inputs(i)) != 1:
                break
            above = view.inputs(i)[0]
        if view.product_of(above) is not None and view.depends(above, end):
            found.append(value.name)
    return found[0] if len(found) == 1 else None


def _vocabularies(view: View, start: str) -> set[int]:
    found: set[int] = set()
    for name in view.above(start):
        node = view.maker(name)
        if node is None or node.op_type not in LOOKUPS:
            continue
        for table in node.input:
            shape = None if table in view.data else view.constant_shape(table)
            if shape is not None and len(shape) == 2:
                found.add(shape[0])
    return found
