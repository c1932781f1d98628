"""Running a graph on tiny inputs, every candidate tensor exposed, to see what its axes follow."""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, helper

from onnxloc.graph.load import Graph
from onnxloc.graph.sites import Trace, candidate_tensors, probe_sizes
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import input_role, model_feeds
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session

__all__ = ["Runs", "trace"]


@dataclass(frozen=True)
class Runs:
    """What the probing runs showed.

    Attributes
    ----------
    traces : dict of str to Trace
        Dtype and shapes, by tensor.
    sizes : tuple of (int, int)
        Batch and length of each run.
    """

    traces: dict[str, Trace]
    sizes: tuple[tuple[int, int], ...]


def trace(graph: Graph, topology: Topology) -> Runs:
    """Run the graph at two sizes and note dtype and shape of every candidate tensor.

    Raises
    ------
    ModelError
        If onnxruntime refuses the graph, or an input cannot be filled.
    """
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    known = {value.name for value in proto.graph.output}
    names = candidate_tensors(proto, topology)
    for name in names:
        if name not in known:
            proto.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = make_session(proto, graph.folder, RuntimeOptions(), optimise=False)
    sizes = _sizes(graph)
    runs = []
    for rows, tokens in sizes:
        feeds = model_feeds(graph.inputs, _tiny(rows, tokens))
        values = session.run(list(names), feeds)
        runs.append(dict(zip(names, values, strict=True)))
    traces = {
        name: Trace(
            str(getattr(runs[0][name], "dtype", "")),
            tuple(getattr(run[name], "shape", None) for run in runs),
        )
        for name in names
    }
    return Runs(traces, sizes)


def _sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The sizes to probe with, bent to what the graph fixes."""
    ids = [spec.dims for spec in graph.inputs if input_role(spec) == "ids" and len(spec.dims) == 2]
    if not ids:
        return probe_sizes()
    batch, tokens = ids[0]
    return tuple(
        (batch if isinstance(batch, int) else b, tokens if isinstance(tokens, int) else t)
        for b, t in probe_sizes()
    )


def _tiny(rows: int, tokens: int) -> Batch:
    ids = np.arange(rows * tokens, dtype=np.int64).reshape(rows, tokens) % 7 + 1
    return Batch(np.arange(rows), ids, np.full(rows, tokens, dtype=np.int64))
