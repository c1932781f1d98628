"""Two conditions compared in many subsets of the stimuli at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import OptionError

__all__ = ["Halves", "SubsetStatistics", "draw_halves", "subset_statistics"]

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]

# A half of a condition needs two rows for a variance.
MIN_ROWS = 4
BLOCK_UNITS = 1024
# Below this share of the whole variance, a subset's variance is rounding noise.
FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Halves:
    """Random halves of the stimuli; arrays have shape [splits, rows].

    Attributes
    ----------
    is_positive : array of bool
        The conditions: the true ones in every row, or shuffled ones.
    in_first : array of bool
        Which rows are in the first half of each split; the others are in the second.
    """

    is_positive: Rows
    in_first: Rows

    def subsets(self, half: int, splits: slice) -> tuple[Rows, Rows]:
        """Positive and control rows of half 0 or 1 of some of the splits."""
        own = self.in_first[splits] if half == 0 else ~self.in_first[splits]
        positive = self.is_positive[splits]
        return own & positive, own & ~positive


@dataclass(frozen=True, eq=False)
class SubsetStatistics:
    """Statistics of each unit in each subset; arrays have shape [subsets, units].

    Attributes
    ----------
    t : array
        Welch's t; NaN where a unit does not vary in the subset, or has a NaN in any row, of the
        subset or not.
    d : array
        Cohen's d with the pooled standard deviation.
    difference : array
        Mean of the positive rows minus mean of the control rows.
    """

    t: Floats
    d: Floats
    difference: Floats


def draw_halves(
    is_positive: Rows, n_splits: int, seed: int, *, paired: bool = False, shuffled: bool = False
) -> Halves:
    """Draw random halves with half of each condition in each.

    Of an odd number, the first half gets the one fewer.

    Parameters
    ----------
    is_positive : array of bool, shape [rows]
        The conditions.
    n_splits : int
        How many times to draw.
    seed : int
        Equal seeds give equal halves.
    paired : bool
        Keep both stimuli of a pair, the i-th positive and the i-th control row, in one half. Not
        of shuffled conditions, which know no pairs.
    shuffled : bool
        Shuffle the conditions over the stimuli first, anew for each split.

    Raises
    ------
    OptionError
        If a condition has fewer than four rows, there is no split to draw, or pairs are asked for
        where the conditions are not of one size.
    """
    n, n_positive = len(is_positive), int(is_positive.sum())
    if min(n_positive, n - n_positive) < MIN_ROWS:
        raise OptionError(
            f"halves need at least {MIN_ROWS} stimuli in each condition, not {n_positive} and "
            f"{n - n_positive}"
        )
    if n_splits < 1:
        raise OptionError(f"the number of splits must be at least 1, not {n_splits}")
    if paired and 2 * n_positive != n:
        raise OptionError("pairs need conditions of one size")
    # A stream of its own: the true halves do not depend on whether shuffled ones are drawn too.
    rng = generator(seed, int(shuffled))
    labels = np.tile(is_positive, (n_splits, 1))
    if shuffled:
        labels = rng.permuted(labels, axis=1)
    in_first = np.zeros((n_splits, n), dtype=np.bool_)
    for own, first in zip(labels, in_first, strict=True):
        positive, control = np.flatnonzero(own), np.flatnonzero(~own)
        chosen = rng.permutation(positive.size)[: positive.size // 2]
        first[positive[chosen]] = True
        if not paired or shuffled:
            chosen = rng.permutation(control.size)[: control.size // 2]
        first[control[chosen]] = True
    return Halves(labels, in_first)


def subset_statistics(
    values: NDArray[np.floating[Any]], positive: Rows, control: Rows
) -> SubsetStatistics:
    """Compare two conditions in many subsets of the rows, by products of matrices.

    Parameters
    ----------
    values : array, shape [rows, units]
        One row a stimulus; arithmetic is in float64.
    positive, control : array of bool, shape [subsets, rows]
        The rows that are compared in each subset: two or more of each condition.

    Raises
    ------
    OptionError
        If the shapes do not fit, or a subset has fewer than two rows of a condition.
    """
    if positive.shape != control.shape or positive.shape[1:] != values.shape[:1]:
        raise OptionError(f"subsets of shape {positive.shape} do not go with {values.shape}")
    counts = [rows.sum(axis=1)[:, None].astype(np.float64) for rows in (positive, control)]
    if any(count.min(initial=2) < 2 for count in counts):
        raise OptionError("a subset needs two rows or more of each condition")
    n_units = values.shape[1]
    t, d, difference = (np.empty((len(positive), n_units)) for _ in range(3))
    masks = [rows.astype(np.float64) for rows in (positive, control)]
    for left in range(0, n_units, BLOCK_UNITS):
        where = slice(left, left + BLOCK_UNITS)
        block = values[:, where].astype(np.float64)
        t[:, where], d[:, where], difference[:, where] = _block(block, masks, counts)
    return SubsetStatistics(t, d, difference)


def _block(
    values: Floats, masks: list[Floats], counts: list[Floats]
) -> tuple[Floats, Floats, Floats]:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # In units of the whole spread around the whole mean, few digits cancel. First measured from
        # one value: a mean far from 0 has not the digits to be subtracted.
        values = values - values[0]
        values -= values.mean(axis=0)
        spread = np.sqrt(np.einsum("ij,ij->j", values, values) / len(values))
        spread[~(np.isfinite(spread) & (spread > 0))] = np.nan
        # A NaN in a product would reach other units: they are put back at the end.
        values = np.nan_to_num(values / spread, nan=0.0, posinf=0.0, neginf=0.0)
        means, squares = [], []
        for mask, count in zip(masks, counts, strict=True):
            sums = mask @ values
            means.append(sums / count)
            squares.append(np.maximum(mask @ (values * values) - sums * means[-1], 0.0))
        error = sum(
            square / (count * (count - 1)) for square, count in zip(squares, counts, strict=True)
        )
        pooled = (squares[0] + squares[1]) / (counts[0] + counts[1] - 2)
        known = np.isfinite(spread) & (pooled > FLOOR)
        difference = means[0] - means[1]
        t = np.where(known, difference / np.sqrt(error), np.nan)
        d = np.where(known, difference / np.sqrt(pooled), np.nan)
        return t, d, difference * spread
