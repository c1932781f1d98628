"""The units of a run, counted by site: all that have a t, and those that are no copy of another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError, RunError
from onnxloc.network import Network
from onnxloc.store import UNITS_FILE
from onnxloc.studies.compared_run import ComparedRun

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["OUTSIDE", "Places", "places"]

Counts = NDArray[np.int64]
# What a unit did in all stimuli; equal in all three is a copy.
VALUES = ("mean_positive", "mean_control", "t")
OP = "op"
OUTSIDE = "outside the blocks"
ATTENTION, MLP = "attention, other operations", "MLP, other operations"


@dataclass(frozen=True, eq=False)
class Places:
    """What there is at each site, in the order of the graph; counts have shape [sites].

    Attributes
    ----------
    network : Network
        The run's network.
    op_type, part : tuple of str
        The operation that computes the site, and its part in a block.
    block : tuple of int or None
        The block that it is in.
    guessed : int
        Sites that have no name in the anatomy and are placed by the next site that has.
    units, chosen : array of int
        Units with a t, and those of them in the network.
    distinct, distinct_chosen : array of int
        The same without the units that are copies of an earlier one.
    copied : int
        Sites that have units, and none of their own.
    """

    network: Network
    op_type: tuple[str, ...]
    part: tuple[str, ...]
    block: tuple[int | None, ...]
    guessed: int
    units: Counts
    chosen: Counts
    distinct: Counts
    distinct_chosen: Counts
    copied: int


def places(run: ComparedRun) -> Places:
    """Count the units of a run, site by site.

    Raises
    ------
    OptionError
        If the network has no units.
    RunError
        If the run's table of units lacks a column.
    """
    network = run.network
    if not network.size:
        raise OptionError(f"the network of {run.label} has no units, so it lies nowhere")
    table = run.run.table(UNITS_FILE)
    needed = ("site", "op_type", "role", *VALUES)
    if any(name not in table for name in needed):
        raise RunError(f"{run.run.folder / UNITS_FILE} lacks a column; make the run again")
    names = list(network.sites)
    site = _codes(table, names)
    # In the order of the graph, so that the first of equal units is where they are computed.
    order = np.lexsort((table["unit"].to_numpy(dtype=np.int64), site))
    site, table = site[order], table.iloc[order]
    has_t = table["t"].notna().to_numpy()
    first = has_t & ~table.duplicated(list(VALUES)).to_numpy()
    chosen = np.concatenate([network.mask(name) for name in names])
    counts = [
        np.bincount(site[rows], minlength=len(names)).astype(np.int64)
        for rows in (has_t, has_t & chosen, first, first & chosen)
    ]
    words = table.groupby("site", sort=False, observed=True)[["op_type", "role"]].first()
    words = words.reindex(names)
    role = [str(word) for word in words["role"]]
    block, part, guessed = _parts(role, [run.block[name] for name in names])
    return Places(
        network=network,
        op_type=tuple(str(word) for word in words["op_type"]),
        part=part,
        block=block,
        guessed=guessed,
        units=counts[0],
        chosen=counts[1],
        distinct=counts[2],
        distinct_chosen=counts[3],
        copied=int(((counts[0] > 0) & (counts[2] == 0)).sum()),
    )


def _codes(table: "DataFrame", names: list[str]) -> Counts:
    """The place of each row's site among the sites of the network."""
    import pandas as pd

    column: Any = table["site"].astype("category")
    at = pd.Index(names).get_indexer(column.cat.categories)
    codes: Counts = np.asarray(at, dtype=np.int64)[column.cat.codes.to_numpy()]
    return codes


def _parts(
    role: list[str], block: list[int | None]
) -> tuple[tuple[int | None, ...], tuple[str, ...], int]:
    """Block and part of each site; what has no role takes them from the next site that has a block.

    What stands before the first embedding or behind the last block is outside.
    """
    first = role.index("embed") if "embed" in role else -1
    blocks, parts = list(block), list(role)
    ahead: tuple[int | None, str] = (None, OUTSIDE)
    guessed = 0
    for i in reversed(range(len(role))):
        if block[i] is not None:
            said = role[i]
            ahead = (block[i], MLP if said.startswith("mlp") or said == "out" else ATTENTION)
        elif role[i] == OP:
            blocks[i], parts[i] = ahead if i > first else (None, OUTSIDE)
            guessed += blocks[i] is not None
    return tuple(blocks), tuple(parts), guessed
