"""Heads, cuts and shared beginnings on the real model."""

import numpy as np
import pytest
from helpers.torch_reference import forward
from scipy.special import log_softmax, logsumexp

from onnxloc.graph.plan import Edit, Entropy, Plan, TargetLogProbs, TopLogits
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.cut import Cut
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.scoring import Prefix, Scorer
from onnxloc.tasks import Item, Task

pytestmark = pytest.mark.integration

TEXTS = ["The capital of France is", "The cat sat on the mat and looked", "The cat sat on the map"]
K = 20


@pytest.fixture(scope="module")
def batch(model):
    return Batch.of(model.encode_scored(TEXTS), range(len(TEXTS)), pad=model.pad)


@pytest.mark.parametrize("at", ["all", "last"])
def test_heads_are_those_of_torchs_logits(model, torch_model, batch, figure, at):
    logits = model.logits.tensor
    plan = Plan(head=(TopLogits(logits, K, at), Entropy(logits, at)))
    found = model.compile(plan, RuntimeOptions()).read(batch)
    worst = {"log-probability": 0.0, "entropy": 0.0, "variance": 0.0}
    for row, length in enumerate(batch.lengths.tolist()):
        _, logits_there = forward(
            torch_model, batch.ids[row : row + 1, :length], np.ones((1, length), np.bool_)
        )
        theirs = logits_there[0].astype(np.float64)[-1 if at == "last" else 0 :]
        top, spread = found.top[row], found.entropy[row]
        logprobs = log_softmax(theirs, axis=-1)
        chosen = np.take_along_axis(logprobs, top.ids, -1)
        # The two may order near ties otherwise: it is the values that must agree.
        np.testing.assert_allclose(chosen, np.sort(logprobs, -1)[:, : -K - 1 : -1], atol=1e-3)
        gaps = {
            "log-probability": np.abs(top.logprobs - chosen),
            "entropy": np.abs(spread + (np.exp(logprobs) * logprobs).sum(-1)),
            "variance": np.abs(top.variance / theirs.var(-1) - 1),
        }
        np.testing.assert_allclose(top.log_sum_exp, logsumexp(theirs, axis=-1), atol=1e-3)
        np.testing.assert_allclose(top.mean, theirs.mean(-1), atol=1e-3)
        worst = {name: max(worst[name], float(gap.max())) for name, gap in gaps.items()}
    for name, gap in worst.items():
        figure(f"top {K} and entropy at {at}, torch: largest difference of a {name}", gap)
        assert gap < 1e-3


def test_a_cut_gives_what_the_whole_model_gives(model, batch):
    plan = Plan(head=(TargetLogProbs(model.logits.tensor), Entropy(model.logits.tensor, "last")))
    whole = model.compile(plan, RuntimeOptions()).read(batch)
    cut = Cut.at(model, "block.15.out", plan)
    found = cut.suffix(batch, cut.prefix(batch))
    for a, b in zip(
        (*found.target_logprobs, *found.entropy),
        (*whole.target_logprobs, *whole.entropy),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_scoring_each_beginning_once_changes_no_score(model, figure):
    site = model.sites.find("block.25.out")
    masks = np.random.default_rng(0).random((3, 1, site.units)) < 0.02
    masks[0] = False
    zero = np.zeros((1, 1, site.units), np.float32)
    sequences = model.encode_scored(TEXTS)
    task = Task("t", "text", tuple(Item(text, "", (text,)) for text in TEXTS), "here")
    prefix = Prefix.of(model, [site], RuntimeOptions())
    assert prefix is not None
    found = []
    for reused in (prefix, None):
        plan = Plan(
            edits=(Edit(site.tensor),),
            head=TargetLogProbs(model.logits.tensor, "given"),
            given=() if reused is None else (reused.tensor,),
        )
        scorer = Scorer(
            model.compile(plan, RuntimeOptions()),
            reused,
            lambda which, _: {site.tensor: (masks[which], zero)},
            len(masks),
            64,
            model.pad,
            shared=True,
        )
        found.append(scorer.score(task, sequences, Progress("", 1, show=False))[0])
    everywhere = model.compile(
        Plan(edits=(Edit(site.tensor),), head=TargetLogProbs(model.logits.tensor)), RuntimeOptions()
    )
    batch = Batch.of(sequences, range(len(sequences)), pad=model.pad)
    plain = np.array(
        [
            [
                row.mean()
                for row in everywhere.target_logprobs(batch, {site.tensor: (m[None], zero)})
            ]
            for m in masks
        ]
    )
    gap = max(np.abs(scores - plain).max() for scores in found)
    figure("late ablation, mean log-probabilities: largest difference from the plain way", gap)
    assert gap < 1e-5
    assert np.abs(plain[1:] - plain[0]).max() > 1e-2
