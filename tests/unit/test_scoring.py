"""Scoring: each distinct beginning once, at the positions that count, and nothing else changes."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.graph.plan import Edit, Plan, TargetLogProbs
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.scoring import Prefix, Scorer, first_scored
from onnxloc.tasks import Item, Task

pytestmark = pytest.mark.unit

TEXTS = [
    [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 4, 7], [1, 8], [1, 2, 3, 6], [1, 2, 3, 4, 5, 9, 10],
]  # fmt: skip
TASK = Task("t", "text", tuple(Item(str(i), "", ("x",)) for i in range(len(TEXTS))), "here")


@pytest.fixture(scope="module", params=[True, False], ids=["with mask", "without mask"])
def model(request, tmp_path_factory):
    proto = tiny.decoder(blocks=3, mask=request.param)
    return Model.open(tiny.write(tmp_path_factory.mktemp("m"), proto))


def conditions(n=3):
    rng = np.random.default_rng(0)
    masks = rng.random((n, 1, 8)) < 0.3
    masks[0] = False
    return masks


def logprobs_by_hand(model, masks):
    """For each condition, each text run alone with all its logits."""
    plan = Plan(edits=(Edit("b1.out"),), head=TargetLogProbs("logits"))
    session = model.compile(plan, RuntimeOptions())
    zero = np.zeros((1, 1, 8), np.float32)
    return [
        [
            session.target_logprobs(Batch.of([text], [0], pad=0), {"b1.out": (mask[None], zero)})[0]
            for text in TEXTS
        ]
        for mask in masks
    ]


class Counting:
    """A session that counts the positions that are scored."""

    def __init__(self, session):
        self.session = session
        self.positions = 0
        self.rows = 0

    def target_logprobs(self, batch, edits, given, at):
        self.positions += sum(map(len, at))
        self.rows += len(at)
        return self.session.target_logprobs(batch, edits, given, at)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_those_of_texts_run_alone(model, shared, reused, batch_size):
    masks = conditions()
    prefix = Prefix.of(model, [model.sites.find("b1.out")], RuntimeOptions()) if reused else None
    assert (prefix is not None) == reused
    plan = Plan(
        edits=(Edit("b1.out"),),
        head=TargetLogProbs("logits", "given"),
        given=("b1.out",) if reused else (),
    )
    session = Counting(model.compile(plan, RuntimeOptions()))
    zero = np.zeros((1, 1, 8), np.float32)
    scorer = Scorer(
        session, prefix, lambda which, _: {"b1.out": (masks[which], zero)}, 3, batch_size, 0, shared
    )
    scores, counts = scorer.score(TASK, TEXTS, Progress("", 1, show=False))
    expected = [[row.mean() for row in rows] for rows in logprobs_by_hand(model, masks)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_array_equal(counts, [4, 3, 4, 1, 3, 6])
    assert np.abs(scores[1:] - scores[0]).max() > 1e-3
    # 2 3 4 5, 6, 7, 8 and 9 10 are left of all texts; one of them has nothing of its own.
    assert session.positions == 3 * (9 if shared else 21)
    assert session.rows == 3 * (5 if shared else 6)


@given(
    st.lists(
        st.lists(st.integers(0, 2), min_size=1, max_size=6).map(lambda x: [9, *x]),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_scored_elsewhere_has_the_same_tokens_before_it(texts):
    source = first_scored(texts)
    behind = [tuple(text[: i + 1]) for text in texts for i in range(1, len(text))]
    assert len(source) == len(behind)
    for place, origin in enumerate(source):
        assert behind[origin] == behind[place]
        assert source[origin] == origin
    assert len(set(source.tolist())) == len(set(behind))


def test_texts_of_a_prefix_token_alone_share_nothing():
    assert first_scored([[1], [1], [1, 2]]).tolist() == [0]
