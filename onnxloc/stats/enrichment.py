"""Which groups of units hold more of a network than their share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import OptionError
from onnxloc.stats.multiple import holm

__all__ = ["Enrichment", "enrichment", "mean_shift_p"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# Labels of permuted sites held at once.
CHUNK_LABELS = 4_000_000


@dataclass(frozen=True, eq=False)
class Enrichment:
    """What each group holds; arrays have shape [groups].

    Attributes
    ----------
    units, chosen : array of int
        Units of the group, and those of them in the network.
    expected : array
        Chosen units if the network were spread over all units evenly.
    ratio : array
        `chosen` over `expected`; NaN where nothing is expected.
    p_units, p_units_holm : array
        Two-sided p of the hypergeometric distribution, as if units were drawn one by one.
    p_sites, p_sites_holm : array
        Two-sided p by dealing the labels to the sites anew; NaN without permutations, or where
        there is one group.
    """

    units: Counts
    chosen: Counts
    expected: Floats
    ratio: Floats
    p_units: Floats
    p_units_holm: Floats
    p_sites: Floats
    p_sites_holm: Floats


def enrichment(
    label: Counts,
    units: Counts,
    chosen: Counts,
    n_groups: int,
    *,
    permutations: int = 0,
    seed: int = 0,
) -> Enrichment:
    """Compare the share of a network in each group of sites with the group's share of all units.

    Units of one site are much alike, so that a p that takes units for independent draws is far too
    small. The other p takes the site as what is drawn: labels are permuted over the sites, each of
    which keeps its units, and the share of the group's units that is chosen is compared by its
    distance from the share of all units.

    Parameters
    ----------
    label : array of int, shape [sites]
        The group of each site, from 0 to `n_groups` - 1.
    units, chosen : array of int, shape [sites]
        Units of each site, and those of them in the network.
    n_groups : int
        Number of groups; one may have no site.
    permutations : int
        How often labels are dealt; 0 for none.
    seed : int
        Of the dealing.

    Raises
    ------
    OptionError
        If there is no site, or a site has more chosen units than units.
    """
    from scipy.stats import hypergeom

    if not label.size or (chosen > units).any() or (chosen < 0).any():
        raise OptionError("there are no sites, or more chosen units than units")
    in_group, taken = (_sums(label, counts, n_groups) for counts in (units, chosen))
    total, size = int(in_group.sum()), int(taken.sum())
    expected = (in_group * (size / max(total, 1))).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(expected > 0, taken / expected, np.nan)
    upper = hypergeom.sf(taken - 1, total, size, in_group)
    lower = hypergeom.cdf(taken, total, size, in_group)
    p_units = np.where(expected > 0, np.minimum(1.0, 2 * np.minimum(upper, lower)), np.nan)
    p_sites = np.full(n_groups, np.nan)
    if permutations and np.unique(label).size > 1 and size:
        p_sites = _dealt(label, units, chosen, n_groups, permutations, seed)
    return Enrichment(
        in_group, taken, expected, ratio, p_units, holm(p_units), p_sites, holm(p_sites)
    )


def _sums(label: Counts, counts: Counts, n: int) -> Counts:
    return np.bincount(label, weights=counts, minlength=n).astype(np.int64)


def _dealt(
    label: Counts, units: Counts, chosen: Counts, n: int, permutations: int, seed: int
) -> Floats:
    rate = chosen.sum() / units.sum()

    def away(labels: Counts) -> Floats:
        """Distance of each group's rate from that of all units, ``[draws, groups]``."""
        flat = (labels + n * np.arange(len(labels))[:, None]).ravel()
        sums = [
            np.bincount(flat, weights=np.tile(counts, len(labels)), minlength=n * len(labels))
            for counts in (chosen, units)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            own = np.where(sums[1] > 0, sums[0] / sums[1], rate)
        distance: Floats = np.abs(own - rate).reshape(len(labels), n)
        return distance

    observed = away(label[None])[0]
    rng = generator(seed)
    reached = np.zeros(n)
    step = max(1, CHUNK_LABELS // label.size)
    for start in range(0, permutations, step):
        size = min(step, permutations - start)
        drawn = rng.permuted(np.tile(label, (size, 1)), axis=1)
        # Rates that are equal but for rounding count as reached.
        reached += (away(drawn) >= observed * (1 - 1e-9)).sum(axis=0)
    known = _sums(label, units, n) > 0
    return np.where(known, (1 + reached) / (1 + permutations), np.nan)


def mean_shift_p(
    place: Floats, units: Counts, chosen: Counts, *, permutations: int, seed: int
) -> tuple[float, float, float]:
    """Mean place of the chosen units and of all units, and how often chance sets them as far apart.

    Parameters
    ----------
    place : array, shape [groups]
        Where each group lies, in depth say.
    units, chosen : array of int, shape [groups]
        Units of each group, and those of them in the network.
    permutations : int
        How often the share that is chosen of each group is dealt to the groups anew.
    seed : int
        Of the dealing.

    Returns
    -------
    chosen, searched, p : float
        Both means, and a two-sided p. NaN where nothing is chosen; p is NaN without permutations.
    """
    if not chosen.sum():
        return float("nan"), float("nan"), float("nan")
    searched = float(place @ units / units.sum())
    rate = np.divide(chosen, units, out=np.zeros(units.shape), where=units > 0)

    def mean(rates: Floats) -> Floats:
        weight = rates * units
        found: Floats = weight @ place / weight.sum(axis=-1)
        return found

    own = float(mean(rate[None])[0])
    if not permutations:
        return own, searched, float("nan")
    drawn = generator(seed).permuted(np.tile(rate, (permutations, 1)), axis=1)
    away = np.abs(mean(drawn) - searched)
    reached = int((away >= abs(own - searched) * (1 - 1e-9)).sum())
    return own, searched, (1 + reached) / (1 + permutations)
