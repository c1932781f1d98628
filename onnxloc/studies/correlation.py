"""Units that follow a number: correlation of stored activations with a property of the stimuli."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import HASH, Activations
from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.folder import new_folder, sha256_file
from onnxloc.graph.sites import Site
from onnxloc.network import Network, network_from_flat
from onnxloc.progress import Progress
from onnxloc.stats.correlate import Correlation, Method, correlate
from onnxloc.stats.multiple import benjamini_hochberg
from onnxloc.store import (
    NETWORK_FILE,
    UNITS_FILE,
    VERSIONED,
    Manifest,
    Run,
    Step,
    package_versions,
    write_summary,
    write_table,
)
from onnxloc.studies.found import found_units, site_columns
from onnxloc.studies.item_table import ItemTable
from onnxloc.studies.stored import kept_step, site_values, stored_sites, without_activations

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CorrelateOptions", "Correlated", "correlate_run"]


@dataclass(frozen=True, kw_only=True)
class CorrelateOptions:
    """What units are correlated with, and which are chosen.

    Attributes
    ----------
    items : Path
        A CSV with a column `row` or `text`, and properties of the run's stimuli.
    column : str
        The property, a number; stimuli without one are left out.
    method : {"pearson", "spearman"}
        Of the values or of their ranks.
    magnitude : bool or None
        Correlate absolute activations, or signed ones; None for what the run did.
    selection : Selection
        Which units are chosen, by t: it orders units as r does.
    seed : int
        Of a random draw of units.
    """

    items: Path
    column: str
    method: Method = "pearson"
    magnitude: bool | None = None
    selection: Selection = field(default_factory=Selection)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection.how == "fwe":
            raise OptionError("correlations are not permuted: choose units by --fdr, not --fwe")


@dataclass(frozen=True, eq=False)
class Correlated:
    """Correlations of all units of a run with a number; arrays have shape [units].

    Attributes
    ----------
    sites : tuple of Site
        The sites of the run.
    correlation : Correlation
        Of every unit, site after site.
    q : array
        Benjamini-Hochberg adjusted p-values.
    network : Network
        The chosen units.
    summary : mapping
        The run's ``summary.json``.
    steps : tuple of Step
        Records: how the activations came to be, then this study.
    """

    sites: tuple[Site, ...]
    correlation: Correlation
    q: NDArray[np.float64]
    network: Network
    summary: Mapping[str, Any]
    steps: tuple[Step, ...]

    def units(self) -> "DataFrame":
        """One row a unit: the table ``units.parquet`` of such a run."""
        import pandas as pd

        c = self.correlation
        return pd.DataFrame(
            {
                **site_columns(self.sites),
                "mean": c.mean,
                "r": c.r,
                "t": c.t,
                "df": np.where(np.isnan(c.r), np.nan, float(c.df)),
                "p": c.p,
                "q": self.q,
                "selected": np.concatenate([self.network.mask(s.name) for s in self.sites]),
            }
        )

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a run folder, whole or not at all.

        Raises
        ------
        RunError
            If `path` is taken or cannot be written.
        """
        path = Path(path)
        with new_folder(path, force=force) as staging:
            write_table(staging, UNITS_FILE, self.units())
            self.network.save(staging / NETWORK_FILE)
            write_summary(staging, self.summary)
            Manifest(name=path.name, steps=self.steps).write(staging)


def correlate_run(
    run: Run | str | Path,
    options: CorrelateOptions,
    *,
    command: str = "",
    show_progress: bool = False,
) -> Correlated:
    """Correlate every unit of a run's stored activations with one number a stimulus.

    Parameters
    ----------
    run : Run or path
        A run of ``localize --keep-activations``.
    options : CorrelateOptions
        What is correlated, and how.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the run has no activations, they are damaged, or the options do not go
        together.
    """
    started = time.perf_counter()
    run = run if isinstance(run, Run) else Run.open(run)
    activations = Activations.open(run)
    source = kept_step(run)
    sites = stored_sites(run, activations)
    options.selection.count(sum(activations.sites.values()))
    magnitude = options.magnitude
    if magnitude is None:
        magnitude = bool(source.parameters.get("magnitude", True))
    table = ItemTable.read(options.items, activations.stimuli["text"].tolist())
    rows, numbers = table.numbers(options.column)
    loaded = time.perf_counter()
    parts = []
    with Progress("correlating", len(sites), show=show_progress, unit="site") as progress:
        for site in sites:
            values = site_values(activations, site.name, rows, magnitude=magnitude)
            parts.append(correlate(values, numbers, options.method))
            progress.add(1)
    found = Correlation.joined(parts)
    q = benjamini_hochberg(found.p)
    how = options.selection.describe(options.seed)
    model_hash = source.hashes.get("model", "")
    chosen = options.selection.choose(found.t, q, options.seed)
    network = network_from_flat(chosen, activations.sites, model_hash, how)
    done = time.perf_counter()
    said = {
        "column": options.column,
        "method": options.method,
        "magnitude": magnitude,
        "n_stimuli": len(rows),
    }
    summary = {
        "format": 1,
        "model": run.summary.get("model"),
        "correlate": {
            **said,
            "selection": how,
            **found_units(sites, found.t, q, None, network),
        },
    }
    step = Step(
        step="correlate",
        command=command,
        parameters={
            "run": str(run.folder.resolve()),
            "items": str(options.items.resolve()),
            **said,
            **how,
            "seed": options.seed,
        },
        hashes={
            "model": model_hash,
            "source_activations": source.hashes[HASH],
            "items": sha256_file(options.items),
        },
        versions=package_versions(VERSIONED),
        seconds={"load": loaded - started, "run": done - loaded},
        provider="",
        threads=0,
    )
    return Correlated(sites, found, q, network, summary, (without_activations(source), step))
