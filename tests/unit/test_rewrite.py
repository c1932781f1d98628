"""Taps, edits and heads against numpy on the whole tensors."""

import itertools

import numpy as np
import onnx
import pytest
from helpers import tiny_graphs as tiny
from scipy.special import log_softmax

from onnxloc.errors import AnatomyError, ModelError, OptionError
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs
from onnxloc.graph.rewrite import instrument
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

POOLS = ("last", "mean", "sum", "max")
BATCH = Batch.of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]], [0, 1, 2], pad=0)
# How to bring each layout into [batch, tokens, units].
TO_ROWS = {
    "h": lambda v: v,
    "by_head": lambda v: v.reshape(3, 5, 8),
    "heads": lambda v: v.transpose(0, 2, 1, 3).reshape(3, 5, 8),
    "time_first": lambda v: v.transpose(1, 0, 2),
    "merged": lambda v: v.reshape(3, 5, 8),
    "gemm": lambda v: v.reshape(3, 5, 8),
    "gemm_turned": lambda v: v.T.reshape(3, 5, 8),
    "logits": lambda v: v,
}
EDITED = [name for name in TO_ROWS if name != "logits"]
TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


def feeds(batch=BATCH):
    return {"input_ids": batch.ids, "attention_mask": batch.mask.astype(np.int64)}


def opened(folder, model) -> Model:
    return Model.open(tiny.write(folder, model))


def compiled(model, **plan):
    return model.compile(Plan(**plan), RuntimeOptions())


def pooled(rows, pool):
    """numpy's pooling of the real tokens of each row."""
    out = []
    for row, length in zip(rows, BATCH.lengths, strict=True):
        real = row[:length].astype(np.float64)
        values = {
            "last": lambda real=real: real[-1],
            "mean": lambda real=real: real.mean(0),
            "sum": lambda real=real: real.sum(0),
            "max": lambda real=real: real.max(0),
        }
        out.append(values[pool]())
    return np.stack(out)


# --- taps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_pooling_of_every_layout_is_numpys(tmp_path, dtype, padding):
    proto = tiny.layouts(dtype, padding=padding)
    names = list(TO_ROWS)
    whole = dict(zip(names, tiny.run(proto, feeds(), names), strict=True))
    if padding is not None:
        assert not np.isfinite(whole["h"][1, 2:]).any()
    taps = tuple(Tap(name, pool) for name, pool in itertools.product(names, POOLS))
    found = compiled(opened(tmp_path, proto), taps=taps).taps(BATCH)
    for tap in taps:
        rows = TO_ROWS[tap.site](whole[tap.site])
        value = found[tap]
        assert value.dtype == ("float64" if dtype == "float64" else "float32")
        np.testing.assert_allclose(
            value, pooled(rows, tap.pool), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], err_msg=tap
        )


@pytest.mark.parametrize("name", TO_ROWS)
def test_each_last_token_alone_is_numpys(tmp_path, name):
    proto = tiny.layouts(padding=np.nan)
    (whole,) = tiny.run(proto, feeds(), [name])
    found = compiled(opened(tmp_path, proto), taps=(Tap(name, "last"),)).taps(BATCH)
    np.testing.assert_allclose(found[Tap(name)], pooled(TO_ROWS[name](whole), "last"), atol=1e-5)


def test_no_pooling_gives_everything_and_sites_without_tokens_give_themselves(tmp_path):
    proto = tiny.layouts()
    names = [*TO_ROWS, "pooled", "classes"]
    whole = dict(zip(names, tiny.run(proto, feeds(), names), strict=True))
    taps = tuple(Tap(name, "none") for name in names)
    found = compiled(opened(tmp_path, proto), taps=taps).taps(BATCH)
    for name in TO_ROWS:
        np.testing.assert_allclose(found[Tap(name, "none")], TO_ROWS[name](whole[name]), atol=1e-5)
    others = tuple(Tap("pooled", pool) for pool in POOLS)
    found |= compiled(opened(tmp_path, proto), taps=others).taps(BATCH)
    for pool in (*POOLS, "none"):
        np.testing.assert_allclose(found[Tap("pooled", pool)], whole["pooled"], atol=1e-5)


def test_half_precision_is_summed_in_single(tmp_path):
    proto = tiny.layouts("float16")
    table = onnx.numpy_helper.to_array(proto.graph.initializer[0]) * np.float16(0) + np.float16(1)
    table[1] = 2048
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(table, "table"))
    batch = Batch.of([[1, 2, 2, 2]], [0], pad=0)
    found = compiled(opened(tmp_path, proto), taps=(Tap("x", "sum"),)).taps(batch)
    # In half precision 2048 + 1 is 2048.
    np.testing.assert_array_equal(found[Tap("x", "sum")], np.full((1, 8), 2051))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 0, 2], [1, 2, 0]])
def test_a_nan_in_a_real_token_is_not_hidden(tmp_path, ids, dtype):
    proto = tiny.layouts(dtype, padding=np.nan)
    batch = Batch.of([ids], [0], pad=3)
    taps = tuple(Tap("x", pool) for pool in ("mean", "sum", "max"))
    found = compiled(opened(tmp_path, proto), taps=taps).taps(batch)
    assert all(np.isnan(value).all() for value in found.values())


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 20, 21])
def test_every_operator_set_taps_and_edits(tmp_path, opset):
    proto = tiny.layouts(opset=opset)
    (whole,) = tiny.run(proto, feeds(), ["heads"])
    taps = tuple(Tap("heads", pool) for pool in POOLS)
    session = compiled(opened(tmp_path, proto), taps=taps, edits=(Edit("h", "affine"),))
    for tap, value in session.taps(BATCH).items():
        np.testing.assert_allclose(value, pooled(TO_ROWS["heads"](whole), tap.pool), atol=1e-5)


# --- edits -------------------------------------------------------------------------------------


def rewritten(name, change):
    """What a changed tensor makes of everything behind it, by onnxruntime on a cut graph."""
    proto = tiny.layouts()
    (whole,) = tiny.run(proto, feeds(), [name])
    rows = change(TO_ROWS[name](whole).copy()).astype(np.float32)
    back = {
        "h": lambda v: v,
        "by_head": lambda v: v.reshape(3, 5, 2, 4),
        "heads": lambda v: v.reshape(3, 5, 2, 4).transpose(0, 2, 1, 3),
        "time_first": lambda v: v.transpose(1, 0, 2),
        "merged": lambda v: v.reshape(15, 8),
        "gemm": lambda v: v.reshape(15, 8),
        "gemm_turned": lambda v: v.reshape(15, 8).T,
    }
    changed = np.ascontiguousarray(back[name](rows))
    for node in proto.graph.node:
        for i, output in enumerate(node.output):
            if output == name:
                node.output[i] = "unused"
    proto.graph.input.append(tiny.value(name, changed.shape, 1))
    return tiny.run(proto, feeds() | {name: changed}, ["logits"])[0]


@pytest.mark.parametrize("name", EDITED)
def test_a_replacement_is_what_a_cut_graph_gives(tmp_path, name):
    rng = np.random.default_rng(0)
    mask = rng.random((3, 5, 8)) < 0.5
    new = rng.standard_normal((3, 5, 8)).astype(np.float32)
    session = compiled(opened(tmp_path, tiny.layouts()), edits=(Edit(name),), outputs=("logits",))
    found = session.outputs(BATCH, {name: (mask, new)})["logits"]
    expected = rewritten(name, lambda v: np.where(mask, new, v))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - session.outputs(BATCH)["logits"]).max() > 0.1


@pytest.mark.parametrize("name", EDITED)
def test_an_affine_edit_is_what_a_cut_graph_gives(tmp_path, name):
    rng = np.random.default_rng(1)
    mask = rng.random((3, 1, 8)) < 0.3
    scale = rng.standard_normal((1, 5, 8)).astype(np.float32)
    shift = rng.standard_normal((1, 1, 8)).astype(np.float32)
    plan = {"edits": (Edit(name, "affine"),), "outputs": ("logits",)}
    session = compiled(opened(tmp_path, tiny.layouts()), **plan)
    found = session.outputs(BATCH, {name: (mask, scale, shift)})["logits"]
    expected = rewritten(name, lambda v: np.where(mask, 0, v * scale) + shift)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - session.outputs(BATCH)["logits"]).max() > 0.1


@pytest.mark.parametrize("form", ["replace", "affine"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [*EDITED, "pooled"])
def test_an_edit_that_is_not_given_changes_no_bit(tmp_path, name, dtype, form):
    proto = tiny.layouts(dtype)
    table = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    table[2] = -0.0
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(table, "table"))
    plan = Plan(edits=(Edit(name, form), Edit("x", form)), outputs=("logits", "classes"))
    model = opened(tmp_path, proto)
    plain = compiled(model, outputs=plan.outputs).outputs(BATCH)
    edited = model.compile(plan, RuntimeOptions()).outputs(BATCH)
    for output in plan.outputs:
        assert edited[output].tobytes() == plain[output].tobytes()


def test_an_identity_keeps_the_sign_of_zero(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.const("table", np.full((11, 8), -0.0), np.float32), "input_ids"], "x")
    g.op("Reciprocal", ["x"], "y")
    model = opened(tmp_path, g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["y"]))
    for form in ("replace", "affine"):
        session = compiled(model, edits=(Edit("x", form),), outputs=("y",))
        assert (session.outputs(Batch.of([[1, 2]], [0], pad=0))["y"] == -np.inf).all()


@pytest.mark.parametrize("name", EDITED)
def test_each_row_has_its_own_edit(tmp_path, name):
    model = opened(tmp_path, tiny.layouts(padding=np.nan))
    session = compiled(
        model,
        edits=(Edit(name),),
        taps=(Tap("unmerged", "mean"),),
        head=TargetLogProbs("logits"),
    )
    rng = np.random.default_rng(2)
    masks = rng.random((3, 1, 8)) < 0.5
    new = rng.standard_normal((1, 1, 8))
    together = session.taps(BATCH, {name: (masks, new)})
    scored = session.target_logprobs(BATCH, {name: (masks, new)})
    for row in range(3):
        alone = Batch.of([BATCH.ids[row, : BATCH.lengths[row]].tolist()], [0], pad=0)
        edit = {name: (masks[row : row + 1], new)}
        for tap, value in session.taps(alone, edit).items():
            np.testing.assert_allclose(together[tap][row], value[0], atol=1e-5)
        np.testing.assert_allclose(scored[row], session.target_logprobs(alone, edit)[0], atol=1e-5)
    assert np.abs(scored[0] - session.target_logprobs(BATCH)[0]).max() > 0.01


def test_sites_without_tokens_are_edited_by_row(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    session = compiled(model, edits=(Edit("pooled"),), outputs=("classes",))
    mask = np.array([True, False, False])[:, None, None] & np.ones((1, 1, 8), bool)
    found = session.outputs(BATCH, {"pooled": (mask, np.zeros((1, 1, 8)))})["classes"]
    plain = session.outputs(BATCH)["classes"]
    np.testing.assert_array_equal(found[0], np.zeros(3))
    np.testing.assert_array_equal(found[1:], plain[1:])
    assert np.abs(plain[0]).max() > 0.01
    wide = (np.ones((1, 5, 8), bool), np.zeros((1, 5, 8)))
    with pytest.raises(ModelError, match="onnxruntime failed"):
        session.outputs(BATCH, {"pooled": wide})


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_zeroing_what_is_not_finite_gives_zero(tmp_path, bad):
    model = opened(tmp_path, tiny.layouts(padding=bad))
    batch = Batch.of([[1, 0, 2]], [0], pad=3)
    every, none = np.ones((1, 1, 8), bool), np.zeros((1, 1, 8))
    for form, operands in (
        ("replace", (every, none)),
        ("affine", (every, np.ones((1, 1, 8)), none)),
    ):
        session = compiled(model, edits=(Edit("x", form),), taps=(Tap("x", "none"),))
        assert not np.isfinite(session.taps(batch)[Tap("x", "none")]).all()
        found = session.taps(batch, {"x": operands})[Tap("x", "none")]
        np.testing.assert_array_equal(found, np.zeros((1, 3, 8)))


def test_a_tap_and_an_output_read_the_edited_value(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    session = compiled(
        model, edits=(Edit("logits"),), taps=(Tap("logits", "none"),), outputs=("logits",)
    )
    new = np.full((1, 1, 11), 3.0)
    edit = {"logits": (np.ones((1, 1, 11), bool), new)}
    np.testing.assert_array_equal(session.outputs(BATCH, edit)["logits"], np.full((3, 5, 11), 3))
    np.testing.assert_array_equal(
        session.taps(BATCH, edit)[Tap("logits", "none")], np.full((3, 5, 11), 3)
    )
    (plain,) = tiny.run(tiny.layouts(), feeds(), ["logits"])
    np.testing.assert_allclose(session.outputs(BATCH)["logits"], plain, atol=1e-6)


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_an_edit_reaches_the_graphs_that_capture_the_tensor(tmp_path, kind):
    proto = tiny.branches(kind)
    session = compiled(opened(tmp_path, proto), edits=(Edit("h"),), outputs=("logits",))
    ids = BATCH.ids[:1]
    one = Batch.of([ids[0].tolist()], [0], pad=0)
    new = np.random.default_rng(0).standard_normal((1, 1, 8)).astype(np.float32)
    found = session.outputs(one, {"h": (np.ones((1, 1, 8), bool), new)})["logits"]
    (x,) = tiny.run(proto, {"input_ids": ids}, ["x"])
    head = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "head"))
    z = 2 * new + 0 * x if kind == "If" else x + 3 * new
    np.testing.assert_allclose(found, z @ head, atol=1e-5)
    (plain,) = tiny.run(proto, {"input_ids": ids}, ["logits"])
    np.testing.assert_allclose(session.outputs(one)["logits"], plain, atol=1e-5)
    assert np.abs(found - plain).max() > 0.1


def test_many_edits_act_one_behind_the_other(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    edits = tuple(
        Edit(name, form) for name, form in zip(EDITED, ["replace", "affine"] * 4, strict=False)
    )
    session = compiled(model, edits=edits, taps=tuple(Tap(name, "none") for name in EDITED))
    ones = np.ones((1, 1, 8))
    values = {
        "by_head": (ones < 2, ones, 2 * ones),
        "gemm": (ones > 2, 5 * ones, 0 * ones),
    }
    found = session.taps(BATCH, values)
    (whole,) = tiny.run(tiny.layouts(), feeds(), ["h"])
    np.testing.assert_allclose(found[Tap("h", "none")], whole, atol=1e-5)
    for name in ("by_head", "heads", "time_first", "merged"):
        np.testing.assert_array_equal(found[Tap(name, "none")], np.full((3, 5, 8), 2))


# --- the head ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_log_probabilities_of_targets_are_scipys(tmp_path, dtype):
    proto = tiny.layouts(dtype, padding=np.nan)
    (whole,) = tiny.run(proto, feeds(), ["logits"])
    found = compiled(opened(tmp_path, proto), head=TargetLogProbs("logits")).target_logprobs(BATCH)
    for row, values in enumerate(found):
        length = BATCH.lengths[row]
        expected = log_softmax(whole[row, : length - 1].astype(np.float64), axis=-1)
        expected = np.take_along_axis(expected, BATCH.ids[row, 1:length, None], -1)[:, 0]
        np.testing.assert_allclose(values, expected, atol=TOLERANCE[dtype])
        assert values.dtype == np.float64


def test_the_head_takes_only_logits(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    with pytest.raises(ModelError, match=r"op:classes is not \[batch, tokens, vocabulary\]"):
        compiled(model, head=TargetLogProbs("classes"))


# --- pruning and the proto ---------------------------------------------------------------------


def test_what_is_not_read_is_dropped(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    built = instrument(model.graph, model.sites, Plan(taps=(Tap("x"),)))
    graph = built.proto.graph
    weights = {t.name for t in graph.initializer if not t.name.startswith("onnxloc.")}
    assert weights == {"table"}
    assert {value.name for value in graph.input} == {"input_ids", "onnxloc.last_index"}
    whole = instrument(model.graph, model.sites, Plan(outputs=("logits",)))
    assert {"head", "w1"} <= {t.name for t in whole.proto.graph.initializer}
    assert "w2" not in {t.name for t in whole.proto.graph.initializer}


def test_a_pruned_input_and_an_edit_behind_all_that_is_read_are_not_fed(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    session = compiled(model, taps=(Tap("x"),), edits=(Edit("gemm"),))
    every = (np.ones((1, 1, 8), bool), np.zeros((1, 1, 8)))
    found = session.taps(BATCH, {"gemm": every})[Tap("x")]
    np.testing.assert_array_equal(found, session.taps(BATCH)[Tap("x")])


def test_the_graph_that_was_loaded_is_not_changed(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    before = model.graph.proto.SerializeToString(deterministic=True)
    sites = model.sites
    taps = tuple(Tap(name, pool) for name in TO_ROWS for pool in POOLS)
    instrument(model.graph, sites, Plan(taps=taps, edits=tuple(map(Edit, EDITED))))
    assert model.graph.proto.SerializeToString(deterministic=True) == before


def test_a_small_weight_outside_stays_outside(tmp_path):
    path = tiny.write(tmp_path, tiny.layouts(), external=True)
    model = Model.open(path)
    built = instrument(model.graph, model.sites, Plan(taps=(Tap("gemm"),), edits=(Edit("h"),)))
    assert {t.data_location for t in built.proto.graph.initializer if t.name in ("w0", "w1")} == {
        onnx.TensorProto.EXTERNAL
    }
    inside = opened(tmp_path / "inside", tiny.layouts())
    tap = (Tap("gemm"),)
    np.testing.assert_array_equal(
        compiled(model, taps=tap).taps(BATCH)[tap[0]],
        compiled(inside, taps=tap).taps(BATCH)[tap[0]],
    )


def test_node_names_may_repeat(tmp_path):
    proto = tiny.decoder()
    for node in proto.graph.node:
        node.name = "same"
    model = opened(tmp_path, proto)
    edits = tuple(Edit(site.tensor) for site in model.sites if site.units)
    taps = tuple(Tap(site.tensor) for site in model.sites if site.units)
    session = compiled(model, taps=taps, edits=edits)
    plain = compiled(opened(tmp_path / "plain", tiny.decoder()), taps=taps)
    for tap, value in plain.taps(BATCH).items():
        np.testing.assert_allclose(session.taps(BATCH)[tap], value, atol=1e-5)


def test_an_initializer_may_be_an_output_and_outputs_keep_their_types(tmp_path):
    proto = tiny.plain()
    proto.graph.output.append(tiny.value("table", (11, 8), 1))
    model = opened(tmp_path, proto)
    session = compiled(model, outputs=("table", "logits"), edits=(Edit("x"),))
    found = session.outputs(Batch.of([[1, 2]], [0], pad=0))
    np.testing.assert_array_equal(
        found["table"], onnx.numpy_helper.to_array(proto.graph.initializer[0])
    )
    built = instrument(model.graph, model.sites, Plan(outputs=("table",)))
    assert not built.proto.graph.node
    assert built.proto.graph.output[0] == model.graph.proto.graph.output[1]


def test_the_order_of_nodes_stays_topological(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    plan = Plan(taps=tuple(map(Tap, TO_ROWS)), edits=tuple(map(Edit, EDITED)))
    proto = instrument(model.graph, model.sites, plan).proto
    made = {v.name for v in proto.graph.input} | {t.name for t in proto.graph.initializer}
    for reads, node in zip(Topology(proto).reads, proto.graph.node, strict=True):
        assert set(reads) <= made
        made |= set(node.output)


def test_what_a_plan_names_must_be_there(tmp_path):
    model = opened(tmp_path, tiny.decoder())
    for plan in (
        {"taps": (Tap("nothing"),)},
        {"taps": (Tap("x"),), "edits": (Edit("op:b0.out"),)},
        {"head": TargetLogProbs("nothing")},
    ):
        with pytest.raises(AnatomyError, match="no site of a tensor"):
            compiled(model, **plan)
    with pytest.raises(ModelError, match="no output 'logit'; did you mean 'logits'"):
        compiled(model, outputs=("logit",))
    for plan in (
        {"taps": (Tap("b0.probs"),)},
        {"outputs": ("logits",), "edits": (Edit("b0.probs"),)},
    ):
        with pytest.raises(ModelError, match="has no units and cannot be"):
            compiled(model, **plan)


def test_feeds_of_edits_must_fit(tmp_path):
    model = opened(tmp_path, tiny.layouts())
    session = compiled(model, taps=(Tap("gemm"),), edits=(Edit("h"), Edit("x", "affine")))
    mask, new = np.ones((1, 1, 8), bool), np.zeros((1, 1, 8))
    for edits, message in (
        ({"hh": (mask, new)}, "the plan does not edit 'hh'"),
        ({"h": (mask,)}, "the edit of 'h' takes mask, value; got 1 arrays"),
        ({"x": (mask, new)}, "the edit of 'x' takes mask, scale, shift; got 2 arrays"),
        ({"h": (mask[0], new)}, r"the mask of an edit has shape \[1, 8\]"),
        (
            {"h": (mask, new[..., :7])},
            r"the value of an edit has shape \[1, 1, 7\]; it takes \[3 or 1",
        ),
        ({"h": (np.ones((2, 1, 8), bool), new)}, r"shape \[2, 1, 8\]"),
        ({"h": (mask, np.zeros((1, 4, 8)))}, r"shape \[1, 4, 8\]"),
    ):
        with pytest.raises(OptionError, match=message):
            session.taps(BATCH, edits)
