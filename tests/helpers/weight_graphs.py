"""Tiny seeded models that hold weights, and constants that are none, in every place there is."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT
I = TensorProto.INT64  # noqa: E741
WORDS = ("<s>", "the", "dog", "sees", "a", "cat", "and", "sleeps")
VOCABULARY, WIDTH, LENGTH = 32, 24, 40

__all__ = [
    "LENGTH", "VOCABULARY", "WIDTH", "WORDS", "constants", "conv_model", "decoder",
    "function_model", "if_model", "loop_model", "packed_model", "quantised_model", "save",
    "save_decoder",
]  # fmt: skip


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def angles(rows: int, columns: int) -> np.ndarray:
    """Positions times frequencies, as rotary and sinusoidal tables have them."""
    return np.arange(rows)[:, None] * 10000.0 ** (-np.arange(columns) / columns)


def node(kind: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"/{output}", **attributes)


def constant_node(name: str, value: np.ndarray) -> onnx.NodeProto:
    return node("Constant", [], name, value=numpy_helper.from_array(value, name))


def value(name: str, kind: int, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def tensors(arrays: dict[str, np.ndarray]) -> list[TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    arrays: dict[str, np.ndarray],
    *,
    domains: dict[str, int] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors(arrays))
    opsets = [helper.make_opsetid(d, v) for d, v in {"": 21, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def decoder(dtype: type = np.float32) -> onnx.ModelProto:
    """A language model with tied embeddings, and every kind of table that is no weight."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    wave = angles(LENGTH, WIDTH // 2)
    weights = {
        "embed": normal(1, VOCABULARY, WIDTH),
        "positions": normal(2, LENGTH, WIDTH),
        "up": normal(3, WIDTH, 2 * WIDTH),
        "down": normal(4, 2 * WIDTH, WIDTH),
    }
    others = {
        "up_bias": normal(5, 2 * WIDTH),
        "norm_scale": 1 + normal(6, WIDTH),
        "norm_bias": normal(7, WIDTH),
        "cos": np.cos(np.concatenate([wave, wave], axis=1)),
        "sinusoids": np.concatenate([np.sin(wave), np.cos(wave)], axis=1),
        "frequencies": (10000.0 ** (-np.arange(8) / 8)).reshape(1, 8, 1),
        "mask": np.where(np.tri(LENGTH) > 0, 0.0, -1e4),
        "swap": np.eye(WIDTH)[::-1] * np.where(np.arange(WIDTH) % 2, 1, -1),
        "added": normal(8, 1, 1, WIDTH) * np.ones((1, 2, 1)),
    }
    arrays = {name: array.astype(dtype) for name, array in (weights | others).items()}
    arrays |= {"one": np.array(1), "axes": np.array([0]), "row_axes": np.array([1])}
    nodes = [
        node("Shape", ["input_ids"], "shape"),
        node("Gather", ["shape", "one"], "length"),
        constant_node("zero", np.array(0)),
        node("Range", ["zero", "length", "one"], "range"),
        node("Gather", ["embed", "input_ids"], "x0"),
        node("Gather", ["positions", "range"], "p"),
        node("Gather", ["sinusoids", "range"], "s"),
        node("Gather", ["cos", "range"], "c"),
        node("Gather", ["mask", "range"], "m0"),
        node("ReduceMax", ["m0", "row_axes"], "m"),
        node("Add", ["x0", "p"], "x1"),
        node("Add", ["x1", "s"], "x2"),
        node("Mul", ["x2", "c"], "x3"),
        node("Add", ["x3", "m"], "x4"),
        node("MatMul", ["x4", "swap"], "x5"),
        node("ReduceMax", ["added", "row_axes"], "added_row", keepdims=1),
        node("Add", ["x5", "added_row"], "x"),
        node("Cast", ["range"], "range_f", to=kind),
        node("Unsqueeze", ["range_f", "axes"], "range_row"),
        node("MatMul", ["frequencies", "range_row"], "angles"),
        node("ReduceMax", ["angles"], "angle", keepdims=0),
        node("Add", ["x", "angle"], "embedded"),
        helper.make_node(
            "LayerNormalization", ["embedded", "norm_scale", "norm_bias"], ["normed"], axis=-1
        ),
        node("MatMul", ["normed", "up"], "h0"),
        node("Add", ["h0", "up_bias"], "h1"),
        node("Relu", ["h1"], "hidden"),
        node("MatMul", ["hidden", "down"], "mlp"),
        node("Add", ["embedded", "mlp"], "stream"),
        node("Transpose", ["embed"], "head", perm=[1, 0]),
        node("MatMul", ["stream", "head"], "logits"),
    ]
    inputs = [value("input_ids", I, "batch", "tokens")]
    return model(nodes, inputs, [value("logits", kind, "batch", "tokens", VOCABULARY)], arrays)


def conv_model() -> onnx.ModelProto:
    """Weights in Constant nodes and in a recurrent cell."""
    nodes = [
        constant_node("kernel", normal(1, 4, 3, 5)),
        constant_node("bias", normal(2, 4)),
        node("Conv", ["x", "kernel", "bias"], "c", pads=[2, 2]),
        node("Transpose", ["c"], "t", perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["y"], hidden_size=3),
        node("ReduceMean", ["y"], "out", keepdims=0),
    ]
    arrays = {"w": normal(3, 1, 12, 4), "r": normal(4, 1, 12, 3), "b": normal(5, 1, 24)}
    return model(nodes, [value("x", F, "batch", 3, "time")], [value("out", F)], arrays)


def if_model() -> onnx.ModelProto:
    """A model whose branches have weights of the same name, as initializer and as Constant node."""
    then = helper.make_graph(
        [node("MatMul", ["x", "w"], "then_out")],
        "then",
        [],
        [value("then_out", F, "batch", 4)],
        tensors({"w": normal(1, 4, 4)}),
    )
    other = helper.make_graph(
        [
            constant_node("w2", normal(2, 4, 4)),
            node("MatMul", ["x", "w2"], "product"),
            node("MatMul", ["product", "shared"], "else_out"),
        ],
        "else",
        [],
        [value("else_out", F, "batch", 4)],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["out"], then_branch=then, else_branch=other, name="/if")
    ]
    inputs = [value("x", F, "batch", 4), value("flag", TensorProto.BOOL)]
    return model(nodes, inputs, [value("out", F, "batch", 4)], {"shared": normal(3, 4, 4)})


def loop_model() -> onnx.ModelProto:
    """Stacked weights, norm scales and biases of three layers: loops take one at a time."""
    body = helper.make_graph(
        [
            node("Gather", ["stacked", "i"], "w"),
            node("Gather", ["scales", "i"], "scale"),
            node("MatMul", ["state", "w"], "a"),
            node("Mul", ["a", "scale"], "next"),
            node("Identity", ["go"], "going"),
        ],
        "body",
        [value("i", I), value("go", TensorProto.BOOL), value("state", F, "batch", 4)],
        [value("going", TensorProto.BOOL), value("next", F, "batch", 4)],
    )
    scan = helper.make_graph(
        [
            node("MatMul", ["s", "layer"], "b"),
            node("Add", ["b", "layer_bias"], "s_next"),
        ],
        "scan",
        [value("s", F, "batch", 4), value("layer", F, 4, 4), value("layer_bias", F, 4)],
        [value("s_next", F, "batch", 4)],
    )
    nodes = [
        helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body, name="/loop"),
        helper.make_node(
            "Scan", ["y", "layers", "biases"], ["out"], body=scan, num_scan_inputs=2, name="/scan"
        ),
    ]
    arrays = {
        "trips": np.array(3),
        "stacked": normal(1, 3, 4, 4),
        "scales": normal(2, 3, 4),
        "layers": normal(3, 3, 4, 4),
        "biases": normal(4, 3, 4),
    }
    return model(nodes, [value("x", F, "batch", 4)], [value("out", F, "batch", 4)], arrays)


def function_model() -> onnx.ModelProto:
    """Weights handed to a local function, and one in its body; one of them has a single column."""
    opsets = [helper.make_opsetid("", 21)]
    linear = helper.make_function(
        "local", "Linear", ["a", "w"], ["b"], [node("MatMul", ["a", "w"], "b")], opsets
    )
    inner = helper.make_function(
        "local",
        "Inner",
        ["a", "scale"],
        ["b"],
        [
            constant_node("v", normal(1, 4, 4)),
            node("MatMul", ["a", "v"], "c"),
            node("Mul", ["c", "scale"], "b"),
        ],
        opsets,
    )
    nodes = [
        helper.make_node("Linear", ["x", "w"], ["y"], domain="local"),
        helper.make_node("Inner", ["y", "table"], ["z"], domain="local"),
        helper.make_node("Linear", ["z", "column"], ["out"], domain="local"),
    ]
    arrays = {"w": normal(2, 4, 4), "table": normal(3, 1, 4), "column": normal(4, 4, 1)}
    return model(
        nodes, [value("x", F, 2, 4)], [value("out", F, 2, 1)], arrays,
        domains={"local": 1}, functions=[linear, inner],
    )  # fmt: skip


def quantised_model() -> onnx.ModelProto:
    """Weights dequantised by the operator, by hand with a scale for each block, and in integers."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.integers(-127, 128, (8, 8)).astype(np.int8),
        "w_scale": np.abs(normal(1, 8)),
        "w_zero": np.zeros(8, np.int8),
        "blocks": rng.integers(-7, 8, (8, 2, 4)).astype(np.int8),
        "block_scale": np.abs(normal(2, 8, 2, 1)),
        "shape": np.array([8, 8]),
        "integers": rng.integers(0, 256, (8, 8)).astype(np.uint8),
    }
    nodes = [
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_f", axis=1),
        node("MatMul", ["x", "w_f"], "y"),
        node("Cast", ["blocks"], "blocks_f", to=F),
        node("Mul", ["blocks_f", "block_scale"], "scaled"),
        node("Reshape", ["scaled", "shape"], "v"),
        node("MatMul", ["y", "v"], "z"),
        helper.make_node("DynamicQuantizeLinear", ["z"], ["q", "q_scale", "q_zero"]),
        node("MatMulInteger", ["q", "integers"], "n"),
        node("Cast", ["n"], "out", to=F),
    ]
    return model(nodes, [value("x", F, "batch", 8)], [value("out", F, "batch", 8)], arrays)


def packed_model(count: int = 15) -> onnx.ModelProto:
    """A weight of four bits, two a byte; with 15 columns the last byte is half empty."""
    w = np.random.default_rng(0).integers(0, 16, (3, count)).astype(np.uint8)
    tensor = helper.make_tensor("w", TensorProto.UINT4, w.shape, w.reshape(-1).tolist())
    built = model(
        [
            node("DequantizeLinear", ["w", "scale"], "w_f"),
            node("MatMul", ["x", "w_f"], "out"),
        ],
        [value("x", F, "batch", 3)],
        [value("out", F, "batch", count)],
        {"scale": np.array(0.5, np.float32)},
    )
    built.graph.initializer.append(tensor)
    return built


# --- files ---------------------------------------------------------------------------------------


def save(proto: onnx.ModelProto, folder: Path, *, external: bool = False) -> Path:
    """Write a bundle's files without a ``bundle.json``; weights beside the graph if `external`."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(
        copy,
        folder / "model.onnx",
        save_as_external_data=external,
        location="weights.bin",
        size_threshold=64,
    )
    return folder


def save_decoder(folder: Path, *, external: bool = True) -> Path:
    """The language model as a bundle, with a tokenizer of a few words."""
    from onnxloc.bundle import Bundle, BundleInfo

    save(decoder(), folder, external=external)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    Bundle.describe(folder, BundleInfo(name="tiny", bos_token_id=0, max_tokens=LENGTH))
    return folder


def constants(folder: Path) -> dict[str, np.ndarray]:
    """Every constant of a saved model, subgraphs and functions included, by name."""
    proto = onnx.load(folder / "model.onnx")
    found: dict[str, np.ndarray] = {}

    def walk(nodes, initializers) -> None:
        found.update((t.name, numpy_helper.to_array(t)) for t in initializers)
        for one in nodes:
            for attribute in one.attribute:
                if attribute.HasField("t"):
                    found[one.output[0]] = numpy_helper.to_array(attribute.t)
                if attribute.HasField("g"):
                    walk(attribute.g.node, attribute.g.initializer)

    walk(proto.graph.node, proto.graph.initializer)
    for function in proto.functions:
        walk(function.node, [])
    return found
