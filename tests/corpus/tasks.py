"""What is done to a model that may be damaged, in a process of its own."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["ALONE", "use_model", "use_model_twice"]

# The stage in which the untouched model is run.
ALONE = "onnxruntime alone"


def use_model(path: Path, stage: Callable[[str], None]) -> None:
    """Everything that a study does to a model before it has texts."""
    from onnxloc.graph.plan import Edit, Plan, Tap
    from onnxloc.runtime import probe
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions

    # A loop may well have been told to run for ever.
    probe.PATIENCE = 1.0
    stage("load")
    model = Model.open(path)
    stage("sites")
    sites = [site for site in model.sites if site.units]
    outputs = tuple(dict.fromkeys(value.name for value in model.graph.proto.graph.output))
    stage("instrument and session")
    plan = Plan(
        taps=tuple(Tap(site.tensor, "mean") for site in sites),
        edits=tuple(Edit(site.tensor) for site in sites),
        outputs=outputs,
    )
    model.compile(plan, RuntimeOptions(threads=1))


def use_model_twice(path: Path, stage: Callable[[str], None]) -> None:
    """As `use_model`; what onnxloc takes must then give what onnxruntime alone gives.

    Raises
    ------
    AssertionError
        If it does not.
    """
    import numpy as np
    import onnx
    from corpus.case import Case, plain_session
    from corpus.verdict import examine
    from onnx import TensorProto, helper

    use_model(path, stage)
    stage(ALONE)
    rng = np.random.default_rng(0)
    proto = onnx.load(path, format="protobuf")
    constants = {tensor.name for tensor in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else i + 2 for i, d in enumerate(tensor.shape.dim)]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        whole = tensor.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE)
        array = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)
        feeds[value.name] = np.asarray(array).astype(dtype)
    names = [value.name for value in proto.graph.output]
    try:
        plain_session(path).run(names, feeds)
    except Exception:  # onnxruntime's errors share no base class but Exception
        return
    stage("compare")
    if len(set(names)) == len(names):
        verdict = examine(Case(path.stem, "fuzz", path, (feeds,), controls=4), path.parent)
        assert verdict.outcome != "failed", verdict
