"""Several groups of items, compared pair by pair: means, intervals, and tests over items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import OptionError
from onnxloc.stats.compare import compare
from onnxloc.stats.multiple import holm
from onnxloc.stats.permute import MaxStatistic

__all__ = ["MIN_ITEMS", "GroupMeans", "PairTest", "group_means", "pair_tests", "permuted_p"]

Floats = NDArray[np.float64]

# Fewer items have no variance to speak of.
MIN_ITEMS = 3
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Means of several measures in several groups of items.

    Attributes
    ----------
    mean, sd, low, high : array, shape [groups, measures]
        Mean, standard deviation (n - 1), and the bootstrap interval of the mean.
    drawn : array, shape [groups, resamples, measures]
        The means of the resamples.
    """

    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    drawn: Floats

    def difference(self, a: int, b: int) -> tuple[Floats, Floats]:
        """Bootstrap interval of the difference of the means of two groups, each [measures]."""
        return _interval(self.drawn[a] - self.drawn[b])


@dataclass(frozen=True, eq=False)
class PairTest:
    """Two groups of items compared; arrays have shape [measures].

    Attributes
    ----------
    a, b : int
        Places of the groups.
    t, df, p, d : array
        Welch's t of a minus b, its degrees of freedom and two-sided p, and Cohen's d.
    p_holm : array
        `p` after Holm, over all pairs of groups of one measure.
    """

    a: int
    b: int
    t: Floats
    df: Floats
    p: Floats
    d: Floats
    p_holm: Floats


def group_means(groups: Sequence[Floats], *, resamples: int, seed: int) -> GroupMeans:
    """Means with percentile bootstrap intervals over items (Efron, 1979), 95 %.

    The items of each group are drawn anew, with replacement, the same draw for every measure.

    Parameters
    ----------
    groups : sequence of array, each [items, measures]
        Items differ between groups. A NaN makes its measure NaN in that group.
    resamples : int
        Number of draws.
    seed : int
        Equal seeds give equal intervals.

    Raises
    ------
    OptionError
        If a group has fewer than three items, or there are no draws.
    """
    if resamples < 1:
        raise OptionError(f"the number of resamples must be at least 1, not {resamples}")
    _check(groups)
    drawn = np.empty((len(groups), resamples, groups[0].shape[1]))
    for place, values in enumerate(groups):
        n = len(values)
        # How often each item is drawn, instead of which: a product of matrices does the rest.
        times = generator(seed, place).multinomial(n, np.full(n, 1 / n), size=resamples)
        # Measured from one item, equal items give an interval of width 0.
        drawn[place] = times @ (values - values[0]) / n + values[0]
    low, high = _interval(drawn)
    return GroupMeans(
        mean=np.stack([values.mean(axis=0) for values in groups]),
        sd=np.stack([values.std(axis=0, ddof=1) for values in groups]),
        low=low,
        high=high,
        drawn=drawn,
    )


def pair_tests(groups: Sequence[Floats]) -> list[PairTest]:
    """Welch's test of every pair of groups, corrected after Holm within each measure.

    Parameters
    ----------
    groups : sequence of array, each [items, measures]
        As in `group_means`.

    Raises
    ------
    OptionError
        If a group has fewer than three items.
    """
    _check(groups)
    pairs = list(combinations(range(len(groups)), 2))
    found = [compare(*_stacked(groups[a], groups[b])) for a, b in pairs]
    p = np.stack([one.p for one in found])
    adjusted = np.stack([holm(column) for column in p.T], axis=1) if p.size else p
    return [
        PairTest(a, b, one.t, one.df, one.p, one.d, own)
        for (a, b), one, own in zip(pairs, found, adjusted, strict=True)
    ]


def permuted_p(groups: Sequence[Floats], *, permutations: int, seed: int) -> Mapping[str, Floats]:
    """P-values of one measure by dealing the items of each pair of groups anew.

    The statistic is Welch's t, so that groups of unequal variance do not give too small a p
    (Janssen, *Statistics & Probability Letters* 36, 1997).

    Parameters
    ----------
    groups : sequence of array, each [items]
        One measure.
    permutations : int
        How often items are dealt.
    seed : int
        Equal seeds give equal p-values.

    Returns
    -------
    mapping
        `p` and `p_holm`, each of shape [pairs], in the order of `pair_tests`.

    Raises
    ------
    OptionError
        If a group has fewer than three items, or the number of permutations is out of range.
    """
    columns = [values[:, None] for values in groups]
    _check(columns)
    p = np.full(len(groups) * (len(groups) - 1) // 2, np.nan)
    for place, (a, b) in enumerate(combinations(range(len(groups)), 2)):
        values, is_a = _stacked(columns[a], columns[b])
        # Of a single unit, the largest |t| of all units is its own.
        null = MaxStatistic(is_a, "welch", n_permutations=permutations, seed=seed + place)
        null.update(values)
        p[place] = null.p(compare(values, is_a).t)[0]
    return {"p": p, "p_holm": holm(p)}


def _stacked(a: Floats, b: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    return np.concatenate([a, b]), np.arange(len(a) + len(b)) < len(a)


def _interval(drawn: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Percentile interval over the second last axis."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-2)
    return low, high


def _check(groups: Sequence[Floats]) -> None:
    if len(groups) < 2:
        raise OptionError("comparing needs two groups of items or more")
    few = min(len(values) for values in groups)
    if few < MIN_ITEMS:
        raise OptionError(f"a group has {few} items; at least {MIN_ITEMS} are needed")
