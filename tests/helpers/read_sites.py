"""Whole values of named sites, through a plan where a site has units."""

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, helper

from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import model_feeds
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session

__all__ = ["read_sites"]


def read_sites(
    model: Model, names: Iterable[str], ids: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    """``[batch, tokens, units]`` of sites with units; other sites as they are in the graph."""
    batch = Batch(np.arange(len(ids)), ids.astype(np.int64), lengths.astype(np.int64))
    sites = {name: model.sites.find(name) for name in names}
    taps = {site.tensor: Tap(site.tensor, "none") for site in sites.values() if site.units}
    session = model.compile(Plan(taps=tuple(taps.values())), RuntimeOptions())
    read = session.taps(batch)
    values = {tensor: read[tap] for tensor, tap in taps.items()}
    whole = sorted({site.tensor for site in sites.values() if not site.units})
    if whole:
        proto = ModelProto()
        proto.CopyFrom(model.graph.proto)
        proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in whole)
        raw = make_session(proto, model.graph.folder, RuntimeOptions())
        out = raw.run(whole, model_feeds(model.graph.inputs, batch))
        values.update(zip(whole, out, strict=True))
    return {name: values[site.tensor] for name, site in sites.items()}
