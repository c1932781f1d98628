"""Names of what lies in bodies, bodies in functions, and half precision."""

import numpy as np
import onnx
import pytest
from helpers import body_graphs as bodies
from helpers import tiny_graphs as tiny
from helpers.body_runs import DEEP, ELSE, IDS, close, compiled, opened, outputs, random_edit, read
from onnx import TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.bake import FixedEdit, bake
from onnxloc.graph.plan import Edit
from onnxloc.graph.sites import Axis

pytestmark = pytest.mark.unit


# --- names -------------------------------------------------------------------------------------


def test_names_used_over_again_are_told_apart(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    # An outer tensor that has the name which the branch's would get.
    cast = helper.make_node("Neg", ["h"], ["z/else/a"])
    proto.graph.node.insert(2, cast)
    model = opened(tmp_path, proto)
    assert model.sites.tensor("z/else/a").body == ""
    assert model.sites.tensor("z/else/a_").body == "z/else"
    names = [site.tensor for site in model.sites]
    assert len(set(names)) == len(names)


def test_a_body_that_hides_an_outer_name_reads_its_own(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    (node,) = (n for n in proto.graph.node if n.op_type == "If")
    other = next(a.g for a in node.attribute if a.name == "else_branch")
    # Below this the branch's own h is meant; the branch's first node reads the outer one.
    other.node[0].output[0] = other.node[1].input[0] = "big"
    model = opened(tmp_path, proto)
    expected, logits = bodies.branched(bodies.weights_of(proto), ELSE)
    close(outputs(model, ids=ELSE), logits)
    close(read(model, ["z/else/big"], ELSE)["z/else/big"], expected["z/else/a"])


def test_bodies_in_functions_are_sites_too(tmp_path):
    g = tiny.Builder(2)
    body = onnx.parser.parse_model(bodies.HEAD + bodies.LAYERED).graph
    nodes = [node for node in body.node if node.op_type in ("Constant", "Loop")]
    nodes[-1].input[2] = "inside"
    imports = [helper.make_opsetid("", 17)]
    nodes.append(helper.make_node("Identity", ["z"], ["outside"]))
    # A function captures nothing: its weights are its inputs.
    function = helper.make_function(
        "local", "Stack", ["inside", "stack"], ["outside"], nodes, imports
    )
    g.op("Gather", [g.weight("table", 11, 4), "input_ids"], "x")
    g.op("Stack", ["x", g.weight("stack", 3, 4, 4)], "y", domain="local")
    g.op("MatMul", ["y", g.weight("head", 4, 11)], "logits")
    inputs = [tiny.value("input_ids", tiny.TEXT_DIMS)]
    proto = g.model(inputs, ["logits"], functions=[function], domains=[("local", 1)])
    model = opened(tmp_path, proto)
    (site,) = (site for site in model.sites if "/hidden" in site.tensor)
    assert site.axes == (Axis.ITERATION, Axis.BATCH, Axis.TOKEN, Axis.FEATURE)
    expected = bodies.layers(bodies.weights_of(proto), IDS)
    rows = expected["hidden"].transpose(1, 2, 0, 3).reshape(3, 5, 12)
    close(read(model, [site.tensor])[site.tensor], rows)


# --- other types -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_bodies_of_other_types(tmp_path, kind):
    text = """{
        x32 = Gather(table, input_ids)
        x = Cast<to = TYPE>(x32)
        largest = ReduceMax<keepdims = 0>(input_ids)
        five = Constant<value = int64 {5}>()
        big = Greater(largest, five)
        z = If(big) <
            then_branch = above () => (KIND[batch, tokens, 4] y) {
                t = Transpose<perm = [1, 0, 2]>(x) y = Transpose<perm = [1, 0, 2]>(t)
            },
            else_branch = below () => (KIND[batch, tokens, 4] y) { y = Identity(x) }
        >
        z32 = Cast<to = 1>(z)
        logits = MatMul(z32, head)
    }"""
    number = {"float16": 10, "double": 11, "bfloat16": 16}[kind]
    proto = bodies.model(text.replace("TYPE", str(number)).replace("KIND", kind))
    model = opened(tmp_path, proto)
    site = model.sites.tensor("z/then/t")
    assert (site.axes, site.units) == ((Axis.TOKEN, Axis.BATCH, Axis.FEATURE), 4)
    assert site.dtype == {"double": "float64"}.get(kind, kind)
    weights = bodies.weights_of(proto)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    x = weights["table"].astype(dtype)[DEEP].astype(np.float64)
    found = read(model, ["z/then/t", "x"], DEEP, "mean")
    assert found["x"].dtype == (np.float64 if kind == "double" else np.float32)
    for value in found.values():
        np.testing.assert_allclose(value, x.mean(1), rtol=1e-5, atol=1e-6)
    mask, new = random_edit(4)
    edited = np.where(mask, new.astype(dtype).astype(np.float64), x) @ weights["head"]
    for name in ("z/then/t", "x"):
        plain = outputs(model, ids=DEEP)
        np.testing.assert_array_equal(outputs(model, [Edit(name)], ids=DEEP), plain)
        found = outputs(model, [Edit(name)], {name: (mask, new)}, DEEP)
        np.testing.assert_allclose(found, edited, rtol=1e-3, atol=1e-3)


def test_bfloat16_that_onnxruntime_cannot_compute_is_said(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.weight("table", 11, 4), "input_ids"], "x")
    g.op("Cast", ["x"], "half", to=TensorProto.BFLOAT16)
    g.op("Add", ["half", "half"], "y")
    proto = g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["y"])
    with pytest.raises(
        ModelError, match=r"onnxruntime refuses the model: .*implementation for Add"
    ):
        _ = opened(tmp_path, proto).sites


def test_an_output_in_bfloat16_comes_as_float32(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.weight("table", 11, 4), "input_ids"], "x")
    g.op("Cast", ["x"], "logits", to=TensorProto.BFLOAT16)
    proto = g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["logits"])
    model = opened(tmp_path, proto)
    half = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    table = bodies.weights_of(proto)["table"].astype(half).astype(np.float32)
    found = outputs(model)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, table[IDS])
    np.testing.assert_array_equal(read(model, ["logits"])["logits"], table[IDS])


# --- what is not possible in a body ------------------------------------------------------------


def test_no_edit_is_built_into_a_body_and_no_tensor_of_one_is_given(tmp_path):
    model = opened(tmp_path / "a", bodies.model(bodies.LAYERED))
    edit = FixedEdit(np.ones(12, bool), np.zeros(12, np.float32))
    with pytest.raises(ModelError, match="lies within a branch or loop"):
        bake(model.graph, model.sites, {"z/body/hidden": edit})
    model = opened(tmp_path / "b", bodies.model(bodies.BRANCHED))
    with pytest.raises(ModelError, match="cannot be given"):
        compiled(model, outputs=("logits",), given=("z/then/a",))
