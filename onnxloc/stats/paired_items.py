"""Paired comparisons of two conditions over the same items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError
from onnxloc.stats.resample import CHUNK_VALUES, Interval

__all__ = ["McNemar", "mcnemar", "perplexity_ratio"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class McNemar:
    """Items that only one of two conditions gets right, and the exact two-sided p."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test of two conditions over the same items (*Psychometrika* 12, 1947).

    Of the items that exactly one condition gets right, each has it with probability 1/2 if they
    are equally good: the binomial test, two-sided.

    Parameters
    ----------
    a, b : array, shape [items]
        1 where the item is right, else 0.

    Returns
    -------
    McNemar
        With p = 1 where the conditions differ in no item.

    Raises
    ------
    OptionError
        If the shapes differ, or a value is neither 0 nor 1.
    """
    from scipy.stats import binomtest

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not np.isin(np.concatenate([x, y]), (0, 1)).all():
        raise OptionError("McNemar's test takes two lists of one length, of zeros and ones")
    only_a, only_b = int((x > y).sum()), int((y > x).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue))


def perplexity_ratio(
    a: ArrayLike,
    b: ArrayLike,
    token_counts: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval over items of the perplexity of `a` divided by that of `b`.

    Both perplexities of a sample are over the same items. exp(-sum(n s) / sum(n)), with s the mean
    log-probability of an item's n tokens, makes of the ratio one weighted mean of differences.

    Parameters
    ----------
    a, b : array, shape [items]
        Mean log-probability a token of each item, in nats. If one is not finite, the estimate and
        bounds are NaN.
    token_counts : array, shape [items]
        Tokens of each item.
    seed : int
        Equal seeds give equal intervals.
    n_resamples : int
        Number of bootstrap samples.
    level : float
        Coverage aimed at.

    Raises
    ------
    OptionError
        If the shapes differ, a count is below 1, or an option is out of range.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    counts = np.asarray(token_counts, dtype=np.float64)
    if x.ndim != 1 or not x.size or not x.shape == y.shape == counts.shape or counts.min() < 1:
        raise OptionError("a ratio of perplexities needs two scores and one count for each item")
    if n_resamples < 1 or seed < 0 or not 0 < level < 1:
        raise OptionError("resamples are 1 or more, a seed 0 or more, a level between 0 and 1")
    with np.errstate(invalid="ignore"):
        differences = (y - x) * counts
    if not np.isfinite(differences).all():
        return Interval(np.nan, np.nan, np.nan, level)
    rng = np.random.default_rng(seed)
    logs = np.empty(n_resamples)
    step = max(1, CHUNK_VALUES // x.size)
    for start in range(0, n_resamples, step):
        picked = rng.integers(0, x.size, size=(min(step, n_resamples - start), x.size))
        sums = differences[picked].sum(axis=1), counts[picked].sum(axis=1)
        logs[start : start + len(picked)] = sums[0] / sums[1]
    # Far above the largest float a ratio is infinite, which is what there is to say of it.
    with np.errstate(over="ignore"):
        low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2]))
        return Interval(
            float(np.exp(differences.sum() / counts.sum())), float(low), float(high), level
        )
