"""Models made to do harm: one clear line for each, the process lives, and nothing is written."""

import numpy as np
import onnx
import pytest
from corpus.isolated import Isolated
from corpus.tasks import use_model
from helpers import tiny_graphs as tiny
from onnx import ModelProto, TensorProto, helper, numpy_helper

pytestmark = pytest.mark.unit

FLOAT = TensorProto.FLOAT
DEEP = 1000


@pytest.fixture(scope="module")
def worker():
    with Isolated(use_model, seconds=60) as isolated:
        yield isolated


def refused(worker, folder, model) -> str:
    """Why a model is refused; its folder is as it was."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    before = {one: one.lstat().st_mtime_ns for one in folder.parent.rglob("*")}
    outcome = worker.run(path)
    assert outcome.kind == "refused", outcome
    assert "\n" not in outcome.message
    assert len(outcome.message) < 1000
    assert {one: one.lstat().st_mtime_ns for one in folder.parent.rglob("*")} == before
    assert outcome.peak < 1500
    return outcome.message


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    return tmp_path / "inner"


def one_node(op: str, inputs=("x",), shape=(2, 3), *, domain="", opset=17, **attributes):
    node = helper.make_node(op, inputs, ["y"], domain=domain, **attributes)
    given = [tiny.value("x", shape, FLOAT)]
    graph = helper.make_graph([node], "one", given, [helper.make_empty_tensor_value_info("y")])
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def with_constant(dims, data: bytes, data_type: int = FLOAT) -> ModelProto:
    model = one_node("Add", ["x", "c"])
    model.graph.initializer.append(
        TensorProto(name="c", dims=dims, data_type=data_type, raw_data=data)
    )
    return model


def test_truncated_files(worker, folder):
    whole = tiny.decoder().SerializeToString()
    for end in range(100, len(whole), len(whole) // 7):
        assert "damaged" in refused(worker, folder, whole[:end])


@pytest.mark.parametrize("place", ["../secret", "inner/../../secret", "/etc/passwd", "link", ""])
def test_weights_outside_the_folder(worker, folder, place):
    (folder / "link").symlink_to(folder.parent / "secret")
    model = tiny.plain()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    message = refused(worker, folder, model)
    assert "outside the model's folder" in message or "is a link" in message


def test_cycles(worker, folder):
    model = tiny.plain()
    model.graph.node[1].input[0] = "logits"
    assert "computed from itself" in refused(worker, folder, model)
    model = tiny.plain()
    model.graph.node[1].input[0] = model.graph.node[1].output[0]
    assert "computed from itself" in refused(worker, folder, model)


@pytest.mark.parametrize(
    "dims", [[2**40], [2**31, 2**31], [2**62, 4], [-1], [-(2**63)], [2**63 - 1, 2**63 - 1]]
)
def test_absurd_constants(worker, folder, dims):
    assert refused(worker, folder, with_constant(dims, b"\0" * 8))


def test_constants_that_a_node_would_make(worker, folder):
    for shape in ([2**40], [2**31, 2**20], [2**62, 2**62], [-5]):
        model = one_node("ConstantOfShape", ["s"])
        sizes = np.array(shape, dtype=np.int64)
        model.graph.initializer.append(numpy_helper.from_array(sizes, "s"))
        model.graph.node.append(helper.make_node("Add", ["x", "y"], ["z"]))
        model.graph.output.append(helper.make_empty_tensor_value_info("z"))
        assert refused(worker, folder, model)


@pytest.mark.parametrize("size", [2**40, 2**63 - 1, 2**31 - 1])
@pytest.mark.parametrize("dtype", [FLOAT, TensorProto.INT64])
def test_absurd_inputs(worker, folder, size, dtype):
    for shape in ((size,), (size, 3), (2, size), (2, 3, size)):
        model = one_node("Identity", shape=shape)
        model.graph.input[0].type.tensor_type.elem_type = dtype
        assert (
            "large" in (said := refused(worker, folder, model))
            or "more than" in said
            or ("too many" in said)
        )


def test_an_operator_that_nobody_knows(worker, folder):
    message = refused(worker, folder, one_node("Frobnicate", domain="com.example.ops"))
    assert "Frobnicate" in message
    assert "com.example.ops" in message
    assert "Frobnicate" in refused(worker, folder, one_node("Frobnicate"))


def test_a_library_beside_the_model_is_not_loaded(worker, folder):
    (folder / "libcom_example_ops.so").write_bytes(b"\x7fELF" + bytes(64))
    message = refused(worker, folder, one_node("Frobnicate", domain="com.example.ops"))
    assert "Frobnicate" in message


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_bodies_that_capture_what_is_not_there(worker, folder, kind):
    model = tiny.branches(kind)
    (node,) = (one for one in model.graph.node if one.op_type == kind)
    (inner, *_) = node.attribute[0].g.node
    inner.input[1] = "nowhere"
    assert "'nowhere'" in refused(worker, folder, model)


@pytest.mark.parametrize("opset", [0, -3, 5000, 2**31, 2**62])
def test_operator_sets_that_do_not_exist(worker, folder, opset):
    model = tiny.plain()
    model.opset_import[0].version = opset
    assert refused(worker, folder, model)
    model = tiny.with_function()
    model.functions[0].opset_import[0].version = opset
    assert refused(worker, folder, model)


def test_ir_versions_that_do_not_exist(worker, folder):
    model = tiny.plain()
    model.ir_version = 2**62
    assert refused(worker, folder, model)


def test_empty_graphs(worker, folder):
    assert "no operations" in refused(worker, folder, ModelProto())
    for field in ("node", "output"):
        model = tiny.plain()
        del getattr(model.graph, field)[:]
        assert "no operations" in refused(worker, folder, model)
    model = tiny.branches("If")
    (node,) = (one for one in model.graph.node if one.op_type == "If")
    for attribute in node.attribute:
        attribute.g.Clear()
    assert refused(worker, folder, model)


def nested(depth: int) -> bytes:
    """Branches in branches, written as bytes: libraries that recurse would not make them."""

    def field(number: int, content: bytes) -> bytes:
        size, head = len(content), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes([*head, size]) + content

    out = tiny.value("out", [2, 3], FLOAT).SerializeToString()
    graph = field(1, helper.make_node("Relu", ["x"], ["out"]).SerializeToString())
    graph += field(12, out)
    kind = onnx.AttributeProto(type=onnx.AttributeProto.GRAPH).SerializeToString()
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + kind
        node = field(1, b"c") + field(2, b"out") + field(4, b"If") + field(5, branch)
        graph = field(1, node) + field(12, out)
    model = tiny.plain()
    model.ClearField("graph")
    return model.SerializeToString() + field(7, graph)


@pytest.mark.parametrize("depth", [50, 90, 200, DEEP])
def test_deep_nesting(worker, folder, depth):
    assert refused(worker, folder, nested(depth))


def test_a_loop_that_never_ends(worker, folder):
    model = tiny.branches("Loop")
    for tensor in model.graph.initializer:
        if tensor.name == "times":
            tensor.CopyFrom(numpy_helper.from_array(np.array(2**62), "times"))
    assert "for ever" in refused(worker, folder, model)


# --- what has ended the process, in onnx or in onnxruntime --------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(one_node("Einsum", shape=(), equation=" >"), id="endless equation"),
        pytest.param(
            one_node("Attention", ["x"] * 3, (2, 4, 24), opset=23, q_num_heads=-(2**63)),
            id="number of heads",
        ),
        pytest.param(one_node("Max", ["", "x"]), id="omitted input of a list"),
    ],
)
def test_what_native_code_does_not_check(worker, folder, model):
    assert "the model is damaged" in refused(worker, folder, model)


def test_a_split_into_fewer_than_it_gives(worker, folder):
    model = one_node("Split", shape=(2, 6), opset=18, num_outputs=1, axis=1)
    model.graph.node[0].output.append("z")
    assert "num_outputs" in refused(worker, folder, model)


def test_a_claimed_length_costs_nothing(worker, folder):
    model = with_constant([2**31 - 1], b"\0" * 4)
    model.graph.node[0].input[0] = "d"
    model.graph.node.insert(0, helper.make_node("Cast", ["c"], ["d"], to=FLOAT))
    assert refused(worker, folder, model)


def test_what_plain_onnxruntime_dies_of_runs(worker, folder):
    path = folder / "model.onnx"
    # Omitted inputs at the end.
    path.write_bytes(one_node("Max", ["x", ""]).SerializeToString())
    assert worker.run(path).kind == "ran"
    # Half precision behind a Transpose that two nodes read.
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["p"]),
        helper.make_node("Add", ["p", "t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [tiny.value("x", ["a", "b", 8], half)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.ones((8, 8), dtype=np.float16), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    outcome = worker.run(path)
    assert outcome.kind == "ran", outcome
