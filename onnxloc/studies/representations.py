"""Representations of the same stimuli in two runs, site against site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import Activations
from onnxloc.errors import AnatomyError, OptionError
from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.progress import Progress
from onnxloc.stats.similarity import (
    MIN_STIMULI,
    cka_signature,
    debiased_signature,
    permutation_p,
    rsa_signature,
)
from onnxloc.studies.compared_run import ComparedRun

__all__ = [
    "DEFAULT_SITES",
    "Representations",
    "compare_representations",
    "pick_sites",
    "same_stimuli",
]

Floats = NDArray[np.float64]
DEFAULT_SITES = ("block.*.out",)
# Numbers of one measure's signatures of one run: 256 MB.
MAX_VALUES = 1 << 25


@dataclass(frozen=True, eq=False)
class Representations:
    """Signatures of the sites of one run, a row each; see `onnxloc.stats.similarity`.

    Attributes
    ----------
    run : ComparedRun
        The run.
    activations : Activations
        What they are of.
    sites : tuple of str
        The sites.
    cka, debiased, rsa : array, shape [sites, …]
        Their signatures.
    """

    run: ComparedRun
    activations: Activations
    sites: tuple[str, ...]
    cka: Floats
    debiased: Floats
    rsa: Floats

    @classmethod
    def read(cls, run: ComparedRun, sites: Sequence[str], progress: Progress) -> "Representations":
        """Read the activations of some sites, with their signs, and reduce them.

        Raises
        ------
        OptionError
            If there are fewer than four stimuli, or too many sites for so many stimuli.
        RunError
            If the run has no activations, or they are damaged.
        """
        stored = run.activations()
        n = len(stored)
        if n < MIN_STIMULI:
            raise OptionError(
                f"{run.label} has {n} stimuli; representations need at least {MIN_STIMULI}"
            )
        if n * (n + 1) // 2 * len(sites) > MAX_VALUES:
            room = MAX_VALUES // (n * (n + 1) // 2)
            raise OptionError(
                f"{len(sites)} sites with {n:,} stimuli take too much memory to compare; "
                f"name at most {room} with --sites"
                if room
                else f"{n:,} stimuli are too many to compare representations"
            )
        rows = []
        for site in sites:
            values = stored.read(site)
            rows.append((cka_signature(values), debiased_signature(values), rsa_signature(values)))
            progress.add(1)
        cka, debiased, rsa = (np.stack(column) for column in zip(*rows, strict=True))
        return cls(run, stored, tuple(sites), cka, debiased, rsa)


def pick_sites(run: ComparedRun, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """The sites of a run that match patterns; by default its blocks' outputs, or else all.

    Raises
    ------
    AnatomyError
        If a pattern that was given matches none.
    """
    table = SiteTable(
        Site(name, (name,), "", "float32", (Axis.BATCH, Axis.FEATURE), (None, units))
        for name, units in run.network.sites.items()
        if units
    )
    if patterns is None:
        try:
            return tuple(site.name for site in table.match(DEFAULT_SITES))
        except AnatomyError:
            return tuple(site.name for site in table)
    try:
        return tuple(site.name for site in table.match(patterns))
    except AnatomyError as error:
        raise AnatomyError(f"{run.label}: {error}") from error


def same_stimuli(a: Activations, b: Activations) -> bool:
    """Whether both are of the same texts in the same conditions and order."""
    columns = ["condition", "text"]
    return a.stimuli[columns].equals(b.stimuli[columns])


def compare_representations(
    a: Representations,
    b: Representations,
    *,
    permutations: int,
    seed: int,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every site of one run against every site of the other.

    Returns
    -------
    cells : list of dict
        For each pair of sites: `site_a`, `site_b`, `depth_a`, `depth_b`, `cka`, `cka_debiased`,
        `p_cka` (of the debiased CKA), `rsa`, `p_rsa`.
    best : list of dict
        For each site of `a`, the site of `b` with the largest debiased CKA, and the p-value of
        that largest value among all sites.
    """
    measured = {
        "cka": _product(a.cka, b.cka),
        "cka_debiased": _product(a.debiased, b.debiased),
        "rsa": _product(a.rsa, b.rsa),
    }
    settings: Mapping[str, Any] = {
        "permutations": permutations,
        "seed": seed,
        "done": lambda: progress.add(1),
    }
    measured["p_cka"], best_p = permutation_p(a.debiased, b.debiased, **settings)
    measured["p_rsa"], _ = permutation_p(a.rsa, b.rsa, **settings)
    names = ("cka", "cka_debiased", "p_cka", "rsa", "p_rsa")
    cells = [
        {
            "site_a": site,
            "site_b": other,
            "depth_a": a.run.depth(site),
            "depth_b": b.run.depth(other),
            **{name: float(measured[name][i, j]) for name in names},
        }
        for i, site in enumerate(a.sites)
        for j, other in enumerate(b.sites)
    ]
    best = []
    for i, site in enumerate(a.sites):
        row = measured["cka_debiased"][i]
        if np.isnan(row).all():
            continue
        j = int(np.nanargmax(row))
        best.append(
            {
                "site_a": site,
                "site_b": b.sites[j],
                "depth_a": a.run.depth(site),
                "depth_b": b.run.depth(b.sites[j]),
                "cka_debiased": float(row[j]),
                "p_best": float(best_p[i]),
                "rsa": float(measured["rsa"][i, j]),
            }
        )
    return cells, best


def _product(first: Floats, second: Floats) -> Floats:
    """Similarities of all pairs; rounding may put them a little beyond 1."""
    product: Floats = np.clip(first @ second.T, -1.0, 1.0)
    return product
