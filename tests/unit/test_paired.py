"""Paired statistics against their formulas in scipy, and what an ablation's summary holds."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from onnxloc.errors import OptionError
from onnxloc.stats.paired_items import mcnemar, perplexity_ratio
from onnxloc.studies.effects import Condition, TaskScores, summarise
from onnxloc.tasks import Item, Task, text_task

pytestmark = pytest.mark.unit


def test_mcnemar_is_the_exact_binomial_test() -> None:
    a = np.array([1] * 12 + [0] * 3 + [1] * 20 + [0] * 5)
    b = np.array([0] * 12 + [1] * 3 + [1] * 20 + [0] * 5)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (12, 3)
    # Twice the tail of Binomial(15, 1/2), which is symmetric.
    assert found.p == pytest.approx(2 * sum(comb(15, k) for k in range(4)) / 2**15, rel=1e-12)
    assert found.p == pytest.approx(binomtest(3, 15).pvalue, rel=1e-12)
    assert mcnemar(b, a).p == found.p
    assert mcnemar(a, a).p == 1.0


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([0.5], [1]), ([np.nan], [0])])
def test_mcnemar_takes_zeros_and_ones(a: list[float], b: list[float]) -> None:
    with pytest.raises(OptionError, match="McNemar"):
        mcnemar(a, b)


def test_mcnemar_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((2000, 2, 60)) < 0.7
    p = np.array([mcnemar(a, b).p for a, b in right.astype(float)])
    # The exact test is conservative; it must not reject too often.
    assert 0.01 < (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_the_ratio_of_perplexities_and_its_interval() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(3, 30, 80)
    a, b = -4 + rng.normal(size=80), -3 + rng.normal(size=80)

    def ratio(a: np.ndarray, b: np.ndarray, n: np.ndarray) -> float:
        return float(np.exp(-(n * a).sum() / n.sum()) / np.exp(-(n * b).sum() / n.sum()))

    found = perplexity_ratio(a, b, counts, seed=0)
    assert found.estimate == pytest.approx(ratio(a, b, counts), rel=1e-12)
    reference = bootstrap(
        (a, b, counts), ratio, paired=True, vectorized=False, method="percentile",
        n_resamples=4000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert np.log(found.low) == pytest.approx(np.log(reference.low), abs=0.04)
    assert np.log(found.high) == pytest.approx(np.log(reference.high), abs=0.04)
    assert found == perplexity_ratio(a, b, counts, seed=0)
    same = perplexity_ratio(a, a, counts, seed=0)
    assert (same.low, same.estimate, same.high) == (1.0, 1.0, 1.0)
    assert np.isnan(perplexity_ratio([np.nan], [0.0], [1], seed=0).estimate)
    with pytest.raises(OptionError, match="one count"):
        perplexity_ratio(a, b, counts[1:], seed=0)


CONDITIONS = (
    Condition("intact", 0.0, "intact"),
    Condition("network", 1.0, "network"),
    Condition("control-00", 1.0, "site"),
    Condition("control-01", 1.0, "site"),
)


def test_each_condition_is_compared_with_intact_and_the_network_with_each_control() -> None:
    items = tuple(
        Item(f"{i}", f"paradigm {i % 4}", ("Good.", "Bad."), ("a", "b")[i % 2], "xyx"[i % 3])
        for i in range(12)
    )
    scores = np.ones((4, 12))
    scores[1, :6] = 0
    scores[2, 0] = 0
    task = Task("t", "pairs", items, "here", notes=("2 of 67",))
    result = TaskScores(task, CONDITIONS, scores, np.full(12, 3))
    (entry,) = summarise(result, {1.0: 5}, seed=0)
    named = {(one["of"], one["against"]): one for one in entry["comparisons"]}
    assert list(named) == [
        ("network", "intact"),
        ("control-00", "intact"),
        ("control-01", "intact"),
        ("network", "control-00"),
        ("network", "control-01"),
    ]
    assert entry["n_comparisons"] == 5
    against = named["network", "control-00"]
    assert against["mcnemar"] == {
        "only_of": 0,
        "only_against": 5,
        "p": pytest.approx(2 / 2**5),
    }
    assert against["difference"] == pytest.approx(-5 / 12)
    assert against["low"] < against["difference"] < against["high"]
    assert against["perplexity_ratio"] is None
    assert named["control-01", "intact"]["mcnemar"]["p"] == 1.0
    assert [(g["group"], g["n_items"]) for g in entry["fields"]] == [("a", 6), ("b", 6)]
    assert {g["group"]: g["n_items"] for g in entry["phenomena"]} == {"x": 8, "y": 4}
    assert entry["notes"] == ["2 of 67"]


def test_texts_are_compared_by_perplexity() -> None:
    task = text_task("text", ["One.", "Two.", "Three."], "here")
    scores = np.array([[-1.0, -2, -3], [-2, -3, -4], [-1, -2, -3], [-1, -2, -3.5]])
    counts = np.array([2, 2, 4])
    (entry,) = summarise(TaskScores(task, CONDITIONS, scores, counts), {1.0: 5}, seed=0)
    first = entry["comparisons"][0]
    assert first["mcnemar"] is None
    assert first["perplexity_ratio"]["ratio"] == pytest.approx(np.e)
    assert first["perplexity_ratio"]["low"] == pytest.approx(np.e)
