"""The conditions of an ablation: the network and the networks it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import top_units
from onnxloc.controls import (
    Match,
    draw_controls,
    least_selective,
    massive_units,
    match_ratio,
    site_multiples,
)
from onnxloc.errors import OptionError
from onnxloc.network import Network, network_from_flat, site_starts
from onnxloc.studies.effects import Condition

__all__ = ["WITHOUT_MASSIVE", "Battery", "Drawn", "conditions", "described"]

Floats = NDArray[np.float64]

WITHOUT_MASSIVE = "network-without-massive"
MATCHES: tuple[Match, ...] = ("count", "site", "norm")
# Massive units of a condition that a summary names one by one.
MAX_NAMED = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Battery:
    """What ranks the units, for controls that a localizer finds.

    Attributes
    ----------
    t : array, shape [units]
        The t-values of the network's own localizer; the least selective units come from it.
    shuffled : array, shape [shuffles, units]
        The same after the labels of its stimuli were shuffled.
    untrained : array, shape [units]
        The same in an untrained copy of the model.
    about : mapping
        Where they are from, for the record.
    seconds : mapping of str to float
        How long they took.

    Raises
    ------
    OptionError
        If they are not of the same units, or there is no shuffle.
    """

    t: Floats
    shuffled: Floats
    untrained: Floats
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.t.shape
        if len(n) != 1 or self.untrained.shape != n or self.shuffled.shape[1:] != n:
            raise OptionError("the t-values of a battery must be of the same units")
        if not len(self.shuffled):
            raise OptionError("a battery needs one control of each kind or more")


@dataclass(frozen=True)
class Drawn:
    """How random controls are drawn.

    Attributes
    ----------
    n : int
        Of each kind and size.
    match : {"site", "count", "norm"}
        Of the main controls; a battery draws the other kinds too.
    seed : int
        Of the draws.
    """

    n: int
    match: Match
    seed: int


def conditions(
    sized: Mapping[float, Network],
    drawn: Drawn,
    *,
    battery: Battery | None = None,
    magnitudes: Floats | None = None,
) -> dict[Condition, Network]:
    """The network and its controls, for each size.

    The main controls are named ``control-00`` and so on, those of another kind by their kind.
    Random and least selective units are taken from outside the largest network; what a shuffled or
    an untrained localizer finds is taken as it is, so that it may share units with the network.

    Parameters
    ----------
    sized : mapping of float to Network
        Percent of the units, and the network of that size.
    drawn : Drawn
        Which random controls.
    battery : Battery, optional
        Add all other kinds of control, and the network without its massive units.
    magnitudes : array, shape [units], optional
        Mean |activation|; needed for a match by norm and for a battery.

    Raises
    ------
    NetworkError, OptionError
        If a network has no units, or a control cannot be drawn.
    """
    if not all(whole.size for whole in sized.values()):
        raise OptionError("the network has no units, so there is nothing to ablate")
    # Controls of a small size keep clear of the largest network too.
    pool = np.ones(next(iter(sized.values())).n_units, dtype=np.bool_)
    for whole in sized.values():
        pool[whole.flat] = False
    found: dict[Condition, Network] = {}
    for size, whole in sized.items():
        found[Condition("network", size, "network")] = whole

        def draw(match: Match, whole: Network = whole) -> tuple[Network, ...]:
            return draw_controls(
                whole, drawn.n, match, drawn.seed, pool=pool, magnitudes=magnitudes
            )

        for i, control in enumerate(draw(drawn.match)):
            found[Condition(f"control-{i:02d}", size, drawn.match)] = control
        if battery is None:
            continue
        kinds: dict[str, tuple[Network, ...]] = {
            match: draw(match) for match in MATCHES if match != drawn.match
        }
        kinds["least"] = (least_selective(whole, battery.t, pool=pool),)
        kinds["shuffled"] = tuple(_found(whole, t, "shuffled") for t in battery.shuffled)
        kinds["untrained"] = (_found(whole, battery.untrained, "untrained"),)
        for kind, networks in kinds.items():
            for i, control in enumerate(networks):
                found[Condition(f"{kind}-{i:02d}", size, kind)] = control
        if magnitudes is not None:
            rest = _without_massive(whole, magnitudes)
            if rest is not None:
                found[Condition(WITHOUT_MASSIVE, size, "without-massive")] = rest
    return found


def described(networks: Mapping[Condition, Network], magnitudes: Floats) -> list[dict[str, Any]]:
    """What the summary says of each network: its size, overlap and largest units.

    Parameters
    ----------
    networks : mapping of Condition to Network
        What `conditions` gave.
    magnitudes : array, shape [units]
        Mean |activation| of each unit.
    """
    wholes = {c.size: network for c, network in networks.items() if c.kind == "network"}
    any_whole = next(iter(wholes.values()))
    multiples = site_multiples(any_whole.sites, magnitudes)
    out = []
    for condition, network in networks.items():
        whole = wholes[condition.size]
        massive = massive_units(network, multiples)
        order = massive[np.argsort(-multiples[massive], kind="stable")]
        own = multiples[network.flat]
        ratio = match_ratio(whole, network, magnitudes) if network is not whole else None
        out.append(
            {
                "condition": condition.name,
                "size": condition.size,
                "kind": condition.kind,
                "n_units": network.size,
                "n_shared": int(np.intersect1d(network.flat, whole.flat).size),
                "largest_multiple": float(np.nanmax(own)) if np.isfinite(own).any() else None,
                "n_massive": massive.size,
                "massive": [
                    {**_place(network, int(unit)), "multiple": float(multiples[unit])}
                    for unit in order[:MAX_NAMED]
                ],
                "match_median": None if ratio is None else ratio.median,
                "match_largest": None if ratio is None else ratio.largest,
            }
        )
    return out


def _found(whole: Network, t: Floats, how: str) -> Network:
    """As many units as the network has, with the largest t of another localizer."""
    return network_from_flat(
        top_units(t, whole.size),
        whole.sites,
        whole.model_hash,
        {"how": "control", "match": how},
    )


def _without_massive(whole: Network, magnitudes: Floats) -> Network | None:
    """The network without its massive units; None if it has none, or nothing else."""
    massive = massive_units(whole, site_multiples(whole.sites, magnitudes))
    if not 0 < massive.size < whole.size:
        return None
    return network_from_flat(
        np.setdiff1d(whole.flat, massive),
        whole.sites,
        whole.model_hash,
        {**whole.how, "without": "massive"},
    )


def _place(network: Network, flat: int) -> dict[str, Any]:
    """Site and index of a unit."""
    starts = site_starts(network.sites)
    site = next(s for s, start in starts.items() if start <= flat < start + network.sites[s])
    return {"site": site, "unit": flat - starts[site]}
