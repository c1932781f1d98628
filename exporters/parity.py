"""Parity: how far a written bundle is from the framework that it was exported from.

An exporter writes the bundle's files, then calls `record` with a function that runs the source::

    def reference(ids, mask):  # both int64 [rows, tokens]; padding is on the right
        return logits  # [rows, tokens, vocabulary], or the last hidden state

    with Bundle.writing(output, force=force) as staging:
        ...  # write model.onnx, its weights and tokenizer.json
        record(staging, info, reference, vocabulary=49152, name="jax 0.8",
               allow_mismatch=False)

`record` writes ``bundle.json`` and raises an ExportError where the difference is too large. What it
does in steps is `measure` and `settle`; `measure_arrays` is for models that take no text.

The graph is run as onnxloc runs it: functions inlined, on the CPU, inputs filled by their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.bundle import Bundle, BundleInfo, Parity, ParityCase
from onnxloc.errors import ExportError, ModelError, OnnxlocError
from onnxloc.graph.load import Graph, load_graph
from onnxloc.registry import one_line
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import fixed_sizes, model_feeds
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session, run_session

__all__ = [
    "SHAPES",
    "TOLERANCES",
    "ArrayCase",
    "Reference",
    "measure",
    "measure_arrays",
    "record",
    "settle",
]

Floats = NDArray[np.floating[Any]]
Reference = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
ArrayReference = Callable[[Mapping[str, NDArray[Any]]], Floats]

# Largest relative difference by the type of the weights. Half precision has 11 significant bits,
# and its rounding errors of 5e-4 add up over the blocks. bfloat16 weights are computed with in
# float32, by the graph and by the source alike.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-3}

# Rows and tokens of the batches that are run.
SHAPES = ((1, 1), (1, 5), (3, 5), (3, 40), (16, 12))
SEED = 0


@dataclass(frozen=True, eq=False)
class ArrayCase:
    """Inputs by name, and which values of the output count.

    Attributes
    ----------
    feeds : mapping of str to ndarray
        The inputs.
    rows, tokens : int
        Size of the batch, for the record; `tokens` is 0 where the inputs are not tokens.
    real : ndarray of bool or None
        Leading axes of the output, true where values are compared; None compares all.
    """

    feeds: Mapping[str, NDArray[Any]]
    rows: int
    tokens: int
    real: NDArray[np.bool_] | None = None


def record(
    staging: Path,
    info: BundleInfo,
    reference: Reference,
    *,
    vocabulary: int,
    name: str,
    allow_mismatch: bool,
) -> None:
    """Measure the parity of a text model's files, and write ``bundle.json``.

    Parameters
    ----------
    staging : Path
        The bundle but for ``bundle.json``.
    info : BundleInfo
        What is known of it; its `dtype` chooses the tolerance.
    reference, vocabulary, name
        As `measure` takes them; the type is added to the name.
    allow_mismatch : bool
        Write the record whatever the difference.

    Raises
    ------
    ExportError
        If the graph cannot be run, or differs from the source by more than the tolerance.
    """
    # What a graph is fed may depend on its record.
    Bundle.describe(staging, info)
    parity = measure(
        staging,
        reference,
        vocabulary=vocabulary,
        max_tokens=info.max_tokens,
        name=f"{name}, {info.dtype}",
        tolerance=TOLERANCES[info.dtype],
    )
    settle(parity, allow_mismatch=allow_mismatch)
    Bundle.describe(staging, replace(info, parity=parity))


def measure(
    folder: Path,
    reference: Reference,
    *,
    vocabulary: int,
    max_tokens: int | None,
    name: str,
    tolerance: float,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> Parity:
    """Run a text model's bundle and its source on random tokens and compare their outputs.

    Every batch of several rows and tokens is run twice: with rows of full length, and with rows of
    every length down to 1 that are padded on the right, where padding is not compared. A batch's
    relative difference is ``max|a - b| / max|b|`` over all values of the output, `b` being the
    source's; single values near 0 would say little.

    Parameters
    ----------
    folder : Path
        The bundle.
    reference : callable
        Takes token ids and a mask, both int64 ``[rows, tokens]``, and gives what the graph's first
        output is: ``[rows, tokens, features]``, or ``[rows, features]`` of a pooled head.
    vocabulary : int
        Number of token ids.
    max_tokens : int or None
        Longest input that the model takes.
    name : str
        What the reference is, for the record: framework, version, type of its numbers.
    tolerance : float
        Largest relative difference that is in order; see `TOLERANCES`.
    shapes : sequence of (int, int)
        Rows and tokens of the batches. Lengths over `max_tokens` are cut to it, and where the graph
        fixes its number of rows or tokens that is used.

    Raises
    ------
    ExportError
        If the bundle or the reference cannot be run, or their outputs differ in shape or hold
        values that are not finite.
    """
    graph, session, output = _open(folder)
    cases = _text_cases(graph, session, output, reference, vocabulary, max_tokens, shapes)
    return Parity.of(output, name, tolerance, tuple(cases))


def _text_cases(
    graph: Graph,
    session: Any,
    output: str,
    reference: Reference,
    vocabulary: int,
    max_tokens: int | None,
    shapes: Sequence[tuple[int, int]],
) -> list[ParityCase]:
    draw = np.random.default_rng(SEED)
    masked = any("mask" in spec.name for spec in graph.inputs)
    fixed_rows, fixed_tokens = fixed_sizes(graph.inputs)
    cases = []
    sizes = {
        (fixed_rows or rows, fixed_tokens or min(tokens, max_tokens or tokens))
        for rows, tokens in shapes
    }
    for rows, tokens in sorted(sizes):
        ids = draw.integers(0, vocabulary, (rows, tokens), dtype=np.int64)
        lengths = [np.full(rows, tokens)]
        if min(rows, tokens) > 1 and (masked or not (fixed_rows or fixed_tokens)):
            lengths.append(np.linspace(tokens, 1, rows).round().astype(np.int64))
        for each in lengths:
            batch = Batch(np.arange(rows), ids, each)
            padded = bool((each < tokens).any())
            want = _wanted(reference, ids, batch.mask.astype(np.int64))
            got = _text_output(session, output, graph, batch, masked=masked)
            _check_shapes(got, want)
            if want.ndim == 3:
                got, want = got[batch.mask], want[batch.mask]
            worst = _differences(got, want)
            cases.append(
                ParityCase(rows=rows, tokens=tokens, padded=padded, max_abs=worst[0],
                           max_rel=worst[1])
            )  # fmt: skip
    return cases


def measure_arrays(
    folder: Path,
    reference: ArrayReference,
    cases: Sequence[ArrayCase],
    *,
    name: str,
    tolerance: float,
) -> Parity:
    """Compare the first outputs of a bundle and its source on given inputs.

    Parameters, differences and errors are those of `measure`; `reference` takes inputs by name.
    """
    _, session, output = _open(folder)
    done = []
    for case in cases:
        want = _wanted(reference, case.feeds)
        got = _run(session, output, case.feeds)
        _check_shapes(got, want)
        padded = case.real is not None and not case.real.all()
        if case.real is not None:
            got, want = got[case.real], want[case.real]
        max_abs, max_rel = _differences(got, want)
        done.append(
            ParityCase(rows=case.rows, tokens=case.tokens, padded=padded, max_abs=max_abs,
                       max_rel=max_rel)
        )  # fmt: skip
    return Parity.of(output, name, tolerance, tuple(done))


def settle(parity: Parity, *, allow_mismatch: bool) -> None:
    """Refuse a bundle that differs from its source by more than the tolerance.

    Raises
    ------
    ExportError
        If it does and `allow_mismatch` is false.
    """
    if parity.within or allow_mismatch:
        return
    worst = max(parity.cases, key=lambda case: case.max_rel)
    padding = ", padded" if worst.padded else ""
    raise ExportError(
        f"{parity.output} differs from {parity.reference} by {worst.max_rel:.2g} of its largest "
        f"value ({worst.rows} rows of {worst.tokens} tokens{padding}), over the tolerance of "
        f"{parity.tolerance:g}; --allow-mismatch writes the bundle all the same"
    )


def _open(folder: Path) -> tuple[Graph, Any, str]:
    """The graph of a bundle, a session of it, and its first output."""
    try:
        graph = load_graph(Bundle.open(folder))
        session = make_session(graph.proto, graph.folder, RuntimeOptions())
    except ModelError as error:
        raise ExportError(f"the graph that was made cannot be run: {error}") from error
    return graph, session, graph.proto.graph.output[0].name


def _text_output(
    session: Any, output: str, graph: Graph, batch: Batch, *, masked: bool
) -> NDArray[Any]:
    """The graph's output for a batch; without a mask, rows of each length are run by themselves."""
    if masked or len(set(batch.lengths.tolist())) == 1:
        return _run(session, output, model_feeds(graph.inputs, batch))
    whole: NDArray[Any] | None = None
    for length in np.unique(batch.lengths):
        rows = np.flatnonzero(batch.lengths == length)
        part = batch.take(rows.tolist(), int(length))
        value = _run(session, output, model_feeds(graph.inputs, part))
        by_token = value.ndim == 3
        if whole is None:
            sizes = batch.ids.shape if by_token else batch.ids.shape[:1]
            whole = np.zeros((*sizes, value.shape[-1]), value.dtype)
        whole[(rows, slice(length)) if by_token else rows] = value
    assert whole is not None  # noqa: S101
    return whole


def _run(session: Any, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    try:
        (value,) = run_session(session, [output], feeds)
    except ModelError as error:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise ExportError(f"the graph that was made fails on {sizes}: {error}") from error
    return np.asarray(value)


def _wanted(reference: Callable[..., Floats], *inputs: Any) -> NDArray[Any]:
    try:
        return np.asarray(reference(*inputs))
    except OnnxlocError:
        raise
    except Exception as error:  # the source's framework and its code may raise anything
        raise ExportError(
            f"the source model fails while it is compared with the graph: {one_line(error)}"
        ) from error


def _check_shapes(got: NDArray[Any], want: NDArray[Any]) -> None:
    if got.shape != want.shape:
        raise ExportError(
            f"the graph's output has the shape {list(got.shape)}, the source's {list(want.shape)}"
        )


def _differences(got: NDArray[Any], want: NDArray[Any]) -> tuple[float, float]:
    """Largest absolute difference, and that by the largest value of `want`."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    for values, whose in ((want, "the source model"), (got, "the graph that was made")):
        if not np.isfinite(values).all():
            raise ExportError(f"{whose} gives values that are not finite; try --dtype float32")
    max_abs = float(np.abs(got - want).max(initial=0.0))
    largest = float(np.abs(want).max(initial=0.0))
    return max_abs, max_abs / largest if largest else float(max_abs > 0)
