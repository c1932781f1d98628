"""Streaming count, mean and centred sum of squares for each unit."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError, RunError

__all__ = ["Moments"]

Floats = NDArray[np.float64]

# Values worked on at a time: 512 KiB of float64, which stay in a core's second-level cache.
BLOCK_VALUES = 1 << 16
BLOCK_ROWS = 512


class Moments:
    """Moments of `n_units` quantities, in float64, from rows that arrive in batches.

    Batches are joined by the pairwise update of Chan, Golub & LeVeque (1979; *The American
    Statistician* 37, 1983). Each unit is measured from an origin, the first value seen. A unit that
    never changes therefore has a sum of squares of exactly 0, and a mean that is huge beside the
    spread costs no digits.

    A unit that was NaN or infinite once, or whose squares overflow, has NaN for its mean and
    variance. Other units do not notice.

    Parameters
    ----------
    n_units : int
        Number of units.

    Raises
    ------
    OptionError
        If `n_units` is negative.
    """

    def __init__(self, n_units: int) -> None:
        if n_units < 0:
            raise OptionError(f"the number of units cannot be {n_units}")
        self._count = 0
        self._origin: Floats = np.zeros(n_units)
        self._offset: Floats = np.zeros(n_units)
        self._squares: Floats = np.zeros(n_units)

    def update(self, x: NDArray[np.floating[Any]]) -> None:
        """Add the rows of `x`, which is left as it is.

        Parameters
        ----------
        x : array of float, shape [rows, units]
            Any float type; arithmetic is in float64. May have no rows.

        Raises
        ------
        OptionError
            If `x` has another shape.
        """
        n_units = self.n_units
        if x.ndim != 2 or x.shape[1] != n_units:
            raise OptionError(f"a batch of shape {x.shape} does not hold rows of {n_units} units")
        for start in range(0, x.shape[0], BLOCK_ROWS):
            rows = x[start : start + BLOCK_ROWS]
            if self._count == 0:
                self._origin[:] = rows[0]
            width = BLOCK_VALUES // len(rows)
            for left in range(0, n_units, width):
                self._update_block(rows[:, left : left + width], slice(left, left + width))
            self._count += len(rows)

    def _update_block(self, x: NDArray[np.floating[Any]], where: slice) -> None:
        rows = len(x)
        # Infinities turn into NaN on purpose here, and stay within their unit.
        with np.errstate(over="ignore", invalid="ignore"):
            y = x.astype(np.float64)
            y -= self._origin[where]
            mean = np.add.reduce(y, axis=0)
            mean /= rows
            y -= mean
            squares = np.einsum("ij,ij->j", y, y)
            mean -= self._offset[where]
            self._join(where, rows, mean, squares)

    def _join(self, where: slice, count: int, delta: Floats, squares: Floats) -> None:
        """Add `count` rows whose mean lies `delta` above this one's; uses up `delta`."""
        total = self._count + count
        self._squares[where] += squares
        step = delta * (count / total)
        self._offset[where] += step
        delta *= step
        delta *= self._count
        self._squares[where] += delta

    def merge(self, other: "Moments") -> None:
        """Add all rows that `other` has seen; `other` is left as it is.

        Raises
        ------
        OptionError
            If `other` has another number of units.
        """
        delta = other.difference(self)
        if other._count == 0:
            return
        if self._count == 0:
            self._origin[:] = other._origin
            self._offset[:] = other._offset
            self._squares[:] = other._squares
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                self._join(slice(None), other._count, delta, other._squares)
        self._count += other._count

    def difference(self, other: "Moments") -> Floats:
        """Mean of this minus mean of `other`, to full precision however large the means are.

        Returns
        -------
        array, shape [units]
            NaN where a mean is.

        Raises
        ------
        OptionError
            If `other` has another number of units.
        """
        if other.n_units != self.n_units:
            raise OptionError(f"{self.n_units} units do not go with {other.n_units}")
        with np.errstate(over="ignore", invalid="ignore"):
            # The origins are values of the data, so near origins have an exact difference.
            delta: Floats = (self._origin - other._origin) + (self._offset - other._offset)
        delta[~(self._known & other._known)] = np.nan
        return delta

    @property
    def _known(self) -> NDArray[np.bool_]:
        if self._count == 0:
            return np.zeros(self.n_units, dtype=np.bool_)
        return np.isfinite(self._squares)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self._origin)

    @property
    def count(self) -> int:
        """Number of rows seen."""
        return self._count

    @property
    def mean(self) -> Floats:
        """Mean of each unit; NaN before the first row."""
        return np.where(self._known, self._origin + self._offset, np.nan)

    @property
    def sum_of_squares(self) -> Floats:
        """Sum of squared deviations from the mean; exactly 0 for a constant unit."""
        return np.where(self._known, self._squares, np.nan)

    @property
    def variance(self) -> Floats:
        """Variance of each unit with n - 1 in the denominator; NaN below two rows."""
        if self._count < 2:
            return np.full(self.n_units, np.nan)
        return self.sum_of_squares / (self._count - 1)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Moments of the units of all `parts`, in their order.

        Raises
        ------
        OptionError
            If there are no parts, or they have seen different numbers of rows.
        """
        counts = {part.count for part in parts}
        if len(counts) != 1:
            raise OptionError("moments can be joined if all have seen the same number of rows")
        moments = cls(sum(part.n_units for part in parts))
        moments._count = counts.pop()
        np.concatenate([part._origin for part in parts], out=moments._origin)
        np.concatenate([part._offset for part in parts], out=moments._offset)
        np.concatenate([part._squares for part in parts], out=moments._squares)
        return moments

    def state(self) -> dict[str, NDArray[Any]]:
        """Copy all that is held into arrays that `from_state` takes back."""
        return {
            "count": np.array(self._count, dtype=np.int64),
            "origin": self._origin.copy(),
            "offset": self._offset.copy(),
            "squares": self._squares.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild what `state` returned.

        Raises
        ------
        RunError
            If the arrays are not such a state.
        """
        names = ("count", "origin", "offset", "squares")
        if set(state) != set(names):
            raise RunError(f"saved moments must hold {', '.join(names)}; start the run afresh")
        count, *parts = (state[name] for name in names)
        if count.shape != () or count.dtype.kind not in "iu" or int(count) < 0:
            raise RunError("saved moments have a bad count; start the run afresh")
        if any(a.ndim != 1 or a.shape != parts[0].shape or a.dtype != np.float64 for a in parts):
            raise RunError("saved moments have arrays that do not fit; start the run afresh")
        moments = cls(len(parts[0]))
        moments._count = int(count)
        moments._origin, moments._offset, moments._squares = (part.copy() for part in parts)
        return moments
