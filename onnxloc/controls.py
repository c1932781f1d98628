"""Control networks: as many units as a network has, from outside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator, top_units
from onnxloc.errors import NetworkError, OptionError
from onnxloc.network import Network, network_from_flat, site_starts

__all__ = [
    "MASSIVE",
    "Match",
    "MatchRatio",
    "draw_control",
    "draw_controls",
    "least_selective",
    "massive_units",
    "match_ratio",
    "site_multiples",
]

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Match = Literal["site", "count", "norm"]

# A unit is called massive whose mean |activation| is more than so many times its site's median.
MASSIVE = 100.0
# A control matched by norm takes one of so many nearest units for each unit of the network.
NEAREST = 8
TRIES = 200
WIDEN_EVERY = 20
# Logarithms and ratios of activations need a number above 0; float32 holds none smaller.
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class MatchRatio:
    """How well a control's activations match: larger over smaller, unit by unit; 1 is equal."""

    median: float
    largest: float


def draw_control(
    network: Network,
    *,
    match: Match,
    seed: int,
    pool: NDArray[np.bool_] | None = None,
    magnitudes: Floats | None = None,
) -> Network:
    """Random units outside a network, as many as it has.

    Parameters
    ----------
    network : Network
        What the control is for.
    match : {"site", "count", "norm"}
        "site" draws as many units in each site as the network has there; "count" draws the same
        total from all searched sites. "norm" draws, for each unit of the network in random order,
        one of the 8 units of its site that are left and nearest in log mean |activation|.
    seed : int
        Equal seeds give equal controls.
    pool : array of bool, shape [all units of all sites], optional
        Which units may be drawn; all by default.
    magnitudes : array, shape [all units of all sites], optional
        Mean |activation| of each unit, which "norm" needs. A unit that has NaN is not drawn.

    Raises
    ------
    NetworkError
        If too few units are left outside the network, or one of its units has no magnitude.
    OptionError
        If there is no such match, the seed is negative, or an array is missing or has another
        shape.
    """
    draw = _drawer(network, match, pool, magnitudes)
    return _control(network, draw(generator(seed), NEAREST), match, {"seed": seed})


def draw_controls(
    network: Network,
    n: int,
    match: Match,
    seed: int,
    *,
    pool: NDArray[np.bool_] | None = None,
    magnitudes: Floats | None = None,
) -> tuple[Network, ...]:
    """Draw `n` different controls; the i-th is the same however many are drawn.

    One that came out before is drawn again. Where that happens again and again, a match by norm
    takes more and more of the nearest units.

    Raises
    ------
    NetworkError, OptionError
        As `draw_control`; also if `n` is negative, or so many different controls were not found.
    """
    if n < 0:
        raise OptionError(f"the number of controls cannot be {n}")
    draw = _drawer(network, match, pool, magnitudes)
    seen: set[bytes] = set()
    found = []
    for i in range(n):
        rng, nearest = generator(seed, i), NEAREST
        flat = draw(rng, nearest)
        for again in range(1, TRIES):
            if flat.tobytes() not in seen:
                break
            nearest *= 1 if again % WIDEN_EVERY else 2
            flat = draw(rng, nearest)
        if flat.tobytes() in seen:
            raise NetworkError(
                f"only {i} different controls were found of the {n} asked for, since few units "
                "are outside the network; ask for fewer controls"
            )
        seen.add(flat.tobytes())
        found.append(_control(network, flat, match, {"seed": seed, "index": i}))
    return tuple(found)


def least_selective(
    network: Network, t: Floats, *, pool: NDArray[np.bool_] | None = None
) -> Network:
    """The units with the smallest |t|, as many in each site as the network has there.

    Parameters
    ----------
    network : Network
        What the control is for; none of its units is taken.
    t : array, shape [all units of all sites]
        What ranks the units. Those without a t are not taken.
    pool : array of bool, shape [all units of all sites], optional
        Which units may be taken.

    Raises
    ------
    NetworkError
        If a site has too few units outside the network.
    OptionError
        If an array has another shape.
    """
    free = _free(network, pool) & ~np.isnan(_checked(t, network, "t-values"))

    def take(outside: Indices, count: int) -> Indices:
        return outside[top_units(-np.abs(t[outside]), count)]

    parts = [take(outside, units.size) for outside, units in _by_site(network, free)]
    return _control(network, _sorted(parts), "least", {})


def site_multiples(sites: Mapping[str, int], magnitudes: Floats) -> Floats:
    """Mean |activation| of each unit as a multiple of its site's median, shape [units].

    NaN where a unit has none, and where the median is 0.
    """
    multiples = np.full(magnitudes.shape, np.nan)
    for site, start in site_starts(sites).items():
        own = magnitudes[start : start + sites[site]]
        known = own[~np.isnan(own)]
        median = float(np.median(known)) if known.size else 0.0
        if median > 0:
            multiples[start : start + sites[site]] = own / median
    return multiples


def massive_units(network: Network, multiples: Floats) -> Indices:
    """Flat indices of the network's massive units: above `MASSIVE` times their site's median.

    Parameters
    ----------
    network : Network
        Whose units are looked at.
    multiples : array, shape [all units of all sites]
        What `site_multiples` gave.
    """
    flat = network.flat
    massive: Indices = flat[np.nan_to_num(multiples[flat]) > MASSIVE]
    return massive


def match_ratio(network: Network, control: Network, magnitudes: Floats) -> MatchRatio | None:
    """How far a control's activations are from the network's, site by site.

    Within a site both are sorted by magnitude and compared place by place.

    Returns
    -------
    MatchRatio or None
        None if the two have different numbers of units in a site, or a unit has no magnitude.
    """
    starts = site_starts(network.sites)
    logs = []
    for site in network.sites:
        pair = [one.units.get(site, np.empty(0, np.int64)) for one in (network, control)]
        if pair[0].size != pair[1].size:
            return None
        own, other = (np.sort(_logs(magnitudes[units + starts[site]])) for units in pair)
        logs.append(np.abs(own - other))
    apart = np.concatenate([*logs, np.empty(0)])
    if not apart.size or np.isnan(apart).any():
        return None
    return MatchRatio(float(np.exp(np.median(apart))), float(np.exp(apart.max())))


def _drawer(
    network: Network,
    match: Match,
    pool: NDArray[np.bool_] | None,
    magnitudes: Floats | None,
) -> Callable[[np.random.Generator, int], Indices]:
    """What draws the flat indices of one control, from a generator and how many are near."""
    if match not in get_args(Match):
        raise OptionError(f"controls can match by site or count, or by norm, not by {match!r}")
    free = _free(network, pool)
    if match == "count":
        outside = _enough(np.flatnonzero(free), network.size, "there are")
        return lambda rng, _: np.sort(rng.choice(outside, network.size, False, shuffle=False))
    if match == "site":
        places = _by_site(network, free)
        return lambda rng, _: _sorted(
            [rng.choice(outside, units.size, False, shuffle=False) for outside, units in places]
        )
    if magnitudes is None:
        raise OptionError("a match by norm needs the mean |activation| of the units")
    logs = _logs(_checked(magnitudes, network, "activations"))
    if np.isnan(logs[network.flat]).any():
        raise NetworkError(
            "a unit of the network has no mean |activation|, so nothing matches it; take another "
            "match, such as site"
        )
    near = _by_site(network, free & ~np.isnan(logs))
    return lambda rng, nearest: _sorted(
        [_near(rng, logs, outside, units, nearest) for outside, units in near]
    )


def _near(
    rng: np.random.Generator, logs: Floats, outside: Indices, units: Indices, nearest: int
) -> Indices:
    """For each unit, in random order, one of the nearest that are left."""
    drawn = np.empty(units.size, dtype=np.int64)
    for i, unit in enumerate(rng.permutation(units)):
        order = np.argsort(np.abs(logs[outside] - logs[unit]), kind="stable")
        at = order[rng.integers(min(nearest, order.size))]
        drawn[i] = outside[at]
        outside = np.delete(outside, at)
    return drawn


def _free(network: Network, pool: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    free = np.ones(network.n_units, dtype=np.bool_)
    if pool is not None:
        if pool.shape != free.shape or pool.dtype != np.bool_:
            raise OptionError(f"a pool needs one flag for each of {free.size} units")
        free &= pool
    free[network.flat] = False
    return free


def _by_site(network: Network, free: NDArray[np.bool_]) -> list[tuple[Indices, Indices]]:
    """For each site of the network, flat indices of what may be drawn and of its own units."""
    starts = site_starts(network.sites)
    return [
        (
            _enough(
                np.flatnonzero(free[starts[site] : starts[site] + network.sites[site]])
                + starts[site],
                units.size,
                f"site {site!r} has",
            ),
            units + starts[site],
        )
        for site, units in network.units.items()
    ]


def _enough(outside: Indices, count: int, where: str) -> Indices:
    if outside.size < count:
        raise NetworkError(
            f"{where} only {outside.size} units outside the network, and a control needs "
            f"{count}; take a smaller network"
        )
    return outside


def _checked(values: Floats, network: Network, what: str) -> Floats:
    if values.shape != (network.n_units,):
        raise OptionError(f"{values.size} {what} do not go with {network.n_units} units")
    return values


def _logs(magnitudes: Floats) -> Floats:
    finite = np.where(np.isfinite(magnitudes), magnitudes, np.nan)
    logs: Floats = np.log(np.maximum(finite, SMALLEST))
    return logs


def _sorted(parts: list[Indices]) -> Indices:
    return np.sort(np.concatenate([*parts, np.empty(0, dtype=np.int64)]))


def _control(network: Network, flat: Indices, match: str, how: Mapping[str, int]) -> Network:
    return network_from_flat(
        flat, network.sites, network.model_hash, {"how": "control", "match": match, **how}
    )
