"""Sessions: feeds, batches in parts, failures."""

import types

import numpy as np
import onnxruntime
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.errors import ModelError, OptionError, RuntimeMissingError
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs
from onnxloc.runtime import session as session_module
from onnxloc.runtime.batches import Batch, batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.parts import parts
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

SEQUENCES = [[1, 2, 3, 4, 5], [6, 7], [8], [9, 10, 1, 2], [3, 4]]
TAPS = tuple(
    Tap(name, pool) for name in ("b0.heads", "b1.out") for pool in ("last", "mean", "none")
)
PLAN = Plan(taps=TAPS, edits=(Edit("b0.out"),), head=TargetLogProbs("logits"), outputs=("logits",))


@pytest.fixture(scope="module", params=[True, False], ids=["with mask", "without mask"])
def session(request, tmp_path_factory):
    path = tiny.write(tmp_path_factory.mktemp("decoder"), tiny.decoder(mask=request.param))
    return Model.open(path).compile(PLAN, RuntimeOptions())


def edit(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {"b0.out": (rng.random((rows, 1, 8)) < 0.5, rng.standard_normal((1, 1, 8)))}


def test_a_batch_is_its_rows_run_singly_edited_or_not(session):
    (batch,) = batches(SEQUENCES, max_rows=8)
    masks, new = edit(5)["b0.out"]
    for edits in (None, {"b0.out": (masks, new)}):
        taps, scored = session.taps(batch, edits), session.target_logprobs(batch, edits)
        for i, row in enumerate(batch.rows):
            alone = Batch.of(SEQUENCES, [row], pad=0)
            own = edits and {"b0.out": (masks[i : i + 1], new)}
            for tap, value in session.taps(alone, own).items():
                got = taps[tap][i, : batch.lengths[i]] if tap.pool == "none" else taps[tap][i]
                np.testing.assert_allclose(got, value[0], atol=1e-5)
            np.testing.assert_allclose(scored[i], session.target_logprobs(alone, own)[0], atol=1e-5)
            assert scored[i].shape == (batch.lengths[i] - 1,)


def test_more_padding_changes_nothing(session):
    batch = Batch.of(SEQUENCES, [1, 4], pad=0)
    wide = batch.take([0, 1], 9, pad=5)
    taps, padded = session.taps(batch), session.taps(wide)
    for tap in TAPS:
        if tap.pool == "none":
            assert padded[tap].shape[:2] == (2, 9)
        np.testing.assert_allclose(padded[tap][:, :2], taps[tap][:, :2], atol=1e-5)
    logits = session.outputs(wide)["logits"]
    np.testing.assert_allclose(logits[:, :2], session.outputs(batch)["logits"], atol=1e-5)


def test_what_the_caller_feeds_is_never_changed(session, monkeypatch):
    (batch,) = batches(SEQUENCES, max_rows=8)
    edits = edit(5)
    edits["b0.out"] = tuple(
        np.asarray(v, t) for v, t in zip(edits["b0.out"], (bool, "f4"), strict=True)
    )
    kept = [a.copy() for a in (batch.ids, batch.lengths, batch.mask, *edits["b0.out"])]

    def spoil(real, names, feeds):
        out = real.run(names, feeds)
        for value in feeds.values():
            value[...] = 0
        return out

    monkeypatch.setattr(session_module, "run_session", spoil)
    first = session.taps(batch, edits)
    second = session.taps(batch, edits)
    for tap in TAPS:
        np.testing.assert_array_equal(first[tap], second[tap])
    for before, after in zip(
        kept, (batch.ids, batch.lengths, batch.mask, *edits["b0.out"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_model_without_a_mask_runs_one_length_at_a_time(tmp_path):
    (batch,) = batches(SEQUENCES, max_rows=8)
    for mask, expected in ((True, [(0, 1, 2, 3, 4)]), (False, [(0,), (1,), (2, 3), (4,)])):
        model = Model.open(tiny.write(tmp_path, tiny.decoder(mask=mask)))
        assert [part.rows for part in parts(batch, model.graph.inputs)] == expected


def test_fixed_rows_without_a_mask_keep_each_row_in_its_place(tmp_path):
    tap = Tap("h", "mean")
    free, fixed = (
        Model.open(tiny.write(tmp_path / name, tiny.layouts(dims=dims, mask=mask))).compile(
            Plan(taps=(tap,)), RuntimeOptions()
        )
        for name, dims, mask in (("a", tiny.TEXT_DIMS, True), ("b", (3, "tokens"), False))
    )
    batch = Batch.of([[1, 2], [3, 4, 5], [6, 7, 8]], [0, 1, 2], pad=0)
    np.testing.assert_allclose(fixed.taps(batch)[tap], free.taps(batch)[tap], atol=1e-5)


@pytest.mark.parametrize("dims", [(1, "tokens"), (2, "tokens"), ("batch", 6), (2, 6)])
def test_fixed_sizes_are_met_with_parts_and_padding(tmp_path, dims):
    (batch,) = batches(SEQUENCES, max_rows=8)
    free = Model.open(tiny.write(tmp_path / "a", tiny.layouts()))
    fixed = Model.open(tiny.write(tmp_path / "b", tiny.layouts(dims=dims)))
    taps = tuple(Tap("heads", pool) for pool in ("last", "mean", "none"))
    plan = Plan(taps=taps, edits=(Edit("h"),), outputs=("logits", "classes"))
    one, two = (model.compile(plan, RuntimeOptions()) for model in (free, fixed))
    rng = np.random.default_rng(0)
    edits = {"h": (rng.random((5, 5, 8)) < 0.5, rng.standard_normal((1, 5, 8)))}
    for given in (None, edits):
        a, b = one.taps(batch, given), two.taps(batch, given)
        np.testing.assert_allclose(b[taps[0]], a[taps[0]], atol=1e-5)
        np.testing.assert_allclose(b[taps[1]], a[taps[1]], atol=1e-5)
        real = batch.mask
        np.testing.assert_allclose(b[taps[2]][real], a[taps[2]][real], atol=1e-5)
        assert b[taps[2]].shape == a[taps[2]].shape
        c, d = one.outputs(batch, given), two.outputs(batch, given)
        np.testing.assert_allclose(d["logits"][real], c["logits"][real], atol=1e-5)
        np.testing.assert_allclose(d["classes"], c["classes"], atol=1e-5)


def test_a_text_that_does_not_fit_a_fixed_length_is_refused(tmp_path):
    plan = Plan(taps=(Tap("h"),))
    for mask, message in ((True, "at most 3 tokens, not 5"), (False, "exactly 3 tokens, not 5")):
        proto = tiny.layouts(dims=("batch", 3), mask=mask)
        model = Model.open(tiny.write(tmp_path, proto))
        session = model.compile(plan, RuntimeOptions())
        with pytest.raises(ModelError, match=f"the model takes {message}"):
            session.taps(Batch.of(SEQUENCES, [0], pad=0))


def test_a_failure_while_running_is_one_line(session):
    with pytest.raises(ModelError) as caught:
        session.taps(Batch.of([[1, 2], [99, 1]], [0, 1], pad=0))
    message = str(caught.value)
    assert "onnxruntime failed while running" in message
    assert "(on 2 rows of 2 tokens)" in message
    assert "\n" not in message


def test_what_the_plan_does_not_have_is_refused(tmp_path):
    model = Model.open(tiny.write(tmp_path, tiny.decoder()))
    bare = model.compile(Plan(taps=(Tap("b0.out"),)), RuntimeOptions())
    with pytest.raises(OptionError, match="no head for log-probabilities"):
        bare.target_logprobs(Batch.of(SEQUENCES, [0], pad=0))


def test_a_single_token_has_no_log_probability(session):
    (scored,) = session.target_logprobs(Batch.of(SEQUENCES, [2], pad=0))
    assert scored.shape == (0,)


def test_threads_and_order_reach_onnxruntime(tmp_path, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(content, sess_options, providers, **rest):
        seen.append((sess_options, providers))
        return real(content, sess_options=sess_options, providers=providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    model = Model.open(tiny.write(tmp_path, tiny.plain()))
    session = model.compile(Plan(outputs=("logits",)), RuntimeOptions(threads=3))
    options, providers = seen[-1]
    assert options.intra_op_num_threads == 3
    assert options.execution_order == onnxruntime.ExecutionOrder.PRIORITY_BASED
    assert providers == ["CPUExecutionProvider"]
    assert session.provider == "CPUExecutionProvider"


def test_a_silent_change_of_provider_is_an_error(tmp_path, monkeypatch):
    model = Model.open(tiny.write(tmp_path, tiny.plain()))
    _ = model.sites
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *_, **__: types.SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"]),
    )
    with pytest.raises(RuntimeMissingError, match="could not start CUDAExecutionProvider and fell"):
        model.compile(Plan(outputs=("logits",)), RuntimeOptions(provider="cuda"))
