"""Which constants of a model are weights, told by what reads them and by their values.

A weight is a tensor of two or more axes that is multiplied with activations and summed over, or
looked up by them: the matrix of a product, the kernel of a convolution, a recurrent cell's
matrices, a table of embeddings. It may pass through other operators on its way, as long as these
only move or convert it: transposes, casts, dequantisation, the slices that a loop takes.

Everything else is no weight: vectors (norm scales, biases, inverse frequencies), whatever is added
or compared (masks, position biases), scales and zero points of quantised tensors, shapes and
indices. Three kinds of fixed tables stand where weights stand, and are known by their values:
tables of sinusoids (positions, angles, Fourier bases with or without a window), masks, and matrices
that only select, permute or blend neighbours. Any other fixed filter bank cannot be told from a
learned one.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxloc.graph.flow import Constant, Flow, Op, Ref

__all__ = ["FLOAT_WEIGHTS", "QUANTISED_WEIGHTS", "find_weights", "looks_fixed"]

Dims = tuple[int, ...] | None

FLOAT_WEIGHTS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
QUANTISED_WEIGHTS = {
    kind
    for name, kind in TensorProto.DataType.items()
    if name in {"INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8"}
    or name.startswith(("FLOAT4", "FLOAT6", "FLOAT8"))
}

# Both inputs may hold the weight; which axis is summed over is known.
PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "TransposeMatMul", "FusedGemm", "GemmFastGelu",
            "SparseToDenseMatMul", "FusedMatMulActivation"}  # fmt: skip
# Inputs that hold weights and nothing else.
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "DeformConv", "FusedConv", "NhwcConv",
                     "NhwcFusedConv", "ConvTransposeWithDynamicPads"), (1,)),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), (1, 2)),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv", "QGemm"), (0, 3)),
    **dict.fromkeys(("MatMulInteger", "GemmFloat8"), (0, 1)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4",
                     "MatMulFpQ4"), (1,)),
    **dict.fromkeys(("EmbedLayerNormalization", "QEmbedLayerNormalization"), (2, 3, 4)),
    **dict.fromkeys(("QAttention", "PackedAttention"), (1,)),
    "DecoderAttention": (2, 3),
    "LongformerAttention": (1, 4),
    "MoE": (2, 4, 6),
    "QMoE": (2, 5, 8),
}  # fmt: skip
LOOKUPS = {"Gather", "GatherBlockQuantized"}
# Operators that hand on their first input, its values and shape as they were, ...
SAME_SHAPE = {"Identity", "Cast", "CastLike", "Dropout", "DequantizeLinear", "QuantizeLinear"}
# ... or moved, and those that hand on the larger of two constants.
MOVES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split", "Gather",
         "GatherND", "Pad", "DepthToSpace", "SpaceToDepth"}  # fmt: skip
ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}

FIT_ROWS, FIT_LINES, FIT_SKIP = 256, 64, 8
CHUNK = 1 << 20
# Spacing of the numbers of a float type at 1.
PRECISION = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


def find_weights(flow: Flow) -> tuple[Constant, ...]:
    """The constants that are weights by what reads them, in the order of the file.

    See the module's text for what is counted. `looks_fixed` has still to be asked of the values.
    """
    return tuple(one for one in flow.constants.values() if _is_candidate(one) and _used(one, flow))


def _is_candidate(constant: Constant) -> bool:
    known = constant.tensor.data_type in FLOAT_WEIGHTS | QUANTISED_WEIGHTS
    return known and len(constant.dims) > 1 and constant.long_axes > 0


def _used(constant: Constant, flow: Flow) -> bool:
    """Whether a constant comes to an input that takes weights."""
    seen = {constant.ref}
    stack: list[tuple[Ref, Dims]] = [(constant.ref, constant.dims)]
    while stack:
        ref, dims = stack.pop()
        if any(_takes(op, i, constant, dims, flow) for op, i in flow.consumers.get(ref, ())):
            return True
        for out, shape in _passed_on(ref, dims, constant, flow):
            # What depends on the input is an activation: the constant has been used already.
            if out not in seen and out not in flow.dynamic:
                seen.add(out)
                stack.append((out, shape))
    return False


def _takes(op: Op, i: int, constant: Constant, dims: Dims, flow: Flow) -> bool:
    kind = op.node.op_type
    if kind == "Attention":
        # The operator of this name in onnx's own domain has no weights.
        return op.node.domain == "com.microsoft" and i == 1
    if kind in WEIGHT_INPUTS:
        return i in WEIGHT_INPUTS[kind]
    if kind == "Einsum":
        return constant.long_axes > 1
    if kind in LOOKUPS:
        index = op.inputs[1] if len(op.inputs) > 1 else None
        return i == 0 and index in flow.dynamic and constant.long_axes > 1
    if kind in PRODUCTS and i < 2:
        summed = _summed(op.node, i, dims)
        # A product that sums over nothing scales: a vector of frequencies times the positions.
        return constant.long_axes > 1 if summed is None else summed > 1
    return False


def _summed(node: NodeProto, i: int, dims: Dims) -> int | None:
    """Size of the axis that a matrix product sums over, if it is known."""
    if dims is None or not dims:
        return None
    flipped = any(a.name == ("transA", "transB")[i] and a.i for a in node.attribute)
    last = (i == 0) != flipped or len(dims) == 1
    return dims[-1] if last else dims[-2]


def _passed_on(ref: Ref, dims: Dims, constant: Constant, flow: Flow) -> Iterator[tuple[Ref, Dims]]:
    """Where a constant goes on to, and with which shape if that is known."""
    for out, whole in flow.links.get(ref, ()):
        yield out, dims if whole else None
    for op, i in flow.consumers.get(ref, ()):
        kind = op.node.op_type
        shape: Dims = None
        if kind == "Concat":
            pass
        elif kind in ELEMENTWISE:
            if not _is_larger(constant, op, i, flow):
                continue
        elif i != 0 or kind not in SAME_SHAPE | MOVES | {"Transpose"}:
            continue
        elif kind in SAME_SHAPE:
            shape = dims
        elif kind == "Transpose" and dims is not None:
            order = next((list(a.ints) for a in op.node.attribute if a.name == "perm"), [])
            order = order or list(range(len(dims)))[::-1]
            if sorted(order) == list(range(len(dims))):
                shape = tuple(dims[axis] for axis in order)
        for name in op.outputs:
            if name is not None:
                yield name, shape


def _is_larger(constant: Constant, op: Op, i: int, flow: Flow) -> bool:
    """Whether no other operand is made of a larger constant: a scale is smaller than its tensor."""
    seen = {ref for j, ref in enumerate(op.inputs) if ref is not None and j != i}
    stack = list(seen)
    while stack:
        ref = stack.pop()
        other = flow.constants.get(ref)
        if other is not None and math.prod(other.dims) > math.prod(constant.dims):
            return False
        more = [above for above in flow.sources.get(ref, ()) if above not in seen]
        seen.update(more)
        stack.extend(more)
    return True


# --- values ------------------------------------------------------------------------------------


def looks_fixed(values: NDArray[Any]) -> bool:
    """Whether values are those of a mask, a selection, or a table of sinusoids or angles.

    Parameters
    ----------
    values : ndarray
        The tensor in its own shape, two or more axes.

    Notes
    -----
    A mask holds 0 and one other value. A matrix that selects, permutes or blends neighbours has
    at least half its values 0, and no more others than twice the length of its longest axis.

    Equally spaced samples of a sinusoid, of a straight line and of a constant satisfy ``x[n+1] +
    x[n-1] = a x[n]`` with one `a` for the whole line. Those of a sum of three sinusoids, which a
    sinusoid under a Hann or Hamming window is, satisfy ``x[n+3] + x[n-3] = a (x[n+2] + x[n-2]) + b
    (x[n+1] + x[n-1]) + c x[n]`` (Prony). The factors are fitted to each line, and a table is one of
    sinusoids if nine in ten of its lines fit to the precision of their type. Learned lines miss by
    about their own size.
    """
    if values.size == 0:
        return False
    # A NaN may be of the kind that warns when it is converted.
    with np.errstate(invalid="ignore"):
        return _is_sparse(values) or (values.dtype.name in PRECISION and _is_sinusoidal(values))


def _is_sparse(values: NDArray[Any]) -> bool:
    flat = values.reshape(-1)
    bound, count = min(2 * max(values.shape), values.size // 2), 0
    other: set[float] = set()
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK].astype(np.float64)
        chunk = chunk[chunk != 0]
        count += chunk.size
        if len(other) < 2 and chunk.size:
            other |= {float(chunk.min()), float(chunk.max())}
        if count > bound and len(other) > 1:
            return False
    return count < flat.size and (count <= bound or len(other) < 2)


def _is_sinusoidal(values: NDArray[Any]) -> bool:
    long = [axis for axis, size in enumerate(values.shape) if size >= FIT_SKIP]
    return any(_fits(values, axis) for axis in {*long[:1], *long[-1:]})


def _fits(values: NDArray[Any], axis: int) -> bool:
    """Whether the lines along an axis are sinusoids; some lines of some length are looked at."""
    length = values.shape[axis]
    # A table may have a row of its own in front, for padding.
    first = FIT_SKIP if length >= 4 * FIT_SKIP else 0
    lines = np.moveaxis(values, axis, 0)[first : first + FIT_ROWS]
    rest = math.prod(lines.shape[1:])
    chosen = np.unique(np.linspace(0, rest - 1, min(rest, FIT_LINES)).astype(np.int64))
    index: tuple[Any, ...] = (slice(None), *np.unravel_index(chosen, lines.shape[1:]))
    x = lines[index].astype(np.float64)
    if not np.isfinite(x).all():
        return False
    order = 3 if len(x) >= 3 * FIT_SKIP else 1
    precision = max(1e-3, (16 if order == 3 else 3) * PRECISION[values.dtype.name])
    fitting = [_misfit(line, order) <= precision for line in x.T]
    return sum(fitting) >= 0.9 * len(fitting)


def _misfit(line: NDArray[np.float64], order: int) -> float:
    """Largest error of the best recurrence of an order, against the largest value; 1 for zeros."""
    stop = len(line) - order
    pairs = [line[order + k : stop + k] + line[order - k : stop - k] for k in range(order + 1)]
    terms, size = np.stack(pairs[:order], axis=1), float(np.abs(line).max())
    factors = np.linalg.lstsq(terms, pairs[order], rcond=None)[0]
    error = float(np.abs(pairs[order] - terms @ factors).max())
    return error / size if size else 1.0
