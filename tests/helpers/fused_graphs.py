"""Tiny transformer graphs written op by op, in the many ways in which exporters write them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Graph", "Variant", "transformer"]

WIDTH, HEADS, DEPTH, VOCABULARY = 12, 2, 8, 29
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Variant:
    """How a transformer is written."""

    norm: str = "layer"
    attention: str = "plain"
    mlp: str = "relu"
    residual: str = "add"
    bias: str = "after"
    between: tuple[str, ...] = ()
    post_norm: bool = False
    parallel: str = ""
    final_norm: bool = True
    tied: bool = False
    head: str = "logits"
    hidden: int = 20
    blocks: int = 2
    opset: int = 18


@dataclass
class Graph:
    """A graph in the making. Tensors get meaningless names."""

    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    sites: dict[str, str] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attrs) -> str:
        """Add a node; its first output's name comes back, the rest follow in the node."""
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attrs))
        return names[0]

    def last(self, output: int) -> str:
        return self.nodes[-1].output[output]

    def constant(self, value) -> str:
        name = self.fresh()
        array = np.asarray(value, dtype=np.float32 if np.asarray(value).dtype.kind == "f" else None)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.normal(0, 0.5, shape))

    def ids(self, name: str = "input_ids") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]))
        return name

    def output(self, name: str, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def save(self, file: Path) -> Path:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(model, file)
        return file

    # --- pieces --------------------------------------------------------------------------------

    def linear(self, x: str, inner: int, outer: int, bias: str = "after") -> str:
        y = self.op("MatMul", x, self.weight(inner, outer))
        if bias == "none":
            return y
        b = self.weight(outer)
        return self.op("Add", y, b) if bias == "after" else self.op("Add", b, y)

    def norm(self, x: str, kind: str) -> str:
        gain, shift, last = self.weight(WIDTH), self.weight(WIDTH), self.constant([-1])
        if kind == "layer fused":
            return self.op("LayerNormalization", x, gain, shift, axis=-1)
        if kind == "rms fused":
            return self.op("RMSNormalization", x, gain, axis=-1)
        if kind == "rms simplified":
            return self.op("SimplifiedLayerNormalization", x, gain, axis=-1)
        centred = x
        if kind == "layer":
            centred = self.op("Sub", x, self.op("ReduceMean", x, last))
            square = self.op("Pow", centred, self.constant(2.0))
        elif kind == "rms reciprocal":
            square = self.op("Mul", x, x)
        else:
            square = self.op("Pow", x, self.constant(2.0))
        root = self.op(
            "Sqrt", self.op("Add", self.op("ReduceMean", square, last), self.constant(1e-5))
        )
        if kind == "rms reciprocal":
            y = self.op("Mul", gain, self.op("Mul", self.op("Reciprocal", root), x))
        else:
            y = self.op("Mul", self.op("Div", centred, root), gain)
        return self.op("Add", y, shift) if kind == "layer" else y

    def attention(self, x: str, variant: Variant, block: str, bias: str) -> str:
        inner = HEADS * DEPTH
        kind = variant.attention
        if kind == "attention packed":
            mixed = self.op(
                "Attention", x, self.weight(WIDTH, 3 * inner), self.weight(3 * inner),
                domain=MICROSOFT, num_heads=HEADS,
            )  # fmt: skip
        else:
            q, k, v = (self.linear(x, WIDTH, inner, variant.bias) for _ in range(3))
            roles = {} if kind == "mha bias" else {"q": q, "k": k, "v": v}
            self.sites.update({f"{block}attn.{role}": name for role, name in roles.items()})
            mixed = self.mix(q, k, v, variant, block)
        if kind in ("gqa", "attention23"):
            # An output that the operation can have and that this graph does not ask for.
            self.sites[f"{block}attn.probs"] = f"onnxloc.probs.{mixed}"
        self.sites[f"{block}attn.heads"] = mixed
        return self.linear(mixed, inner, WIDTH, bias)

    def mix(self, q: str, k: str, v: str, variant: Variant, block: str) -> str:
        kind = variant.attention
        if kind.startswith("mha"):
            extra = [self.weight(3 * HEADS * DEPTH)] if kind == "mha bias" else []
            return self.op("MultiHeadAttention", q, k, v, *extra, domain=MICROSOFT, num_heads=HEADS)
        if kind == "gqa":
            shape = self.op("Shape", "input_ids")
            rows, tokens = (self.op("Gather", shape, self.constant([i])) for i in (0, 1))
            last = self.op("Sub", tokens, self.constant([1]))
            seqlens = self.op("Cast", self.op("Expand", last, rows), to=TensorProto.INT32)
            total = self.op("Cast", self.op("Squeeze", tokens), to=TensorProto.INT32)
            return self.op(
                "GroupQueryAttention", q, k, v, "", "", seqlens, total,
                domain=MICROSOFT, outputs=3, num_heads=HEADS, kv_num_heads=HEADS,
            )  # fmt: skip
        if kind.startswith("attention23"):
            shown = kind == "attention23 probs"
            attrs = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
            if shown:
                attrs["qk_matmul_output_mode"] = 3
            mixed = self.op("Attention", q, k, v, outputs=4 if shown else 1, **attrs)
            if shown:
                self.sites[f"{block}attn.probs"] = self.last(3)
            return mixed
        split = self.constant([0, 0, HEADS, DEPTH])
        q, k, v = (self.op("Reshape", name, split) for name in (q, k, v))
        if kind == "einsum":
            # Keys first, as some frameworks order a product of two.
            scores = self.op("Einsum", k, q, equation="bshd,bthd->bhts")
        else:
            q, v = (self.op("Transpose", name, perm=[0, 2, 1, 3]) for name in (q, v))
            k = self.op("Transpose", k, perm=[0, 2, 3, 1])
            scores = self.op("MatMul", q, k)
        scores = self.op("Mul", scores, self.constant(0.5))
        if kind == "exp":
            top = self.op("ReduceMax", scores, self.constant([-1]))
            raised = self.op("Exp", self.op("Sub", scores, top))
            probs = self.op("Div", raised, self.op("ReduceSum", raised, self.constant([-1])))
        else:
            probs = self.op("Softmax", scores, axis=-1)
        self.sites[f"{block}attn.probs"] = probs
        if kind == "einsum":
            mixed = self.op("Einsum", probs, v, equation="bhts,bshd->bthd")
        else:
            mixed = self.op("Transpose", self.op("MatMul", probs, v), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.constant([0, 0, HEADS * DEPTH]))

    def mlp(self, x: str, variant: Variant, block: str, bias: str) -> str:
        kind, width = variant.mlp, variant.hidden
        plain = kind in ("bias gelu", "fast gelu bias")
        pre = self.linear(x, WIDTH, width, "none" if plain else variant.bias)
        if not plain:
            self.sites[f"{block}mlp.pre"] = pre
        hidden = self.activation(pre, kind, width)
        if kind in ("swiglu", "gated gelu"):
            hidden = self.op("Mul", hidden, self.linear(x, WIDTH, width, variant.bias))
        self.sites[f"{block}mlp.hidden"] = hidden
        return self.linear(hidden, width, WIDTH, bias)

    def activation(self, x: str, kind: str, width: int) -> str:
        half, one = self.constant(0.5), self.constant(1.0)
        if kind == "relu":
            return self.op("Relu", x)
        if kind == "relu max":
            return self.op("Max", x, self.constant(0.0))
        if kind == "swiglu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "erf":
            gate = self.op("Add", self.op("Erf", self.op("Div", x, self.constant(1.4142135))), one)
            return self.op("Mul", self.op("Mul", x, gate), half)
        if kind in ("tanh", "gated gelu"):
            cube = self.op("Mul", self.op("Mul", x, x), x)
            inner = self.op("Add", x, self.op("Mul", cube, self.constant(0.044715)))
            gate = self.op("Tanh", self.op("Mul", inner, self.constant(0.79788456)))
            return self.op("Mul", self.op("Mul", x, half), self.op("Add", one, gate))
        if kind == "quick gelu":
            return self.op("QuickGelu", x, domain=MICROSOFT)
        if kind == "fast gelu":
            return self.op("FastGelu", x, domain=MICROSOFT)
        fused = {"bias gelu": "BiasGelu", "fast gelu bias": "FastGelu"}[kind]
        return self.op(fused, x, self.weight(width), domain=MICROSOFT)

    def through(self, x: str, variant: Variant) -> str:
        for kind in variant.between:
            x = self.op(kind, x, **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))
        return x


def transformer(variant: Variant) -> Graph:
    """A transformer; `sites` of the graph says which tensor is which part."""
    graph = Graph(opset=variant.opset)
    table = graph.weight(VOCABULARY, WIDTH)
    x = graph.op("Gather", table, graph.ids())
    if variant.between:
        x = graph.through(graph.op("Mul", x, graph.constant(1.5)), variant)
        graph.sites["embed"] = graph.nodes[-1 - len(variant.between)].output[0]
    else:
        graph.sites["embed"] = x
    x = (
        _fused_blocks(graph, x, variant)
        if variant.residual != "add"
        else _blocks(graph, x, variant)
    )
    if variant.head == "none":
        graph.output(x)
    elif variant.head == "pooled":
        first = graph.op("Gather", x, graph.constant(0), axis=1)
        pooled = graph.op("Tanh", graph.linear(first, WIDTH, WIDTH))
        graph.output(graph.linear(pooled, WIDTH, 3))
    elif variant.head == "tagger":
        graph.output(graph.linear(x, WIDTH, 5))
    else:
        if variant.tied:
            logits = graph.op("MatMul", x, graph.op("Transpose", table, perm=[1, 0]))
        else:
            logits = graph.linear(x, WIDTH, VOCABULARY, "none")
        graph.sites["logits"] = logits
        graph.output(logits)
    return graph


def _blocks(graph: Graph, x: str, variant: Variant) -> str:
    for i in range(variant.blocks):
        block = f"block.{i}."
        graph.sites[f"{block}in"] = graph.sites[f"block.{i - 1}.out"] if i else graph.sites["embed"]
        if variant.parallel:
            x = _parallel_block(graph, x, variant, block)
        else:
            x = _block(graph, x, variant, block)
    if variant.final_norm and not variant.post_norm:
        x = graph.norm(x, variant.norm)
        graph.sites["final_norm"] = x
    return x


def _parallel_block(graph: Graph, x: str, variant: Variant, block: str) -> str:
    normed = graph.norm(x, variant.norm)
    attn = graph.attention(normed, variant, block, variant.bias)
    mlp = graph.mlp(normed, variant, block, variant.bias)
    graph.sites |= {f"{block}attn.out": attn, f"{block}mlp.out": mlp}
    if variant.parallel == "one by one":
        y = graph.op("Add", graph.op("Add", x, attn), mlp)
    elif variant.parallel == "Sum":
        y = graph.op("Sum", attn, x, mlp)
    else:
        y = graph.op("Add", graph.op("Add", mlp, attn), x)
    graph.sites[f"{block}out"] = y
    return y


def _block(graph: Graph, x: str, variant: Variant, block: str) -> str:
    for part, name in ((graph.attention, "attn"), (graph.mlp, "mlp")):
        read = x if variant.post_norm else graph.norm(x, variant.norm)
        branch = graph.through(part(read, variant, block, variant.bias), variant)
        graph.sites[f"{block}{name}.out"] = branch
        total = graph.op("Add", branch, x) if name == "attn" else graph.op("Add", x, branch)
        if variant.post_norm:
            total = graph.norm(total, variant.norm)
        graph.sites[f"{block}{'mid' if name == 'attn' else 'out'}"] = total
        x = graph.through(total, variant)
    return x


def _fused_blocks(graph: Graph, x: str, variant: Variant) -> str:
    """Blocks in which each sum is one with the norm behind it."""
    kind = variant.residual.removesuffix(" bias")
    biased = variant.residual.endswith(" bias")
    inner = "none" if biased else variant.bias
    normed = x if variant.post_norm else graph.norm(x, variant.norm)
    total = x
    for i in range(variant.blocks):
        block = f"block.{i}."
        graph.sites[f"{block}in"] = total
        for part, name in ((graph.attention, "attn"), (graph.mlp, "mlp")):
            branch = part(normed, variant, block, inner)
            if not biased:
                graph.sites[f"{block}{name}.out"] = branch
            rest = [graph.weight(WIDTH)]
            if kind == "SkipLayerNormalization":
                rest.append(graph.weight(WIDTH))
            if biased:
                rest.append(graph.weight(WIDTH))
            last = i == variant.blocks - 1 and name == "mlp"
            shown = not variant.post_norm and not last
            normed = graph.op(
                kind, branch, total, *rest, domain=MICROSOFT, outputs=4 if shown else 1
            )
            total = graph.last(3) if shown else normed
            if shown:
                # The mean and the variance that this op may give are not asked for.
                graph.nodes[-1].output[1] = graph.nodes[-1].output[2] = ""
            if shown or variant.post_norm:
                graph.sites[f"{block}{'mid' if name == 'attn' else 'out'}"] = total
    if not variant.post_norm:
        graph.sites["final_norm"] = normed
    return normed
