"""Reading and checking what an edit is given; all raise `OptionError`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxloc.errors import OptionError

__all__ = ["finite", "no_argument", "number", "texts_of"]


def no_argument(name: str, argument: str) -> None:
    """Refuse an argument to an edit that takes none."""
    if argument:
        raise OptionError(f"{name} takes no value, and {argument!r:.60} was given")


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r:.60} is no number") from None


def finite(value: Any, what: str) -> float:
    """Refuse what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise OptionError(f"{what} must be a number, not {value!r:.60}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise OptionError(f"{what} must be finite, not {found}")
    return found


def texts_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Refuse one text in the place of several."""
    if isinstance(texts, str):
        raise OptionError("texts are a list of texts, not one text")
    return tuple(texts)
