"""Choose units by their t-values, on one flat array of all sites laid end to end."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError

__all__ = ["count_for_percent", "generator", "range_units", "significant_units", "top_units"]

Indices = NDArray[np.int64]


def count_for_percent(n_units: int, percent: float) -> int:
    """Count the units that make up `percent` of `n_units`, rounded down.

    Exact in the decimal digits of `percent`, so that 29 % of 100 is 29 and not 28.

    Raises
    ------
    OptionError
        If `percent` lies outside (0, 100], or comes to less than one unit.
    """
    if not 0 < percent <= 100:
        raise OptionError(f"a percentage must be above 0 and at most 100, not {percent}")
    count = math.floor(Fraction(repr(float(percent))) * n_units / 100)
    if count == 0:
        raise OptionError(f"{percent} % of {n_units} units is less than one; give a larger share")
    return count


def top_units(t: ArrayLike, k: int) -> Indices:
    """Sorted indices of the `k` largest values; ties go to the lower index, NaN to none.

    Raises
    ------
    OptionError
        If `k` is below 1, or fewer than `k` values are numbers.
    """
    values = np.asarray(t, dtype=np.float64).ravel()
    _check_count(k, int(np.count_nonzero(~np.isnan(values))), "have a t-value")
    # Sorting puts NaN last: negated, the k-th place holds the k-th largest number.
    values = -values
    limit = np.partition(values, k - 1)[k - 1]
    chosen = values < limit
    ties = np.flatnonzero(values == limit)
    chosen[ties[: k - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


def significant_units(t: ArrayLike, q: ArrayLike, alpha: float) -> Indices:
    """Sorted indices where `q` <= `alpha` and `t` > 0; there may be none.

    Raises
    ------
    OptionError
        If `alpha` lies outside (0, 1], or the shapes differ.
    """
    if not 0 < alpha <= 1:
        raise OptionError(f"a false discovery rate must be above 0 and at most 1, not {alpha}")
    ts, qs = np.asarray(t, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if ts.shape != qs.shape:
        raise OptionError(f"{ts.size} t-values do not go with {qs.size} q-values")
    return np.flatnonzero((qs <= alpha) & (ts > 0))


def range_units(t: ArrayLike, low: float, high: float, k: int, seed: int) -> Indices:
    """Sorted indices of `k` units drawn at random from a percentile range of `t`.

    A range of 100-100 means the `k` units with the largest t, one of 0-0 those with the smallest.

    Raises
    ------
    OptionError
        If not 0 <= low <= high <= 100, or the range holds fewer than `k` units.
    """
    if not 0 <= low <= high <= 100:
        raise OptionError(f"a range must run upwards within 0-100, unlike {low}-{high}")
    values = np.asarray(t, dtype=np.float64).ravel()
    if low == high == 100:
        return top_units(values, k)
    if low == high == 0:
        return top_units(-values, k)
    if np.isnan(values).all():
        raise OptionError("no unit has a t-value")
    bottom, top = np.nanpercentile(values, [low, high])
    inside = np.flatnonzero((values >= bottom) & (values <= top))
    _check_count(k, inside.size, f"lie in the range {low}-{high}")
    drawn = generator(seed).choice(inside, k, replace=False, shuffle=False)
    return np.sort(drawn)


def _check_count(k: int, available: int, what: str) -> None:
    if k < 1:
        raise OptionError(f"the number of units must be at least 1, not {k}")
    if k > available:
        raise OptionError(f"cannot choose {k} units: only {available} {what}")


def generator(seed: int, *key: int) -> np.random.Generator:
    """Make the random numbers of a seed; each `key` gives an independent stream.

    Raises
    ------
    OptionError
        If the seed is negative.
    """
    if seed < 0:
        raise OptionError(f"a seed must not be negative, as {seed} is")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
