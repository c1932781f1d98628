"""Two runs of one architecture, unit by unit: t-values and networks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.stats.overlap import overlap
from onnxloc.stats.reliability import spearman
from onnxloc.studies.compared_run import ComparedRun

__all__ = ["UnitAgreement", "aligned_sites", "unit_agreement"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class UnitAgreement:
    """Units of two runs that stand for each other.

    Attributes
    ----------
    units : int
        How many there are.
    undefined_in_one : int
        Those that have a t in one run only.
    pearson, spearman : float
        Correlations of t over the units that have one in both; NaN where t does not vary.
    largest_t_difference : float
        Largest absolute difference of t.
    largest_site, largest_unit : str, int, or None
        Where it is.
    size_a, size_b : int
        Units of both networks among them.
    shared, dice : int, float
        Units in both networks, and Dice.
    dice_chance, dice_low, dice_high, dice_p : float
        What chance gives: as `onnxloc.stats.overlap.Overlap` has it.
    """

    units: int
    undefined_in_one: int
    pearson: float
    spearman: float
    largest_t_difference: float
    largest_site: str | None
    largest_unit: int | None
    size_a: int
    size_b: int
    shared: int
    dice: float
    dice_chance: float
    dice_low: float
    dice_high: float
    dice_p: float

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of all values."""
        return tuple(field.name for field in fields(cls))


def aligned_sites(a: ComparedRun, b: ComparedRun) -> tuple[list[str], str]:
    """The sites whose units stand for each other, and why there are none.

    Sites are the same where their canonical names are. They are units of one architecture only if
    both models have as many blocks, and no site of the same name has another width.
    """
    if a.n_blocks != b.n_blocks:
        return [], f"the models have {_blocks(a)} and {_blocks(b)}"
    mine, other = a.network.sites, b.network.sites
    common = [site for site in mine if site in other]
    for site in common:
        if mine[site] != other[site]:
            return (
                [],
                f"{site} has {mine[site]:,} units in one model and {other[site]:,} in another",
            )
    return common, "" if common else "no site was searched in both"


def _blocks(run: ComparedRun) -> str:
    return f"{run.n_blocks} blocks" if run.n_blocks else "no blocks"


def unit_agreement(
    a: ComparedRun, b: ComparedRun, sites: Sequence[str]
) -> tuple[UnitAgreement, list[dict[str, Any]]]:
    """Compare t and network of both runs over all aligned sites, and at each of them.

    Returns
    -------
    UnitAgreement
        Over all sites.
    list of dict
        For each site, its name and the fields of its own `UnitAgreement`.
    """
    parts = {
        site: (
            a.t[a.site_slice(site)],
            b.t[b.site_slice(site)],
            a.network.mask(site),
            b.network.mask(site),
        )
        for site in sites
    }
    rows = [{"site": site, **asdict(_agreement({site: values}))} for site, values in parts.items()]
    return _agreement(parts), rows


def _agreement(
    parts: Mapping[str, tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]],
) -> UnitAgreement:
    t_a, t_b, in_a, in_b = map(np.concatenate, zip(*parts.values(), strict=True))
    with np.errstate(invalid="ignore"):
        gap = np.abs(t_a - t_b)
    # Two infinities of one sign agree.
    gap[t_a == t_b] = 0.0
    known = ~np.isnan(gap)
    worst = int(np.argmax(np.where(known, gap, -1.0))) if known.any() else None
    site, unit = None, None
    if worst is not None:
        ends = np.cumsum([values[0].size for values in parts.values()])
        number = int(np.searchsorted(ends, worst, side="right"))
        site = list(parts)[number]
        unit = worst - int(ends[number]) + parts[site][0].size
    chosen = overlap(t_a.size, int(in_a.sum()), int(in_b.sum()), int((in_a & in_b).sum()))
    return UnitAgreement(
        units=t_a.size,
        undefined_in_one=int((np.isnan(t_a) != np.isnan(t_b)).sum()),
        pearson=_pearson(t_a, t_b),
        spearman=spearman(t_a, t_b),
        largest_t_difference=float("nan") if worst is None else float(gap[worst]),
        largest_site=site,
        largest_unit=unit,
        size_a=int(in_a.sum()),
        size_b=int(in_b.sum()),
        shared=chosen.shared,
        dice=chosen.dice,
        dice_chance=chosen.chance,
        dice_low=chosen.chance_low,
        dice_high=chosen.chance_high,
        dice_p=chosen.p,
    )


def _pearson(a: Floats, b: Floats) -> float:
    """Pearson's correlation of what is finite in both; NaN where it has no value."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2:
        return float("nan")
    x, y = (values[known] - values[known].mean() for values in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / size, -1.0, 1.0)) if size > 0 else float("nan")
