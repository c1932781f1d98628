"""How results show themselves in a notebook: small tables of HTML, with all text escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["effects_html", "facts_html", "shown", "table_html"]

# More rows than these are cut, with a line that says so.
MAX_ROWS = 12


def shown(value: object) -> str:
    """Write a value as a table has it: four digits, thousands apart, a dash for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "–"
    return str(value)


def facts_html(title: str, facts: Mapping[str, object]) -> str:
    """Make a table of names and values under a title."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(shown(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<p><strong>{escape(title)}</strong></p><table><tbody>{rows}</tbody></table>"


def table_html(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Make a table with a head; the first `MAX_ROWS` rows are shown."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(shown(value))}</td>" for value in row) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    left = len(rows) - MAX_ROWS
    more = f"<p>and {left:,} more</p>" if left > 0 else ""
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"


def effects_html(effects: object) -> str:
    """Make a table of the effects in an ablation's summary; empty if there are none."""
    listed = [one for one in effects if isinstance(one, dict)] if isinstance(effects, list) else []
    if not listed:
        return ""
    head = ("task", "size, %", "items", "intact", "network", "controls, median", "controls, range",
            "p")  # fmt: skip
    rows = [
        (
            one.get("task"),
            one.get("size"),
            one.get("n_items"),
            one.get("intact"),
            one.get("network"),
            one.get("control_median"),
            f"{shown(one.get('control_min'))} to {shown(one.get('control_max'))}"
            if one.get("control_min") is not None
            else None,
            one.get("p_empirical"),
        )
        for one in listed
    ]
    return table_html(head, rows)
