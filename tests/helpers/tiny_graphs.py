"""Tiny seeded ONNX graphs, and what they compute."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS = 11, 8, 2
TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
TEXT_DIMS = ("batch", "tokens")


class Builder:
    """Collects nodes and constants of one graph."""

    def __init__(self, seed: int = 0, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"/{out}", **attributes))
        return out

    def const(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.const(name, self.rng.standard_normal(shape) / 2, self.dtype)

    def model(
        self,
        inputs: Iterable[ValueInfoProto],
        outputs: Iterable[str],
        *,
        opset: int = 17,
        ir: int = 8,
        functions: Sequence[onnx.FunctionProto] = (),
        domains: Sequence[tuple[str, int]] = (),
    ) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            list(inputs),
            [ValueInfoProto(name=name) for name in outputs],
            self.weights,
        )
        opsets = [helper.make_opsetid(*one) for one in (("", opset), *domains)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=ir, functions=list(functions)
        )


def value(name: str, dims: Sequence[int | str], dtype: int = TensorProto.INT64) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(dims))


def layouts(
    dtype: str = "float32",
    *,
    seed: int = 0,
    padding: float | None = None,
    dims: Sequence[int | str] = TEXT_DIMS,
    mask: bool = True,
    ids_type: int = TensorProto.INT64,
    opset: int = 17,
) -> ModelProto:
    """One chain through every layout: an edit of any site changes ``logits``.

    Each token is worked on by itself. `padding` fills the embedding of token 0.
    """
    g = Builder(seed, dtype)
    g.weight("table", VOCABULARY, WIDTH)
    if padding is not None:
        table = numpy_helper.to_array(g.weights[0]).copy()
        table[0] = padding
        g.weights[0] = numpy_helper.from_array(table, "table")
    g.op("Gather", ["table", "input_ids"], "x")
    inputs = [value("input_ids", dims, ids_type)]
    if mask:
        inputs.append(value("attention_mask", dims))
        g.op("Cast", ["attention_mask"], "mask_float", to=TYPES[dtype])
        g.op("Unsqueeze", ["mask_float", g.const("two", [2])], "mask_wide")
        g.op("Mul", ["x", "mask_wide"], "masked")
    g.op("MatMul", ["masked" if mask else "x", g.weight("w0", WIDTH, WIDTH)], "h")
    g.op("Reshape", ["h", g.const("split", [0, 0, HEADS, WIDTH // HEADS])], "by_head")
    g.op("Transpose", ["by_head"], "heads", perm=[0, 2, 1, 3])
    g.op("Transpose", ["heads"], "by_head_again", perm=[0, 2, 1, 3])
    g.op("Reshape", ["by_head_again", g.const("join", [0, 0, WIDTH])], "joined")
    g.op("Transpose", ["joined"], "time_first", perm=[1, 0, 2])
    g.op("Transpose", ["time_first"], "batch_first", perm=[1, 0, 2])
    g.op("Shape", ["batch_first"], "shape")
    g.op("Reshape", ["batch_first", g.const("flat", [-1, WIDTH])], "merged")
    g.op("Gemm", ["merged", g.weight("w1", WIDTH, WIDTH), g.weight("b1", WIDTH)], "gemm")
    g.op("Transpose", ["gemm"], "gemm_turned", perm=[1, 0])
    g.op("Transpose", ["gemm_turned"], "gemm_back", perm=[1, 0])
    g.op("Reshape", ["gemm_back", "shape"], "unmerged")
    g.op("MatMul", ["unmerged", g.weight("head", WIDTH, VOCABULARY)], "logits")
    g.op("Gather", ["unmerged", g.const("first", 0)], "pooled", axis=1)
    g.op("Gemm", ["pooled", g.weight("w2", WIDTH, 3)], "classes")
    return g.model(inputs, ["logits", "classes"], opset=opset)


def decoder(seed: int = 0, *, blocks: int = 2, mask: bool = True) -> ModelProto:
    """A causal decoder with pre-norm, attention over heads and a two-layer MLP."""
    g = Builder(seed)
    g.op("Gather", [g.weight("table", VOCABULARY, WIDTH), "input_ids"], "stream")
    inputs = [value("input_ids", TEXT_DIMS)]
    g.op("Shape", ["input_ids"], "sizes")
    zero, one = g.const("zero", 0), g.const("one", 1)
    g.op("Gather", ["sizes", one], "length")
    g.op("Range", [zero, "length", one], "positions")
    g.op("Unsqueeze", ["positions", g.const("axis0", [0])], "columns")
    g.op("Unsqueeze", ["positions", g.const("axis1", [1])], "rows")
    allowed = g.op("LessOrEqual", ["columns", "rows"], "causal")
    if mask:
        inputs.append(value("attention_mask", TEXT_DIMS))
        g.op("Cast", ["attention_mask"], "real", to=TensorProto.BOOL)
        g.op("Unsqueeze", ["real", g.const("axes12", [1, 2])], "real_wide")
        allowed = g.op("And", ["causal", "real_wide"], "allowed")
    g.const("never", -1e9, np.float32)
    g.const("split", [0, 0, HEADS, WIDTH // HEADS])
    g.const("join", [0, 0, WIDTH])
    stream = "stream"
    for i in range(blocks):
        p = f"b{i}"
        norm = [g.weight(f"{p}.g{j}", WIDTH) for j in (0, 1)]
        g.op("LayerNormalization", [stream, norm[0]], f"{p}.ln0")
        for part in "qkv":
            g.op("MatMul", [f"{p}.ln0", g.weight(f"{p}.w{part}", WIDTH, WIDTH)], f"{p}.{part}0")
            g.op("Reshape", [f"{p}.{part}0", "split"], f"{p}.{part}1")
            perm = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            g.op("Transpose", [f"{p}.{part}1"], f"{p}.{part}", perm=perm)
        g.op("MatMul", [f"{p}.q", f"{p}.k"], f"{p}.scores")
        g.op("Where", [allowed, f"{p}.scores", "never"], f"{p}.visible")
        g.op("Softmax", [f"{p}.visible"], f"{p}.probs", axis=-1)
        g.op("MatMul", [f"{p}.probs", f"{p}.v"], f"{p}.heads")
        g.op("Transpose", [f"{p}.heads"], f"{p}.back", perm=[0, 2, 1, 3])
        g.op("Reshape", [f"{p}.back", "join"], f"{p}.joined")
        g.op("MatMul", [f"{p}.joined", g.weight(f"{p}.wo", WIDTH, WIDTH)], f"{p}.attn")
        g.op("Add", [stream, f"{p}.attn"], f"{p}.mid")
        g.op("LayerNormalization", [f"{p}.mid", norm[1]], f"{p}.ln1")
        g.op("MatMul", [f"{p}.ln1", g.weight(f"{p}.w1", WIDTH, 12)], f"{p}.pre")
        g.op("Relu", [f"{p}.pre"], f"{p}.hidden")
        g.op("MatMul", [f"{p}.hidden", g.weight(f"{p}.w2", 12, WIDTH)], f"{p}.mlp")
        stream = g.op("Add", [f"{p}.mid", f"{p}.mlp"], f"{p}.out")
    g.op("LayerNormalization", [stream, g.weight("last", WIDTH)], "final")
    g.op("MatMul", ["final", g.weight("head", WIDTH, VOCABULARY)], "logits")
    return g.model(inputs, ["logits"])


def plain(*, opset: int = 17, ir: int = 8, seed: int = 0) -> ModelProto:
    """Embedding, product, ReLU, product: valid in every operator set from 7 on."""
    g = Builder(seed)
    g.op("Gather", [g.weight("table", VOCABULARY, WIDTH), "input_ids"], "x")
    g.op("MatMul", ["x", g.weight("w0", WIDTH, WIDTH)], "pre")
    g.op("Relu", ["pre"], "hidden")
    g.op("MatMul", ["hidden", g.weight("w1", WIDTH, VOCABULARY)], "logits")
    inputs = [value("input_ids", TEXT_DIMS)]
    if ir < 4:
        inputs += [value(t.name, t.dims, t.data_type) for t in g.weights]
    model = g.model(inputs, ["logits"], opset=opset, ir=ir)
    if ir < 4:
        model.graph.output[0].CopyFrom(value("logits", (*TEXT_DIMS, VOCABULARY), TensorProto.FLOAT))
    return model


def branches(kind: str) -> ModelProto:
    """A graph whose ``If`` or ``Loop`` captures the outer tensor ``h``."""
    g = Builder(1)
    g.op("Gather", [g.weight("table", VOCABULARY, WIDTH), "input_ids"], "x")
    g.op("MatMul", ["x", g.weight("w0", WIDTH, WIDTH)], "h")
    shape = ["batch", "tokens", WIDTH]
    if kind == "If":

        def branch(op: str) -> onnx.GraphProto:
            node = helper.make_node(op, ["h", "h"], [f"{op}_out"])
            out = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, shape)
            return helper.make_graph([node], op, [], [out])

        g.op("ReduceMax", ["input_ids"], "largest", keepdims=0)
        g.op("Greater", ["largest", g.const("minus", -1)], "condition")
        node = helper.make_node(
            "If", ["condition"], ["z"], then_branch=branch("Add"), else_branch=branch("Mul")
        )
    else:
        body = helper.make_graph(
            [
                helper.make_node("Add", ["state", "h"], ["next"]),
                helper.make_node("Identity", ["go"], ["go_on"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
            ],
        )
        g.const("times", 3)
        g.const("true", True, np.bool_)
        node = helper.make_node("Loop", ["times", "true", "x"], ["z"], body=body)
    g.nodes.append(node)
    g.op("MatMul", ["z", g.weight("head", WIDTH, VOCABULARY)], "logits")
    return g.model([value("input_ids", TEXT_DIMS)], ["logits"])


def with_function(*, function_opset: int = 17, opset: int = 17) -> ModelProto:
    """A graph that calls a function of its own, which averages over the features."""
    nodes = [
        helper.make_node("ReduceMean", ["a"], ["m"], axes=[-1], keepdims=1),
        helper.make_node("Sub", ["a", "m"], ["b"]),
    ]
    imports = [helper.make_opsetid("", function_opset)]
    function = helper.make_function("local", "Centre", ["a"], ["b"], nodes, imports)
    g = Builder(2)
    g.op("Gather", [g.weight("table", VOCABULARY, WIDTH), "input_ids"], "x")
    g.op("Centre", ["x"], "centred", domain="local")
    g.op("MatMul", ["centred", g.weight("head", WIDTH, VOCABULARY)], "logits")
    return g.model(
        [value("input_ids", TEXT_DIMS)],
        ["logits"],
        opset=opset,
        functions=[function],
        domains=[("local", 1)],
    )


def picture() -> ModelProto:
    """A convolution over images ``[batch, 3, 6, 6]``, pooled into ``[batch, 4]``."""
    g = Builder(3)
    g.op("Conv", ["image", g.weight("w", 4, 3, 3, 3)], "maps")
    g.op("Relu", ["maps"], "active")
    g.op("GlobalAveragePool", ["active"], "means")
    g.op("Flatten", ["means"], "classes")
    return g.model([value("image", ["batch", 3, 6, 6], TensorProto.FLOAT)], ["classes"])


def write(folder: Path, model: ModelProto, *, external: bool = False) -> Path:
    """Save a model as ``model.onnx``; every large weight in ``model.onnx.data`` if `external`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    if external:
        copy = ModelProto()
        copy.CopyFrom(model)
        onnx.save(
            copy, path, save_as_external_data=True, location="model.onnx.data", size_threshold=200
        )
    else:
        path.write_bytes(model.SerializeToString())
    return path


def run(model: ModelProto, feeds: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Whole tensors of a model with its weights inside, straight from onnxruntime."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in copy.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(list(names), feeds))
