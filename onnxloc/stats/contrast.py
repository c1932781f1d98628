"""Two conditions compared, unit by unit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.stats.moments import Moments

__all__ = ["Contrast", "welch"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contrast:
    """The statistics of two conditions; arrays have shape [units].

    Attributes
    ----------
    mean_positive, mean_control : array
        Mean of each condition.
    t : array
        Welch's t, positive where the positive condition is larger.
    df : array
        Welch-Satterthwaite degrees of freedom.
    p : array
        Two-sided p-value of `t`.
    d : array
        Cohen's d with the pooled standard deviation.
    n_positive, n_control : int
        Rows of each condition.
    """

    mean_positive: Floats
    mean_control: Floats
    t: Floats
    df: Floats
    p: Floats
    d: Floats
    n_positive: int
    n_control: int

    @property
    def n_undefined(self) -> int:
        """Number of units without a t."""
        return int(np.isnan(self.t).sum())


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
        squares = positive.sum_of_squares + control.sum_of_squares
        d = difference / np.sqrt(squares / max(n_p + n_c - 2, 1))
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
        n_positive=n_p,
        n_control=n_c,
    )


def two_sided_p(t: Floats, df: Floats) -> Floats:
    """Two-sided p-values of Student's t.

    They come from the lower tail, which keeps its digits where 1 - cdf has none left.
    """
    from scipy.special import stdtr

    p: Floats = 2.0 * stdtr(df, -np.abs(t))
    return p
