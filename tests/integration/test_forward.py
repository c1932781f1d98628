"""The exported model computes what the same weights compute in torch."""

import copy

import numpy as np
import pytest
from helpers.torch_reference import forward, target_logprobs

from onnxloc.graph.plan import Plan, Tap, TargetLogProbs
from onnxloc.runtime.batches import Batch, batches
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.tasks import perplexity

pytestmark = pytest.mark.integration

TEXTS = (
    "The cat sat on the mat.",
    "Numbers such as 3, 14 and 1592 are split into digits.",
    "No",
    "A long sentence, with several clauses and some punctuation, which winds on and on until "
    "nobody who reads it still knows how it began, and then stops; but the model does, of course.",
    "Größe, naïveté and 東京 are not ASCII.",
    "It rained all day, so the children who lived next door played chess in the kitchen.",
)


def filled(sequences, repeats):
    return Batch.of(sequences * repeats, range(len(sequences) * repeats), pad=7)


@pytest.fixture(scope="module")
def sequences(model):
    return model.encode(list(TEXTS), bos=False)


@pytest.fixture(scope="module")
def whole(model):
    """A session that gives every block's output at every token."""
    sites = model.sites.match(["block.*.out"])
    plan = Plan(taps=tuple(Tap(site.tensor, "none") for site in sites), outputs=("logits",))
    return model.compile(plan, RuntimeOptions())


def block_outputs(session, batch):
    taps = session.taps(batch)
    return np.stack([taps[tap] for tap in session.plan.taps])


def test_the_model_has_thirty_blocks(model):
    sites = model.sites.match(["block.*.out"])
    assert [site.block for site in sites] == list(range(30))
    assert {site.units for site in sites} == {576}
    assert model.blocks == 30


@pytest.fixture(scope="module")
def precise_torch_model(torch_model):
    """The same with matrix products in float64, so that torch's own rounding is not in the way."""
    return copy.deepcopy(torch_model).double()


@pytest.mark.parametrize(
    ("rows", "repeats"),
    [([0], 1), ([2], 1), ([3], 1), ([0, 1, 2, 3, 4, 5], 1), ([5, 2, 0], 5)],
    ids=["one row", "one token", "one long row", "mixed lengths", "many rows"],
)
def test_block_outputs_and_logits_are_those_of_torch(
    rows, repeats, whole, sequences, torch_model, precise_torch_model, figure
):
    batch = filled([sequences[row] for row in rows], repeats)
    ours, logits = block_outputs(whole, batch), whole.outputs(batch)["logits"]
    precise, precise_logits = forward(precise_torch_model, batch.ids, batch.mask)
    single, _ = forward(torch_model, batch.ids, batch.mask)
    assert ours.shape == precise.shape == (30, *batch.ids.shape, 576)
    shape = "x".join(map(str, batch.ids.shape))
    later = batch.mask.copy()
    later[:, 0] = False
    # The first token of a text carries values of up to 24,000, where float32 itself has steps of
    # 0.002 and torch in float32 is 0.02 away from torch in float64.
    first = np.abs(ours - precise)[:, :, 0].max() / np.abs(precise[:, :, 0]).max()
    figure(f"block outputs, {shape} tokens: first token, error / largest value", first)
    assert first <= 1e-5
    if later.any():
        worst = np.abs(ours - precise)[:, later].max()
        figure(f"block outputs, {shape} tokens: later tokens, max abs error", worst)
        figure("  the same against torch in float32", np.abs(ours - single)[:, later].max())
        figure("  torch in float32 has", np.abs(single - precise)[:, later].max())
        assert worst <= 2e-3
    error = np.abs(logits - precise_logits)[batch.mask].max()
    relative = error / np.abs(precise_logits[batch.mask]).max()
    figure(f"logits, {shape} tokens: max error / largest logit", relative)
    assert relative <= 1e-4
    assert (logits.argmax(-1) == precise_logits.argmax(-1))[batch.mask].all()


def test_a_batch_is_its_rows_run_singly(whole, sequences, figure):
    batch = filled(sequences, 1)
    together, logits = block_outputs(whole, batch), whole.outputs(batch)["logits"]
    worst = worst_logits = 0.0
    for row, sequence in enumerate(sequences):
        alone = filled([sequence], 1)
        rest = (row, slice(len(sequence)))
        difference = block_outputs(whole, alone)[:, 0] - together[:, *rest]
        worst = max(worst, np.abs(difference).max())
        difference = whole.outputs(alone)["logits"][0] - logits[rest]
        worst_logits = max(worst_logits, np.abs(difference).max())
    figure("block outputs, batch against single rows, max abs difference", worst)
    figure("logits, batch against single rows, max abs difference", worst_logits)
    assert worst <= 2e-3
    assert worst_logits <= 1e-3


def test_padding_does_not_matter(model, sequences):
    sites = model.sites.match(["block.*.out"])
    taps = tuple(Tap(site.tensor, pool) for site in sites[::7] for pool in ("last", "mean", "max"))
    session = model.compile(Plan(taps=taps), RuntimeOptions())
    rows = range(len(sequences))
    low, high = (session.taps(Batch.of(sequences, rows, pad=pad)) for pad in (0, 49151))
    for tap in taps:
        assert np.array_equal(low[tap], high[tap])


def test_pooling_in_the_graph_is_pooling_in_numpy(model, whole, sequences):
    sites = model.sites.match(["block.*.out"])
    batch = filled(sequences, 1)
    every = block_outputs(whole, batch)
    pools = {
        "last": lambda x: x[-1],
        "mean": lambda x: x.mean(axis=0),
        "sum": lambda x: x.sum(axis=0),
        "max": lambda x: x.max(axis=0),
    }
    for pool, reduce in pools.items():
        plan = Plan(taps=tuple(Tap(site.tensor, pool) for site in sites))
        ours = block_outputs(model.compile(plan, RuntimeOptions()), batch)
        for block, row in np.ndindex(ours.shape[:2]):
            real = every[block, row, : batch.lengths[row]].astype(np.float64)
            expected = reduce(real)
            np.testing.assert_allclose(ours[block, row], expected, rtol=1e-4, atol=2e-3)


def test_greedy_continuation(model, whole):
    (ids,) = model.encode(["The capital of France is"], bos=model.bundle.info.add_bos)
    start = len(ids)
    for _ in range(4):
        logits = whole.outputs(filled([ids], 1))["logits"]
        ids = [*ids, int(logits[0, -1].argmax())]
    assert model.bundle.tokenizer.decode(ids[start:]).startswith(" Paris")


def test_target_logprobs_and_perplexity_are_those_of_torch(model, torch_model, figure):
    sequences = model.encode_scored(list(TEXTS))
    session = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), RuntimeOptions())
    ours = {}
    for batch in batches(sequences, max_rows=4, pad=model.pad):
        ours.update(zip(batch.rows.tolist(), session.target_logprobs(batch), strict=True))
    theirs = {row: target_logprobs(torch_model, one) for row, one in enumerate(sequences)}
    assert {row: len(x) for row, x in ours.items()} == {row: len(x) for row, x in theirs.items()}
    worst = max(np.abs(ours[row] - theirs[row]).max() for row in ours)
    figure("target log-probabilities, max abs difference from torch in float64", worst)
    assert worst <= 2e-3
    means, counts = (np.array([each(ours[row]) for row in sorted(ours)]) for each in (np.mean, len))
    expected = np.exp(-np.concatenate(list(theirs.values())).mean())
    assert perplexity(means, counts) == pytest.approx(expected, rel=1e-3)


def test_vocabulary_wide_logits_do_not_leave_the_graph(model):
    session = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), RuntimeOptions())
    (output,) = session.instrumented.proto.graph.output
    assert output.name != "logits"
    (found,) = session.target_logprobs(filled([[5, 6, 7]], 1))
    assert found.shape == (2,)
