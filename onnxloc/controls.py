"""Random control networks: as many units as a network has, from outside it."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import generator
from onnxloc.errors import NetworkError, OptionError
from onnxloc.network import Network, network_from_flat, site_starts

__all__ = ["Match", "draw_control", "draw_controls"]

Indices = NDArray[np.int64]
Match = Literal["site", "count"]


def draw_control(
    network: Network, *, match: Match, seed: int, pool: NDArray[np.bool_] | None = None
) -> Network:
    """Random units outside a network, as many as it has.

    Parameters
    ----------
    network : Network
        What the control is for.
    match : {"site", "count"}
        "site" draws as many units in each site as the network has there; "count" draws the same
        total from all searched sites.
    seed : int
        Equal seeds give equal controls.
    pool : array of bool, shape [all units of all sites], optional
        Which units may be drawn; all by default.

    Raises
    ------
    NetworkError
        If too few units are left outside the network.
    OptionError
        If there is no such match, the seed is negative, or `pool` has another shape.
    """
    return _draw(network, match, generator(seed), pool, {"seed": seed})


def draw_controls(
    network: Network, n: int, match: Match, seed: int, *, pool: NDArray[np.bool_] | None = None
) -> tuple[Network, ...]:
    """Draw `n` independent controls; the i-th is the same however many are drawn.

    Raises
    ------
    NetworkError, OptionError
        As `draw_control`; also if `n` is negative.
    """
    if n < 0:
        raise OptionError(f"the number of controls cannot be {n}")
    return tuple(
        _draw(network, match, generator(seed, i), pool, {"seed": seed, "index": i})
        for i in range(n)
    )


def _draw(
    network: Network,
    match: Match,
    rng: np.random.Generator,
    pool: NDArray[np.bool_] | None,
    how: Mapping[str, int],
) -> Network:
    if match not in ("site", "count"):
        raise OptionError(f"controls can match by site or count, not by {match!r}")
    free = np.ones(network.n_units, dtype=np.bool_)
    if pool is not None:
        if pool.shape != free.shape or pool.dtype != np.bool_:
            raise OptionError(f"a pool needs one flag for each of {free.size} units")
        free &= pool
    free[network.flat] = False

    def draw(start: int, stop: int, count: int, where: str) -> Indices:
        outside = np.flatnonzero(free[start:stop]) + start
        if outside.size < count:
            raise NetworkError(
                f"{where} only {outside.size} units outside the network, and a control needs "
                f"{count}; take a smaller network"
            )
        drawn: Indices = rng.choice(outside, count, replace=False, shuffle=False)
        return np.sort(drawn)

    if match == "count":
        flat = draw(0, free.size, network.size, "there are")
    else:
        starts = site_starts(network.sites)
        parts = [
            draw(starts[s], starts[s] + network.sites[s], len(units), f"site {s!r} has")
            for s, units in network.units.items()
        ]
        flat = np.concatenate([np.empty(0, dtype=np.int64), *parts])
    return network_from_flat(
        flat, network.sites, network.model_hash, {"how": "control", "match": match, **how}
    )
