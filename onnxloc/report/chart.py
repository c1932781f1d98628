"""Charts and tables as the page takes them, with the looks that all of them share.

Colours are names of CSS variables: the page's script puts in their values, and does so again when
the reader's colour scheme changes.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from onnxloc.report.words import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "CIRCLE",
    "DIAMOND",
    "Cell",
    "Chart",
    "Column",
    "Table",
    "cell",
    "chart",
    "labels",
    "layout",
    "plain",
    "scale",
    "short",
    "wrapped",
]

CHANCE = "var(--chance)"
CONTROL = "var(--control)"
INTACT = "var(--intact)"
NETWORK = "var(--network)"
OTHER = "var(--other)"
DIAMOND = {"symbol": "diamond", "size": 14, "color": NETWORK}
CIRCLE = {
    "symbol": "circle",
    "size": 9,
    "color": CONTROL,
    "opacity": 0.65,
    "line": {"width": 1, "color": "var(--card)"},
}
NARROW_LABEL = 15


@dataclass(frozen=True)
class Cell:
    """What a table cell shows, and the number to sort it by."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A table's column; numbers stand to the right."""

    label: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table with its caption. The first cell of a row is its header.

    One that is `sortable` can also be filtered and downloaded; `sorted` says that its first column
    rises.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    sorted: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure with what stands in for it where it cannot be seen.

    Attributes
    ----------
    name : str
        What it shows, where several charts share a place.
    label : str
        The text alternative: what is drawn, and what is to be seen in it.
    height : int
        In CSS pixels.
    json : Markup
        The plotly figure, safe inside a script element.
    table : Table or None
        The same numbers.
    """

    name: str
    label: str
    height: int
    json: Markup
    table: Table | None = None


def cell(text: str, value: float | None = None) -> Cell:
    """Make a table cell."""
    return Cell(text, value)


def plain(text: str) -> str:
    """Text for plotly, which reads a part of HTML in labels."""
    return html.escape(text)


def short(text: str, length: int) -> str:
    """Text cut in the middle to at most `length` characters, for an axis."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def wrapped(text: str, length: int = 16) -> str:
    """Text for an axis, in lines of at most `length` characters where words allow it."""
    return "<br>".join(plain(line) for line in textwrap.wrap(text, length)) or plain(text)


def layout(height: int, **more: Any) -> dict[str, Any]:
    """Build the layout that all charts share, with `more` merged into it."""
    axis = {
        "automargin": True,
        "fixedrange": True,
        "gridcolor": "var(--grid)",
        "linecolor": "var(--rule)",
        "tickcolor": "var(--rule)",
        "title": {"standoff": 10, "font": {"size": 13}},
        "zeroline": False,
    }
    base: dict[str, Any] = {
        "autosize": True,
        "bargap": 0.15,
        "dragmode": False,
        "font": {"color": "var(--ink)", "family": "system-ui, sans-serif", "size": 13},
        "height": height,
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--rule)",
            "font": {"color": "var(--ink)"},
        },
        "hovermode": "closest",
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "margin": {"l": 8, "r": 12, "t": 36, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "template": {"layout": {"xaxis": axis, "yaxis": axis}},
    }
    return base | more


def labels(
    names: Sequence[str], length: int = 30, every: int = 1
) -> tuple[dict[str, Any], list[str]]:
    """Axis settings that put `names` at 0, 1, …, and their shorter form for narrow screens.

    Only one name in `every` is written.
    Positions are numbers because plotly would read names such as "1" or "2020-01" as such.
    """
    axis = {
        "tickmode": "array",
        "tickvals": list(range(0, len(names), every)),
        "ticktext": [plain(short(name, length)) for name in names[::every]],
    }
    return axis, [plain(short(name, NARROW_LABEL)) for name in names[::every]]


def scale(
    name: str, log: bool, known: Sequence[float | None], chance: float | None
) -> dict[str, Any]:
    """Set an axis that holds all values; plotly's own range would ignore the lines' ends."""
    values = [value for value in known if value is not None]
    values += [chance] if chance is not None and not log else []
    axis: dict[str, Any] = {"title": {"text": name}}
    if log:
        exponents = [math.log10(value) for value in values if value > 0] or [0.0]
        pad = max(0.1, 0.06 * (max(exponents) - min(exponents)))
        axis |= {"type": "log", "range": [min(exponents) - pad, max(exponents) + pad]}
        axis |= _log_ticks(min(exponents) - pad, max(exponents) + pad)
    else:
        pad = max(0.02, 0.06 * (max(values) - min(values))) if values else 1.0
        axis["range"] = [min(values, default=0) - pad, max(values, default=1) + pad]
    return axis


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 of each decade, or at decades where there are many."""
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    every = max(1, math.ceil((high - low) / 8))
    decades = range(math.floor(low), math.ceil(high) + 1, every)
    values = [step * 10.0**decade for decade in decades for step in steps]
    return {"tickvals": values, "ticktext": [number(value, 1) for value in values]}


def chart(
    figure: "Figure", label: str, height: int, *, name: str = "", table: Table | None = None
) -> Chart:
    """Encode a plotly figure so that no text in it can end the script element it stands in."""
    from jinja2.utils import htmlsafe_json_dumps

    json = htmlsafe_json_dumps(figure, dumps=lambda value, **_: value.to_json())
    return Chart(name, label, height, json, table)
