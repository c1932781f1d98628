"""Re-initialised copies of a model: the untrained control, without the model's source framework.

Which tensors are re-initialised is told by `onnxloc.graph.weight_roles`: matrices, kernels and
embeddings. Vectors are kept: norm scales, biases, and everything else of one axis. A fresh
initialisation would set scales to 1 and biases to 0, but a graph does not tell a norm's scale from
a vector of frequencies, nor a bias from a running mean, and setting the wrong one breaks the model.
Keeping them is safe for what the control is for: they belong to single units and mix nothing, so
whatever the trained model had learned to tell apart is gone with the matrices, and a gain of a unit
leaves its t-value as it is.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxloc.bundle import Bundle, BundleInfo
from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.external import (
    Change,
    Span,
    bits_per_element,
    check_apart,
    embedded_bytes,
    external_span,
    set_bytes,
    set_note,
    write_bundle,
)
from onnxloc.graph.flow import Constant, Flow
from onnxloc.graph.load import Graph, read_model
from onnxloc.graph.weight_roles import (
    FLOAT_WEIGHTS,
    QUANTISED_WEIGHTS,
    find_weights,
    looks_fixed,
)

__all__ = ["How", "UntrainOptions", "Untrained", "untrain"]

How = Literal["shuffle", "gaussian"]

CHUNK = 1 << 20
# Under this key an untrained model says what it is, also without its bundle.json.
NOTE = "onnxloc.untrained"


@dataclass(frozen=True, kw_only=True)
class UntrainOptions:
    """How weights are re-initialised.

    Attributes
    ----------
    how : {"shuffle", "gaussian"}
        "shuffle" permutes the values of each tensor. "gaussian" draws them from a normal
        distribution with the tensor's own mean and standard deviation; quantised weights cannot be
        drawn, only shuffled.
    seed : int
        Equal seeds give equal models; each tensor has a generator of its own, seeded with this and
        the tensor's name.
    """

    how: How = "shuffle"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise OptionError(
                f"weights are re-initialised by shuffle or gaussian, not {self.how!r}"
            )
        if self.seed < 0:
            raise OptionError("the seed must be 0 or more")


@dataclass(frozen=True)
class Untrained:
    """What was re-initialised.

    Attributes
    ----------
    changed : tuple of str
        Names of the re-initialised tensors; of tied ones the first.
    values : int
        How many values these have.
    kept : tuple of str
        Names of the other float and quantised tensors with two or more axes longer than 1: tables
        and masks, scales of quantised blocks, position biases.
    """

    changed: tuple[str, ...]
    values: int
    kept: tuple[str, ...]


def untrain(
    bundle: Bundle,
    graph: Graph,
    path: Path,
    options: UntrainOptions | None = None,
    *,
    force: bool = False,
    show_progress: bool = False,
) -> Untrained:
    """Write a copy of a model with its weights re-initialised, as a bundle.

    The graph, the vectors, all other constants and the tokenizer stay as they are. One external
    tensor is in memory at a time.

    Parameters
    ----------
    bundle, graph
        The model; its graph was checked when it was loaded.
    path : Path
        The bundle to write.
    options : UntrainOptions, optional
        How weights are re-initialised.
    force : bool
        Replace a bundle that stands at `path`.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OptionError
        If quantised weights are to be drawn from a normal distribution.
    ModelError
        If the model has no weights, or a tensor is damaged.
    RunError
        If `path` is taken, holds the model itself, or cannot be written.
    """
    options = options or UntrainOptions()
    check_apart(bundle, path)
    proto = read_model(bundle.model_path)
    flow = Flow(proto)
    weights = find_weights(flow)
    _check(weights, bundle, options)
    work = _Work(options)
    changes: dict[Span, Change] = {}
    for constant in weights:
        span = external_span(constant.tensor)
        if span is None:
            raw = embedded_bytes(constant.tensor)
            work.renew(constant, raw)
            set_bytes(constant.tensor, raw)
        else:
            changes.setdefault(span, work.change(constant))
    set_note(proto, NOTE, f"{options.how}, seed {options.seed}")
    write_bundle(
        bundle,
        proto,
        path,
        _info(bundle.info, graph, options),
        changes,
        force=force,
        show_progress=show_progress,
    )
    changed = set(work.changed)
    kept = [
        one.name
        for one in flow.constants.values()
        if one.tensor.data_type in FLOAT_WEIGHTS | QUANTISED_WEIGHTS
        and one.long_axes > 1
        and (one not in weights or one.name in work.fixed)
    ]
    return Untrained(tuple(work.changed), work.values, tuple(n for n in kept if n not in changed))


def _check(weights: tuple[Constant, ...], bundle: Bundle, options: UntrainOptions) -> None:
    if not weights:
        raise ModelError(
            f"{bundle.model_path} has no weights to re-initialise: no constant matrix, kernel or "
            "table of embeddings"
        )
    if options.how == "gaussian":
        for one in weights:
            if one.tensor.data_type not in FLOAT_WEIGHTS:
                kind = TensorProto.DataType.Name(one.tensor.data_type).lower()
                raise OptionError(
                    f"the weights {one.name} are quantised ({kind}) and cannot be drawn from a "
                    "normal distribution; use --how shuffle"
                )


def _info(info: BundleInfo, graph: Graph, options: UntrainOptions) -> BundleInfo:
    return replace(
        info,
        name=f"{info.name}-{options.how}-{options.seed}",
        exporter="untrain",
        versions={name: version(name) for name in ("onnxloc", "numpy", "onnx")},
        source=f"{info.name}, weights re-initialised: {options.how}, seed {options.seed}",
        source_sha256=graph.hash,
    )


class _Work:
    """Re-initialises tensors and keeps the account."""

    def __init__(self, options: UntrainOptions) -> None:
        self.changed: list[str] = []
        self.fixed: set[str] = set()
        self.values = 0
        self._options = options

    def change(self, constant: Constant) -> Change:
        """What re-initialises the bytes of one tensor."""

        def renew(raw: NDArray[np.uint8]) -> None:
            self.renew(constant, raw)

        return renew

    def renew(self, constant: Constant, raw: NDArray[np.uint8]) -> None:
        """Re-initialise the bytes of a tensor in place, unless it is a fixed table."""
        kind, count = constant.tensor.data_type, math.prod(constant.tensor.dims)
        bits = bits_per_element(kind)
        if bits < 8:
            values = _unpack(raw, bits)[:count]
        else:
            values = raw.view(helper.tensor_dtype_to_np_dtype(kind))
        # A sparse tensor holds only those values that are not 0.
        if count == math.prod(constant.dims) and looks_fixed(values.reshape(constant.dims)):
            self.fixed.add(constant.name)
            return
        name = hashlib.sha256(constant.name.encode()).digest()
        seed = np.random.SeedSequence([self._options.seed, int.from_bytes(name, "big")])
        rng = np.random.Generator(np.random.PCG64(seed))
        if self._options.how == "gaussian":
            _draw(values, rng, constant.name)
        elif bits < 8:
            rng.shuffle(values)
            raw[:] = _pack(values, bits)
        else:
            # Any type of that width will do, and numpy's own are the fastest.
            rng.shuffle(raw.view(f"u{bits // 8}"))
        self.changed.append(constant.name)
        self.values += count


def _draw(values: NDArray[Any], rng: np.random.Generator, name: str) -> None:
    """Fill an array from a normal distribution with its own mean and standard deviation."""
    chunks = [values[start : start + CHUNK] for start in range(0, values.size, CHUNK)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(float(c.astype(np.float64).sum()) for c in chunks) / max(1, values.size)
        square = sum(float(((c.astype(np.float64) - mean) ** 2).sum()) for c in chunks)
    deviation = math.sqrt(square / max(1, values.size)) if math.isfinite(square) else math.nan
    if not math.isfinite(deviation):
        raise ModelError(
            f"the weights {name} hold values that are not finite; use --how shuffle, or repair them"
        )
    largest = float(np.finfo(np.float16).max) if values.dtype == np.float16 else math.inf
    for chunk in chunks:
        drawn = mean + deviation * rng.standard_normal(chunk.size)
        chunk[:] = np.clip(drawn, -largest, largest).astype(values.dtype)


def _unpack(raw: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Elements narrower than a byte, one a byte; the first of a byte lies in its low bits."""
    parts = [(raw >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=1).reshape(-1)


def _pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    per_byte = 8 // bits
    rows = np.pad(values, (0, -values.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(rows << shifts, axis=1)
    return packed
