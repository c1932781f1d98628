"""Two conditions compared by any of the tests, from all their values at once."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.stats.contrast import Contrast, paired, student, two_sided_p, welch
from onnxloc.stats.moments import Moments

__all__ = [
    "TESTS",
    "Test",
    "centred_ranks",
    "check_pairs",
    "check_rows",
    "compare",
    "mann_whitney",
    "rank_z",
]

Test = Literal["welch", "student", "paired", "mannwhitney"]
TESTS: tuple[Test, ...] = get_args(Test)
Floats = NDArray[np.float64]
Values = NDArray[np.floating[Any]]


def compare(values: Values, is_positive: NDArray[np.bool_], test: Test = "welch") -> Contrast:
    """Compare two conditions, unit by unit.

    Parameters
    ----------
    values : array, shape [rows, units]
        One row a stimulus.
    is_positive : array of bool, shape [rows]
        Which rows are of the positive condition; the others are the control.
    test : {"welch", "student", "paired", "mannwhitney"}
        For the paired test, the i-th positive row goes with the i-th control row.

    Returns
    -------
    Contrast
        A unit has NaN where `welch` has one; for the paired test, where its differences do not
        vary; for Mann and Whitney's, where all its values are equal.

    Raises
    ------
    OptionError
        If there is no such test, the shapes do not fit, or pairs are asked for where the
        conditions are not of one size.
    """
    check_rows(values, is_positive, test)
    positive, control = values[is_positive], values[~is_positive]
    if test == "mannwhitney":
        return mann_whitney(positive, control)
    moments_p, moments_c = _moments(positive), _moments(control)
    if test == "paired":
        with np.errstate(invalid="ignore", over="ignore"):
            differences = positive.astype(np.float64) - control
        return paired(moments_p, moments_c, _moments(differences))
    return (student if test == "student" else welch)(moments_p, moments_c)


def check_rows(values: Values, is_positive: NDArray[np.bool_], test: Test) -> None:
    """Refuse values, conditions and a test that do not go together; errors are `compare`'s."""
    if is_positive.ndim != 1 or is_positive.dtype != np.bool_:
        raise OptionError("conditions are a list of true and false")
    if values.ndim != 2 or len(values) != len(is_positive):
        raise OptionError(
            f"values of shape {values.shape} do not go with {len(is_positive)} conditions"
        )
    if test not in TESTS:
        raise OptionError(f"a test is one of {', '.join(TESTS)}, not {test!r}")
    if test == "paired":
        check_pairs(is_positive)


def check_pairs(is_positive: NDArray[np.bool_]) -> None:
    """Refuse conditions of different sizes, which cannot be paired; errors are `compare`'s."""
    n = int(is_positive.sum())
    if 2 * n != len(is_positive):
        raise OptionError(
            f"a paired test needs as many rows in each condition, not {n} and "
            f"{len(is_positive) - n}"
        )


def _moments(values: Values) -> Moments:
    moments = Moments(values.shape[1])
    moments.update(values)
    return moments


def mann_whitney(positive: Values, control: Values) -> Contrast:
    """Mann and Whitney's U test, asymptotic, with corrections for ties and continuity.

    H. B. Mann & D. R. Whitney, *Annals of Mathematical Statistics* 18, 1947. `t` holds z, `df` is
    infinite, and `d` is Cohen's d of the values. `scipy.stats.mannwhitneyu` with
    ``method="asymptotic"`` gives the same p-values, but no z.

    Parameters
    ----------
    positive, control : array, shape [rows, units]
        The two conditions, of the same units.

    Raises
    ------
    OptionError
        If the conditions have different numbers of units.
    """
    moments_p, moments_c = _moments(positive), _moments(control)
    d = student(moments_p, moments_c).d
    n_p, n = len(positive), len(positive) + len(control)
    ranks, squares = centred_ranks(np.concatenate([positive, control]))
    z = rank_z(np.add.reduce(ranks[:n_p], axis=0), squares, n_p, n)
    df = np.where(np.isnan(z), np.nan, np.inf)
    return Contrast(
        mean_positive=moments_p.mean,
        mean_control=moments_c.mean,
        t=z,
        df=df,
        p=two_sided_p(z, df),
        d=np.where(np.isnan(z), np.nan, d),
        n_positive=n_p,
        n_control=n - n_p,
    )


def centred_ranks(values: Values) -> tuple[Floats, Floats]:
    """Ranks of the rows within each unit, minus their mean, and their sum of squares.

    Equal values share the mean of their ranks. A unit with a value that is not finite has NaN.

    Returns
    -------
    ranks : array, shape [rows, units]
    squares : array, shape [units]
    """
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values, axis=0).astype(np.float64)
    # Halves of whole numbers: the sums are exact.
    ranks -= (len(values) + 1) / 2
    ranks[:, ~np.isfinite(values).all(axis=0)] = np.nan
    return ranks, np.einsum("ij,ij->j", ranks, ranks)


def rank_z(sums: Floats, squares: Floats, n_positive: int, n: int) -> Floats:
    """Signed z of sums of centred ranks, corrected for continuity; NaN where all ranks are equal.

    Under the null hypothesis a sum of n₁ of n centred ranks r has variance n₁ n₂ Σr² / (n (n − 1));
    written out for average ranks, that is the usual correction for ties.

    Parameters
    ----------
    sums : array, shape [..., units]
        Sums of the centred ranks of the positive condition.
    squares : array, shape [units]
        Sums of squares of all centred ranks.
    n_positive, n : int
        Rows of the positive condition, and of both.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(n_positive * (n - n_positive) / (n * (n - 1)) * squares)
        scale = np.where(scale > 0, scale, np.nan)
        z: Floats = np.sign(sums) * np.maximum(np.abs(sums) - 0.5, 0.0) / scale
    return z
