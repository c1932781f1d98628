"""Each condition of an ablation minus the intact model, with its interval."""

from collections.abc import Iterator
from dataclasses import dataclass

from onnxloc.report.chart import (
    CONTROL,
    INTACT,
    NETWORK,
    Chart,
    Column,
    Table,
    cell,
    chart,
    layout,
    plain,
    scale,
    wrapped,
)
from onnxloc.report.effect_charts import score_name
from onnxloc.report.folder import Comparison, Effect
from onnxloc.report.kinds import KIND_NAMES, WITHOUT
from onnxloc.report.words import number, percent, signed

__all__ = ["difference_chart"]

_RANDOM = "random controls"
# Height of a condition's line, and of all lines of many conditions, in CSS pixels.
_LINE, _ALL = 14, 1_000
# Between kinds, in lines.
_GAP = 0.8


@dataclass(frozen=True)
class _Row:
    """One condition: what kind it is of, its name, its difference from the intact model."""

    kind: str
    name: str
    versus: Comparison


def difference_chart(effect: Effect) -> Chart | None:
    """Draw every condition's difference from the intact model, with a 95 % interval over items.

    Runs that kept no interval for each control show the controls as points.

    Parameters
    ----------
    effect : Effect
        Of one task and one size.

    Returns
    -------
    Chart or None
        None where the task has no score.
    """
    import plotly.graph_objects as go

    rows = [row for row in _rows(effect) if row.versus.difference is not None]
    if not rows:
        return None
    kinds = list(dict.fromkeys(row.kind for row in rows))
    spot = [i + _GAP * kinds.index(row.kind) for i, row in enumerate(rows)]
    end = spot[-1] + 0.7
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 0],
        y=[-0.7, end],
        mode="lines",
        line={"color": INTACT, "width": 2},
        name="intact",
        hoverinfo="skip",
    )
    for own, colour, symbol, name in (
        (True, NETWORK, "diamond", "network"),
        (False, CONTROL, "circle", "controls"),
    ):
        picked = [i for i, row in enumerate(rows) if (row.kind in ("network", WITHOUT)) is own]
        if picked:
            figure.add_scatter(
                x=[rows[i].versus.difference for i in picked],
                y=[spot[i] for i in picked],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 12 if own else 7},
                error_x=_bars([rows[i].versus for i in picked], colour),
                name=name,
                hovertext=[plain(f"{rows[i].name}: {_said(rows[i].versus)}") for i in picked],
                hoverinfo="text",
            )
    members = [[y for y, row in zip(spot, rows, strict=True) if row.kind == k] for k in kinds]
    height = 130 + round(len(rows) * min(_LINE, max(4.0, _ALL / len(rows)))) + 10 * len(kinds)
    narrow = {"narrow": [wrapped(kind) for kind in kinds]}
    figure.update_layout(layout(height, meta=narrow))
    ends = [v for row in rows for v in (row.versus.low, row.versus.difference, row.versus.high)]
    name = f"{score_name(effect)}: difference from intact"
    figure.update_xaxes(scale("Difference from intact", False, [*ends, 0.0], None))
    figure.update_yaxes(
        tickvals=[sum(own) / len(own) for own in members],
        ticktext=[plain(kind).replace(", ", ",<br>", 1) for kind in kinds],
        range=[end, -0.7],
        showgrid=False,
    )
    label = (
        f"{name} on task {effect.task}, {percent(effect.size)} of the units, with 95 % intervals. "
        f"Network: {_said(_network(effect))}. "
        f"{sum(row.kind not in ('network', WITHOUT) for row in rows)} controls."
    )
    return chart(figure, label, height, name=percent(effect.size), table=_table(effect, rows))


def _network(effect: Effect) -> Comparison:
    """The network minus intact."""
    if effect.vs_intact is not None:
        return effect.vs_intact
    return Comparison(difference=_minus(effect.network, effect.intact))


def _rows(effect: Effect) -> Iterator[_Row]:
    """The network, then the controls of each kind, the most harmful of a kind first."""
    known = {one.of: one for one in effect.comparisons if one.against == "intact"}
    yield _Row("network", "network", known.get("network") or _network(effect))
    rest = effect.without_massive
    if rest is not None:
        versus = known.get("without-massive")
        yield _Row(
            WITHOUT, WITHOUT, versus or Comparison(difference=_minus(rest.score, effect.intact))
        )
    kinds = [
        (KIND_NAMES.get(kind.kind, kind.kind), list(zip(kind.names, kind.scores, strict=True)))
        for kind in effect.kinds
    ] or [(_RANDOM, [(f"control-{i:02d}", value) for i, value in enumerate(effect.controls)])]
    for kind, members in kinds:
        rows = [
            _Row(kind, name, known.get(name) or Comparison(difference=_minus(value, effect.intact)))
            for name, value in members
        ]
        yield from sorted(rows, key=lambda row: row.versus.difference or 0.0)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _bars(versus: list[Comparison], colour: str) -> dict[str, object]:
    """Plotly's error bars: how far each interval reaches to either side."""

    def reach(one: Comparison, end: float | None, sign: int) -> float:
        if one.difference is None or end is None:
            return 0.0
        return max(0.0, sign * (end - one.difference))

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(one, one.high, 1) for one in versus],
        "arrayminus": [reach(one, one.low, -1) for one in versus],
        "color": colour,
        "thickness": 1.5,
        "width": 0,
    }


def _said(one: Comparison) -> str:
    if one.low is None or one.high is None:
        return signed(one.difference)
    return f"{signed(one.difference)} ({signed(one.low)} to {signed(one.high)})"


def _table(effect: Effect, rows: list[_Row]) -> Table:
    against = [one for one in effect.comparisons if one.of == "network" and one.against != "intact"]
    lines = [(row.name, row.kind, "intact", row.versus) for row in rows]
    lines += [("network", "network", one.against, one) for one in against]
    return Table(
        f"Task {effect.task}, {percent(effect.size)} of the units: differences of conditions",
        (
            *(Column(word, numeric=False) for word in ("Condition", "Kind", "Minus")),
            *map(Column, ("Difference", "Low, 95\u202f%", "High, 95\u202f%", "Cohen's d_z")),
        ),
        tuple(
            (
                cell(name),
                cell(kind),
                cell(other),
                *(cell(signed(v), v) for v in (one.difference, one.low, one.high)),
                cell(number(one.d, 2), one.d),
            )
            for name, kind, other, one in lines
        ),
        sortable=True,
    )
