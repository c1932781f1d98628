"""Correlation of every unit with one number a stimulus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.stats.contrast import two_sided_p
from onnxloc.stats.moments import Moments

__all__ = ["Correlation", "Method", "correlate"]

Floats = NDArray[np.float64]
Method = Literal["pearson", "spearman"]


@dataclass(frozen=True, eq=False)
class Correlation:
    """Correlation of each unit with a number; arrays have shape [units].

    Attributes
    ----------
    mean : array
        Mean of the unit.
    r : array
        The correlation; NaN where a unit does not vary or has a NaN.
    t : array
        r √(df / (1 − r²)), infinite where r is 1 or −1.
    p : array
        Two-sided p-value of `t` (for ranks an approximation).
    df : int
        Degrees of freedom: two fewer than there are rows.
    """

    mean: Floats
    r: Floats
    t: Floats
    p: Floats
    df: int

    @classmethod
    def joined(cls, parts: "Sequence[Correlation]") -> "Correlation":
        """The correlations of the units of all `parts`, in their order.

        Raises
        ------
        OptionError
            If there are no parts, or they are of different numbers of rows.
        """
        if len({part.df for part in parts}) != 1:
            raise OptionError("correlations can be joined if all are of the same rows")
        return cls(
            mean=np.concatenate([part.mean for part in parts]),
            r=np.concatenate([part.r for part in parts]),
            t=np.concatenate([part.t for part in parts]),
            p=np.concatenate([part.p for part in parts]),
            df=parts[0].df,
        )


def correlate(
    values: NDArray[np.floating[Any]], numbers: Floats, method: Method = "pearson"
) -> Correlation:
    """Correlate every unit with one number a row.

    Parameters
    ----------
    values : array, shape [rows, units]
        One row a stimulus; arithmetic is in float64.
    numbers : array, shape [rows]
        What the units are correlated with.
    method : {"pearson", "spearman"}
        Of the values, or of their ranks (C. Spearman, 1904); equal values share their mean rank.

    Raises
    ------
    OptionError
        If there is no such method, the shapes do not fit, there are fewer than three rows, or the
        numbers do not vary or are not finite.
    """
    if method not in get_args(Method):
        raise OptionError(f"a correlation is {' or '.join(get_args(Method))}, not {method!r}")
    if values.ndim != 2 or numbers.shape != values.shape[:1]:
        raise OptionError(f"{numbers.shape} numbers do not go with values of {values.shape}")
    if len(numbers) < 3:
        raise OptionError(f"a correlation needs three rows or more, not {len(numbers)}")
    if not np.isfinite(numbers).all():
        raise OptionError("the numbers to correlate with must be finite")
    if (numbers == numbers[0]).all():
        raise OptionError("the numbers to correlate with are all equal")
    moments = Moments(values.shape[1])
    moments.update(values)
    if method == "spearman":
        numbers, ranked = _ranks(numbers[:, None])[:, 0], _ranks(values)
    else:
        ranked = values.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        x, y = _unit_length(ranked), _unit_length(numbers[:, None])[:, 0]
        # Not a product of matrices, in which a NaN could reach other units.
        r = np.clip(np.einsum("ij,i->j", x, y), -1.0, 1.0)
        r[np.isnan(moments.mean)] = np.nan
        df = len(numbers) - 2
        t = r * np.sqrt(df / ((1 - r) * (1 + r)))
    return Correlation(moments.mean, r, t, two_sided_p(t, np.full(t.size, float(df))), df)


def _ranks(values: NDArray[np.floating[Any]]) -> Floats:
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values, axis=0).astype(np.float64)
    return ranks


def _unit_length(values: Floats) -> Floats:
    """Centre each column and scale it to length 1; one that does not vary becomes NaN."""
    # Measured from its first value, a column that never changes is exactly 0.
    values = values - values[0]
    values -= values.mean(axis=0)
    size = np.abs(values).max(axis=0)
    values /= np.where(size > 0, size, np.nan)
    scaled: Floats = values / np.sqrt(np.einsum("ij,ij->j", values, values))
    return scaled
