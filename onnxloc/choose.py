"""Choose units by their t-values, on one flat array of all sites laid end to end."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError

__all__ = [
    "Selection",
    "count_for_percent",
    "generator",
    "range_units",
    "significant_units",
    "top_units",
]

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How units are chosen from their t-values.

    Attributes
    ----------
    how : {"top", "units", "fdr", "fwe"}
        The `value` percent of units with the largest t (rounded down, as the paper's code does);
        that many units; every unit with t > 0 and q <= `value`; or every unit with t > 0 and a
        family-wise p <= `value`, which needs permutations.
    value : float
        A percentage, a count, a false discovery rate, or a family-wise error rate.
    within : (float, float) or None
        Draw the units at random from those between two percentiles of t, instead of the top. With
        (0, 0) the least selective units are taken.
    """

    how: Literal["top", "units", "fdr", "fwe"] = "top"
    value: float = 1.0
    within: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.how == "top" and not 0 < self.value <= 100:
            raise OptionError(f"a percentage of units lies in (0, 100], not at {self.value:g}")
        if self.how == "units" and (self.value < 1 or self.value != int(self.value)):
            raise OptionError(f"a number of units is a whole number above 0, not {self.value:g}")
        if self.how == "fdr" and not 0 < self.value < 1:
            raise OptionError(f"a false discovery rate lies between 0 and 1, not at {self.value:g}")
        if self.how == "fwe" and not 0 < self.value < 1:
            raise OptionError(
                f"a family-wise error rate lies between 0 and 1, not at {self.value:g}"
            )
        if self.how in ("fdr", "fwe") and self.within is not None:
            raise OptionError("a percentile range needs a percentage or a number of units")
        if self.within is not None and not 0 <= self.within[0] <= self.within[1] <= 100:
            raise OptionError(
                "a range of percentiles runs upwards within 0-100, unlike {:g}-{:g}".format(
                    *self.within
                )
            )

    def count(self, n_units: int) -> int | None:
        """How many of `n_units` are chosen, or None where that depends on their t.

        Raises
        ------
        OptionError
            If that is none, or more than there are.
        """
        if self.how in ("fdr", "fwe"):
            return None
        count = count_for_percent(n_units, self.value) if self.how == "top" else int(self.value)
        if count > n_units:
            raise OptionError(f"cannot choose {count} units: the sites have only {n_units}")
        return count

    def choose(
        self,
        t: NDArray[np.float64],
        q: NDArray[np.float64],
        seed: int,
        p_fwe: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Flat indices of the chosen units, sorted.

        Parameters
        ----------
        t, q : array, shape [units]
            Statistics and adjusted p-values.
        seed : int
            Of a random draw.
        p_fwe : array, shape [units], optional
            Family-wise p-values.

        Raises
        ------
        OptionError
            If fewer units than asked for have a t, or family-wise p-values are needed and absent.
        """
        count = self.count(t.size)
        if self.how == "fwe":
            if p_fwe is None:
                raise OptionError("choosing by family-wise p needs permutations (--permutations)")
            return significant_units(t, p_fwe, self.value)
        if count is None:
            return significant_units(t, q, self.value)
        if self.within is not None:
            return range_units(t, *self.within, count, seed)
        return top_units(t, count)

    def describe(self, seed: int) -> dict[str, str | int | float]:
        """What a run records of it; `seed` is that of a random draw."""
        how: dict[str, str | int | float] = {"how": self.how, "value": self.value}
        if self.within is not None:
            how["within"] = "{:g}-{:g}".format(*self.within)
            how["seed"] = seed
        return how


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
