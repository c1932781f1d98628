"""What the public models lack: made here, small and seeded."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus.case import Case, Feeds
from helpers import tiny_graphs as tiny
from helpers.tiny_graphs import Builder, value
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

__all__ = ["sparse_case", "synthetic_cases"]

SIZES = ((2, 5), (3, 7))
SHARED = "nodes that share a name, nodes without one"
FLOAT = TensorProto.FLOAT
WIDTH, LAYERS, HEADS, VOCABULARY = 8, 4, 2, 11


def synthetic_cases() -> Iterator[Case]:
    """All but the one with external data."""
    # onnxruntime itself takes no two nodes of one name.
    references = {SHARED: tiny.decoder()}
    for name, model in (
        ("local functions, one within the other", _functions()),
        ("loop over stacked weights", _stacked_loop()),
        ("scan over tokens", _token_scan()),
        ("branches three deep that capture outer tensors", _deep_branches()),
        ("key and value cache", _cache()),
        ("an initializer that is an output", _initializer_out()),
        ("an input that is an output", _input_out()),
        (SHARED, _shared_names()),
        ("nodes out of order", _shuffled()),
        ("names that are hard to print", _odd_names()),
        ("a sequence and an optional within", _containers()),
        ("half precision", tiny.layouts("float16", mask=False)),
        ("double precision", tiny.layouts("float64", mask=False)),
    ):
        runs = tuple(_feeds(model, *size) for size in SIZES)
        yield Case(
            name=name,
            group="synthetic",
            model=model,
            runs=runs,
            sizes=SIZES,
            reference=references.get(name),
        )


def sparse_case(folder: Path, gigabytes: float = 2.25) -> Case:
    """External data over 2 GB in a sparse file: an embedding of which three rows hold anything."""
    rows = int(gigabytes * 2**30 / 4 / WIDTH)
    g = Builder(5)
    table = TensorProto(
        name="table", dims=[rows, WIDTH], data_type=FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, text in (("location", "weights.bin"), ("offset", "0"), ("length", rows * WIDTH * 4)):
        table.external_data.add(key=key, value=str(text))
    g.weights.append(table)
    g.op("Gather", ["table", "input_ids"], "x")
    g.op("MatMul", ["x", g.weight("w", WIDTH, WIDTH)], "h")
    g.op("Tanh", ["h"], "y")
    ids = [1, rows // 2, rows - 1]
    with (folder / "weights.bin").open("wb") as file:
        for i in ids:
            file.seek(i * WIDTH * 4)
            file.write(g.rng.standard_normal(WIDTH, dtype=np.float32).tobytes())
    path = folder / "model.onnx"
    model = g.model([value("input_ids", tiny.TEXT_DIMS)], ["y"])
    path.write_bytes(model.SerializeToString())
    runs = tuple({"input_ids": np.resize(np.array(ids), size)} for size in SIZES)
    name = f"external data of {gigabytes} GiB in a sparse file"
    return Case(name=name, group="synthetic", model=path, runs=runs, sizes=SIZES)


def _feeds(model: ModelProto, rows: int, tokens: int) -> Feeds:
    rng = np.random.default_rng(rows)
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes = {"batch": rows, "tokens": tokens, "past": 3}
    feeds: dict[str, Any] = {}
    for one in model.graph.input:
        if one.name in constants:
            continue
        tensor = one.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        if tensor.elem_type == TensorProto.INT64:
            feeds[one.name] = rng.integers(0, VOCABULARY, shape)
        else:
            feeds[one.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def _embedded(seed: int) -> Builder:
    """A builder that has begun with an embedding ``x`` ``[batch, tokens, 8]``."""
    g = Builder(seed)
    g.op("Gather", [g.weight("table", VOCABULARY, WIDTH), "input_ids"], "x")
    return g


def _text(g: Builder, outputs: Sequence[str], **options: Any) -> ModelProto:
    return g.model([value("input_ids", tiny.TEXT_DIMS)], outputs, **options)


def _node(kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), [out], **attributes)


def _body(
    name: str, nodes: Sequence[NodeProto], inputs: Sequence[Any], outputs: Sequence[Any]
) -> GraphProto:
    def info(one: tuple[str, int, Sequence[int | str] | None]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(*one)

    return helper.make_graph(list(nodes), name, [*map(info, inputs)], [*map(info, outputs)])


# --- the models --------------------------------------------------------------------------------


def _functions() -> ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    centre = [
        _node("ReduceMean", ["a"], "m", axes=[-1], keepdims=1),
        _node("Sub", ["a", "m"], "b"),
    ]
    norm = [
        _node("Centre", ["a"], "c", domain="local"),
        _node("ReduceL2", ["c"], "n", axes=[-1], keepdims=1),
        _node("Div", ["c", "n"], "b"),
    ]
    functions = [
        helper.make_function("local", "Centre", ["a"], ["b"], centre, imports[:1]),
        helper.make_function("local", "Norm", ["a"], ["b"], norm, imports),
    ]
    g = _embedded(1)
    g.op("Norm", ["x"], "first", domain="local")
    g.op("MatMul", ["first", g.weight("w", WIDTH, WIDTH)], "h")
    g.op("Norm", ["h"], "second", domain="local")
    return _text(g, ["second"], functions=functions, domains=[("local", 1)])


def _stacked_loop() -> ModelProto:
    g = _embedded(2)
    g.weight("weights", LAYERS, WIDTH, WIDTH)
    g.weight("biases", LAYERS, WIDTH)
    nodes = [
        _node("Gather", ["weights", "i"], "w", axis=0),
        _node("Gather", ["biases", "i"], "b", axis=0),
        _node("MatMul", ["state", "w"], "product"),
        _node("Add", ["product", "b"], "pre"),
        _node("Tanh", ["pre"], "active"),
        _node("Add", ["state", "active"], "next"),
        _node("Identity", ["go"], "go_on"),
        _node("Identity", ["active"], "each"),
    ]
    shape = ["batch", "tokens", WIDTH]
    body = _body(
        "layer",
        nodes,
        [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("state", FLOAT, shape)],
        [("go_on", TensorProto.BOOL, []), ("next", FLOAT, shape), ("each", FLOAT, shape)],
    )
    inputs = [g.const("turns", LAYERS), g.const("true", True, np.bool_), "x"]
    g.nodes.append(helper.make_node("Loop", inputs, ["y", "layers"], body=body))
    return _text(g, ["y", "layers"])


def _token_scan() -> ModelProto:
    g = _embedded(3)
    g.op("Transpose", ["x"], "by_token", perm=[1, 0, 2])
    g.op("ReduceSum", ["x", g.const("axis", [1])], "total", keepdims=0)
    g.op("Mul", ["total", g.const("none", 0, np.float32)], "start")
    g.weight("w", WIDTH, WIDTH)
    nodes = [
        _node("MatMul", ["state", "w"], "recurrent"),
        _node("Add", ["recurrent", "token"], "pre"),
        _node("Tanh", ["pre"], "next"),
        _node("Identity", ["next"], "seen"),
    ]
    shape = ["batch", WIDTH]
    body = _body(
        "step",
        nodes,
        [("state", FLOAT, shape), ("token", FLOAT, shape)],
        [("next", FLOAT, shape), ("seen", FLOAT, shape)],
    )
    scan = helper.make_node(
        "Scan", ["start", "by_token"], ["last", "all"], body=body, num_scan_inputs=1
    )
    g.nodes.append(scan)
    return _text(g, ["last", "all"])


def _deep_branches() -> ModelProto:
    g = _embedded(4)
    g.weight("w", WIDTH, WIDTH)
    g.op("MatMul", ["x", "w"], "h")
    g.op("ReduceMax", ["input_ids"], "largest", keepdims=0)
    for i in range(3):
        g.op("Greater", ["largest", g.const(f"limit{i}", i)], f"is{i}")
    shape = ["batch", "tokens", WIDTH]

    def branch(depth: int, kind: str) -> GraphProto:
        # Both branches of an If use the same names, as exporters do.
        inner, made, below, out = (f"{name}{depth}" for name in ("inner", "made", "below", "out"))
        nodes = [_node(kind, ["h", "x"], inner), _node("MatMul", [inner, "w"], made)]
        if depth < 3:
            deeper = {
                "then_branch": branch(depth + 1, "Add"),
                "else_branch": branch(depth + 1, "Mul"),
            }
            nodes.append(_node("If", [f"is{depth}"], below, **deeper))
            nodes.append(_node("Add", [made, below], out))
        else:
            nodes.append(_node("Tanh", [made], out))
        return _body(kind, nodes, [], [(out, FLOAT, shape)])

    branches = {"then_branch": branch(1, "Add"), "else_branch": branch(1, "Sub")}
    g.nodes.append(_node("If", ["is0"], "y", **branches))
    return _text(g, ["y"])


def _cache() -> ModelProto:
    g = _embedded(5)
    g.const("split", [0, 0, HEADS, WIDTH // HEADS])
    g.const("join", [0, 0, WIDTH])
    for part in "qkv":
        g.op("MatMul", ["x", g.weight(f"w{part}", WIDTH, WIDTH)], f"{part}0")
        g.op("Reshape", [f"{part}0", "split"], f"{part}1")
        g.op("Transpose", [f"{part}1"], part, perm=[0, 2, 1, 3])
    g.op("Concat", ["past.key", "k"], "present.key", axis=2)
    g.op("Concat", ["past.value", "v"], "present.value", axis=2)
    g.op("Transpose", ["present.key"], "kt", perm=[0, 1, 3, 2])
    g.op("MatMul", ["q", "kt"], "scores")
    g.op("Softmax", ["scores"], "probs", axis=-1)
    g.op("MatMul", ["probs", "present.value"], "heads")
    g.op("Transpose", ["heads"], "back", perm=[0, 2, 1, 3])
    g.op("Reshape", ["back", "join"], "y")
    past = ["batch", HEADS, "past", WIDTH // HEADS]
    inputs = [value("input_ids", tiny.TEXT_DIMS)]
    inputs += [value(f"past.{what}", past, FLOAT) for what in ("key", "value")]
    return g.model(inputs, ["y", "present.key", "present.value"])


def _initializer_out() -> ModelProto:
    g = _embedded(6)
    g.op("MatMul", ["x", g.weight("w", WIDTH, WIDTH)], "y")
    model = _text(g, ["y", "w"])
    model.graph.output[1].CopyFrom(value("w", [WIDTH, WIDTH], FLOAT))
    return model


def _input_out() -> ModelProto:
    g = Builder(7)
    g.op("MatMul", ["states", g.weight("w", WIDTH, WIDTH)], "y")
    states = value("states", ["batch", "tokens", WIDTH], FLOAT)
    model = g.model([states], ["states", "y"])
    model.graph.output[0].CopyFrom(states)
    return model


def _shared_names() -> ModelProto:
    model = tiny.decoder()
    for i, node in enumerate(model.graph.node):
        node.name = "" if i % 2 else "same"
    return model


def _shuffled() -> ModelProto:
    model = tiny.decoder()
    nodes = list(model.graph.node)
    order = np.random.default_rng(8).permutation(len(nodes))
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)
    return model


def _odd_names() -> ModelProto:
    g = _embedded(9)
    g.op("MatMul", ["x", g.weight("w", WIDTH, WIDTH)], "a b\tc\n'\"")
    g.op("Tanh", ["a b\tc\n'\""], "*?[block.0.out]")
    g.op("Relu", ["*?[block.0.out]"], "łąka/../:层")
    return _text(g, ["łąka/../:层"])


def _containers() -> ModelProto:
    g = _embedded(10)
    g.op("MatMul", ["x", g.weight("w", WIDTH, WIDTH)], "h")
    g.op("SequenceConstruct", ["x", "h"], "both")
    g.op("ConcatFromSequence", ["both"], "wide", axis=-1)
    g.op("Optional", ["wide"], "perhaps")
    g.op("OptionalGetElement", ["perhaps"], "there")
    g.op("Tanh", ["there"], "y")
    return _text(g, ["y"])
