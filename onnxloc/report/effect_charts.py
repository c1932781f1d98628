"""Charts of an ablation: each condition as its own point."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from onnxloc.report.chart import (
    CHANCE,
    CIRCLE,
    CONTROL,
    DIAMOND,
    INTACT,
    NETWORK,
    Chart,
    Column,
    Table,
    cell,
    chart,
    layout,
    scale,
)
from onnxloc.report.folder import Comparison, Effect
from onnxloc.report.words import (
    count,
    integer,
    known_of,
    number,
    percent,
    probability,
    score,
    signed,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "control_table",
    "effect_chart",
    "effect_table",
    "level_line",
    "score_name",
]


@dataclass(frozen=True)
class _Measured:
    """One effect on the scale that is drawn: accuracy, log-probability or perplexity."""

    size: float
    intact: float | None
    network: float | None
    controls: tuple[float | None, ...]


def score_name(effect: Effect) -> str:
    """What the score of a task that is not shown as perplexity is called."""
    if effect.kind == "pairs" or effect.metric == "accuracy":
        return "Accuracy"
    if effect.metric == "log-probability":
        return "Log-probability"
    return "Mean log-probability of a token"


def _measure(effects: Sequence[Effect]) -> tuple[str, bool, list[_Measured]]:
    """Name of the scale, whether its axis is logarithmic, and the values."""
    finite = [(e.size, e.finite_perplexity) for e in effects]
    perplexities = [_Measured(n, p.intact, p.network, p.controls) for n, p in finite if p]
    if len(perplexities) == len(effects):
        return "Perplexity (log axis)", True, perplexities
    name = score_name(effects[0])
    return name, False, [_Measured(e.size, e.intact, e.network, e.controls) for e in effects]


def effect_chart(effects: Sequence[Effect]) -> Chart:
    """All conditions of one task: a strip for a single size, else the effect against size.

    Parameters
    ----------
    effects : sequence of Effect
        Of one task, with rising sizes.
    """
    import plotly.graph_objects as go

    name, log, measured = _measure(effects)
    chance = effects[0].chance
    write = number if log else score
    figure = go.Figure()
    if len(measured) == 1:
        height = 250
        _draw_strip(figure, measured[0], chance, write)
        figure.update_layout(layout(height))
        figure.update_xaxes(_scale(name, log, measured, chance))
        figure.update_yaxes(
            tickvals=[0, 1],
            ticktext=["random<br>controls", "network"],
            range=[-0.6, 1.5],
            showgrid=False,
        )
    else:
        height = 400
        _draw_sizes(figure, measured, chance, write)
        figure.update_layout(layout(height))
        sizes = [one.size for one in measured]
        figure.update_xaxes(
            type="log",
            title={"text": "Units ablated (% of all, log axis)"},
            tickvals=sizes,
            ticktext=[percent(size) for size in sizes],
            range=[math.log10(sizes[0]) - 0.12, math.log10(sizes[-1]) + 0.12],
        )
        figure.update_yaxes(_scale(name, log, measured, chance))
    last = measured[-1]
    label = (
        f"{name} on task {effects[0].task}. Intact {write(last.intact)}; with {percent(last.size)} "
        f"of the units ablated: network {write(last.network)}, random controls "
        f"{', '.join(write(value) for value in last.controls) or 'none'}."
    )
    return chart(figure, label, height, name=effects[0].task)


def _scale(
    name: str, log: bool, measured: Sequence[_Measured], chance: float | None
) -> dict[str, Any]:
    values = [v for m in measured for v in (m.intact, m.network, *m.controls)]
    return scale(name, log, values, chance)


def level_line(figure: "Figure", x: list[float], y: list[float], kind: str, text: str) -> None:
    """Draw where the intact model or chance lies."""
    colour, dash = (INTACT, "solid") if kind == "intact" else (CHANCE, "dot")
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "dash": dash, "width": 2},
        name=f"{kind} {text}",
        hoverinfo="skip",
    )


def _draw_strip(figure: "Figure", one: _Measured, chance: float | None, write: Any) -> None:
    ends = [-0.6, 1.5]
    if one.intact is not None:
        level_line(figure, [one.intact] * 2, ends, "intact", write(one.intact))
    if chance is not None:
        level_line(figure, [chance] * 2, ends, "chance", number(chance, 2))
    # A fixed zigzag keeps equal values apart and the picture the same from run to run.
    figure.add_scatter(
        x=list(one.controls),
        y=[0.14 * ((i * 2) % 5 - 2) for i in range(len(one.controls))],
        mode="markers",
        marker=CIRCLE,
        name=f"random controls ({known_of(one.controls)})",
        hovertext=[f"random control {i:02d}: {write(v)}" for i, v in enumerate(one.controls)],
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[one.network],
        y=[1],
        mode="markers",
        marker=DIAMOND,
        name=f"network {write(one.network)}",
        hovertext=[f"network: {write(one.network)}"],
        hoverinfo="text",
    )


def _draw_sizes(
    figure: "Figure", measured: Sequence[_Measured], chance: float | None, write: Any
) -> None:
    import numpy as np

    ends = [measured[0].size / 1.5, measured[-1].size * 1.5]
    if measured[0].intact is not None:
        level_line(figure, ends, [measured[0].intact] * 2, "intact", write(measured[0].intact))
    if chance is not None:
        level_line(figure, ends, [chance] * 2, "chance", number(chance, 2))
    spots = [
        (m.size * 1.03 ** ((i * 2) % 5 - 2), value, f"random control {i:02d}, {percent(m.size)}")
        for m in measured
        for i, value in enumerate(m.controls)
    ]
    figure.add_scatter(
        x=[m.size for m in measured],
        y=[_median(m.controls) for m in measured],
        mode="lines",
        line={"color": CONTROL, "width": 1.5},
        name="median of the random controls",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[m.size for m in measured],
        y=[m.network for m in measured],
        mode="lines+markers",
        marker=DIAMOND,
        line={"color": NETWORK, "width": 2},
        name="network",
        hovertext=[f"network, {percent(m.size)}: {write(m.network)}" for m in measured],
        hoverinfo="text",
    )
    # Last, so that a control as harmful as the network is seen on top of its mark.
    figure.add_scatter(
        x=np.array([spot[0] for spot in spots]),
        y=[spot[1] for spot in spots],
        mode="markers",
        marker=CIRCLE,
        name="each random control",
        hovertext=[f"{text}: {write(value)}" for _, value, text in spots],
        hoverinfo="text",
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def effect_table(effects: Sequence[Effect]) -> Table:
    """Tabulate the numbers of one task, one column for each size."""
    rows = {
        "Units ablated": [integer(e.n_network_units) for e in effects],
        "Intact": [score(e.intact) for e in effects],
        "Network": [score(e.network) for e in effects],
        "Random controls, median": [score(e.control_median) for e in effects],
        "Random controls, mean": [score(e.control_mean) for e in effects],
        "Random controls, lowest": [score(e.control_min) for e in effects],
        "Random controls, highest": [score(e.control_max) for e in effects],
        "Random controls at or below the network": [_rank(e) for e in effects],
        "Empirical p": [probability(e.p) for e in effects],
    }
    for name, versus in (
        ("Network − intact", [e.vs_intact for e in effects]),
        ("Network − mean of the random controls", [e.vs_controls for e in effects]),
    ):
        known = [one or Comparison() for one in versus]
        rows[name] = [signed(one.difference) for one in known]
        rows[f"{name}, 95\u202f% interval"] = [_interval(one) for one in known]
        rows[f"{name}, Cohen's d_z"] = [number(one.d, 2) for one in known]
    if any(effect.perplexity for effect in effects):
        for name in ("intact", "network"):
            rows[f"Perplexity, {name}"] = [
                number(getattr(effect.perplexity, name, None)) for effect in effects
            ]
    what = score_name(effects[0]).lower()
    return Table(
        f"Task {effects[0].task}: {what} of {count(effects[0].n_items, 'item')}, by share of all "
        "units; intervals are bootstrapped over items",
        (Column("", numeric=False), *(Column(percent(effect.size)) for effect in effects)),
        tuple((cell(name), *map(cell, texts)) for name, texts in rows.items()),
    )


def _rank(effect: Effect) -> str:
    if effect.rank is None:
        return "–"
    lost = len(effect.controls) - len(effect.scored)
    return f"{effect.rank} of {len(effect.scored)}" + (f", {lost} without a score" if lost else "")


def _interval(versus: Comparison) -> str:
    if versus.low is None or versus.high is None:
        return "–"
    return f"{signed(versus.low)} to {signed(versus.high)}"


def control_table(effects: Sequence[Effect]) -> Table:
    """Every condition's score, and its perplexity where there is one."""
    rows = []
    texts = any(effect.perplexity for effect in effects)
    for effect in effects:
        perplexity = effect.perplexity
        controls = perplexity.controls if perplexity else ()
        conditions = [
            ("intact", effect.intact, perplexity.intact if perplexity else None),
            ("network", effect.network, perplexity.network if perplexity else None),
        ]
        conditions += [
            (f"random control {i:02d}", value, controls[i] if i < len(controls) else None)
            for i, value in enumerate(effect.controls)
        ]
        for name, value, other in conditions:
            row = [cell(name), cell(percent(effect.size)), cell(score(value))]
            rows.append((*row, cell(number(other))) if texts else tuple(row))
    columns = [Column("Condition", numeric=False), Column("Size"), Column("Score")]
    if texts:
        columns.append(Column("Perplexity"))
    return Table(f"Task {effects[0].task}: every condition", tuple(columns), tuple(rows))
