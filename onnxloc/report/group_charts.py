"""Charts and tables of an ablation by group of items."""

import math
from collections.abc import Sequence

from onnxloc.report.chart import (
    CIRCLE,
    DIAMOND,
    INTACT,
    Chart,
    Column,
    Table,
    cell,
    chart,
    labels,
    layout,
    plain,
    scale,
)
from onnxloc.report.effect_charts import level_line, score_name
from onnxloc.report.folder import Effect, GroupEffect
from onnxloc.report.words import integer, number, percent, score, score_range

__all__ = ["group_charts", "group_table"]

_SQUARE = {"symbol": "square-open", "size": 10, "color": INTACT, "line": {"width": 2}}


def group_charts(effects: Sequence[Effect], max_points: int) -> list[Chart]:
    """Draw a dot plot by group for each size, the largest first; none for a single group.

    The largest size is always drawn, smaller ones while their points come to at most `max_points`.
    """
    charts: list[Chart] = []
    points = 0
    for effect in sorted(effects, key=lambda effect: -effect.size):
        points += sum(2 + len(group.controls) for group in effect.groups)
        if len(effect.groups) > 1 and (not charts or points <= max_points):
            charts.append(_group_chart(effect))
    return charts


def _group_chart(effect: Effect) -> Chart:
    import numpy as np
    import plotly.graph_objects as go

    def harm(values: tuple[float | None, float | None]) -> float:
        network, intact = values
        return math.inf if network is None or intact is None else network - intact

    groups = sorted(effect.groups, key=lambda group: harm((group.network, group.intact)))
    names = [group.group for group in groups]
    spots = np.array(
        [
            (math.nan if value is None else value, row + 0.09 * ((i * 2) % 5 - 2), i)
            for row, group in enumerate(groups)
            for i, value in enumerate(group.controls)
        ]
    ).reshape(-1, 3)
    figure = go.Figure()
    if effect.chance is not None:
        ends = [-0.7, len(groups) - 0.3]
        level_line(figure, [effect.chance] * 2, ends, "chance", number(effect.chance, 2))
    for name, values, marker in (
        ("intact", [group.intact for group in groups], _SQUARE),
        ("network", [group.network for group in groups], DIAMOND | {"size": 12}),
    ):
        figure.add_scatter(
            x=values,
            y=list(range(len(groups))),
            mode="markers",
            marker=marker,
            name=name,
            hovertext=[
                plain(f"{group}, {name}: {score(value)}")
                for group, value in zip(names, values, strict=True)
            ],
            hoverinfo="text",
        )
    figure.add_scatter(
        x=spots[:, 0].astype(np.float32),
        y=spots[:, 1].astype(np.float32),
        customdata=spots[:, 2].astype(np.int16),
        mode="markers",
        marker=CIRCLE | {"size": 7},
        name="random controls",
        hovertemplate="random control %{customdata}: %{x:.3f}<extra></extra>",
    )
    height = 120 + 30 * len(groups)
    axis, narrow = labels(names)
    figure.update_layout(layout(height, meta={"narrow": narrow}, yaxis=axis))
    title = score_name(effect)
    values = [v for g in groups for v in (g.intact, g.network, *g.controls)]
    figure.update_xaxes(scale(title, False, values, effect.chance))
    figure.update_yaxes(range=[len(groups) - 0.3, -0.7])
    table = group_table(effect, groups, "group")
    label = (
        f"Dot plot of the score by group on task {effect.task}, {percent(effect.size)} of the "
        f"units. The network lowers {names[0]} most, from {score(groups[0].intact)} to "
        f"{score(groups[0].network)}."
    )
    if harm((groups[0].network, groups[0].intact)) >= 0:
        label = f"Dot plot of the score by group on task {effect.task}. No group is lowered."
    return chart(figure, label, height, name=percent(effect.size), table=table)


def group_table(effect: Effect, groups: Sequence[GroupEffect], what: str) -> Table:
    """Tabulate the scores of groups of items.

    Parameters
    ----------
    effect : Effect
        The effect that they are of.
    groups : sequence of GroupEffect
        The rows.
    what : str
        What a group is: "group", "field", "phenomenon".
    """
    heads = ("Items", "Intact", "Network", "Random controls: mean", "range", "each")
    rows = [
        (
            cell(group.group),
            cell(integer(group.n_items), group.n_items),
            cell(score(group.intact), group.intact),
            cell(score(group.network), group.network),
            cell(score(group.control_mean), group.control_mean),
            cell(score_range(group.controls)),
            cell(", ".join(score(value) for value in group.controls) or "–"),
        )
        for group in groups
    ]
    return Table(
        f"Task {effect.task} by {what}, {percent(effect.size)} of the units",
        (Column(what.capitalize(), numeric=False), *map(Column, heads)),
        tuple(rows),
        sortable=len(rows) > 1,
    )
