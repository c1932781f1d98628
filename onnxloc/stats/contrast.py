"""Two conditions compared, unit by unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.stats.moments import Moments

__all__ = ["Contrast", "correction", "paired", "student", "two_sided_p", "welch"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contrast:
    """The statistics of two conditions; arrays have shape [units].

    Attributes
    ----------
    mean_positive, mean_control : array
        Mean of each condition.
    t : array
        The test's statistic, positive where the positive condition is larger: Welch's, Student's or
        the paired t, or the z of Mann and Whitney.
    df : array
        Degrees of freedom of `t`; infinite for a z.
    p : array
        Two-sided p-value of `t`.
    d : array
        Cohen's d: with the pooled standard deviation, or, for the paired test, with that of the
        differences (d_z).
    n_positive, n_control : int
        Rows of each condition.
    is_paired : bool
        Whether row i of one condition goes with row i of the other.
    """

    mean_positive: Floats
    mean_control: Floats
    t: Floats
    df: Floats
    p: Floats
    d: Floats
    n_positive: int
    n_control: int
    is_paired: bool = False

    @property
    def n_undefined(self) -> int:
        """Number of units without a t."""
        return int(np.isnan(self.t).sum())

    @property
    def g(self) -> Floats:
        """Hedges' g: `d` without its bias in small samples."""
        rows = self.n_positive - 1
        return self.d * correction(rows if self.is_paired else rows + self.n_control - 1)

    @classmethod
    def joined(cls, parts: "Sequence[Contrast]") -> "Contrast":
        """The contrast of the units of all `parts`, in their order.

        Raises
        ------
        OptionError
            If there are no parts, or they are of different rows.
        """
        kinds = {(part.n_positive, part.n_control, part.is_paired) for part in parts}
        if len(kinds) != 1:
            raise OptionError("contrasts can be joined if all compare the same rows")
        n_positive, n_control, is_paired = kinds.pop()
        return cls(
            mean_positive=np.concatenate([part.mean_positive for part in parts]),
            mean_control=np.concatenate([part.mean_control for part in parts]),
            t=np.concatenate([part.t for part in parts]),
            df=np.concatenate([part.df for part in parts]),
            p=np.concatenate([part.p for part in parts]),
            d=np.concatenate([part.d for part in parts]),
            n_positive=n_positive,
            n_control=n_control,
            is_paired=is_paired,
        )


def welch(positive: Moments, control: Moments) -> Contrast:
    """Welch's t-test for each unit (B. L. Welch, *Biometrika* 34, 1947).

    A unit has NaN for t, df, p and d if it varies in neither condition, has a NaN, or has fewer
    than two rows in a condition.

    Parameters
    ----------
    positive, control : Moments
        The two conditions, of the same units.

    Raises
    ------
    OptionError
        If the conditions have different numbers of units.
    """
    n_p, n_c = positive.count, control.count
    difference = positive.difference(control)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error_p, error_c = positive.variance / n_p, control.variance / n_c
        error = error_p + error_c
        t = difference / np.sqrt(error)
        # As shares of the sum, small variances cannot underflow when they are squared.
        share_p, share_c = error_p / error, error_c / error
        df = 1.0 / (share_p**2 / max(n_p - 1, 1) + share_c**2 / max(n_c - 1, 1))
    return _contrast(positive, control, t, df, _pooled_d(positive, control, difference))


def student(positive: Moments, control: Moments) -> Contrast:
    """Student's t-test with the pooled variance (Student, *Biometrika* 6, 1908), for each unit.

    Parameters, undefined units and errors are those of `welch`.
    """
    n_p, n_c = positive.count, control.count
    d = _pooled_d(positive, control, positive.difference(control))
    # As in Welch's test, a condition of one row has no variance.
    size = np.sqrt(n_p * n_c / (n_p + n_c)) if min(n_p, n_c) > 1 else np.nan
    df = np.full(d.size, float(n_p + n_c - 2))
    return _contrast(positive, control, d * size, df, d)


def paired(positive: Moments, control: Moments, differences: Moments) -> Contrast:
    """Student's t-test of paired differences, for each unit.

    A unit has NaN for t, df, p and d if its differences do not vary, if it has a NaN, or if there
    are fewer than two pairs.

    Parameters
    ----------
    positive, control : Moments
        The two conditions, for their means.
    differences : Moments
        Positive minus control, pair by pair.

    Raises
    ------
    OptionError
        If the three are not of the same number of rows and units.
    """
    n = differences.count
    if not positive.count == control.count == n:
        raise OptionError(
            f"a paired test needs as many rows in each condition: {positive.count}, {control.count}"
        )
    if not positive.n_units == control.n_units == differences.n_units:
        raise OptionError(f"{positive.n_units} units do not go with {differences.n_units}")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        d = differences.mean / np.sqrt(differences.variance)
        t = d * np.sqrt(n)
    df = np.full(d.size, float(n - 1))
    return _contrast(positive, control, t, df, d, is_paired=True)


def _contrast(
    positive: Moments, control: Moments, t: Floats, df: Floats, d: Floats, is_paired: bool = False
) -> Contrast:
    undefined = ~(np.isfinite(t) & np.isfinite(df))
    for values in (t, df, d):
        values[undefined] = np.nan
    return Contrast(
        mean_positive=positive.mean,
        mean_control=control.mean,
        t=t,
        df=df,
        p=two_sided_p(t, df),
        d=d,
        n_positive=positive.count,
        n_control=control.count,
        is_paired=is_paired,
    )


def _pooled_d(positive: Moments, control: Moments, difference: Floats) -> Floats:
    rows = max(positive.count + control.count - 2, 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        squares = positive.sum_of_squares + control.sum_of_squares
        d: Floats = difference / np.sqrt(squares / rows)
    return d


def correction(df: float) -> float:
    """Hedges' exact factor J = Γ(m/2) / (√(m/2) Γ((m−1)/2)) for m degrees of freedom.

    L. V. Hedges, *Journal of Educational Statistics* 6, 1981, equation 6e. The common
    approximation is 1 − 3/(4m − 1).

    Returns
    -------
    float
        NaN below 2 degrees of freedom.
    """
    from math import exp, lgamma, log

    if df < 2:
        return float("nan")
    return exp(lgamma(df / 2) - lgamma((df - 1) / 2) - 0.5 * log(df / 2))


def two_sided_p(t: Floats, df: Floats) -> Floats:
    """Two-sided p-values of Student's t; of a standard normal where `df` is infinite.

    They come from the lower tail, which keeps its digits where 1 - cdf has none left.
    """
    from scipy.special import ndtr, stdtr

    p: Floats = 2.0 * np.where(np.isinf(df), ndtr(-np.abs(t)), stdtr(df, -np.abs(t)))
    return p
