"""A network's units, on the sites of a model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import NetworkError, OptionError
from onnxloc.graph.sites import Site
from onnxloc.network import Network
from onnxloc.runtime.model import Model

__all__ = ["unit_masks"]


def unit_masks(model: Model, networks: Sequence[Network | None]) -> dict[Site, NDArray[np.bool_]]:
    """Which units of each site each network takes: ``[networks, 1, units]``.

    Sites of which no network takes any are absent.

    Parameters
    ----------
    model : Model
        Whose sites they are.
    networks : sequence of Network or None
        None takes no unit.

    Raises
    ------
    OptionError
        If a network has no units.
    AnatomyError
        If the model lacks a site.
    NetworkError
        If a site has another number of units.
    """
    masks: dict[Site, NDArray[np.bool_]] = {}
    for row, network in enumerate(networks):
        if network is None:
            continue
        if network.size == 0:
            raise OptionError("the network has no units, so there is nothing to ablate")
        for name, units in network.units.items():
            site = model.sites.find(name)
            if site.units != network.sites[name]:
                raise NetworkError(
                    f"{name} has {site.units} units in this model, {network.sites[name]} in the "
                    "network; use the model that the network is of"
                )
            # Two names of a network may stand for one tensor.
            shape = (len(networks), 1, site.units)
            masks.setdefault(site, np.zeros(shape, dtype=np.bool_))[row, 0, units] = True
    return masks
