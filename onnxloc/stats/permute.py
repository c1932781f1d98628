"""Permutation of the conditions: p-values that hold for all units at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import OptionError
from onnxloc.stats.compare import Test, centred_ranks, check_rows

__all__ = ["MAX_PERMUTATIONS", "MaxStatistic"]

Floats = NDArray[np.float64]
# Of a block of permuted conditions, the squares of a test's statistic: [permutations, units].
Statistic = Callable[[Floats], Floats]

MAX_PERMUTATIONS = 100_000
# Permutations and units of one product of matrices: few large products keep threads from waiting.
BLOCK_PERMUTATIONS = 1000
BLOCK_UNITS = 1024
# A permutation can leave a unit with next to no variance within both conditions. Its t would be
# rounding noise; held down to this share of the whole variance, it is large and finite.
FLOOR = 1e-12
# Values beyond this have no finite square, and a unit that holds one has no t.
LARGE = 1e150
# Two ways to compute one t agree to this: a permutation that gives back the data counts as equal.
SLACK = 1e-9


class MaxStatistic:
    """Family-wise p-values by the largest |t| of all units (Westfall & Young, 1993, single step).

    The conditions are permuted over the stimuli, the same way for every unit, so that whatever
    units share is kept; for the paired test the two stimuli of a pair are exchanged at random. Of
    each permutation the largest |t| over all units counts. Units come in chunks, in any order.

    P. H. Westfall & S. S. Young, *Resampling-Based Multiple Testing*, Wiley 1993; T. E. Nichols &
    A. P. Holmes, *Human Brain Mapping* 15, 2002.

    Parameters
    ----------
    is_positive : array of bool, shape [rows]
        Which rows are of the positive condition.
    test : {"welch", "student", "paired", "mannwhitney"}
        As in `compare`.
    n_permutations : int
        From 1 to `MAX_PERMUTATIONS`. The smallest p that can come out is
        1 / (`n_permutations` + 1).
    seed : int
        Equal seeds give equal permutations.

    Raises
    ------
    OptionError
        If an option is out of range, or a condition has fewer than two rows.
    """

    def __init__(
        self, is_positive: NDArray[np.bool_], test: Test, *, n_permutations: int, seed: int
    ) -> None:
        if not 1 <= n_permutations <= MAX_PERMUTATIONS:
            raise OptionError(
                f"the number of permutations lies between 1 and {MAX_PERMUTATIONS:,}, not at "
                f"{n_permutations}"
            )
        check_rows(np.empty((len(is_positive), 0)), is_positive, test)
        n_positive = int(is_positive.sum())
        if min(n_positive, len(is_positive) - n_positive) < 2:
            raise OptionError("a permutation test needs two rows or more in each condition")
        self._is_positive = is_positive.copy()
        self._test = test
        rng = generator(seed)
        if test == "paired":
            # For each pair, whether its two stimuli stay as they are.
            self._drawn = rng.random((n_permutations, n_positive)) < 0.5
        else:
            self._drawn = rng.permuted(np.tile(is_positive, (n_permutations, 1)), axis=1)
        self._largest = np.zeros(n_permutations)

    @property
    def null(self) -> Floats:
        """The largest |t| so far in each permutation, shape [permutations]."""
        return np.sqrt(self._largest)

    def update(self, values: NDArray[np.floating[Any]]) -> None:
        """Take in more units.

        Units that do not vary or hold a NaN have no t under any permutation, and count for none.

        Parameters
        ----------
        values : array, shape [rows, units]
            Any float type; arithmetic is in float64.

        Raises
        ------
        OptionError
            If it has another number of rows.
        """
        check_rows(values, self._is_positive, self._test)
        for left in range(0, values.shape[1], BLOCK_UNITS):
            self._update_block(values[:, left : left + BLOCK_UNITS])

    def _update_block(self, values: NDArray[np.floating[Any]]) -> None:
        # Half precision holds no number so large: compared as float64, none is.
        finite = (np.abs(values) < np.float64(LARGE)).all(axis=0)
        usable = finite & (values != values[:1]).any(axis=0)
        statistic = self._statistic(values[:, usable].astype(np.float64))
        for start in range(0, len(self._drawn), BLOCK_PERMUTATIONS):
            where = slice(start, start + BLOCK_PERMUTATIONS)
            squares = statistic(self._drawn[where].astype(np.float64))
            largest = squares.max(axis=1, initial=0.0)
            np.maximum(self._largest[where], largest, out=self._largest[where])

    def _statistic(self, values: Floats) -> Statistic:
        n, n_p = len(values), int(self._is_positive.sum())
        if self._test == "paired":
            return _paired(values[self._is_positive] - values[~self._is_positive])
        if self._test == "mannwhitney":
            return _mann_whitney(values, n_p)
        # First measured from one of them: a mean far from 0 has not the digits to be subtracted.
        values = values - values[0]
        values = _standard(values - values.mean(axis=0), n)
        return _student(values, n_p) if self._test == "student" else _welch(values, n_p)

    def p(self, t: Floats) -> Floats:
        """Family-wise p-value of each observed t, two-sided: (1 + #{largest >= |t|}) / (1 + P).

        Parameters
        ----------
        t : array, shape [units]
            Of the units that were taken in, from the same test; a NaN gives NaN.
        """
        null = np.sort(self.null)
        with np.errstate(invalid="ignore"):
            below = np.searchsorted(null, np.abs(t) * (1 - SLACK), side="left")
        p = (1.0 + null.size - below) / (1.0 + null.size)
        return np.where(np.isnan(t), np.nan, p)


def _standard(values: Floats, total: int) -> Floats:
    """Scale each unit to a sum of squares of `total`; one that is all zero stays so."""
    # First to at most 1, so that tiny values keep their squares.
    size = np.abs(values).max(axis=0)
    values = values / np.where(size > 0, size, 1.0)
    squares = np.einsum("ij,ij->j", values, values)
    scaled: Floats = values * np.sqrt(total / np.where(squares > 0, squares, 1.0))
    return scaled


def _welch(values: Floats, n_p: int) -> Statistic:
    n = len(values)
    n_c = n - n_p
    values_squared = values * values

    def squares(drawn: Floats) -> Floats:
        # The sums of both conditions add up to 0, and their sums of squares to n.
        sums = drawn @ values
        within = drawn @ values_squared
        sums *= sums
        # (Q - S²/n₁) / (n₁(n₁-1)) + (n - Q - S²/n₂) / (n₂(n₂-1)), term by term.
        first, second = 1 / (n_p * (n_p - 1)), 1 / (n_c * (n_c - 1))
        within *= first - second
        within += n * second
        within -= sums * (first / n_p + second / n_c)
        np.maximum(within, FLOOR * (1 / n_p + 1 / n_c), out=within)
        sums *= (1 / n_p + 1 / n_c) ** 2
        sums /= within
        return sums

    return squares


def _student(values: Floats, n_p: int) -> Statistic:
    n = len(values)
    share = 1 / n_p + 1 / (n - n_p)

    def squares(drawn: Floats) -> Floats:
        sums = drawn @ values
        sums *= sums
        sums *= share
        within = np.maximum(n - sums, FLOOR * n)
        sums *= n - 2
        sums /= within
        return sums

    return squares


def _paired(differences: Floats) -> Statistic:
    n = len(differences)
    values = _standard(differences, n)

    def squares(drawn: Floats) -> Floats:
        sums = (2.0 * drawn - 1.0) @ values
        sums *= sums
        sums /= n
        within = np.maximum(n - sums, FLOOR * n)
        sums *= n - 1
        sums /= within
        return sums

    return squares


def _mann_whitney(values: Floats, n_p: int) -> Statistic:
    n = len(values)
    ranks, rank_squares = centred_ranks(values)
    scale = n_p * (n - n_p) / (n * (n - 1)) * rank_squares

    def squares(drawn: Floats) -> Floats:
        sums = np.abs(drawn @ ranks)
        sums -= 0.5
        np.maximum(sums, 0.0, out=sums)
        sums *= sums
        sums /= scale
        return sums

    return squares
