"""Correction for many tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError

__all__ = ["benjamini_hochberg", "holm"]


def benjamini_hochberg(p: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Adjust p-values for the false discovery rate (Benjamini & Hochberg, *JRSS B* 57, 1995).

    Parameters
    ----------
    p : array
        P-values, of any shape. NaN marks a test that was not made: it stays NaN, and the number
        of tests does not count it.

    Returns
    -------
    array
        q-values, in the shape of `p`.

    Raises
    ------
    OptionError
        If a value lies outside [0, 1].
    """
    values, made = _tested(p)
    tested = values[made]
    order = np.argsort(tested)[::-1]
    scaled = tested[order] * (tested.size / np.arange(tested.size, 0, -1))
    adjusted = np.empty_like(tested)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    q = np.full(values.shape, np.nan)
    q[made] = adjusted
    return q


def holm(p: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Adjust p-values for the family-wise error rate (Holm, *Scand. J. Statist.* 6, 1979).

    Parameters
    ----------
    p : array
        P-values of one family, of any shape. NaN marks a test that was not made: it stays NaN, and
        the number of tests does not count it.

    Returns
    -------
    array
        Adjusted p-values, in the shape of `p`.

    Raises
    ------
    OptionError
        If a value lies outside [0, 1].
    """
    values, made = _tested(p)
    tested = values[made]
    order = np.argsort(tested)
    scaled = tested[order] * np.arange(tested.size, 0, -1)
    adjusted = np.empty_like(tested)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    out = np.full(values.shape, np.nan)
    out[made] = adjusted
    return out


def _tested(
    p: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The p-values as float64, and which of them are of tests that were made."""
    values = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(values)
    tested = values[made]
    if tested.size and (tested.min() < 0 or tested.max() > 1):
        raise OptionError("p-values must lie in [0, 1]")
    return values, made
