"""Effect sizes, and what resampling says of them.

None of these raises on NaN: a NaN anywhere in the data gives NaN.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError

__all__ = ["Interval", "cohens_d", "cohens_d_paired", "empirical_p", "paired_bootstrap"]

Tail = Literal["less", "greater", "two-sided"]
Floats = NDArray[np.float64]

# Resampled values held at a time; with their int64 indices they take 32 MB.
CHUNK_VALUES = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval at `level` (0.95 for 95 %)."""

    estimate: float
    low: float
    high: float
    level: float


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    n_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the mean of `a` - `b` over items (Efron, 1979).

    Memory stays below about 50 MB up to two million items.

    Parameters
    ----------
    a, b : array, shape [items]
        Paired scores. If one is NaN, or there are none, the estimate and bounds are NaN.
    seed : int
        Equal seeds give equal intervals.
    n_resamples : int
        Number of bootstrap samples.
    level : float
        Coverage aimed at.

    Raises
    ------
    OptionError
        If the shapes differ, or an option is out of range.
    """
    if n_resamples < 1:
        raise OptionError(f"the number of resamples must be at least 1, not {n_resamples}")
    if not 0 < level < 1:
        raise OptionError(f"the level of an interval must lie between 0 and 1, not {level}")
    if seed < 0:
        raise OptionError(f"a seed must not be negative, as {seed} is")
    differences = _paired_differences(a, b)
    if differences.size == 0 or not np.isfinite(differences).all():
        return Interval(np.nan, np.nan, np.nan, level)
    # Measured from one of them, equal differences give an interval of width exactly 0.
    origin = float(differences[0])
    centred = differences - origin
    means = _resampled_means(centred, np.random.default_rng(seed), n_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        origin + float(centred.mean()), origin + float(low), origin + float(high), level
    )


def _resampled_means(values: Floats, rng: np.random.Generator, n_resamples: int) -> Floats:
    n = values.size
    distinct, counts = np.unique(values, return_counts=True)
    means = np.empty(n_resamples)
    # Scores of 0 and 1 have three differences at most. Drawing how often each occurs has the same
    # distribution as drawing items, and its cost does not grow with their number.
    few = 16 * distinct.size <= n
    width = distinct.size if few else n
    step = max(1, CHUNK_VALUES // width)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        if few:
            drawn = rng.multinomial(n, counts / n, size=size)
            means[start : start + size] = drawn @ distinct / n
        else:
            picked = rng.integers(0, n, size=(size, n))
            means[start : start + size] = values[picked].mean(axis=1)
    return means


def empirical_p(value: float, controls: ArrayLike, *, tail: Tail = "two-sided") -> float:
    """Place of `value` among values of random controls, as a p-value.

    It is (1 + number of controls at least as extreme) / (1 + number of controls), which is never 0
    (Phipson & Smyth, *Stat. Appl. Genet. Mol. Biol.* 9, 2010). For two tails, extreme means far
    from the median of all values, `value` among them: so it is treated as they are.

    Parameters
    ----------
    value : float
        What was observed.
    controls : array, shape [controls]
        The same quantity for each control.
    tail : {"less", "greater", "two-sided"}
        Where extreme values lie.

    Returns
    -------
    float
        NaN if the value or a control is NaN; 1 if there are no controls.

    Raises
    ------
    OptionError
        If there is no such tail.
    """
    others = np.asarray(controls, dtype=np.float64).ravel()
    if np.isnan(value) or np.isnan(others).any():
        return float("nan")
    if tail == "less":
        extreme = others <= value
    elif tail == "greater":
        extreme = others >= value
    elif tail == "two-sided":
        median = np.median(np.append(others, value))
        # The distances of two values on either side can be equal but for rounding.
        slack = 8 * np.finfo(np.float64).eps * max(abs(value), abs(median))
        extreme = np.abs(others - median) >= abs(value - median) - slack
    else:
        raise OptionError(f"tail must be less, greater or two-sided, not {tail!r}")
    return float((1 + extreme.sum()) / (1 + others.size))


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """Cohen's d of two independent groups, with their pooled standard deviation.

    Returns
    -------
    float
        Positive if `a` is larger. NaN if a value is NaN, if a group is empty, if there are fewer
        than three values in all, or if nothing varies and the means are equal; plus or minus
        infinity if nothing varies and they differ.
    """
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if x.size == 0 or y.size == 0 or x.size + y.size < 3:
        return float("nan")
    mean_x, squares_x = _mean_and_squares(x, x[0])
    mean_y, squares_y = _mean_and_squares(y, x[0])
    return _ratio(mean_x - mean_y, np.sqrt((squares_x + squares_y) / (x.size + y.size - 2)))


def cohens_d_paired(a: ArrayLike, b: ArrayLike) -> float:
    """Cohen's d of paired scores: mean difference over the SD of the differences (d_z).

    Returns
    -------
    float
        Positive if `a` is larger. NaN if a value is NaN, if there are fewer than two pairs, or if
        all differences are 0; plus or minus infinity if all are equal and not 0.

    Raises
    ------
    OptionError
        If the shapes differ.
    """
    differences = _paired_differences(a, b)
    if differences.size < 2:
        return float("nan")
    mean, squares = _mean_and_squares(differences, differences[0])
    return _ratio(mean + differences[0], np.sqrt(squares / (differences.size - 1)))


def _paired_differences(a: ArrayLike, b: ArrayLike) -> Floats:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise OptionError(f"paired scores must be two lists of one length: {x.shape}, {y.shape}")
    with np.errstate(invalid="ignore"):
        return x - y


def _mean_and_squares(x: Floats, origin: Any) -> tuple[np.float64, np.float64]:
    """Mean above `origin`, and the squared deviations: exactly 0 for equal values."""
    with np.errstate(invalid="ignore", over="ignore"):
        own = x - x[0]
        mean = own.mean()
        return mean + (x[0] - origin), ((own - mean) ** 2).sum()


def _ratio(difference: np.float64, deviation: np.float64) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(difference / deviation)
