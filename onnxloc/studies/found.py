"""What is said of the units that were found, wherever their statistics come from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.graph.sites import Site
from onnxloc.network import Network

__all__ = ["ALPHA", "found_units", "site_columns"]

ALPHA = 0.05
Floats = NDArray[np.float64]


def found_units(
    sites: Sequence[Site], t: Floats, q: Floats, p_fwe: Floats | None, network: Network
) -> dict[str, Any]:
    """Numbers of units that were searched, chosen, undefined and significant.

    Parameters
    ----------
    sites : sequence of Site
        What was searched.
    t, q : array, shape [units]
        Statistics and adjusted p-values of all units, site after site.
    p_fwe : array, shape [units], or None
        Family-wise p-values, if there are any.
    network : Network
        The chosen units.
    """
    chosen = t[network.flat]
    found: dict[str, Any] = {
        "n_sites": len(sites),
        "n_units": t.size,
        "n_selected": network.size,
        "smallest_t": float(chosen.min()) if chosen.size else None,
        "n_undefined": int(np.isnan(t).sum()),
        "n_significant": int(((q <= ALPHA) & (t > 0)).sum()),
    }
    if p_fwe is not None:
        found["n_significant_fwe"] = int(((p_fwe <= ALPHA) & (t > 0)).sum())
    found["by_site"] = [
        {
            "site": site.name,
            "block": site.block,
            "role": site.role,
            "units": site.units,
            "selected": len(network.units.get(site.name, ())),
        }
        for site in sites
    ]
    return found


def site_columns(sites: Sequence[Site]) -> dict[str, Any]:
    """The columns of ``units.parquet`` that say where a unit is."""
    import pandas as pd

    counts = [site.units for site in sites]

    def column(values: Sequence[str]) -> object:
        kinds = list(dict.fromkeys(values))
        codes = np.repeat([kinds.index(value) for value in values], counts)
        return pd.Categorical.from_codes(codes.tolist(), categories=pd.Index(kinds))

    blocks = np.array([-1 if site.block is None else site.block for site in sites], np.int32)
    return {
        "site": column([site.name for site in sites]),
        "unit": np.concatenate([np.arange(n, dtype=np.int32) for n in counts]),
        "role": column([site.role for site in sites]),
        "block": pd.arrays.IntegerArray(np.repeat(blocks, counts), np.repeat(blocks < 0, counts)),
        "op_type": column([site.op_type for site in sites]),
    }
