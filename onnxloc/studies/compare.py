"""Comparing runs: the same units through several exporters, or the depths of different models."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxloc.errors import OptionError
from onnxloc.progress import Progress
from onnxloc.stats.depth import depth_distance
from onnxloc.store import Run
from onnxloc.studies.compared_run import ComparedRun
from onnxloc.studies.comparison import CompareOptions, Comparison
from onnxloc.studies.representations import (
    Representations,
    compare_representations,
    pick_sites,
    same_stimuli,
)
from onnxloc.studies.unit_agreement import UnitAgreement, aligned_sites, unit_agreement

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CompareOptions", "Comparison", "compare"]

# Units of each pair of runs that are kept for a scatter plot.
MAX_POINTS = 3_000


def compare(
    runs: Sequence[Run | str | Path],
    options: CompareOptions | None = None,
    *,
    show_progress: bool = False,
) -> Comparison:
    """Compare the t-values, networks and representations of two or more runs.

    Runs of one architecture are compared unit by unit, wherever sites have the same canonical name
    and width. All runs of models with blocks are compared by where in depth their networks lie.
    Runs that kept their activations of the same stimuli are compared by linear CKA and by RSA,
    site against site.

    Parameters
    ----------
    runs : sequence of Run or path
        Runs of ``localize`` or ``contrast``.
    options : CompareOptions, optional
        What is compared.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if there are fewer than two runs, one of them is damaged or of another
        step, or representations are asked for that cannot be compared.
    """
    options = options or CompareOptions()
    folders = [run.folder if isinstance(run, Run) else Path(run) for run in runs]
    opened = [
        ComparedRun.open(folder, label)
        for folder, label in zip(folders, _labels(folders), strict=True)
    ]
    found = _Found(options)
    for run in opened:
        found.add_run(run)
    for a, b in combinations(opened, 2):
        found.add_pair(a, b)
    _add_representations(found, opened, show_progress)
    return found.comparison()


def _labels(folders: Sequence[Path]) -> list[str]:
    """Short names for runs: those of their folders, or whole paths where two are alike."""
    if len(folders) < 2:
        raise OptionError("comparing takes two runs or more")
    resolved = [folder.resolve() for folder in folders]
    twice = [path for path, count in Counter(resolved).items() if count > 1]
    if twice:
        raise OptionError(f"the run {twice[0]} is given twice")
    names = Counter(path.name for path in resolved)
    return [path.name if names[path.name] == 1 else str(path) for path in resolved]


class _Found:
    """Rows of the tables of a comparison, as they are found."""

    def __init__(self, options: CompareOptions) -> None:
        self.options = options
        self.runs: list[dict[str, Any]] = []
        self.pairs: dict[tuple[str, str], dict[str, Any]] = {}
        self.sites: list[dict[str, Any]] = []
        self.depth: list[dict[str, Any]] = []
        self.representations: list[dict[str, Any]] = []
        self.best: list[dict[str, Any]] = []
        self.scatter: list[DataFrame] = []
        self.notes: dict[str, None] = {}

    def note(self, text: str) -> None:
        """Say something once."""
        self.notes[text] = None

    def add_run(self, run: ComparedRun) -> None:
        """A row for the run, and rows for its blocks."""
        searched, chosen = run.per_block()
        self.runs.append(
            {
                "run": run.label,
                "model": run.model_name,
                "framework": str(run.model.get("framework") or "") or None,
                "blocks": run.n_blocks,
                "sites": len(run.network.sites),
                "units": run.network.n_units,
                "chosen": run.network.size,
                **run.settings,
                "provider": next(
                    (s.provider for s in run.run.manifest.steps if s.step == "localize"), ""
                ),
                "activations": run.has_activations,
                "model_hash": run.network.model_hash,
                "stimuli_hash": run.run.stimuli_hash,
                "folder": str(run.run.folder.resolve()),
            }
        )
        n = searched.size
        self.depth += [
            {
                "run": run.label,
                "block": block,
                "depth_from": block / n,
                "depth_to": (block + 1) / n,
                "units": int(searched[block]),
                "chosen": int(chosen[block]),
                "share_of_network": chosen[block] / chosen.sum() if chosen.any() else float("nan"),
            }
            for block in range(n)
            if searched[block]
        ]

    def add_pair(self, a: ComparedRun, b: ComparedRun) -> None:
        """A row for two runs, with rows for the sites that they share."""
        import pandas as pd

        self._flag(a, b)
        key = {"a": a.label, "b": b.label}
        row: dict[str, Any] = {**key, **dict.fromkeys(UnitAgreement.columns())}
        aligned, why = aligned_sites(a, b)
        row = {**key, "sites": len(aligned), **row}
        if aligned:
            whole, by_site = unit_agreement(a, b, aligned)
            row |= asdict(whole)
            self.sites += [{**key, **site} for site in by_site]
            self.scatter.append(pd.DataFrame({**key, **self._points(a, b, aligned)}))
            outside = len({*a.network.sites, *b.network.sites}) - len(aligned)
            if outside:
                self.note(
                    f"{a.label} and {b.label}: {outside} sites were searched in one run only; "
                    "units and networks are compared over the others"
                )
        else:
            self.note(f"{a.label} and {b.label} are not compared unit by unit: {why}")
        (searched_a, in_a), (searched_b, in_b) = a.per_block(), b.per_block()
        row |= {"depth_distance": None, "depth_p": None}
        if searched_a.any() and searched_b.any():
            distance, p = depth_distance(
                in_a, in_b, permutations=self.options.permutations, seed=self.options.seed
            )
            row |= {"depth_distance": distance, "depth_p": p}
        self.pairs[a.label, b.label] = row

    def _flag(self, a: ComparedRun, b: ComparedRun) -> None:
        """Note whatever makes two runs' t-values be of different things."""
        pair = f"{a.label} and {b.label}"
        if a.run.stimuli_hash != b.run.stimuli_hash:
            self.note(
                f"{pair} are of different stimuli: agreement of t and of networks mixes models "
                "and stimuli"
            )
        for name, value in a.settings.items():
            other = b.settings[name]
            if value != other:
                self.note(f"{pair} differ in {name}: {_said(value)} and {_said(other)}")
        if a.network.how != b.network.how:
            self.note(f"{pair} chose their networks by different rules")

    def _points(
        self, a: ComparedRun, b: ComparedRun, sites: Sequence[str]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        t_a, t_b = (np.concatenate([run.t[run.site_slice(s)] for s in sites]) for run in (a, b))
        in_a, in_b = (np.concatenate([run.network.mask(s) for s in sites]) for run in (a, b))
        known = np.flatnonzero(np.isfinite(t_a) & np.isfinite(t_b))
        if known.size > MAX_POINTS:
            rng = np.random.default_rng(self.options.seed)
            known = np.sort(rng.choice(known, MAX_POINTS, replace=False))
        return {
            "t_a": t_a[known],
            "t_b": t_b[known],
            "chosen_a": in_a[known],
            "chosen_b": in_b[known],
        }

    def add_representations(
        self, a: Representations, b: Representations, progress: Progress
    ) -> None:
        """Rows for all pairs of sites of two runs, and their summary."""
        from onnxloc.stats.reliability import spearman

        cells, best = compare_representations(
            a,
            b,
            permutations=self.options.permutations,
            seed=self.options.seed,
            progress=progress,
        )
        pair = a.run.label, b.run.label
        key = {"a": pair[0], "b": pair[1]}
        self.representations += [{**key, **cell} for cell in cells]
        self.best += [{**key, **row} for row in best]
        row = self.pairs[pair]
        names = {"cka": "cka", "cka_debiased": "cka_debiased", "rsa": "rsa"}
        if row["sites"]:
            same = [cell for cell in cells if cell["site_a"] == cell["site_b"]]
            row |= {f"{name}_same_site": _mean([c[k] for c in same]) for name, k in names.items()}
        depths = np.array([[r["depth_a"], r["depth_b"]] for r in best], dtype=np.float64).reshape(
            -1, 2
        )
        row |= {
            "cka_debiased_best": _mean([r["cka_debiased"] for r in best]),
            "best_depth_spearman": spearman(depths[:, 0], depths[:, 1]),
        }

    def comparison(self) -> Comparison:
        """Make tables of the rows."""
        import pandas as pd

        return Comparison.of_rows(
            self.options,
            {
                "runs": self.runs,
                "pairs": list(self.pairs.values()),
                "sites": self.sites,
                "depth": self.depth,
                "representations": self.representations,
                "best": self.best,
            },
            pd.concat(self.scatter, ignore_index=True) if self.scatter else None,
            tuple(self.notes),
        )


def _add_representations(found: _Found, runs: Sequence[ComparedRun], show: bool) -> None:
    """Compare the representations of every pair of runs where that can be done."""
    options = found.options
    if options.representations is False:
        return
    for run in runs:
        if not run.has_activations:
            # Raises what says that the run has none.
            if options.representations or options.sites:
                run.activations()
            found.note(
                f"{run.label} has no stored activations, so its representations are not compared; "
                "make it again with localize --keep-activations"
            )
    having = [run for run in runs if run.has_activations]
    if len(having) < 2:
        return
    picked = {run.label: pick_sites(run, options.sites) for run in having}
    total = sum(map(len, picked.values()))
    with Progress("reading", total, show=show, unit="site") as progress:
        read = []
        for run in having:
            try:
                read.append(Representations.read(run, picked[run.label], progress))
            except OptionError as error:
                if options.representations or options.sites:
                    raise
                found.note(f"the representations of {run.label} are not compared: {error}")
    pairs = list(combinations(read, 2))
    total = 2 * options.permutations * len(pairs)
    with Progress("permuting", total, show=show, unit="draw") as progress:
        for a, b in pairs:
            hashes = {side.run.run.stimuli_hash for side in (a, b)}
            if len(hashes) > 1 or not same_stimuli(a.activations, b.activations):
                why = (
                    f"{a.run.label} and {b.run.label} are not of the same stimuli in the same "
                    "order, so their representations cannot be compared"
                )
                if options.representations:
                    raise OptionError(f"{why}; localize both with the same stimuli")
                found.note(why)
            else:
                found.add_representations(a, b, progress)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _said(value: object) -> str:
    return "nothing" if value is None else str(value)
