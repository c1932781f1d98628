"""Running a graph on tiny inputs, every candidate tensor exposed, to see what its axes follow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import Graph, InputSpec
from onnxloc.graph.sites import FLOATS, Trace, candidate_tensors, probe_sizes
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import FLOAT_TYPES, fixed_sizes, is_text_model, model_feeds
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session, run_session

__all__ = ["Runs", "trace"]

Feeds = dict[str, NDArray[Any]]


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

    A model of text is fed token ids. Any other is fed seeded random numbers; the first axis of
    each input is taken for the batch.

    Raises
    ------
    ModelError
        If onnxruntime refuses the graph, or fails to run it on such inputs.
    """
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    known = {value.name for value in proto.graph.output}
    names = candidate_tensors(proto, topology)
    proto.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    session = make_session(proto, graph.folder, RuntimeOptions(), optimise=False)

    def run(wanted: Sequence[str], feeds: Feeds) -> list[Any]:
        try:
            return run_session(session, wanted, feeds)
        except ModelError as error:
            raise ModelError(f"the model fails on a tiny input: {error}") from error

    text = is_text_model(graph.inputs)
    sizes = _text_sizes(graph) if text else _other_sizes(graph)
    feeds = [_text_feeds(graph, *s) if text else _random_feeds(graph, *s) for s in sizes]
    runs = [run(names, one) for one in feeds] if names else [[], []]
    traces = {
        name: Trace(
            str(getattr(values[0], "dtype", "")),
            tuple(getattr(value, "shape", None) for value in values),
        )
        for name, values in zip(names, zip(*runs, strict=True), strict=True)
    }
    rows, tokens = sizes[0]
    merged = [
        name
        for name, one in traces.items()
        if one.dtype in FLOATS
        and all(s is not None and b * t in s for s, (b, t) in zip(one.shapes, sizes, strict=True))
    ]
    if text and rows > 1 and merged:
        before = dict(zip(names, runs[0], strict=True))
        after = run(merged, _text_feeds(graph, rows, tokens, changed=True))
        for name, value in zip(merged, after, strict=True):
            if not _batch_first(before[name], value, rows, tokens):
                traces[name] = replace(traces[name], batch_first=False)
    return Runs(traces, sizes)


def _text_sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The sizes to probe with, bent to what the graph fixes."""
    rows, tokens = fixed_sizes(graph.inputs)
    return tuple((rows or b, tokens or t) for b, t in probe_sizes())


def _other_sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    firsts = {spec.dims[0] for spec in graph.inputs if spec.dims}
    fixed = [size for size in firsts if isinstance(size, int)]
    if len(firsts) == len(fixed) == 1:
        return tuple((fixed[0], t) for _, t in probe_sizes())
    return probe_sizes()


def _text_feeds(graph: Graph, rows: int, tokens: int, *, changed: bool = False) -> Feeds:
    # The smallest vocabulary has two tokens. When changed, every token of the last row is another.
    ids = np.arange(rows * tokens, dtype=np.int64).reshape(rows, tokens) % 2
    if changed:
        ids[-1] = 1 - ids[-1]
    return model_feeds(
        graph.inputs, Batch(np.arange(rows), ids, np.full(rows, tokens, dtype=np.int64))
    )


def _random_feeds(graph: Graph, rows: int, tokens: int) -> Feeds:
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for spec in graph.inputs:
        if spec.dtype not in helper.get_all_tensor_dtypes() or spec.dtype == TensorProto.UNDEFINED:
            raise ModelError(
                f"the model's input {spec.name!r} is no tensor; such are not supported"
            )
        shape = _shape(spec, rows, tokens)
        dtype = helper.tensor_dtype_to_np_dtype(spec.dtype)
        if spec.dtype in FLOAT_TYPES:
            feeds[spec.name] = rng.standard_normal(shape).astype(dtype)
        else:
            # Whole numbers may be indices: 0 is one that always exists.
            feeds[spec.name] = np.full(shape, spec.dtype == TensorProto.BOOL).astype(dtype)
    return feeds


def _shape(spec: InputSpec, rows: int, tokens: int) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) else tokens if axis else rows
        for axis, size in enumerate(spec.dims)
    )


def _batch_first(before: NDArray[Any], after: NDArray[Any], rows: int, tokens: int) -> bool:
    """Whether the tokens of one row stand together on a merged axis.

    The two differ in the last row. Where its tokens stand in one order and not in the other, more
    has changed if that order is the right one. A little may have changed everywhere: a quantised
    graph may scale a whole tensor by its largest value.
    """
    axis = before.shape.index(rows * tokens)
    rest = tuple(i for i in range(before.ndim) if i != axis)
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.where(differs, np.abs(np.nan_to_num(after - before, nan=1.0)), 0.0)
    change = size.sum(axis=rest, dtype=np.float64)
    place = np.arange(rows * tokens)
    together, apart = place >= (rows - 1) * tokens, place % rows == rows - 1
    return bool(change[together & ~apart].sum() >= change[apart & ~together].sum())
