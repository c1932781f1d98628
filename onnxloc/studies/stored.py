"""Statistics from the stored activations of a run, site after site."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import HASH, Activations
from onnxloc.errors import OptionError, RunError
from onnxloc.graph.sites import Axis, Site
from onnxloc.progress import Progress
from onnxloc.stats.compare import Test, check_pairs, compare
from onnxloc.stats.contrast import Contrast
from onnxloc.stats.permute import MaxStatistic
from onnxloc.store import UNITS_FILE, Run, Step

__all__ = [
    "Rows",
    "check_test",
    "kept_step",
    "site_values",
    "stored_contrast",
    "stored_sites",
    "without_activations",
]

MIN_ROWS = 3


@dataclass(frozen=True, eq=False)
class Rows:
    """The stimuli of two conditions, as places in the order of the run.

    Attributes
    ----------
    positive, control : array of int64
        For a paired test, the i-th of both go together.
    paired : bool
        Whether they do.

    Raises
    ------
    OptionError
        If a condition has fewer than three stimuli.
    """

    positive: NDArray[np.int64]
    control: NDArray[np.int64]
    paired: bool = False

    def __post_init__(self) -> None:
        for name, rows in (("positive", self.positive), ("control", self.control)):
            if rows.size < MIN_ROWS:
                raise OptionError(
                    f"the {name} condition has {rows.size} stimuli; at least {MIN_ROWS} are needed"
                )

    @classmethod
    def of(cls, activations: Activations) -> "Rows":
        """The conditions of the run itself."""
        positive = activations.is_positive
        return cls(np.flatnonzero(positive), np.flatnonzero(~positive), activations.is_paired)

    @property
    def all(self) -> NDArray[np.int64]:
        """Both conditions, the positive one first."""
        return np.concatenate([self.positive, self.control])

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Which of `all` are of the positive condition."""
        return np.arange(self.positive.size + self.control.size) < self.positive.size


def check_test(test: Test, rows: Rows) -> None:
    """Refuse a paired test of stimuli that are not paired.

    Raises
    ------
    OptionError
        If that is so.
    """
    if test != "paired":
        return
    if not rows.paired:
        raise OptionError(
            "the stimuli are not paired; a localizer says which belong together in its column pair"
        )
    check_pairs(rows.is_positive)


def site_values(
    activations: Activations, site: str, rows: NDArray[np.int64], *, magnitude: bool
) -> NDArray[np.floating[Any]]:
    """Values of a site at some of the stimuli, ``[rows, units]``, absolute or signed."""
    values = activations.read(site)[rows]
    return np.abs(values, out=values) if magnitude else values


def stored_contrast(
    activations: Activations,
    rows: Rows,
    test: Test,
    *,
    magnitude: bool,
    permutations: int = 0,
    seed: int = 0,
    show_progress: bool = False,
) -> tuple[Contrast, NDArray[np.float64] | None]:
    """Compare two conditions, unit by unit, without running the model.

    Parameters
    ----------
    activations : Activations
        Of the run.
    rows : Rows
        The conditions.
    test : {"welch", "student", "paired", "mannwhitney"}
        As in `compare`.
    magnitude : bool
        Compare absolute values, or signed ones.
    permutations : int
        Number of permutations for family-wise p-values; 0 for none.
    seed : int
        Of the permutations.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    Contrast
        Of all units, site after site.
    array or None
        Family-wise p-value of each unit, if there are permutations.

    Raises
    ------
    OptionError
        If the test does not fit the stimuli, or an option is out of range.
    RunError
        If what is stored is damaged.
    """
    check_test(test, rows)
    null = None
    if permutations:
        null = MaxStatistic(rows.is_positive, test, n_permutations=permutations, seed=seed)
    parts = []
    with Progress("comparing", len(activations.sites), show=show_progress, unit="site") as progress:
        for site in activations.sites:
            values = site_values(activations, site, rows.all, magnitude=magnitude)
            parts.append(compare(values, rows.is_positive, test))
            if null is not None:
                null.update(values)
            progress.add(1)
    contrast = Contrast.joined(parts)
    return contrast, None if null is None else null.p(contrast.t)


def stored_sites(run: Run, activations: Activations) -> tuple[Site, ...]:
    """The sites of a run, as its table of units describes them.

    Raises
    ------
    RunError
        If the table does not fit the activations.
    """
    import pandas as pd

    table = run.table(UNITS_FILE)
    needed = ("site", "role", "block", "op_type")
    if any(name not in table for name in needed):
        raise RunError(f"{run.folder / UNITS_FILE} lacks a column; make the run again")
    groups = table.groupby("site", sort=False, observed=True)
    # Block, role and op type belong to the site: the first row of each says them.
    words = {str(row["site"]): row for row in groups.head(1).to_dict("records")}
    if {str(site): int(n) for site, n in groups.size().items()} != activations.sites:
        raise RunError(
            f"{run.folder / UNITS_FILE} has other sites or units than the activations; make the "
            "run again"
        )
    sites = []
    for name, units in activations.sites.items():
        word = words[name]
        sites.append(
            Site(
                tensor=name,
                names=(name,),
                op_type=str(word["op_type"]),
                dtype="float32",
                axes=(Axis.BATCH, Axis.FEATURE),
                shape=(None, units),
                block=None if pd.isna(word["block"]) else int(word["block"]),
                role=str(word["role"]),
            )
        )
    return tuple(sites)


def kept_step(run: Run) -> Step:
    """The step of a run that kept its activations.

    Raises
    ------
    RunError
        If there is none.
    """
    step = next((step for step in run.manifest.steps if HASH in step.hashes), None)
    if step is None:
        raise RunError(f"{run.folder}: no step of the manifest kept activations")
    return step


def without_activations(step: Step) -> Step:
    """The record as a run has it that does not hold the activations itself."""
    return replace(step, hashes={key: value for key, value in step.hashes.items() if key != HASH})
