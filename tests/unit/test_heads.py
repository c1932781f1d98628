"""Heads: what is computed from logits in the graph is what numpy and scipy make of them."""

import numpy as np
import onnx
import pytest
from helpers import tiny_graphs as tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from scipy.special import log_softmax, logsumexp
from scipy.stats import entropy

from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.plan import Edit, Entropy, Plan, Tap, TargetLogProbs, TopLogits
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]], [0, 1, 2], pad=0)
ATS = ("all", "last", "given")
AT = [[0, 3], [], [2, 1, 1]]
K = 4


def positions(at, batch=BATCH):
    lengths = batch.lengths.tolist()
    if at == "given":
        return AT
    return [list(range(n)) if at == "all" else [n - 1] for n in lengths]


def heads(at, tensor="logits"):
    return (TopLogits(tensor, K, at), Entropy(tensor, at))


def opened(folder, proto):
    return Model.open(tiny.write(folder, proto))


def table_model(table, dtype="float32", opset=17):
    """The logits of a token are its row of a table."""
    g = tiny.Builder(0)
    # The probing runs look up any token of a small vocabulary.
    spare = np.zeros((max(0, tiny.VOCABULARY - len(table)), table.shape[1]))
    weights = g.const("table", np.concatenate([table, spare]), dtype)
    g.op("Gather", [weights, "input_ids"], "logits")
    return g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["logits"], opset=opset)


def check_top(found, logits, k=K, tolerance=1e-6):
    """Compare with the same from logits ``[positions, vocabulary]`` in double precision."""
    wide = logits.astype(np.float64)
    order = np.argsort(-wide, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.ids, order)
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(found.logits, np.take_along_axis(wide, order, -1), **close)
    np.testing.assert_allclose(found.mean, wide.mean(-1), **close)
    np.testing.assert_allclose(found.variance, wide.var(-1), **close)
    np.testing.assert_allclose(found.log_sum_exp, logsumexp(wide, axis=-1), **close)
    expected = np.take_along_axis(log_softmax(wide, axis=-1), order, -1)
    np.testing.assert_allclose(found.logprobs, expected, rtol=tolerance, atol=5 * tolerance)
    for values in (found.logits, found.mean, found.variance, found.log_sum_exp, found.logprobs):
        assert values.dtype == np.float64


@pytest.mark.parametrize("at", ATS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_heads_are_numpys_and_scipys(tmp_path, dtype, at):
    model = opened(tmp_path, tiny.layouts(dtype, padding=np.nan))
    feeds = {"input_ids": BATCH.ids, "attention_mask": BATCH.mask.astype(np.int64)}
    (whole,) = tiny.run(tiny.layouts(dtype, padding=np.nan), feeds, ["logits"])
    session = model.compile(Plan(head=heads(at)), RuntimeOptions())
    where = AT if at == "given" else None
    top, spread = session.top(BATCH, at=where), session.entropy(BATCH, at=where)
    both = session.read(BATCH, at=where)
    # Half precision is read as it is; only what is computed from it is not rounded to it.
    tolerance = 1e-3 if dtype == "float16" else 1e-6
    for row, chosen in enumerate(positions(at)):
        logits = whole[row, chosen].astype(np.float64)
        check_top(top[row], logits, tolerance=tolerance)
        expected = entropy(np.exp(log_softmax(logits, axis=-1)), axis=-1)
        np.testing.assert_allclose(spread[row], expected, rtol=tolerance, atol=tolerance)
        assert spread[row].shape == (len(chosen),)
        np.testing.assert_array_equal(both.top[row].ids, top[row].ids)
        np.testing.assert_array_equal(both.entropy[row], spread[row])
    assert both.target_logprobs is None


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_operator_set_has_the_heads(tmp_path, opset):
    table = np.random.default_rng(0).standard_normal((11, 9))
    session = opened(tmp_path, table_model(table, opset=opset)).compile(
        Plan(head=heads("all")), RuntimeOptions()
    )
    for row, found in enumerate(session.top(BATCH)):
        check_top(found, table[BATCH.ids[row, : BATCH.lengths[row]]].astype(np.float32))


EDGES = np.array(
    [
        [0.0, -np.inf, 3.0, 1.0, -np.inf, 2.0],
        [-np.inf] * 6,
        [1.0, 2.0, 3.0, np.nan, 0.0, 1.0],
        [np.nan] + [0.0] * 5,
        [2.0, 5.0, 5.0, 1.0, 5.0, 2.0],
        [0.0] * 6,
        [1e30, -1e30, 0.0, 1.0, 2.0, 3.0],
        [88.0, 1000.0, 1000.0, -1000.0, 999.0, 0.0],
        [np.inf, 0.0, 1.0, 2.0, 3.0, 4.0],
        [-1e-30, 1e-30, 0.0, -0.0, 0.0, 0.0],
        [-np.inf, -np.inf, -np.inf, -np.inf, -np.inf, 7.0],
    ]
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("at", ATS)
def test_infinities_nans_and_ties(tmp_path, dtype, at):
    table = EDGES.astype(dtype)
    batch = Batch.of([[token] for token in range(len(table))], range(len(table)), pad=0)
    model = opened(tmp_path, table_model(table, dtype))
    session = model.compile(Plan(head=heads(at)), RuntimeOptions())
    found = session.read(batch, at=[[0]] * len(table) if at == "given" else None)
    for top, spread, row in zip(found.top, found.entropy, table, strict=True):
        row = row[None].astype(np.float64)
        if np.isnan(row).any():
            for values in (top.logits, top.mean, top.variance, top.log_sum_exp, top.logprobs):
                assert np.isnan(values).all()
            assert (top.ids == -1).all()
            assert np.isnan(spread).all()
            continue
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            order = np.argsort(-row, axis=-1, kind="stable")[:, :K]
            np.testing.assert_array_equal(top.ids, order)
            np.testing.assert_array_equal(top.logits, np.take_along_axis(row, order, -1))
            total = logsumexp(row, axis=-1)
            np.testing.assert_allclose(top.log_sum_exp, total, rtol=1e-6)
            # Of 1e30 and -1e30 the sum is what rounding leaves.
            left = 1e-15 * np.abs(row[np.isfinite(row)]).max(initial=0)
            np.testing.assert_allclose(top.mean, row.mean(-1), rtol=1e-6, atol=left)
            np.testing.assert_allclose(top.variance, row.var(-1), rtol=1e-6)
            logprobs = row - total[:, None]
            np.testing.assert_allclose(
                top.logprobs, np.take_along_axis(logprobs, order, -1), rtol=1e-6, atol=1e-4
            )
            shares = np.exp(logprobs)
        # scipy, too, finds no entropy where there is no distribution.
        np.testing.assert_allclose(
            spread, entropy(shares, axis=-1) if np.isfinite(total) else [np.nan], atol=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_of_equal_logits_the_lower_id_comes_first(tmp_path_factory, data):
    size = data.draw(st.integers(1, 40))
    rows = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=size, max_size=size),
                              min_size=1, max_size=3))  # fmt: skip
    k = data.draw(st.integers(1, size))
    model = opened(tmp_path_factory.mktemp("t"), table_model(np.array(rows, dtype=np.float32)))
    batch = Batch.of([list(range(len(rows)))], [0], pad=0)
    (found,) = model.compile(Plan(head=TopLogits("logits", k)), RuntimeOptions()).top(batch)
    check_top(found, np.array(rows, dtype=np.float64), k=k)


def test_a_sum_over_a_large_vocabulary_is_exact_in_half_precision(tmp_path):
    # In half precision a sum of 60,000 ones stops at 2,048.
    table = np.zeros((2, 60_000), dtype=np.float16)
    table[1] = np.random.default_rng(0).normal(0, 4, 60_000)
    model = opened(tmp_path, table_model(table, "float16"))
    session = model.compile(Plan(head=heads("all")), RuntimeOptions())
    found = session.read(Batch.of([[0, 1]], [0], pad=0))
    check_top(found.top[0], table, tolerance=2e-6)
    logprobs = log_softmax(table.astype(np.float64), axis=-1)
    np.testing.assert_allclose(found.entropy[0], entropy(np.exp(logprobs), axis=-1), rtol=1e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_only_the_positions_that_are_read_are_computed(tmp_path, mask):
    """Behind the last mixing of tokens the graph works on the chosen ones alone."""
    model = opened(tmp_path, tiny.decoder(mask=mask))
    edits = {"b1.out": (np.arange(3)[:, None, None] == np.arange(8), np.ones((1, 1, 8), "f4"))}
    whole = model.compile(
        Plan(edits=(Edit("b1.out"),), head=heads("all"), outputs=("logits",)), RuntimeOptions()
    )
    expected = whole.read(BATCH, edits)
    for at in ("last", "given"):
        plan = Plan(edits=(Edit("b1.out"),), head=heads(at))
        session = model.compile(plan, RuntimeOptions())
        nodes = {name: node for node in session.instrumented.proto.graph.node
                 for name in node.output}  # fmt: skip
        assert nodes[nodes["final"].input[0]].op_type == "GatherND"
        found = session.read(BATCH, edits, at=AT if at == "given" else None)
        for row, chosen in enumerate(positions(at)):
            np.testing.assert_array_equal(found.top[row].ids, expected.top[row].ids[chosen])
            np.testing.assert_allclose(
                found.top[row].log_sum_exp, expected.top[row].log_sum_exp[chosen], atol=1e-5
            )
            np.testing.assert_allclose(found.entropy[row], expected.entropy[row][chosen], atol=1e-5)


def test_heads_at_different_positions_and_taps_go_together(tmp_path):
    model = opened(tmp_path, tiny.decoder())
    plan = Plan(
        taps=(Tap("final"), Tap("logits")),
        head=(TargetLogProbs("logits", "given"), TopLogits("logits", 2, "last"),
              Entropy("logits")),
    )  # fmt: skip
    at = [[3], [0], [0, 1]]
    found = model.compile(plan, RuntimeOptions()).read(BATCH, at=at)
    logits = model.compile(Plan(outputs=("logits",)), RuntimeOptions()).outputs(BATCH)["logits"]
    for row, length in enumerate(BATCH.lengths):
        own = log_softmax(logits[row, :length].astype(np.float64), axis=-1)
        targets = BATCH.ids[row, np.array(at[row]) + 1]
        np.testing.assert_allclose(found.target_logprobs[row], own[at[row], targets], atol=1e-5)
        check_top(found.top[row], logits[row, length - 1 : length], k=2, tolerance=1e-5)
        np.testing.assert_allclose(found.entropy[row], entropy(np.exp(own), axis=-1), atol=1e-5)
        np.testing.assert_allclose(
            found.taps[Tap("logits")][row], logits[row, length - 1], atol=1e-5
        )


@pytest.mark.parametrize("dims", [(2, "tokens"), ("batch", 6), (2, 6)])
def test_positions_hold_where_a_graph_fixes_its_sizes(tmp_path, dims):
    free = opened(tmp_path / "a", tiny.layouts())
    fixed = opened(tmp_path / "b", tiny.layouts(dims=dims))
    plan = Plan(head=(*heads("given"), TargetLogProbs("logits", "given")))
    at = [[3, 0], [], [1]]
    one, two = (m.compile(plan, RuntimeOptions()).read(BATCH, at=at) for m in (free, fixed))
    for row in range(3):
        assert len(one.entropy[row]) == len(at[row])
        np.testing.assert_array_equal(two.top[row].ids, one.top[row].ids)
        np.testing.assert_allclose(two.entropy[row], one.entropy[row], atol=1e-5)
        np.testing.assert_allclose(two.target_logprobs[row], one.target_logprobs[row], atol=1e-5)


def test_target_log_probabilities_at_given_positions_are_those_at_all(tmp_path):
    model = opened(tmp_path, tiny.decoder())
    everywhere = model.compile(Plan(head=TargetLogProbs("logits")), RuntimeOptions())
    given_at = model.compile(Plan(head=TargetLogProbs("logits", "given")), RuntimeOptions())
    expected = everywhere.target_logprobs(BATCH)
    for whole, one in zip(expected, given_at.target_logprobs(BATCH), strict=True):
        np.testing.assert_allclose(one, whole, atol=1e-5)
    at = [[3, 1], [0], []]
    found = given_at.target_logprobs(BATCH, at=at)
    for row, places in enumerate(at):
        np.testing.assert_allclose(found[row], expected[row][places], atol=1e-5)
    # A text of one token has nothing to score, and a batch of them nothing at all.
    (none,) = given_at.target_logprobs(Batch.of([[3]], [0], pad=0))
    assert none.shape == (0,)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(OptionError, match="1 or more, not 0"):
        TopLogits("logits", 0)
    with pytest.raises(OptionError, match="no choice of positions 'first'"):
        Entropy("logits", "first")
    with pytest.raises(OptionError, match="nothing stands behind the last token"):
        TargetLogProbs("logits", "last")
    with pytest.raises(OptionError, match="one head of each kind"):
        Plan(head=(Entropy("logits"), Entropy("logits", "last")))
    model = opened(tmp_path, tiny.decoder())

    def compiled(*plan_heads):
        return model.compile(Plan(head=plan_heads), RuntimeOptions())

    with pytest.raises(OptionError, match="the vocabulary has 11 tokens; ask for 11 or fewer"):
        compiled(TopLogits("logits", 12))
    assert compiled(TopLogits("logits", 11)).top(BATCH)[1].ids.shape == (2, 11)
    with pytest.raises(ModelError, match=r"not \[batch, tokens, vocabulary\]"):
        compiled(Entropy("b0.heads"))
    session = compiled(TargetLogProbs("logits", "given"))
    for at, message in (
        ([[0]], "given for 1 of 3 rows"),
        ([[4], [], []], "row 0 has 4 positions with a token behind it; 4 to 4 were given"),
        ([[0], [-1], []], "row 1 has 1 positions"),
        ([[0], [0.5], []], "row 1 are not a list of whole numbers"),
        ([[], [], []], "no position is given"),
    ):
        with pytest.raises(OptionError, match=message):
            session.target_logprobs(BATCH, at=at)
    with pytest.raises(OptionError, match="no head for the entropy"):
        session.entropy(BATCH)
    with pytest.raises(OptionError, match="no head at given positions"):
        compiled(Entropy("logits")).entropy(BATCH, at=[[0], [0], [0]])


def test_no_vocabulary_leaves_the_graph(tmp_path):
    model = opened(tmp_path, tiny.decoder())
    session = model.compile(Plan(head=(*heads("all"), TargetLogProbs("logits"))), RuntimeOptions())
    proto = onnx.shape_inference.infer_shapes(session.instrumented.proto)
    shapes = [value.type.tensor_type for value in proto.graph.output]
    assert len(shapes) == 7
    for tensor in shapes:
        sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        assert 11 not in sizes
    real = {TensorProto.FLOAT, TensorProto.DOUBLE}
    assert {t.elem_type for t in shapes} == {*real, TensorProto.INT64}


def test_equal_plans_with_heads_hash_alike_and_others_do_not():
    plans = [
        Plan(head=Entropy("logits")),
        Plan(head=Entropy("logits", "last")),
        Plan(head=TargetLogProbs("logits")),
        Plan(head=TopLogits("logits", 2)),
        Plan(head=TopLogits("logits", 3)),
        Plan(head=(TopLogits("logits", 3), Entropy("logits"))),
    ]
    assert len({plan.hash for plan in plans}) == len(plans)
    assert Plan(head=(Entropy("logits"),)) == plans[0]
    assert Plan(head=(Entropy("logits"),)).hash == plans[0].hash
    assert Plan(taps=(Tap("x"),), head=()) == Plan(taps=(Tap("x"),))
