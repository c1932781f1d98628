"""Distance of two distributions over the relative depth of models with any number of blocks."""

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError

__all__ = ["depth_distance"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# Draws held at once.
CHUNK = 256


def depth_distance(
    first: Counts, second: Counts, *, permutations: int = 0, seed: int = 0
) -> tuple[float, float]:
    """Wasserstein's distance of two networks' depths, and how often chance gives as much.

    Block i of N spans the depths from i / N to (i + 1) / N, and its units lie evenly over it, so
    that models of different depth can be compared. The distance is the area between the two
    cumulative distributions: the mean share of the depth by which units would have to be moved.
    For the p-value, units are dealt to the two networks anew, whichever they were in.

    Parameters
    ----------
    first, second : array of int, shape [blocks]
        Units of each network in each block.
    permutations : int
        How often units are dealt; 0 for no p-value.
    seed : int
        Of the dealing.

    Returns
    -------
    distance : float
        From 0 to 1; NaN if a network has no units.
    p : float
        (1 + the draws with at least that distance) / (1 + all draws); NaN without.

    Raises
    ------
    OptionError
        If a model has no blocks.
    """
    if not first.size or not second.size:
        raise OptionError("a model without blocks has no depth")
    n, m = int(first.sum()), int(second.sum())
    if not n or not m:
        return float("nan"), float("nan")
    edges = [np.linspace(0, 1, counts.size + 1) for counts in (first, second)]
    grid = np.union1d(*edges)
    # Cumulative share at each point of the grid of a unit in each block of either model.
    ramps = np.concatenate(
        [
            np.clip((grid - own[:-1, None]) / (own[1:] - own[:-1])[:, None], 0.0, 1.0)
            for own in edges
        ]
    )
    pooled = np.concatenate([first, second])
    of_first = np.concatenate([first, np.zeros_like(second)])
    observed = float(_area(of_first[None], pooled, ramps, grid)[0])
    if not permutations:
        return observed, float("nan")
    rng = np.random.default_rng(seed)
    reached = 0
    for done in range(0, permutations, CHUNK):
        size = min(CHUNK, permutations - done)
        drawn = rng.multivariate_hypergeometric(pooled, n, size=size, method="marginals")
        reached += int((_area(drawn, pooled, ramps, grid) >= observed - 1e-12).sum())
    return observed, (1 + reached) / (1 + permutations)


def _area(taken: Counts, pooled: Counts, ramps: Floats, grid: Floats) -> Floats:
    """Area between the cumulative distributions of the taken units and the others, per row."""
    n = taken.sum(axis=1, keepdims=True)
    other = pooled - taken
    gap = taken @ ramps / n - other @ ramps / (pooled.sum() - n)
    left, right = gap[:, :-1], gap[:, 1:]
    # Between two points the gap is a straight line, which may cross 0.
    crosses = left * right < 0
    size = np.abs(left) + np.abs(right)
    with np.errstate(invalid="ignore", divide="ignore"):
        height = np.where(crosses, (left * left + right * right) / size, size)
    area: Floats = (height / 2) @ np.diff(grid)
    return area
