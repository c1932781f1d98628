"""What a localizer found, and the run folder that it is written to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.folder import new_folder
from onnxloc.graph.sites import Site
from onnxloc.network import Network
from onnxloc.notebook import facts_html, table_html
from onnxloc.stats.contrast import Contrast
from onnxloc.store import NETWORK_FILE, UNITS_FILE, Manifest, Step, write_summary, write_table
from onnxloc.studies.found import site_columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["Localization"]


@dataclass(frozen=True, eq=False)
class Localization:
    """What a localizer found.

    Attributes
    ----------
    sites : tuple of Site
        The sites that were read.
    contrast : Contrast
        Statistics of every unit, site after site.
    q : ndarray of float64, [units]
        Benjamini-Hochberg adjusted p-values.
    network : Network
        The chosen units.
    summary : mapping
        The run's ``summary.json``.
    step : Step
        The run's record.
    p_fwe : ndarray of float64, [units], or None
        Family-wise p-values, if conditions were permuted.
    earlier : tuple of Step
        Records of the run that the activations are from, if it is another one.
    """

    sites: tuple[Site, ...]
    contrast: Contrast
    q: NDArray[np.float64]
    network: Network
    summary: Mapping[str, Any]
    step: Step
    p_fwe: NDArray[np.float64] | None = None
    earlier: tuple[Step, ...] = ()

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each site begins among the units, and the end: ``[sites + 1]``."""
        return np.cumsum([0, *(site.units for site in self.sites)])

    def _repr_html_(self) -> str:
        found = self.summary.get("localize", {})
        facts = {
            "Localizer": found.get("localizer"),
            "Conditions": f"{found.get('positive_label')} − {found.get('control_label')}",
            "Network": f"{self.network.size:,} of {self.network.n_units:,} units",
            "Smallest t of the network": found.get("smallest_t"),
            "Units with q ≤ 0.05": found.get("n_significant"),
        }
        head = ("site", "unit", "t", "q", "d")
        top = self.units().nlargest(8, "t")[list(head)]
        rows = [tuple(row) for row in top.astype(object).itertuples(index=False)]
        return facts_html("Localization", facts) + table_html(head, rows)

    def plot(self) -> "Figure":
        """Draw a histogram of t, the network's units apart, as a plotly figure."""
        from onnxloc.figures import t_figure

        chosen = np.concatenate([self.network.mask(site.name) for site in self.sites])
        return t_figure(self.contrast.t, chosen)

    def units(self) -> "DataFrame":
        """One row a unit: the table ``units.parquet``."""
        import pandas as pd

        c = self.contrast
        corrected = {} if self.p_fwe is None else {"p_fwe": self.p_fwe}
        return pd.DataFrame(
            {
                **site_columns(self.sites),
                "mean_positive": c.mean_positive,
                "mean_control": c.mean_control,
                "t": c.t,
                "df": c.df,
                "p": c.p,
                "q": self.q,
                **corrected,
                "d": c.d,
                "g": c.g,
                "selected": np.concatenate([self.network.mask(s.name) for s in self.sites]),
            }
        )

    def write(self, folder: Path) -> None:
        """Write the tables of this step into a run folder; activations lie there already."""
        write_table(folder, UNITS_FILE, self.units())
        self.network.save(folder / NETWORK_FILE)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a run folder, whole or not at all.

        Raises
        ------
        RunError
            If `path` is taken or cannot be written.
        """
        path = Path(path)
        with new_folder(path, force=force) as staging:
            self.write_run(staging, path.name)

    def write_run(self, folder: Path, name: str) -> None:
        """Write everything but activations into a folder that is to become the run `name`."""
        self.write(folder)
        write_summary(folder, self.summary)
        Manifest(name=name, steps=(*self.earlier, self.step)).write(folder)
