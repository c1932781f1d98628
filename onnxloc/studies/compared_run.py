"""A run as it is compared with others: what was searched, each unit's t, the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import ACTIVATIONS_FILE, Activations
from onnxloc.errors import RunError
from onnxloc.network import Network, site_starts
from onnxloc.store import NETWORK_FILE, UNITS_FILE, Run, Step

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDIES", "ComparedRun"]

# Steps that write units and a network.
STUDIES = ("localize", "contrast")
# What must be alike for t-values to be of the same thing, as the manifest or the summary has it.
SETTINGS = ("pool", "max_tokens", "bos", "magnitude", "test")
# More than any model has: what a damaged summary says must not take all memory.
MAX_BLOCKS = 2_000
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRun:
    """A run of ``localize`` or ``contrast``.

    Attributes
    ----------
    label : str
        What it is called beside the others.
    run : Run
        The run.
    network : Network
        Its network, and all sites that were searched.
    t : array, shape [units]
        Site after site, in the order of `network.sites`.
    block : mapping of str to int or None
        The block of each site.
    """

    label: str
    run: Run
    network: Network
    t: Floats
    block: Mapping[str, int | None]

    @classmethod
    def open(cls, folder: str | Path, label: str) -> Self:
        """Read a run.

        Raises
        ------
        RunError
            If it is no run of ``localize`` or ``contrast``, or is damaged.
        NetworkError
            If its network is.
        """
        run = Run.open(folder)
        if not any(step.step in STUDIES for step in run.manifest.steps):
            raise RunError(f"{folder} is no run of localize or contrast: there is no t to compare")
        network = Network.load(run.folder / NETWORK_FILE)
        t, block = _units(run, network)
        own = cls(label=label, run=run, network=network, t=t, block=block)
        count = own.n_blocks
        if any(b is not None and not 0 <= b < (count or 0) for b in block.values()):
            raise RunError(
                f"{run.folder / UNITS_FILE} names blocks that the model has not; make the run again"
            )
        return own

    @property
    def step(self) -> Step:
        """The step that wrote units and network."""
        return [step for step in self.run.manifest.steps if step.step in STUDIES][-1]

    @property
    def model(self) -> Mapping[str, Any]:
        """What the summary says of the model."""
        said = self.run.summary.get("model")
        return said if isinstance(said, dict) else {}

    @property
    def n_blocks(self) -> int | None:
        """Number of blocks of the model, if it has any."""
        count = self.model.get("blocks")
        return count if type(count) is int and 0 < count <= MAX_BLOCKS else None

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return str(self.model.get("name") or "model")

    @property
    def settings(self) -> Mapping[str, Any]:
        """How texts were cut and pooled and conditions compared."""
        said = self.run.summary.get("localize")
        said = said if isinstance(said, dict) else {}
        values = {key: said.get(key) for key in SETTINGS}
        plain = (str, int, type(None))
        return {key: v if isinstance(v, plain) else str(v) for key, v in values.items()}

    @property
    def has_activations(self) -> bool:
        """Whether the run says that it holds activations."""
        return (self.run.folder / ACTIVATIONS_FILE).is_file()

    def activations(self) -> Activations:
        """The stored activations.

        Raises
        ------
        RunError
            If the run has none, they are damaged, or they are not of the run's sites.
        """
        found = Activations.open(self.run)
        if dict(found.sites) != dict(self.network.sites):
            raise RunError(
                f"the activations of {self.run.folder} are of other sites than its network; make "
                "the run again"
            )
        return found

    def site_slice(self, site: str) -> slice:
        """Where the units of a site lie in `t`."""
        start = self._starts[site]
        return slice(start, start + self.network.sites[site])

    @property
    def _starts(self) -> Mapping[str, int]:
        return site_starts(self.network.sites)

    def per_block(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Units searched and units chosen in each block, each of shape [blocks]."""
        searched, chosen = np.zeros((2, self.n_blocks or 0), dtype=np.int64)
        for site, units in self.network.sites.items():
            block = self.block[site]
            if block is not None:
                searched[block] += units
                chosen[block] += len(self.network.units.get(site, ()))
        return searched, chosen

    def depth(self, site: str) -> float | None:
        """Relative depth of a site, from 0 to 1: the middle of its block."""
        block, count = self.block[site], self.n_blocks
        return None if block is None or count is None else (block + 0.5) / count


def _units(run: Run, network: Network) -> tuple[Floats, dict[str, int | None]]:
    """The t of every unit and the block of every site, as the table of units has them."""
    import pandas as pd

    file = run.folder / UNITS_FILE
    table = run.table(UNITS_FILE)
    if any(name not in table for name in ("site", "unit", "t", "block")):
        raise RunError(f"{file} lacks a column; make the run again")
    sizes = {str(s): int(n) for s, n in table.groupby("site", observed=True).size().items()}
    if sizes != {site: units for site, units in network.sites.items() if units}:
        raise RunError(f"{file} has other sites or units than the network; make the run again")
    t = np.empty(network.n_units)
    block: dict[str, int | None] = dict.fromkeys(network.sites)
    starts = site_starts(network.sites)
    try:
        for name, rows in table.groupby("site", sort=False, observed=True):
            site = str(name)
            _place(rows, t[starts[site] : starts[site] + sizes[site]])
            first = rows["block"].iloc[0]
            block[site] = None if pd.isna(first) else int(first)
    except (ValueError, TypeError) as error:
        raise RunError(f"{file} is damaged: {error}; make the run again") from error
    return t, block


def _place(rows: "DataFrame", into: Floats) -> None:
    unit = rows["unit"].to_numpy(dtype=np.int64)
    if not np.array_equal(np.sort(unit), np.arange(unit.size)):
        raise ValueError("a site's units are not counted from 0")
    into[unit] = rows["t"].to_numpy(dtype=np.float64)
