"""How far what was found agrees with what float32 on the CPU finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.graph.sites import Site
from onnxloc.network import Network

__all__ = ["Agreement", "agree"]

REFERENCE = "CPUExecutionProvider, fp32"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Statistics of a run beside those of the same stimuli in float32 on the CPU.

    Attributes
    ----------
    reference : str
        What it was compared with.
    n_stimuli : int
        Stimuli that both ran: all of them.
    n_units : int
        Units that have a t in both.
    n_undefined_in_one : int
        Units that have a t in one only.
    largest_t_difference : float or None
        Largest absolute difference of t.
    site, unit : str, int, or None
        Where it is.
    largest_t_difference_chosen : float or None
        The same over the units that either network holds.
    largest_t : float or None
        Largest absolute t of the reference, to set the differences beside.
    n_chosen, n_chosen_reference : int or None
        Units of both networks; None where the rule of selection needs more than t.
    dice : float or None
        Twice the units that both networks share over the units of both.
    """

    reference: str
    n_stimuli: int
    n_units: int
    n_undefined_in_one: int
    largest_t_difference: float | None
    site: str | None
    unit: int | None
    largest_t_difference_chosen: float | None
    largest_t: float | None
    n_chosen: int | None
    n_chosen_reference: int | None
    dice: float | None


def agree(
    t: NDArray[np.float64],
    reference_t: NDArray[np.float64],
    sites: Sequence[Site],
    networks: tuple[Network, Network] | None,
    n_stimuli: int,
) -> Agreement:
    """Compare two runs of the same stimuli.

    Parameters
    ----------
    t, reference_t : ndarray, [units]
        Statistics of both, site after site.
    sites : sequence of Site
        The sites.
    networks : (Network, Network) or None
        The network of the run and of the reference.
    n_stimuli : int
        Number of stimuli.
    """
    with np.errstate(invalid="ignore"):
        gap = np.abs(t - reference_t)
    # Two infinities of one sign agree.
    gap[t == reference_t] = 0.0
    defined = ~np.isnan(gap)
    worst = int(np.argmax(np.where(defined, gap, -1.0))) if defined.any() else None
    site, unit = (None, None) if worst is None else _place(sites, worst)
    chosen = np.zeros(t.size, dtype=np.bool_)
    for network in networks or ():
        chosen[network.flat] = True
    return Agreement(
        reference=REFERENCE,
        n_stimuli=n_stimuli,
        n_units=int(defined.sum()),
        n_undefined_in_one=int((np.isnan(t) != np.isnan(reference_t)).sum()),
        largest_t_difference=None if worst is None else float(gap[worst]),
        site=site,
        unit=unit,
        largest_t_difference_chosen=_largest(gap[chosen & defined]),
        largest_t=_largest(np.abs(reference_t[defined])),
        n_chosen=networks[0].size if networks else None,
        n_chosen_reference=networks[1].size if networks else None,
        dice=networks[0].dice(networks[1]) if networks else None,
    )


def _largest(values: NDArray[np.float64]) -> float | None:
    return float(values.max()) if values.size else None


def _place(sites: Sequence[Site], flat: int) -> tuple[str, int]:
    ends = np.cumsum([site.units for site in sites])
    number = int(np.searchsorted(ends, flat, side="right"))
    return sites[number].name, flat - int(ends[number]) + sites[number].units
