"""How alike the networks of two halves of the stimuli are, and how alike by chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import top_units
from onnxloc.errors import OptionError
from onnxloc.stats.halves import SubsetStatistics
from onnxloc.stats.resample import Interval

__all__ = [
    "Agreement",
    "agreement",
    "chance_dice",
    "dice",
    "percentiles",
    "spearman",
    "spearman_brown",
]

Floats = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One split: two halves, each with the `k` units of its own largest t.

    Attributes
    ----------
    dice : float
        Overlap of the two networks.
    correlation : float
        Spearman's correlation of t over all units that have one in both halves.
    d_chosen, d_held_out : float
        Mean Cohen's d of a half's units in that half, and in the other one; the mean of both
        directions.
    difference_chosen, difference_held_out : float
        The same of the difference of the means.
    """

    dice: float
    correlation: float
    d_chosen: float
    d_held_out: float
    difference_chosen: float
    difference_held_out: float


def agreement(first: SubsetStatistics, second: SubsetStatistics, row: int, k: int) -> Agreement:
    """Compare the two halves of one split.

    A unit that is chosen in one half and has no effect size in the other is left out of the means.

    Parameters
    ----------
    first, second : SubsetStatistics
        All units, in each half of each split.
    row : int
        Which split.
    k : int
        Number of units of a network.

    Raises
    ------
    OptionError
        If fewer than `k` units have a t in a half.
    """
    halves = (first, second)
    chosen = [top_units(half.t[row], k) for half in halves]
    effects = [
        [
            [_mean(getattr(where, name)[row, own]) for where in order]
            for own, order in zip(chosen, (halves, halves[::-1]), strict=True)
        ]
        for name in ("d", "difference")
    ]
    (d_own, d_other), (difference_own, difference_other) = (
        map(_mean, zip(*pairs, strict=True)) for pairs in effects
    )
    return Agreement(
        dice=dice(*chosen),
        correlation=spearman(first.t[row], second.t[row]),
        d_chosen=d_own,
        d_held_out=d_other,
        difference_chosen=difference_own,
        difference_held_out=difference_other,
    )


def _mean(values: object) -> float:
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")


def dice(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Overlap of two sets of unit indices: 2|A and B| / (|A| + |B|); 1 if both are empty."""
    total = a.size + b.size
    shared = np.intersect1d(a, b, assume_unique=True).size
    return 2 * shared / total if total else 1.0


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of the units that are numbers in both.

    Returns
    -------
    float
        NaN if there are fewer than two such units, or all are equal in one.
    """
    from scipy.stats import rankdata

    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 2:
        return float("nan")
    x, y = (rankdata(values[both]) - (both.sum() + 1) / 2 for values in (a, b))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def spearman_brown(r: float) -> float:
    """Reliability of the whole from the correlation of its halves: 2r / (1 + r).

    C. Spearman, W. Brown, *British Journal of Psychology* 3, 1910.

    Returns
    -------
    float
        NaN for r <= -1, where it has no value.
    """
    return 2 * r / (1 + r) if r > -1 else float("nan")


def chance_dice(n_units: int, k: int, level: float = LEVEL) -> Interval:
    """Dice of two sets of `k` of `n_units` units, drawn at random without regard to one another.

    The overlap has a hypergeometric distribution with mean k²/n, so that the expected Dice is k/n.

    Raises
    ------
    OptionError
        If not 1 <= `k` <= `n_units`, or the level does not lie between 0 and 1.
    """
    from scipy.stats import hypergeom

    if not 1 <= k <= n_units:
        raise OptionError(f"cannot choose {k} of {n_units} units")
    if not 0 < level < 1:
        raise OptionError(f"the level of an interval must lie between 0 and 1, not {level}")
    low, high = hypergeom(n_units, k, k).ppf([(1 - level) / 2, (1 + level) / 2]) / k
    return Interval(k / n_units, float(low), float(high), level)


def percentiles(values: Floats, level: float = LEVEL) -> Interval:
    """Median of the splits, and the interval that holds the middle `level` of them.

    It says how much splits scatter. It is no confidence interval: splits share their stimuli.

    Returns
    -------
    Interval
        Of the values that are numbers; NaN if there are none.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return Interval(np.nan, np.nan, np.nan, level)
    low, middle, high = np.quantile(known, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(float(middle), float(low), float(high), level)
