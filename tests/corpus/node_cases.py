"""The cases that onnx's own tests consist of: one operator each, and small exported models."""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus.case import Case, clamped, named, with_numpy_types
from onnx import ModelProto, TensorProto, numpy_helper

__all__ = ["exported_cases", "node_cases"]

EXPORTED = ("simple", "pytorch-converted", "pytorch-operator")


@lru_cache(maxsize=1)
def node_cases() -> tuple[Case, ...]:
    """Every node case, the ``_expanded`` ones among them, with the outputs that it expects."""
    from onnx.backend.test.loader import load_node_model_tests

    with warnings.catch_warnings():
        # The cases are made by numpy code that overflows on purpose.
        warnings.simplefilter("ignore")
        found = load_node_model_tests()
    return tuple(_case(one, "node", one.model, one.data_sets[0]) for one in found)


def exported_cases() -> tuple[Case, ...]:
    """The small models that onnx keeps as files: written by hand, or exported by early PyTorch."""
    from onnx.backend.test.loader import load_model_tests

    cases = []
    for kind in EXPORTED:
        for one in load_model_tests(kind=kind):
            folder = Path(one.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = folder / "test_data_set_0"
            # The last inputs may have defaults: of those there are no files.
            values = tuple(
                [
                    _read(path, value)
                    for value, path in zip(declared, _files(data, what), strict=False)
                ]
                for what, declared in (("input", model.graph.input), ("output", model.graph.output))
            )
            cases.append(_case(one, kind, model, values))
    return tuple(cases)


def _case(one: Any, group: str, model: ModelProto, data: Any) -> Case:
    inputs, outputs = ([_array(value) for value in values] for values in data)
    model = clamped(model)
    case = Case(
        name=one.name,
        group=group,
        model=model,
        runs=(named(model, inputs),),
        expected=tuple(outputs),
        rtol=one.rtol,
        atol=one.atol,
        controls=20,
    )
    return with_numpy_types(case)


def _array(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list):
        return [_array(one) for one in value]
    return value if value is None else np.asarray(value)


def _files(folder: Path, what: str) -> list[Path]:
    return [folder / f"{what}_{i}.pb" for i in range(len(list(folder.glob(f"{what}_*.pb"))))]


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    content = path.read_bytes()
    kind = value.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))
