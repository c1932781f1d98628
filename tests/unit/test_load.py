"""Reading graphs: what is checked, what is normalised, what is refused."""

import json
import os
import random
import time

import numpy as np
import onnx
import pytest
from helpers import tiny_graphs as tiny
from onnx import TensorProto, helper

from onnxloc.bundle import Bundle, BundleInfo
from onnxloc.errors import ModelError, OnnxlocError
from onnxloc.graph.load import Graph, load_graph, read_model
from onnxloc.graph.sites import candidate_tensors
from onnxloc.graph.topology import Topology
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit

IDS = np.array([[1, 2, 3], [4, 5, 6]])


def load(path) -> Graph:
    return load_graph(Bundle.open(path))


def refused(path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello, this is not a model", b"PK\x03\x04" + b"\0" * 100, b"\xff" * 64],
)
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    assert "not an ONNX model, or is damaged" in refused(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    assert "there is no model at" in refused(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match=r"cannot read .*: No such file"):
        read_model(tmp_path / "nothing.onnx")


def test_a_name_does_not_choose_another_reader(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(tiny.plain().SerializeToString())
    assert len(load(path).proto.graph.node) == 4
    path.write_text("{}")
    assert "not an ONNX model" in refused(path)


def test_every_truncation_is_refused_or_harmless(tmp_path):
    whole = tiny.plain().SerializeToString()
    for end in range(0, len(whole), 37):
        (tmp_path / "model.onnx").write_bytes(whole[:end])
        assert refused(tmp_path)


def test_a_file_over_two_gibibytes_is_refused(tmp_path):
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**31)
    assert "larger than 2 GiB" in refused(tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    content = tiny.plain().SerializeToString()
    for old in (b"hidden", b"table", b"MatMul"):
        broken = content.replace(old, b"\xff" * len(old))
        assert broken != content
        (tmp_path / "model.onnx").write_bytes(broken)
        assert "is damaged" in refused(tmp_path)


def test_random_damage_ends_in_a_model_error_or_in_a_model(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "model.onnx"
    wholes = [
        tiny.plain().SerializeToString(),
        tiny.branches("If").SerializeToString(),
        tiny.with_function(function_opset=18).SerializeToString(),
        tiny.plain(opset=9, ir=3).SerializeToString(),
    ]
    messages = []
    for case in range(400):
        content = bytearray(wholes[case % len(wholes)])
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            graph = load(path)
            topology = Topology(graph.proto)
            assert set(candidate_tensors(graph.proto, topology)) <= topology.dynamic
        except OnnxlocError as error:
            messages.append(str(error))
    assert 40 < len(messages) < 400
    assert not any("\n" in message for message in messages)


def test_damage_of_the_graph_is_found_when_it_runs_if_not_before(tmp_path):
    rng = random.Random(1)
    whole = tiny.plain().SerializeToString()
    kinds, messages = set(), []
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "model.onnx").write_bytes(content)
        try:
            kinds.add(type(Model.open(tmp_path).sites).__name__)
        except OnnxlocError as error:
            messages.append(str(error))
    assert kinds == {"SiteTable"}
    assert messages
    assert not any("\n" in message for message in messages)


# --- external data -----------------------------------------------------------------------------


def external(folder, **entries):
    """A bundle of `plain` whose table's external data has these entries."""
    path = tiny.write(folder, tiny.plain(), external=True)
    model = onnx.load(path, load_external_data=False)
    (table,) = (t for t in model.graph.initializer if t.name == "table")
    old = {entry.key: entry.value for entry in table.external_data} | entries
    del table.external_data[:]
    for key, text in old.items():
        if text is not None:
            table.external_data.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../model.onnx.data",
        "a/../../model.onnx.data",
        "..\\model.onnx.data",
        "C:\\model.onnx.data",
        "C:model.onnx.data",
        "",
        "a\0b",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "inner"
    external(folder, location=location)
    (tmp_path / "model.onnx.data").write_bytes((folder / "model.onnx.data").read_bytes())
    assert "lies outside the model's folder" in refused(folder)


def test_linked_weights_are_refused(tmp_path):
    external(tmp_path / "inner")
    weights = tmp_path / "inner" / "model.onnx.data"
    weights.rename(tmp_path / "real")
    weights.symlink_to(tmp_path / "real")
    assert "is a link" in refused(tmp_path / "inner")
    weights.unlink()
    weights.symlink_to(weights)
    assert "is a link" in refused(tmp_path / "inner")


def test_weights_in_a_linked_folder_are_refused(tmp_path):
    external(tmp_path / "inner", location="sub/model.onnx.data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inner" / "model.onnx.data").rename(tmp_path / "elsewhere" / "model.onnx.data")
    (tmp_path / "inner" / "sub").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused(tmp_path / "inner")


def test_missing_short_and_unreadable_weights_are_refused(tmp_path):
    external(tmp_path)
    weights = tmp_path / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is too short" in refused(tmp_path)
    weights.unlink()
    assert "is missing" in refused(tmp_path)
    weights.mkdir()
    assert "is missing" in refused(tmp_path)
    external(tmp_path / "long", location="x" * 300)
    assert "cannot read the weights" in refused(tmp_path / "long")


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("text", ["-4", "four", "1e3", "0x10", "٣", "9" * 40, " 4", "1_0"])
def test_bad_offsets_and_lengths_are_refused(tmp_path, key, text):
    external(tmp_path, **{key: text})
    assert "bad offset" in refused(tmp_path)


def test_an_offset_behind_the_end_is_refused(tmp_path):
    external(tmp_path, offset="1000000")
    assert "is too short" in refused(tmp_path)


def test_a_length_that_does_not_fit_the_shape_is_refused_when_the_model_runs(tmp_path):
    external(tmp_path, length="4")
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        _ = Model.open(tmp_path).sites


def test_weights_in_functions_and_branches_are_checked_too(tmp_path):
    tensor = TensorProto(name="c", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    in_function = tiny.with_function()
    in_function.functions[0].node.insert(0, constant)
    in_branch = tiny.branches("If")
    (node,) = (n for n in in_branch.graph.node if n.op_type == "If")
    node.attribute[0].g.node.insert(0, constant)
    for model in (in_function, in_branch):
        tiny.write(tmp_path, model)
        assert "lies outside the model's folder" in refused(tmp_path)


# --- normalising -------------------------------------------------------------------------------


def logits(path, ids=IDS):
    model = Model.open(path)
    from onnxloc.graph.plan import Plan
    from onnxloc.runtime.batches import Batch
    from onnxloc.runtime.providers import RuntimeOptions

    batch = Batch.of(ids.tolist(), range(len(ids)), pad=0)
    plan = Plan(outputs=("logits",))
    return model.compile(plan, RuntimeOptions()).outputs(batch)["logits"]


@pytest.mark.parametrize(
    ("function_opset", "opset"), [(17, 17), (13, 17), (17, 18), (17, 21), (18, 17)]
)
def test_functions_are_inlined_whatever_version_they_import(tmp_path, function_opset, opset):
    model = tiny.with_function(function_opset=function_opset, opset=opset)
    if function_opset == 18:
        # From version 18 on the axes are an input.
        mean = model.functions[0].node[0]
        del mean.attribute[:]
        mean.input.append("axes")
        axes = helper.make_node("Constant", [], ["axes"], value_ints=[-1])
        model.functions[0].node.insert(0, axes)
    path = tiny.write(tmp_path, model)
    if (function_opset, opset) == (18, 17):
        assert "functions cannot be inlined" in refused(path)
        return
    graph = load(path)
    assert not graph.proto.functions
    assert [n.op_type for n in graph.proto.graph.node if n.domain == "local"] == []
    (x,) = tiny.run(tiny.with_function(), {"input_ids": IDS}, ["x"])
    head = onnx.numpy_helper.to_array(model.graph.initializer[1])
    expected = (x - x.mean(-1, keepdims=True)) @ head
    np.testing.assert_allclose(logits(path), expected, atol=1e-5)


def test_a_recursive_function_is_refused(tmp_path):
    model = tiny.with_function()
    model.functions[0].node[1].op_type = "Centre"
    model.functions[0].node[1].domain = "local"
    del model.functions[0].node[1].input[1:]
    model.functions[0].opset_import.append(helper.make_opsetid("local", 1))
    tiny.write(tmp_path, model)
    assert "functions cannot be inlined" in refused(tmp_path)


@pytest.mark.parametrize("opset", range(7, 25))
def test_every_operator_set_from_7_to_24_runs(tmp_path, opset):
    model = tiny.plain(opset=opset, ir=8 if opset < 22 else 10)
    path = tiny.write(tmp_path, model)
    assert load(path).opset == max(opset, 13)
    (expected,) = tiny.run(model, {"input_ids": IDS}, ["logits"])
    np.testing.assert_allclose(logits(path), expected, rtol=1e-6)
    assert [s.tensor for s in Model.open(path).sites] == ["x", "pre", "hidden", "logits"]


def test_ir_version_3_is_raised_and_its_constants_are_no_inputs(tmp_path):
    model = tiny.plain(opset=8, ir=3)
    assert len(model.graph.input) == 4
    path = tiny.write(tmp_path, model)
    graph = load(path)
    assert graph.proto.ir_version >= 4
    assert [spec.name for spec in graph.inputs] == ["input_ids"]
    assert graph.inputs[0].dims == ("batch", "tokens")
    (expected,) = tiny.run(model, {"input_ids": IDS}, ["logits"])
    np.testing.assert_allclose(logits(path), expected, rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 17])
def test_raising_keeps_the_weights_outside(tmp_path, opset):
    model = tiny.plain(opset=opset)
    path = tiny.write(tmp_path, model, external=True)
    kept = {t.name: t.data_location for t in load(path).proto.graph.initializer}
    assert kept == dict.fromkeys(["table", "w0", "w1"], TensorProto.EXTERNAL)
    (expected,) = tiny.run(model, {"input_ids": IDS}, ["logits"])
    np.testing.assert_allclose(logits(path), expected, rtol=1e-6)


def test_an_operator_set_that_nothing_knows_is_refused(tmp_path):
    for opset in (999, 0, -3):
        model = tiny.plain()
        model.opset_import[0].version = opset
        tiny.write(tmp_path, model)
        with pytest.raises(ModelError):
            _ = Model.open(tmp_path).sites


def test_unknown_sizes_of_inputs_are_none(tmp_path):
    model = tiny.plain()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = -1
    dims[1].Clear()
    tiny.write(tmp_path, model)
    assert load(tmp_path).inputs[0].dims == (None, None)


def test_names_that_are_ours_are_refused(tmp_path):
    model = tiny.plain()
    model.graph.node[2].output[0] = model.graph.node[3].input[0] = "onnxloc.tap.0"
    tiny.write(tmp_path, model)
    assert "has a tensor 'onnxloc.tap.0'" in refused(tmp_path)


# --- the hash ----------------------------------------------------------------------------------


def test_the_hash_is_stable_and_follows_graph_and_weights(tmp_path):
    path = tiny.write(tmp_path, tiny.plain(), external=True)
    first = load(path).hash
    assert load(path).hash == first == load(tmp_path).hash
    weights = tmp_path / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    second = load(path).hash
    assert second != first
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].name = "another"
    path.write_bytes(model.SerializeToString())
    assert load(path).hash not in (first, second)


def test_a_recorded_hash_is_used_until_the_file_changes(tmp_path):
    tiny.write(tmp_path, tiny.plain(), external=True)
    bare = load(tmp_path).hash
    Bundle.describe(tmp_path, BundleInfo(name="tiny"))
    assert load(tmp_path).hash == bare
    record = tmp_path / "bundle.json"
    told = json.loads(record.read_text())
    told["files"]["model.onnx.data"]["sha256"] = "0" * 64
    record.write_text(json.dumps(told))
    assert load(tmp_path).hash != bare
    later = time.time() + 10
    os.utime(tmp_path / "model.onnx.data", (later, later))
    assert load(tmp_path).hash == bare
