"""How alike two sets of units represent the same stimuli: linear CKA and RSA.

Both work on matrices of stimuli by stimuli, so that the number of units costs nothing more once a
matrix is made. Each measure is the cosine of two vectors, one a site, here called signatures: many
sites are then compared by one product of matrices.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError

__all__ = [
    "MIN_STIMULI",
    "cka_signature",
    "debiased_signature",
    "permutation_p",
    "rsa_signature",
]

Floats = NDArray[np.float64]
Values = NDArray[np.floating[Any]]
# Below that many the unbiased estimate has no value.
MIN_STIMULI = 4
# Rounding of float32 in the products that are permuted; two values this close count as equal.
TOLERANCE = 2e-6
# Values that differ by less than this share of their size are constant but for rounding.
CONSTANT = 1e-12


def cka_signature(values: Values) -> Floats:
    """Signature of a site for linear CKA: its centred Gram matrix.

    The product of two signatures is the linear centred kernel alignment HSIC₀(K, L) /
    √(HSIC₀(K, K) HSIC₀(L, L)) with K = X Xᵀ and HSIC₀(K, L) = tr(K H L H) / (n − 1)²,
    H = I − 1 1ᵀ / n (S. Kornblith, M. Norouzi, H. Lee & G. Hinton, *ICML* 2019). With more units
    than stimuli it comes near 1 whatever the units do; `debiased_signature` has not that bias.

    Parameters
    ----------
    values : array, shape [stimuli, units]

    Returns
    -------
    array of float64, shape [n (n + 1) / 2]
        Of length 1; NaN where the values do not vary or are not finite.

    Raises
    ------
    OptionError
        If there are fewer than four stimuli.
    """
    n = _check(values)
    gram = _gram(values)
    rows, columns = np.triu_indices(n)
    # Both triangles of a symmetric matrix count.
    return _unit(gram[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0)))


def debiased_signature(values: Values) -> Floats:
    """Signature of a site for debiased linear CKA: its U-centred Gram matrix.

    The product of two signatures is CKA with the unbiased HSIC₁ in place of HSIC₀, as T. Nguyen,
    M. Raghu & S. Kornblith, *ICLR* 2021 have it. HSIC₁ is that of L. Song, A. Smola, A. Gretton,
    J. Bedo & K. Borgwardt, *JMLR* 13, 2012; it is the mean product of U-centred matrices
    (G. Székely & M. Rizzo, *Annals of Statistics* 42, 2014). It is about 0 for unrelated
    representations and can be negative.

    Parameters, errors and undefined values are those of `cka_signature`.

    Returns
    -------
    array of float64, shape [n (n - 1) / 2]
        The upper triangle, row after row.
    """
    n = _check(values)
    gram = _gram(values)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0)
    rows, columns = np.triu_indices(n, 1)
    centred = gram[rows, columns] - (sums[rows] + sums[columns]) / (n - 2)
    return _unit(centred + sums.sum() / ((n - 1) * (n - 2)))


def rsa_signature(values: Values) -> Floats:
    """Signature of a site for representational similarity analysis.

    The dissimilarity of two stimuli is one minus Pearson's correlation of their units; the product
    of two signatures is Spearman's correlation of the two sites' dissimilarities
    (N. Kriegeskorte, M. Mur & P. Bandettini, *Frontiers in Systems Neuroscience* 2, 2008).

    Parameters and errors are those of `cka_signature`.

    Returns
    -------
    array of float64, shape [n (n - 1) / 2]
        The upper triangle, row after row, of length 1; NaN where a stimulus has the same value in
        all units or one that is not finite.
    """
    from scipy.stats import rankdata

    n = _check(values)
    upper = np.triu_indices(n, 1)
    rows = _scaled(values)
    centred = rows - rows.mean(axis=1, keepdims=True)
    if not (np.abs(centred).max(axis=1) > CONSTANT * np.abs(rows).max(axis=1)).all():
        return np.full(upper[0].size, np.nan)
    centred /= np.sqrt(np.einsum("ij,ij->i", centred, centred))[:, None]
    ranks = rankdata(1.0 - (centred @ centred.T)[upper])
    return _unit(ranks - (ranks.size + 1) / 2)


def permutation_p(
    first: Floats,
    second: Floats,
    *,
    permutations: int,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> tuple[Floats, Floats]:
    """How often similarities are as large when the stimuli of one side are shuffled.

    Parameters
    ----------
    first, second : array, shape [sites, n (n - 1) / 2]
        Signatures over the pairs of stimuli, as `debiased_signature` or `rsa_signature` makes them.
    permutations : int
        How many orders of the stimuli are drawn.
    seed : int
        Of the draw.
    done : callable
        Called after each.

    Returns
    -------
    p : array, shape [sites of first, sites of second]
        (1 + the draws with a similarity at least as large) / (1 + all draws), one-sided.
    p_best : array, shape [sites of first]
        The same of each site's largest similarity to any site of the other side: the choice of the
        best match is made anew in each draw.

    Raises
    ------
    OptionError
        If the signatures are of different numbers of stimuli, or are not over pairs.
    """
    n = _stimuli(first, second)
    p = np.full((len(first), len(second)), np.nan)
    p_best = np.full(len(first), np.nan)
    known = [~np.isnan(side).any(axis=1) for side in (first, second)]
    if not (permutations and all(side.any() for side in known)):
        return p, p_best
    rows, columns = np.triu_indices(n, 1)
    place = np.zeros((n, n), dtype=np.int64)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    # Pairs in rows: what a permutation takes of each pair then lies side by side.
    moved = np.ascontiguousarray(first[known[0]].T, dtype=np.float32)
    fixed = second[known[1]].astype(np.float32)
    observed = fixed @ moved - TOLERANCE
    reached = np.zeros(observed.shape, dtype=np.int64)
    reached_best = np.zeros(observed.shape[1], dtype=np.int64)
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        order = rng.permutation(n)
        # `take` copies whole rows, several times faster than an index in brackets.
        drawn = fixed @ moved.take(place[order[rows], order[columns]], axis=0)
        reached += drawn >= observed
        reached_best += drawn.max(axis=0) >= observed.max(axis=0)
        done()
    p[np.ix_(*known)] = ((1 + reached) / (1 + permutations)).T
    p_best[known[0]] = (1 + reached_best) / (1 + permutations)
    return p, p_best


def _stimuli(first: Floats, second: Floats) -> int:
    pairs = first.shape[1]
    n = (1 + isqrt(1 + 8 * pairs)) // 2
    if second.shape[1] != pairs or n * (n - 1) // 2 != pairs:
        raise OptionError("the two sides were not made from the pairs of the same stimuli")
    return n


def _check(values: Values) -> int:
    if values.ndim != 2 or len(values) < MIN_STIMULI or not values.shape[1]:
        raise OptionError(
            f"a representation is a table of at least {MIN_STIMULI} stimuli and one unit, not of "
            f"shape {values.shape}"
        )
    return len(values)


def _scaled(values: Values) -> Floats:
    """Values over their largest size, so that squares neither overflow nor vanish."""
    scaled: Floats = values.astype(np.float64)
    largest = np.abs(scaled).max()
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled /= largest
    return scaled


def _gram(values: Values) -> Floats:
    scaled = _scaled(values)
    centred = scaled - scaled.mean(axis=0)
    if not np.abs(centred).max() > CONSTANT:
        return np.full((len(values),) * 2, np.nan)
    gram: Floats = centred @ centred.T
    return gram


def _unit(vector: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: Floats = vector / np.sqrt(vector @ vector)
    return unit
