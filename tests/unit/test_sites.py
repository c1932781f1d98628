"""Which tensors are sites, and what their axes are."""

import numpy as np
import onnx
import pytest
from helpers import tiny_graphs as tiny
from onnx import TensorProto

from onnxloc.errors import AnatomyError, ModelError
from onnxloc.graph.sites import Axis, Site, SiteTable, unit_indices
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit

B, T, M, F, O = Axis.BATCH, Axis.TOKEN, Axis.MERGED, Axis.FEATURE, Axis.OTHER  # noqa: E741
LAYOUTS = {
    "x": ((B, T, F), 8),
    "h": ((B, T, F), 8),
    "by_head": ((B, T, F, F), 8),
    "heads": ((B, F, T, F), 8),
    "time_first": ((T, B, F), 8),
    "merged": ((M, F), 8),
    "gemm": ((M, F), 8),
    "gemm_turned": ((F, M), 8),
    "logits": ((B, T, F), 11),
    "pooled": ((B, F), 8),
    "classes": ((B, F), 3),
}


def sites_of(folder, model) -> SiteTable:
    return Model.open(tiny.write(folder, model)).sites


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_axes_of_every_layout(tmp_path, dtype):
    sites = sites_of(tmp_path, tiny.layouts(dtype))
    for name, (axes, units) in LAYOUTS.items():
        site = sites.tensor(name)
        assert (site.axes, site.units, site.dtype) == (axes, units, dtype), name
    assert sites.tensor("heads").shape == (None, 2, None, 4)
    assert sites.tensor("mask_wide").axes == (B, T, F)
    assert sites.tensor("mask_float").units == 0


def test_attention_scores_have_no_units_and_constants_are_no_sites(tmp_path):
    model = tiny.decoder()
    cast = onnx.helper.make_node("Cast", ["w8"], ["dequantised"], to=TensorProto.FLOAT)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 8), np.int8), "w8"))
    (node,) = (n for n in model.graph.node if n.output[0] == "b0.q0")
    node.input[1] = "dequantised"
    model.graph.node.insert(0, cast)
    sites = sites_of(tmp_path, model)
    probs = sites.tensor("b0.probs")
    assert probs.axes == (B, F, T, T)
    assert probs.units == 0
    assert sites.tensor("b0.k").axes == (B, F, F, T)
    assert sites.tensor("b0.k").units == 8
    names = {site.tensor for site in sites}
    # No constants, whole numbers, or truth values.
    assert not names & {"dequantised", "sizes", "positions", "causal", "allowed", "real", "length"}


def test_merged_tokens_of_a_time_first_model_have_no_units(tmp_path):
    def model(flip):
        g = tiny.Builder(4)
        g.op("Gather", [g.weight("table", 11, 8), "input_ids"], "x")
        g.op("Transpose", ["x"], "order", perm=[1, 0, 2] if flip else [0, 1, 2])
        g.op("Reshape", ["order", g.const("flat", [-1, 8])], "merged")
        g.op("MatMul", ["merged", g.weight("w", 8, 3)], "y")
        return g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["y"])

    right = sites_of(tmp_path / "a", model(False)).tensor("y")
    wrong = sites_of(tmp_path / "b", model(True)).tensor("y")
    assert (right.axes, right.units) == ((M, F), 3)
    assert (wrong.axes, wrong.units) == ((O, F), 0)


@pytest.mark.parametrize("dims", [(1, "tokens"), ("batch", 6), (1, 6), (3, "tokens"), (3, 6)])
def test_axes_where_the_graph_fixes_sizes(tmp_path, dims):
    sites = sites_of(tmp_path, tiny.layouts(dims=dims))
    for name in ("x", "h", "by_head", "heads", "logits", "pooled", "classes"):
        axes, units = LAYOUTS[name]
        assert (sites.tensor(name).axes, sites.tensor(name).units) == (axes, units), name
    if dims in ((1, "tokens"), ("batch", 6), (3, "tokens")):
        assert sites.tensor("merged").axes == (M, F)


def test_a_fixed_length_that_is_a_width_too_goes_to_the_first_axis(tmp_path):
    sites = sites_of(tmp_path, tiny.layouts(dims=("batch", 8)))
    assert sites.tensor("x").axes == (B, T, F)
    assert sites.tensor("x").units == 8


def test_a_graph_of_pictures_has_sites(tmp_path):
    sites = sites_of(tmp_path, tiny.picture())
    assert sites.tensor("maps").axes == (B, F, F, F)
    assert sites.tensor("maps").units == 4 * 4 * 4
    assert sites.tensor("classes").units == 4


def test_a_graph_that_takes_whole_numbers_of_other_ranks_is_probed_with_zeros(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.weight("table", 4, 8), "category"], "x")
    g.op("Add", ["x", "signal"], "y")
    inputs = [
        tiny.value("category", ["n"]),
        tiny.value("signal", ["n", 8], TensorProto.FLOAT),
    ]
    sites = sites_of(tmp_path, g.model(inputs, ["y"]))
    assert sites.tensor("y").axes == (B, F)


def test_a_model_that_cannot_be_probed_says_so(tmp_path):
    g = tiny.Builder()
    g.op("Reshape", ["signal", g.const("shape", [2, 77])], "y")
    model = g.model([tiny.value("signal", ["n", "m"], TensorProto.FLOAT)], ["y"])
    with pytest.raises(ModelError, match="the model fails on a tiny input: onnxruntime failed"):
        sites_of(tmp_path, model)


def test_earlier_keys_and_values_are_fed_as_empty(tmp_path):
    g = tiny.Builder(5)
    g.op("Gather", [g.weight("table", 11, 8), "input_ids"], "x")
    g.op("Reshape", ["x", g.const("split", [0, 0, 2, 4])], "by_head")
    g.op("Transpose", ["by_head"], "k", perm=[0, 2, 1, 3])
    g.op("Concat", ["past_key_values.0.key", "k"], "keys", axis=2)
    g.op("MatMul", ["x", g.weight("head", 8, 11)], "logits")
    inputs = [
        tiny.value("input_ids", tiny.TEXT_DIMS),
        tiny.value("past_key_values.0.key", ["batch", 2, "past", 4], TensorProto.FLOAT),
    ]
    sites = sites_of(tmp_path, g.model(inputs, ["logits", "keys"]))
    assert sites.tensor("keys").axes == (B, F, T, F)


def test_sequences_are_no_sites(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.weight("table", 11, 8), "input_ids"], "x")
    g.op("SplitToSequence", ["x"], "pieces", axis=2, keepdims=1)
    g.op("ConcatFromSequence", ["pieces"], "y", axis=2)
    sites = sites_of(tmp_path, g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["y"]))
    assert [site.tensor for site in sites] == ["x", "y"]


# --- the table ---------------------------------------------------------------------------------


def site(tensor, *names, units=4):
    shape = (None, None, units) if units else (None, None)
    return Site(
        tensor=tensor,
        names=(*names, f"op:{tensor}"),
        op_type="Add",
        dtype="float32",
        axes=(B, T, F)[: len(shape)],
        shape=shape,
        role="out" if names else "op",
    )


TABLE = SiteTable(
    [
        site("logits", "embed"),
        site("/a.b/c", "block.0.out", "block.1.in"),
        site("d", "block.0.attn.out"),
        site("e[0]*", "block.10.out"),
        site("p", "block.0.attn.probs", units=0),
        site("z", "logits"),
    ]
)


def tensors(*patterns, **options):
    return [one.tensor for one in TABLE.match(patterns, **options)]


def test_patterns():
    assert tensors("block.*.out") == ["/a.b/c", "e[0]*"]
    assert tensors("block.**.out") == ["/a.b/c", "d", "e[0]*"]
    assert tensors("block.?.out") == ["/a.b/c"]
    assert tensors("block.1.in") == ["/a.b/c"]
    assert tensors("op:*") == ["logits", "/a.b/c", "d", "e[0]*", "z"]
    assert tensors("op:*", with_units=False) == [one.tensor for one in TABLE]
    assert tensors("op:/*/c") == ["/a.b/c"]
    assert tensors("op:?") == ["d", "z"]
    assert tensors("op:e[0]*") == ["e[0]*"]
    assert tensors("*") == ["logits", "z"]
    assert tensors("logits", "embed") == ["logits", "z"]


def test_patterns_that_match_nothing():
    with pytest.raises(
        AnatomyError, match=r"no site matches 'block.0.ouut'; did you mean 'block.0.out'"
    ):
        TABLE.match(["block.0.ouut"])
    with pytest.raises(AnatomyError, match=r"did you mean 'op:/a.b/c'"):
        TABLE.match(["op:/a.b/d"])
    with pytest.raises(AnatomyError, match=r"no site matches '/a.b/c'"):
        TABLE.match(["embed", "/a.b/c"])
    with pytest.raises(AnatomyError, match="have no units"):
        TABLE.match(["block.*.attn.probs"])


def test_canonical_names_win_over_tensors_and_plans_name_tensors():
    assert TABLE.find("logits").tensor == "z"
    assert TABLE.tensor("logits").tensor == "logits"
    assert TABLE.find("op:logits").tensor == "logits"
    assert TABLE.find("d").tensor == "d"
    with pytest.raises(AnatomyError, match=r"no site 'block.0.mid'"):
        TABLE.find("block.0.mid")
    with pytest.raises(AnatomyError, match=r"no site of a tensor 'block.0.out'"):
        TABLE.tensor("block.0.out")


def test_the_table_is_a_sequence():
    assert TABLE[0].tensor == "logits"
    assert [one.tensor for one in TABLE[1:3]] == ["/a.b/c", "d"]
    assert len(TABLE) == len(list(TABLE)) == 6


def test_units_have_indices_along_the_feature_axes():
    heads = Site(
        tensor="h",
        names=("op:h",),
        op_type="Transpose",
        dtype="float32",
        axes=(B, F, T, F),
        shape=(None, 2, None, 4),
    )
    assert heads.units == 8
    np.testing.assert_array_equal(unit_indices(heads, [0, 5, 7]), [[0, 0], [1, 1], [1, 3]])


def test_merged_tokens_of_a_quantised_graph_have_units(tmp_path):
    # The scale of each product is that of the whole tensor, so a change in one row moves all.
    g = tiny.Builder(6)
    g.op("Gather", [g.weight("table", 11, 8), "input_ids"], "x")
    g.op("Reshape", ["x", g.const("flat", [-1, 8])], "merged")
    g.nodes.append(
        onnx.helper.make_node("DynamicQuantizeLinear", ["merged"], ["q", "scale", "zero"])
    )
    g.op("DequantizeLinear", ["q", "scale", "zero"], "rounded")
    g.op("MatMul", ["rounded", g.weight("w", 8, 3)], "y")
    sites = sites_of(tmp_path, g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["y"]))
    assert (sites.tensor("y").axes, sites.tensor("y").units) == ((M, F), 3)
    assert sites.tensor("scale").units == 0


@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_merged_tokens_that_are_not_finite_have_units(tmp_path, padding):
    with np.errstate(all="raise"):
        sites = sites_of(tmp_path, tiny.layouts(padding=padding))
    assert sites.tensor("gemm").axes == (M, F)
