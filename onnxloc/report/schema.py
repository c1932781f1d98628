"""Frozen records from JSON that is hostile until checked."""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from onnxloc.errors import RunError

__all__ = ["build"]

T = TypeVar("T")


def build(kind: type[T], raw: object, where: str) -> T:
    """Make a frozen record of type `kind` from parsed JSON.

    Keys that `kind` does not name are left out, so that a newer writer can say more. An absent
    key takes its default; one without a default must be there.

    Parameters
    ----------
    kind : type
        A dataclass whose hints use str, int, float, bool, object, Any, ``X | None``,
        ``tuple[X, ...]``, ``Mapping[str, X]`` and dataclasses.
    raw : object
        The parsed JSON.
    where : str
        How messages name the place.

    Raises
    ------
    RunError
        If a key is missing or a value has the wrong type.
    """
    if not isinstance(raw, dict):
        raise RunError(f"{where} must be a JSON object; make the run again")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in raw:
            values[field.name] = _value(hints[field.name], raw[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RunError(f"{where}.{field.name} is missing; make the run again")
    return kind(**values)


def _value(hint: Any, raw: object, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        # Undefined numbers are written as null; NaN, which JSON has not, is read as the same.
        undefined = raw is None or (isinstance(raw, float) and not math.isfinite(raw))
        if undefined and type(None) in typing.get_args(hint):
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(raw, list):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item, f"{where}[{i}]") for i, item in enumerate(raw))
    if origin is Mapping and isinstance(raw, dict):
        inner = typing.get_args(hint)[1]
        return {key: _value(inner, item, f"{where}.{key}") for key, item in raw.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, raw, where)
    if hint in (object, Any):
        return raw
    if hint is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        try:
            return float(raw)
        except OverflowError as error:
            raise RunError(f"{where} is too large a number; make the run again") from error
    if hint in (str, bool, int) and type(raw) is hint:
        return raw
    raise RunError(f"{where} has the wrong type ({type(raw).__name__}); make the run again")
