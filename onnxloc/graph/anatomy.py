"""Anatomy: which site is which part of a network, read off the graph's structure.

The residual stream is the chain of Adds from the embedding to the last norm. What is added to it is
a branch. A branch with a softmax is attention; one with two weight products and a nonlinearity
between them is an MLP. Nothing is read from names, and where the structure is ambiguous a site keeps
its ``op:`` name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnxloc.graph.sites import Axis, Site, named
from onnxloc.graph.topology import Topology

__all__ = ["label_sites"]

PASS = {"Identity", "Cast", "Dropout"}
SHAPE_OPS = PASS | {"Reshape", "Transpose", "Expand", "Unsqueeze", "Squeeze", "Flatten"}
SCORE_OPS = SHAPE_OPS | {"Mul", "Div", "Add", "Where", "Tanh"}
PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "QLinearMatMul"}
NONLINEAR = {
    "Relu", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Erf", "Tanh", "Sigmoid", "Swish", "Silu",
    "Elu", "Celu", "Selu", "LeakyRelu", "HardSwish", "HardSigmoid", "Mish", "Softplus",
}  # fmt: skip
FUSED_NORMS = {
    "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization",
    "BatchNormalization", "GroupNormalization",
}  # fmt: skip
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"}
NORM_OPS = (
    PASS | FUSED_NORMS | REDUCTIONS
    | {"Pow", "Mul", "Sub", "Add", "Sqrt", "Div", "Reciprocal"}
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One addition to the residual stream."""

    before: str
    after: str
    branches: tuple[str, ...]


@dataclass
class Labels:
    """Canonical names found so far, by tensor."""

    names: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, tuple[int | None, str]] = field(default_factory=dict)

    def put(self, tensor: str | None, role: str, block: int | None = None) -> None:
        if tensor is None:
            return
        name = role if block is None else f"block.{block}.{role}"
        taken = self.names.setdefault(tensor, [])
        # A block's output is the next one's input; the output is the name to show.
        if role == "in":
            taken.append(name)
            self.places.setdefault(tensor, (block, role))
        else:
            taken.insert(0, name)
            self.places[tensor] = (block, role)


def label_sites(sites: Iterable[Site], topology: Topology) -> tuple[Site, ...]:
    """Give sites their canonical names, in one pass over the graph's structure.

    Parameters
    ----------
    sites
        As `find_sites` returns them.
    topology
        Of the same graph.
    """
    sites = tuple(sites)
    anatomist = _Anatomist({site.tensor: site for site in sites}, topology)
    labels = anatomist.run()
    out = []
    for site in sites:
        if site.tensor not in labels.names:
            out.append(site)
            continue
        block, role = labels.places[site.tensor]
        out.append(named(site, names=labels.names[site.tensor], block=block, role=role))
    return tuple(out)


class _Anatomist:
    def __init__(self, sites: Mapping[str, Site], topology: Topology) -> None:
        self.sites = sites
        self.topology = topology
        self.labels = Labels()

    # --- the residual stream -------------------------------------------------------------------

    def run(self) -> Labels:
        steps = self.stream()
        if not steps:
            return self.labels
        trunk = [steps[0].before, *(step.after for step in steps)]
        self.labels.put(trunk[0], "embed")
        for block, parts in enumerate(self.blocks(steps, trunk)):
            self.label_block(block, parts, trunk)
        last = steps[-1].after
        end = self.norm_of(last) or last
        if end != last:
            self.labels.put(end, "final_norm")
        self.label_logits(end)
        return self.labels

    def dynamic_inputs(self, node: int) -> list[str]:
        return [name for name in self.topology.reads[node] if name in self.topology.dynamic]

    def like(self, a: str, b: str) -> bool:
        x, y = self.sites.get(a), self.sites.get(b)
        return x is not None and y is not None and (x.axes, x.shape) == (y.axes, y.shape)

    def stream(self) -> list[Step]:
        """The additions to the residual stream, in order."""
        topology = self.topology
        adds = []
        for i, node in enumerate(topology.nodes):
            if node.op_type != "Add" or len(self.dynamic_inputs(i)) != 2:
                continue
            a, b = node.input
            out = self.sites.get(node.output[0])
            if out is not None and out.units and self.like(a, b) and self.like(a, out.tensor):
                adds.append((i, a, b, out.tensor))
        above: dict[str, frozenset[str]] = {}

        def is_ancestor(x: str, y: str) -> bool:
            if y not in above:
                above[y] = topology.ancestors([y])
            return x in above[y]

        best: list[Step] = []
        tried: set[str] = set()
        for _, a, b, _ in adds:
            start = a if is_ancestor(a, b) else b if is_ancestor(b, a) else None
            if start is None or start in tried:
                continue
            steps = self.follow(start, adds)
            tried |= {start, *(step.after for step in steps)}
            if len(steps) > len(best):
                best = steps
        return best

    def follow(self, start: str, adds: list[tuple[int, str, str, str]]) -> list[Step]:
        head, trunk, steps = start, {start}, list[Step]()
        below = self.topology.descendants([start])
        for _, a, b, out in adds:
            if not self.like(out, start):
                continue
            if a not in trunk and b not in trunk and len(steps) > 0:
                # Post-norm: the stream goes on behind the norm of the last sum.
                normed = self.norm_of(head)
                if normed in (a, b) and normed is not None:
                    steps[-1] = Step(steps[-1].before, normed, steps[-1].branches)
                    trunk.add(normed)
                    head = normed
            if (a == head) == (b == head):
                continue
            branch = b if a == head else a
            if branch not in below:
                continue
            steps.append(Step(head, out, tuple(self.split(branch, trunk))))
            head = out
            trunk.add(out)
        if len(steps) > 1 and steps[0].after != steps[1].before:
            return []
        if any(self.is_normed_step(step) for step in steps[:-1]):
            normed = self.norm_of(steps[-1].after)
            if normed is not None:
                steps[-1] = Step(steps[-1].before, normed, steps[-1].branches)
        return steps

    def is_normed_step(self, step: Step) -> bool:
        producer = self.topology.producer.get(step.after)
        return producer is not None and step.before not in self.topology.reads[producer]

    def split(self, branch: str, trunk: set[str]) -> list[str]:
        """The branches in a sum of parallel branches."""
        producer = self.topology.producer.get(branch)
        node = self.topology.nodes[producer] if producer is not None else None
        if producer is None or node is None or node.op_type != "Add":
            return [branch]
        parts = self.dynamic_inputs(producer)
        if len(parts) == 2 and not trunk & set(parts) and all(self.like(p, branch) for p in parts):
            return [leaf for part in parts for leaf in self.split(part, trunk)]
        return [branch]

    def norm_of(self, tensor: str) -> str | None:
        """The output of the norm that reads `tensor`, if there is exactly one."""
        topology = self.topology
        region = {tensor}
        queue = list(topology.consumers.get(tensor, ()))
        reduced = False
        while queue:
            i = queue.pop(0)
            node = topology.nodes[i]
            inside = all(name in region for name in self.dynamic_inputs(i))
            if node.op_type not in NORM_OPS or not inside or node.output[0] in region:
                continue
            reduced |= node.op_type in REDUCTIONS | FUSED_NORMS
            region.add(node.output[0])
            queue.extend(topology.consumers.get(node.output[0], ()))
        region.discard(tensor)
        outputs = {value.name for value in topology.proto.graph.output}
        ends = [
            name
            for name in region
            if self.like(name, tensor)
            and (
                name in outputs
                or any(
                    topology.nodes[i].output[0] not in region
                    for i in topology.consumers.get(name, ())
                )
            )
        ]
        return ends[0] if reduced and len(ends) == 1 else None

    # --- blocks --------------------------------------------------------------------------------

    def blocks(self, steps: list[Step], trunk: list[str]) -> list[list[tuple[Step, str, str]]]:
        """Steps grouped into blocks: (step, branch, kind); a block begins where attention does."""
        found: list[list[tuple[Step, str, str]]] = []
        kinds = [
            (step, branch, self.kind(branch, trunk)) for step in steps for branch in step.branches
        ]
        if not any(kind == "attn" for _, _, kind in kinds):
            return []
        current: list[tuple[Step, str, str]] = []
        for entry in kinds:
            step, _, kind = entry
            same_step = bool(current) and current[-1][0] is step
            full = kind in {k for _, _, k in current} or (kind == "attn" and bool(current))
            if current and not same_step and full:
                found.append(current)
                current = []
            current.append(entry)
        found.append(current)
        return found

    def region(self, branch: str, trunk: Iterable[str]) -> frozenset[str]:
        """Tensors between the residual stream and a branch's end, the end included."""
        stop = set(trunk)
        above = self.topology.ancestors([branch], stop=stop) | {branch}
        return (above - stop) & self.topology.descendants(above & stop)

    def kind(self, branch: str, trunk: Iterable[str]) -> str:
        region = self.region(branch, trunk)
        nodes = {self.topology.producer[name] for name in region}
        types = {self.topology.nodes[i].op_type for i in nodes}
        if types & {"Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention"}:
            return "attn"
        if types & NONLINEAR and sum(self.is_weight_product(i) for i in nodes) >= 2:
            return "mlp"
        return "other"

    def is_weight_product(self, node: int) -> bool:
        is_product = self.topology.nodes[node].op_type in PRODUCTS
        return is_product and len(self.dynamic_inputs(node)) == 1

    def label_block(
        self, block: int, parts: list[tuple[Step, str, str]], trunk: list[str]
    ) -> None:
        kinds = [kind for _, _, kind in parts]
        if len(set(kinds)) != len(kinds):
            return
        put = self.labels.put
        put(parts[-1][0].after, "out", block)
        for step, branch, kind in parts:
            region = self.region(branch, trunk)
            if kind == "attn":
                put(branch, "attn.out", block)
                self.label_attention(block, branch, region)
                if step is not parts[-1][0]:
                    put(step.after, "mid", block)
            elif kind == "mlp":
                put(branch, "mlp.out", block)
                self.label_mlp(block, branch, region)
        put(parts[0][0].before, "in", block)

    # --- parts of a block ----------------------------------------------------------------------

    def back(self, tensor: str, region: frozenset[str], through: set[str]) -> str:
        """Walk up through ops of one dynamic input that are in `through` (or add a constant)."""
        while tensor in region:
            producer = self.topology.producer[tensor]
            node = self.topology.nodes[producer]
            above = self.dynamic_inputs(producer)
            bias = node.op_type == "Add" and len(above) == 1
            if node.op_type not in through and not bias:
                break
            data = [name for name in above if name in region]
            if len(data) != 1:
                break
            tensor = data[0]
        return tensor

    def last_product(self, branch: str, region: frozenset[str]) -> int | None:
        tensor = self.back(branch, region, SHAPE_OPS)
        producer = self.topology.producer.get(tensor)
        return producer if producer is not None and self.is_weight_product(producer) else None

    def projections(self, tensors: Iterable[str], region: frozenset[str]) -> set[str]:
        """The projections nearest above `tensors`: weight products with their bias, or Splits."""
        found: set[str] = set()
        seen: set[str] = set()
        stack = [name for name in tensors if name in region]
        while stack:
            tensor = stack.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            producer = self.topology.producer[tensor]
            node = self.topology.nodes[producer]
            above = [name for name in self.dynamic_inputs(producer) if name in region]
            site = self.sites.get(tensor)
            flat = site is not None and site.axes.count(Axis.FEATURE) == 1
            if self.is_weight_product(producer) or (node.op_type == "Split" and flat):
                found.add(tensor)
            elif node.op_type == "Add" and len(self.dynamic_inputs(producer)) == 1:
                origin = self.back(tensor, region, PASS | {"Reshape"})
                maker = self.topology.producer.get(origin)
                if maker is not None and self.is_weight_product(maker):
                    found.add(tensor)
                else:
                    stack.extend(above)
            else:
                stack.extend(above)
        return found

    def label_attention(self, block: int, branch: str, region: frozenset[str]) -> None:
        nodes, put = self.topology.nodes, self.labels.put
        out = self.last_product(branch, region)
        if out is not None:
            put(self.product_input(out), "attn.heads", block)
        softmaxes = [
            i
            for i in (self.topology.producer[name] for name in region)
            if nodes[i].op_type == "Softmax"
        ]
        if len(softmaxes) != 1:
            return
        probs = nodes[softmaxes[0]].output[0]
        mixes = [i for i in self.consumers_through(probs, SHAPE_OPS | {"Where"}) if self.is_mix(i)]
        scores = self.back_to_mix(nodes[softmaxes[0]].input[0], region)
        if len(mixes) != 1 or scores is None:
            return
        put(probs, "attn.probs", block)
        below = self.topology.descendants([probs])
        values = [n for n in self.dynamic_inputs(mixes[0]) if n != probs and n not in below]
        for role, tensors in (
            ("q", [nodes[scores].input[0]]),
            ("k", [nodes[scores].input[1]]),
            ("v", values),
        ):
            found = self.projections(tensors, region)
            if len(found) == 1:
                put(found.pop(), f"attn.{role}", block)

    def product_input(self, node: int) -> str | None:
        above = self.dynamic_inputs(node)
        return above[0] if len(above) == 1 else None

    def is_mix(self, node: int) -> bool:
        product = self.topology.nodes[node].op_type in {"MatMul", "FusedMatMul", "Einsum"}
        return product and len(self.dynamic_inputs(node)) == 2

    def consumers_through(self, tensor: str, through: set[str]) -> list[int]:
        found: list[int] = []
        stack = [tensor]
        while stack:
            for i in self.topology.consumers.get(stack.pop(), ()):
                node = self.topology.nodes[i]
                if node.op_type in through:
                    stack.extend(node.output)
                else:
                    found.append(i)
        return found

    def back_to_mix(self, tensor: str, region: frozenset[str]) -> int | None:
        """The product of queries and keys above a softmax: through scaling, masks and casts."""
        found: set[int] = set()
        stack, seen = [tensor], set[str]()
        while stack:
            name = stack.pop()
            if name in seen or name not in region:
                continue
            seen.add(name)
            i = self.topology.producer[name]
            if self.is_mix(i):
                found.add(i)
            elif self.topology.nodes[i].op_type in SCORE_OPS:
                stack.extend(self.dynamic_inputs(i))
        return found.pop() if len(found) == 1 else None

    def label_mlp(self, block: int, branch: str, region: frozenset[str]) -> None:
        down = self.last_product(branch, region)
        hidden = self.product_input(down) if down is not None else None
        if hidden is None:
            return
        self.labels.put(hidden, "mlp.hidden", block)
        inner = self.region_above(hidden, region)
        gates = {
            found
            for name in inner
            if self.topology.nodes[self.topology.producer[name]].op_type in NONLINEAR
            for found in self.projections(
                self.dynamic_inputs(self.topology.producer[name]), region
            )
        }
        if len(gates) == 1:
            self.labels.put(gates.pop(), "mlp.pre", block)

    def region_above(self, tensor: str, region: frozenset[str]) -> frozenset[str]:
        return (self.topology.ancestors([tensor]) & region) | {tensor}

    def label_logits(self, end: str) -> None:
        below = self.topology.descendants([end])
        width = self.sites[end].units
        for value in self.topology.proto.graph.output:
            site = self.sites.get(value.name)
            if site is None or value.name not in below or not site.has_tokens:
                continue
            producer = self.topology.producer[value.name]
            origin = self.back(value.name, below, SHAPE_OPS)
            maker = self.topology.producer.get(origin, producer)
            if site.units and site.units != width and self.is_weight_product(maker):
                self.labels.put(value.name, "logits")
                return
