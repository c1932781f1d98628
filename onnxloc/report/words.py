"""Numbers as people read them."""

import math
from collections.abc import Sequence

__all__ = [
    "count",
    "count_word",
    "integer",
    "known_of",
    "number",
    "percent",
    "probability",
    "score",
    "score_range",
    "signed",
]

_NONE = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def integer(value: int | None) -> str:
    """Write an integer with thousands separated: 17,280."""
    return _NONE if value is None else f"{value:,}".replace("-", "−")


def count_word(value: int) -> str:
    """Write a small number in words, others in digits."""
    return _WORDS[value] if 0 <= value < len(_WORDS) else integer(value)


def count(value: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun: 1 unit, 172 units."""
    return f"{integer(value)} {noun if value == 1 else plural or noun + 's'}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number to `digits` significant digits; large and small ones as a × 10ⁿ."""
    if value is None or not math.isfinite(value):
        return _NONE
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa} × 10{power}".replace("-", "−")


def percent(value: float | None, digits: int = 3) -> str:
    """Write a percentage, without needless zeros: 1 %, 0.125 %."""
    if value is None or not math.isfinite(value):
        return _NONE
    text = number(value, digits)
    if "." in text and "×" not in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}\u202f%"


def score(value: float | None) -> str:
    """Write a score with three decimals: 0.812."""
    if value is None or not math.isfinite(value):
        return _NONE
    return f"{value:,.3f}".replace("-", "−") if abs(value) < 1e5 else number(value)


def known_of(values: Sequence[float | None]) -> str:
    """Write how many scores there are, and of how many where some are undefined."""
    known = sum(value is not None for value in values)
    return str(known) if known == len(values) else f"{known} of {len(values)} have a score"


def score_range(values: Sequence[float | None]) -> str:
    """Write the lowest and the highest score, and how many are left out: 0.780 to 0.810."""
    known = [value for value in values if value is not None]
    if not known:
        return _NONE
    note = "" if len(known) == len(values) else f" ({known_of(values)})"
    return f"{score(min(known))} to {score(max(known))}{note}"


def signed(value: float | None) -> str:
    """Write a difference, with its sign and three decimals: −0.288."""
    if value is None or not math.isfinite(value):
        return _NONE
    return f"{value:+,.3f}".replace("-", "−") if abs(value) < 1e5 else number(value)


def probability(value: float | None) -> str:
    """Write a p or q value; one that underflowed is shown as a bound."""
    if value is None or not math.isfinite(value):
        return _NONE
    return "< 10⁻³⁰⁰" if value < 1e-300 else number(value, 2)
