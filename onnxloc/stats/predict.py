"""Whether one set of units predicts another: over depth, and over held-out stimuli."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import OptionError
from onnxloc.stats.reliability import spearman

__all__ = ["fold_of", "held_out_r2", "shift_correlation"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# Standard deviations at which a predictor is cut off.
LARGEST = 3.0
# Shares of the mean of the kernel's diagonal that are tried as a penalty.
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def shift_correlation(a: Floats, b: Floats) -> tuple[float, float]:
    """Spearman's correlation of two series along depth, with a p from circular shifts.

    Neighbouring blocks are alike, so that shuffled blocks would give too small a p. Shifted ones
    keep their neighbours.

    Parameters
    ----------
    a, b : array, shape [blocks]
        Values by block.

    Returns
    -------
    correlation, p : float
        `p` is one-sided: the share of the shifts, none among them, with at least that correlation.
        Both are NaN where a series does not vary.
    """
    own = spearman(a, b)
    if np.isnan(own):
        return float("nan"), float("nan")
    shifted = [spearman(a, np.roll(b, by)) for by in range(a.size)]
    return own, float(np.mean([one >= own - 1e-12 for one in shifted]))


def fold_of(condition: NDArray[Any], folds: int, seed: int) -> Indices:
    """Fold of each stimulus, drawn so that every condition is spread over all folds.

    Raises
    ------
    OptionError
        If a condition has fewer than two stimuli for each fold.
    """
    rng = generator(seed)
    fold = np.empty(condition.size, dtype=np.int64)
    for one in np.unique(condition):
        rows = np.flatnonzero(condition == one)
        if rows.size < 2 * folds:
            raise OptionError(
                f"{rows.size} stimuli of a condition are too few for {folds} folds; two are "
                "needed in each"
            )
        fold[rng.permutation(rows)] = np.arange(rows.size) % folds
    return fold


def held_out_r2(x: Floats, y: Floats, condition: NDArray[Any], fold: Indices) -> float:
    """How much of `y` within conditions ridge regression on `x` predicts in held-out stimuli.

    In each fold the mean of every condition, in the other folds, is taken away from both sides, so
    that a difference between conditions predicts nothing. What predicts is cut off at three
    standard deviations: a few units have rare values far beyond. The penalty has the least
    leave-one-out error in the other folds.

    Parameters
    ----------
    x : array, shape [stimuli, units]
        What predicts.
    y : array, shape [stimuli]
        What is predicted.
    condition : array, shape [stimuli]
        The condition of each stimulus.
    fold : array of int, shape [stimuli]
        What `fold_of` gave.

    Returns
    -------
    float
        One minus the squared error over that of the condition's mean; below 0 if it predicts worse
        than the mean does. NaN if `y` does not vary.
    """
    error = total = 0.0
    for one in np.unique(fold):
        out = fold == one
        xs, ys = _centred(x, out, condition), _centred(y[:, None], out, condition)[:, 0]
        spread = xs[~out].std(axis=0)
        # A value far outside what the other folds hold would decide the prediction alone.
        xs = np.clip(xs[:, spread > 0] / spread[spread > 0], -LARGEST, LARGEST)
        predicted = _ridge(xs[~out], ys[~out], xs[out])
        error += float(((ys[out] - predicted) ** 2).sum())
        total += float((ys[out] ** 2).sum())
    return 1 - error / total if total > 0 else float("nan")


def _centred(values: Floats, out: NDArray[np.bool_], condition: NDArray[Any]) -> Floats:
    """Values without the mean that their condition has in the rows that are not held out."""
    centred = values.astype(np.float64)
    for one in np.unique(condition):
        own = condition == one
        centred[own] -= values[own & ~out].mean(axis=0)
    return centred


def _ridge(x: Floats, y: Floats, new: Floats) -> Floats:
    """Predict `new` rows by kernel ridge regression, its penalty from leave-one-out errors."""
    if not x.shape[1]:
        return np.zeros(len(new))
    kernel = x @ x.T
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ y
    best, weights = np.inf, np.zeros(len(y))
    for penalty in np.array(PENALTIES) * values.mean():
        inverse = 1 / (values + penalty)
        dual = vectors @ (inverse * turned)
        # The leave-one-out residuals of ridge: the dual weights over the inverse's diagonal.
        error = float(((dual / (vectors**2 @ inverse)) ** 2).sum())
        if error < best:
            best, weights = error, dual
    predicted: Floats = new @ (x.T @ weights)
    return predicted
