"""The networks of a profile: as a run found them, or chosen anew on halves of its stimuli."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import top_units
from onnxloc.controls import Match, draw_controls
from onnxloc.errors import NetworkError
from onnxloc.network import Network, network_from_flat
from onnxloc.stats.compare import Test, compare
from onnxloc.stats.halves import draw_halves
from onnxloc.studies.profile_readings import Readings

__all__ = ["Arm", "Responses", "block_responses", "controls_of", "half_arms", "responses"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# Numbers of a matrix that says which units are in which networks: 128 MB.
MAX_WEIGHTS = 1 << 24


@dataclass(frozen=True, eq=False)
class Arm:
    """A choice of units, and the items that it is measured on.

    Attributes
    ----------
    network : Network
        The units.
    weight : array, shape [items]
        What its response counts for in the mean of each item: 0 where the item, or its like, took
        part in choosing the units.
    """

    network: Network
    weight: Floats


@dataclass(frozen=True, eq=False)
class Responses:
    """Mean response of some networks to each item.

    Attributes
    ----------
    mean : array, shape [items, networks]
        NaN where none of a network's units counts.
    by_block : dict of int to array, each [items, networks]
        The same of the network's units of one block.
    """

    mean: Floats
    by_block: dict[int, Floats]


def half_arms(
    network: Network,
    readings: Readings,
    positive: Indices,
    control: Indices,
    items: Indices,
    test: Test,
    *,
    paired: bool,
    splits: int,
    seed: int,
) -> list[Arm]:
    """Choose as many units as the network has on each of two halves of its stimuli, many times.

    Units chosen on one half are measured on the other; items that are in neither half are measured
    with the units of both.

    Parameters
    ----------
    network : Network
        What was found with all stimuli.
    readings : Readings
        Activations, with the signs or without them as units are to be chosen.
    positive, control : array of int
        Rows of the two conditions of the localizer.
    items : array of int
        Rows of the profile's items.
    test : {"welch", "student", "paired", "mannwhitney"}
        The localizer's test.
    paired : bool
        Whether the i-th positive and the i-th control row belong together; they stay in one half.
    splits : int
        How often the stimuli are split.
    seed : int
        Of the splits.

    Raises
    ------
    OptionError
        If a condition has fewer than four stimuli, or too few units have a t.
    """
    rows = np.concatenate([positive, control])
    is_positive = np.arange(rows.size) < positive.size
    halves = draw_halves(is_positive, splits, seed, paired=paired)
    arms = []
    for first in halves.in_first:
        # One text may stand in both halves: it then chose the units of both.
        seen = [np.isin(items, rows[half]) for half in (first, ~first)]
        for half, own, other in ((first, *seen), (~first, *seen[::-1])):
            t = _t(readings, rows[half], is_positive[half], test)
            chosen = network_from_flat(
                top_units(t, network.size),
                network.sites,
                network.model_hash,
                {"how": "half", "test": test, "seed": seed},
            )
            arms.append(Arm(chosen, np.where(own, 0.0, np.where(other, 1.0, 0.5))))
    return arms


def _t(readings: Readings, rows: Indices, is_positive: NDArray[np.bool_], test: Test) -> Floats:
    return np.concatenate([compare(v[rows], is_positive, test).t for v in readings.values])


def controls_of(
    network: Network,
    arms: Sequence[Arm],
    n: int,
    match: Match,
    seed: int,
    magnitudes: Floats | None,
) -> tuple[Network, ...]:
    """Random networks that match the network and share no unit with it or with an arm.

    They are the same for all items: averaged over splits, random units would differ less from one
    control to the next than single networks do.

    Raises
    ------
    NetworkError
        If too few units are left.
    """
    if not n:
        # A network of nearly all units can be measured, if with nothing beside it.
        return ()
    pool = np.ones(network.n_units, dtype=np.bool_)
    for arm in arms:
        pool[arm.network.flat] = False
    try:
        return draw_controls(network, n, match, seed, pool=pool, magnitudes=magnitudes)
    except NetworkError as error:
        if match == "count":
            raise
        raise NetworkError(f"{error}, or match in number alone (--match count)") from error


def responses(
    readings: Readings, items: Indices, networks: Sequence[Network], *, z: bool
) -> Responses:
    """Mean response of the units of each network to each item.

    Parameters
    ----------
    readings : Readings
        Activations of all searched sites, in the order of the networks' sites.
    items : array of int
        Rows of the items.
    networks : sequence of Network
        All of the same sites.
    z : bool
        Standardise each unit over the items.
    """
    shape = (items.size, len(networks))
    sums: dict[int | None, Floats] = {}
    counts: dict[int | None, Floats] = {}
    for place, site in enumerate(readings.sites):
        values, known = readings.scaled(place, items, z=z)
        total = sums.setdefault(site.block, np.zeros(shape))
        count = counts.setdefault(site.block, np.zeros(len(networks)))
        step = max(1, MAX_WEIGHTS // max(site.units, 1))
        for left in range(0, len(networks), step):
            some = slice(left, left + step)
            chosen = np.stack([one.mask(site.name) & known for one in networks[some]], axis=1)
            total[:, some] += values @ chosen.astype(np.float64)
            count[some] += chosen.sum(axis=0)
    return Responses(
        _ratio(sum(sums.values(), np.zeros(shape)), sum(counts.values(), np.zeros(shape[1]))),
        {block: _ratio(sums[block], counts[block]) for block in sums if block is not None},
    )


def block_responses(
    readings: Readings, items: Indices, *, z: bool
) -> dict[int, tuple[Floats, int]]:
    """Mean response of all units of each block to each item, and how many units those are."""
    sums: dict[int, Any] = {}
    counts: dict[int, int] = {}
    for place, site in enumerate(readings.sites):
        if site.block is None:
            continue
        values, known = readings.scaled(place, items, z=z)
        sums[site.block] = sums.get(site.block, 0.0) + values.sum(axis=1)
        counts[site.block] = counts.get(site.block, 0) + int(known.sum())
    return {
        block: (_ratio(sums[block], np.float64(counts[block])), counts[block])
        for block in sorted(sums)
    }


def _ratio(total: Floats, count: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(count > 0, total / count, np.nan)
    return mean
