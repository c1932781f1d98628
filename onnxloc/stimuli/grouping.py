"""Sort the rows of a stimulus table into conditions, and check that these can be compared."""

from collections.abc import Sequence
from pathlib import Path

from onnxloc.errors import StimulusError
from onnxloc.stimuli.model import MIN_TEXTS
from onnxloc.stimuli.tables import Row

__all__ = ["check_equal", "group", "match_pairs"]


def group(rows: Sequence[Row], names: Sequence[str], place: str | Path) -> dict[str, list[Row]]:
    """The rows of each condition, in the order of `names`.

    Raises
    ------
    StimulusError
        If a condition has no row or fewer than three, or two conditions hold the same texts.
    """
    found = {name: [row for row in rows if row.condition == name] for name in names}
    for name, own in found.items():
        if not own:
            raise StimulusError(
                f"{place} has no {name} text; all conditions ({', '.join(names)}) are needed"
            )
        if len(own) < MIN_TEXTS:
            count = f"{len(own)} {name} text" + "s" * (len(own) != 1)
            raise StimulusError(
                f"{own[-1].where}: this is the last of only {count}; "
                f"at least {MIN_TEXTS} in each condition are needed"
            )
    seen: dict[frozenset[str], str] = {}
    for name, own in found.items():
        texts = frozenset(row.text for row in own)
        if texts in seen:
            raise StimulusError(
                f"{own[0].where}: the conditions {seen[texts]} and {name} hold the same texts; "
                "there is nothing to compare"
            )
        seen[texts] = name
    return found


def check_equal(first: Sequence[Row], second: Sequence[Row]) -> None:
    """Refuse two conditions of different sizes.

    Raises
    ------
    StimulusError
        It names the first row that has no counterpart.
    """
    if len(first) == len(second):
        return
    fewer, more = sorted((first, second), key=len)
    raise StimulusError(
        f"{more[len(fewer)].where}: there are {len(more)} {more[0].condition} texts but only "
        f"{len(fewer)} {fewer[0].condition} texts; even them out, or say unequal = true in the "
        "localizer's TOML file"
    )


def match_pairs(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """The rows of `second` in the order of their partners in `first`.

    Raises
    ------
    StimulusError
        If a pair does not have exactly one text of each condition.
    """
    firsts, seconds = _by_pair(first), _by_pair(second)
    _check_partners(firsts, seconds, second[0].condition)
    _check_partners(seconds, firsts, first[0].condition)
    return [seconds[row.pair] for row in first]


def _by_pair(rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if not row.pair:
            raise StimulusError(f"{row.where}: pair is empty; other rows have one")
        if row.pair in found:
            raise StimulusError(
                f"{row.where}: the pair {row.pair[:40]!r} has a second {row.condition} text; "
                f"the first is at {found[row.pair].where}"
            )
        found[row.pair] = row
    return found


def _check_partners(own: dict[str, Row], others: dict[str, Row], wanted: str) -> None:
    for pair, row in own.items():
        if pair not in others:
            raise StimulusError(f"{row.where}: the pair {pair[:40]!r} has no {wanted} text")
