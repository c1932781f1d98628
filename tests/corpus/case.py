"""One model of the corpus, what it is fed, and how its outputs are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

__all__ = ["Case", "Feeds", "clamped", "difference", "plain_session", "with_numpy_types"]

Feeds = Mapping[str, Any]
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2
HALF = {"float16"}
# numpy has these only through ml_dtypes, and onnxruntime takes no such arrays.
NOT_OF_NUMPY = {
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("BFLOAT", "FLOAT4", "FLOAT6", "FLOAT8", "INT2", "UINT2", "INT4", "UINT4"))
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model and what it is fed.

    Attributes
    ----------
    name, group : str
        What the report calls it, and the part of the corpus that it belongs to.
    model : onnx.ModelProto or Path
        The model, or its file.
    runs : tuple of feeds
        What it is fed, once or twice. From two runs the meaning of axes can be told.
    sizes : tuple of (int, int)
        Rows and tokens of each run; empty where the axes are not to be told.
    expected : tuple or None
        What the first run must give, where the corpus says so; with its tolerances.
    half : frozenset of str
        Outputs that are computed in half precision though they are no float16.
    reference : onnx.ModelProto or None
        The same model in a form that onnxruntime takes, where it does not take this one.
    controls : int
        The most sites that are changed one at a time.
    """

    name: str
    group: str
    model: ModelProto | Path
    runs: tuple[Feeds, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    expected: tuple[Any, ...] | None = None
    rtol: float = 1e-3
    atol: float = 1e-7
    half: frozenset[str] = frozenset()
    reference: ModelProto | None = None
    controls: int = 400


def plain_session(model: ModelProto | Path) -> onnxruntime.InferenceSession:
    """What onnxruntime itself makes of the untouched model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def difference(expected: Any, found: Any, *, half: bool = False) -> str | None:
    """What sets two outputs apart, or None.

    Floats may differ by 1e-4 of the largest finite magnitude expected, half precision by 1e-2.
    Everything else must be equal.
    """
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return "not a list of the same length"
        pairs = zip(expected, found, strict=True)
        return next((d for a, b in pairs if (d := difference(a, b, half=half))), None)
    if not isinstance(expected, np.ndarray):
        return None if expected == found else f"{found!r:.40} is not {expected!r:.40}"
    if not isinstance(found, np.ndarray) or expected.dtype != found.dtype:
        return f"another type: {getattr(found, 'dtype', type(found))}, not {expected.dtype}"
    if expected.shape != found.shape:
        return f"another shape: {found.shape}, not {expected.shape}"
    if expected.dtype.kind != "f":
        return None if np.array_equal(expected, found) else "other values, which must be equal"
    bound = HALF_TOLERANCE if half or str(expected.dtype) in HALF else TOLERANCE
    error = _relative(expected, found)
    return None if error <= bound else f"relative difference {error:.1e} (<= {bound:g})"


def _relative(expected: NDArray[Any], found: NDArray[Any]) -> float:
    a, b = expected.astype(np.float64), found.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = float(np.abs(np.where(same, 0.0, a - b)).max(initial=0.0))
    if gap == 0:
        return 0.0
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    # A NaN in one of the two is no difference that any bound allows.
    return gap / max(largest, 1e-12) if np.isfinite(gap) else np.inf


# --- versions and types that onnxruntime takes -------------------------------------------------


def _takes(ir: int, opset: int) -> bool:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "tiny", value[:1], value[1:])
    imports = [helper.make_opsetid("", opset)]
    try:
        plain_session(helper.make_model(graph, ir_version=ir, opset_imports=imports))
    except Exception:  # onnxruntime's errors share no base class but Exception
        return False
    return True


@lru_cache(maxsize=1)
def _newest() -> tuple[int, int]:
    """The newest IR version and operator set that the installed onnxruntime takes."""
    ir = next(v for v in range(onnx.IR_VERSION, 0, -1) if _takes(v, 13))
    opset = next(v for v in range(onnx.defs.onnx_opset_version(), 0, -1) if _takes(8, v))
    return ir, opset


def clamped(model: ModelProto) -> ModelProto:
    """A copy whose IR version and operator set are no newer than onnxruntime takes.

    What an operator of a newer set means in the older one need not be the same; where the two
    differ, the expected outputs show it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    ir, opset = _newest()
    copy.ir_version = min(copy.ir_version, ir)
    for entry in copy.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, opset)
    return copy


def with_numpy_types(case: Case) -> Case:
    """The case with a Cast at each input and output of a type that numpy lacks."""
    assert isinstance(case.model, ModelProto)
    model = ModelProto()
    model.CopyFrom(case.model)
    body = model.graph
    fed = {v.name: v for v in body.input if v.type.tensor_type.elem_type in NOT_OF_NUMPY}
    given = {v.name: v for v in body.output if v.type.tensor_type.elem_type in NOT_OF_NUMPY}
    if not fed and not given:
        return case
    nodes = list(body.node)
    del body.node[:]
    renamed = {}
    for value in fed.values():
        name, elem_type = value.name, value.type.tensor_type.elem_type
        renamed[name] = value.name = f"{name}.fed"
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        body.node.append(helper.make_node("Cast", [value.name], [name], to=elem_type))
    body.node.extend(nodes)
    for value in given.values():
        name = value.name
        value.name = f"{name}.read"
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        body.node.append(helper.make_node("Cast", [name], [value.name], to=TensorProto.FLOAT))
    runs = tuple(
        {renamed.get(k, k): _float32(v) if k in renamed else v for k, v in run.items()}
        for run in case.runs
    )
    expected = case.expected
    if expected is not None:
        names = [value.name.removesuffix(".read") for value in body.output]
        expected = tuple(
            _float32(v) if name in given else v for name, v in zip(names, expected, strict=True)
        )
    half = frozenset(value.name for value in given.values())
    return replace(case, model=model, runs=runs, expected=expected, half=half)


def _float32(value: Any) -> Any:
    return value if value is None else np.asarray(value).astype(np.float32)


def named(model: ModelProto, values: Sequence[Any]) -> dict[str, Any]:
    """Values in the order of the model's inputs, by name; an input left out is not fed."""
    return {
        value.name: one
        for value, one in zip(model.graph.input, values, strict=False)
        if one is not None or value.type.WhichOneof("value") == "optional_type"
    }
