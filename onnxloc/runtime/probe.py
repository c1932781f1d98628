"""Running a graph on tiny inputs, every candidate tensor exposed, to see what its axes follow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import PREFIX, Graph, InputSpec
from onnxloc.graph.sites import FLOATS, Trace, candidate_tensors, probe_sizes
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import (
    FLOAT_TYPES,
    fixed_rows,
    fixed_sizes,
    input_role,
    is_text_model,
    model_feeds,
)
from onnxloc.runtime.probe_bodies import BodyProbe, Change
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session, run_session

__all__ = ["Runs", "trace"]

Feeds = dict[str, NDArray[Any]]
# More numbers than this are not fed for a try: 1 GiB as float64.
MAX_INPUT = 2**27
# Seconds that a run on a tiny input may take.
PATIENCE = 300.0
# A length that no axis has: arrays have one size each but for the stimuli.
NO_TOKENS = -1


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


def trace(
    graph: Graph,
    topology: Topology,
    example: Mapping[str, NDArray[Any]] | None = None,
    *,
    given: Sequence[tuple[Mapping[str, Any], tuple[int, int]]] = (),
) -> Runs:
    """Run the graph at two sizes and note dtype and shape of every candidate tensor.

    A model of text is fed token ids. Any other is fed seeded random numbers; the first axis of
    each input is taken for the batch. Where there is an `example`, a few stimuli for each input,
    its rows are fed instead: then every axis but the batch has the size that it has there. What is
    `given`, feeds with their batch and length, is fed as it is; a size of -1 is that of no axis.

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
    bodies = BodyProbe(graph)
    reports = bodies.attach(proto)
    session, readable = _open(proto, graph)

    def run(wanted: Sequence[str], feeds: Feeds) -> list[Any]:
        return _run(session, [readable.get(name, name) for name in wanted], feeds)

    def run_other(other: ModelProto, wanted: Sequence[str], feeds: Sequence[Feeds]) -> list[Any]:
        opened, _ = _open(other, graph)
        return [_run(opened, wanted, one) for one in feeds]

    text = example is None and not given and is_text_model(graph.inputs)
    if given:
        sizes = tuple(size for _, size in given)
        feeds = [dict(one) for one, _ in given]
    elif example is not None:
        sizes = _example_sizes(graph)
        feeds = [_example_feeds(example, rows) for rows, _ in sizes]
    else:
        sizes = _text_sizes(graph) if text else _other_sizes(graph)
        feeds = [_text_feeds(graph, *s) if text else _random_feeds(graph, *s) for s in sizes]
    wanted = [*names, *reports]
    runs = [run(wanted, one) for one in feeds] if wanted else [[], []]
    traces = {
        name: Trace(
            "bfloat16" if name in readable else str(getattr(values[0], "dtype", "")),
            tuple(getattr(value, "shape", None) for value in values),
        )
        for name, *values in zip(names, *(run[: len(names)] for run in runs), strict=True)
    }
    rows, tokens = sizes[0]
    merged = [
        name
        for name, one in traces.items()
        if one.dtype in FLOATS
        and all(s is not None and b * t in s for s, (b, t) in zip(one.shapes, sizes, strict=True))
    ]
    if text and rows > 1 and merged:
        before = dict(zip(wanted, runs[0], strict=True))
        after = run(merged, _text_feeds(graph, rows, tokens, changed=True))
        for name, value in zip(merged, after, strict=True):
            if not _batch_first(before[name], value, rows, tokens):
                traces[name] = replace(traces[name], batch_first=False)
    said = [dict(zip(reports, run[len(names) :], strict=True)) for run in runs]
    change = Change(
        _changed(graph, feeds[0], 0, rows) if rows > 1 else None,
        _changed(graph, feeds[0], 1, tokens) if tokens > 1 else None,
    )
    traces |= bodies.traces(reports, said, sizes, feeds, change, run_other)
    return Runs(traces, sizes)


def _open(proto: ModelProto, graph: Graph) -> tuple[Any, dict[str, str]]:
    """A session, and the outputs that stand in for those that are bfloat16.

    numpy has no such type. onnxruntime says what is one where type inference cannot.
    """
    session = make_session(proto, graph.folder, RuntimeOptions(), optimise=False)
    half = [value.name for value in session.get_outputs() if value.type == "tensor(bfloat16)"]
    if not half:
        return session, {}
    readable = {name: f"{PREFIX}probe.{i}" for i, name in enumerate(half)}
    kept = [value for value in proto.graph.output if value.name not in readable]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    for name, out in readable.items():
        node = helper.make_node("Cast", [name], [out], name=out, to=TensorProto.FLOAT)
        proto.graph.node.append(node)
        proto.graph.output.append(ValueInfoProto(name=out))
    return make_session(proto, graph.folder, RuntimeOptions(), optimise=False), readable


def _run(session: Any, wanted: Sequence[str], feeds: Feeds) -> list[Any]:
    try:
        return run_session(session, wanted, feeds, seconds=PATIENCE)
    except ModelError as error:
        raise ModelError(f"the model fails on a tiny input: {error}") from error


def _changed(graph: Graph, feeds: Feeds, axis: int, size: int) -> Feeds:
    """The feeds with another value in the last place along the batch or the tokens."""
    text = is_text_model(graph.inputs)
    changed = dict(feeds)
    for spec in graph.inputs:
        value = feeds.get(spec.name)
        if value is None or value.ndim <= axis or value.shape[axis] != size:
            continue
        last = [slice(None)] * value.ndim
        last[axis] = slice(size - 1, size)
        if text and input_role(spec) == "ids":
            value = value.copy()
            value[tuple(last)] = 1 - value[tuple(last)]
        elif not text and spec.dtype in FLOAT_TYPES:
            value = value.copy()
            value[tuple(last)] += 1
        changed[spec.name] = value
    return changed


def _text_sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The sizes to probe with, bent to what the graph fixes."""
    rows, tokens = fixed_sizes(graph.inputs)
    if (rows or 1) * (tokens or 1) > MAX_INPUT:
        raise ModelError(
            f"the model takes {rows or 'any number of'} rows of {tokens or 'any number of'} tokens "
            "and no fewer: too many to be tried out"
        )
    return tuple((rows or b, tokens or t) for b, t in probe_sizes())


def _other_sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    firsts = {spec.dims[0] for spec in graph.inputs if spec.dims}
    fixed = [size for size in firsts if isinstance(size, int)]
    if len(firsts) == len(fixed) == 1:
        return tuple((fixed[0], t) for _, t in probe_sizes())
    return probe_sizes()


def _example_sizes(graph: Graph) -> tuple[tuple[int, int], ...]:
    fixed = fixed_rows(graph.inputs)
    return tuple((fixed or rows, NO_TOKENS) for rows, _ in probe_sizes())


def _example_feeds(example: Mapping[str, NDArray[Any]], rows: int) -> Feeds:
    return {
        name: np.resize(value, (rows, *value.shape[1:])) if value.ndim else np.array(value)
        for name, value in example.items()
    }


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
        if math.prod(shape) > MAX_INPUT:
            raise ModelError(
                f"the model's input {spec.name!r:.100} has the shape {list(shape)!r:.100}: too "
                "large to be tried out"
            )
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
