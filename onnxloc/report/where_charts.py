"""Charts of where a network lies: ratios to its share by group, and two networks by block."""

import math
from typing import TYPE_CHECKING, Any

from onnxloc.report.chart import (
    CHANCE,
    CIRCLE,
    CONTROL,
    DIAMOND,
    NETWORK,
    OTHER,
    Cell,
    Chart,
    Column,
    Table,
    cell,
    chart,
    labels,
    layout,
    plain,
)
from onnxloc.report.words import integer, number, probability, score

if TYPE_CHECKING:
    from pandas import DataFrame

    from onnxloc.studies.where_result import Where

__all__ = ["group_charts", "overlay_chart", "prediction_chart"]

MAX_BARS = 40
WORDS = {"op type": "operation", "part": "part", "block": "block"}


def group_charts(found: "Where") -> list[Chart]:
    """A bar chart for each way of grouping sites: the ratio to the share of units."""
    charts = []
    for by in dict.fromkeys(found.groups["by"]):
        own = found.by(by)
        if (own["distinct"] > 0).sum() > 1:
            charts.append(_ratio_chart(own, by))
    return charts


def _ratio_chart(own: "DataFrame", by: str) -> Chart:
    import plotly.graph_objects as go

    shown = own[own["distinct"] > 0]
    upright = by == "block"
    if not upright:
        shown = shown.sort_values("ratio", ascending=False).head(MAX_BARS)
    rows = shown.to_dict("records")
    names = [row["group"] if row["group"].isdigit() or not upright else "out" for row in rows]
    ratios = [round(row["ratio"], 4) for row in rows]
    detail = [
        f"<b>{plain(row['group'])}</b><br>{integer(row['distinct_chosen'])} of "
        f"{integer(row['distinct'])} distinct units; {number(row['expected'])} expected<br>"
        f"p over sites {probability(row['p_sites_holm'])}"
        for row in rows
    ]
    sure = [row["p_sites_holm"] <= 0.05 for row in rows]
    spot = list(range(len(rows)))
    bars: dict[str, Any] = {"x": spot, "y": ratios} if upright else {"x": ratios, "y": spot}
    ends = [-0.5, len(rows) - 0.5]
    line: dict[str, Any] = {"x": ends, "y": [1, 1]} if upright else {"x": [1, 1], "y": ends}
    figure = go.Figure()
    figure.add_bar(
        **bars,
        orientation="v" if upright else "h",
        marker={"color": [NETWORK if one else OTHER for one in sure], "line": {"width": 0}},
        hovertext=detail,
        hoverinfo="text",
        showlegend=False,
    )
    for colour, name in ((NETWORK, "p over sites ≤ 0.05"), (OTHER, "p above, or none")):
        figure.add_bar(x=[None], y=[None], marker={"color": colour}, name=name)
    figure.add_scatter(
        **line,
        mode="lines",
        line={"color": CHANCE, "dash": "dash", "width": 2},
        name="share of units",
        hoverinfo="skip",
    )
    height = 340 if upright else 120 + 24 * len(rows)
    title = {"title": {"text": "Times its share of units"}, "rangemode": "tozero"}
    if upright:
        every = next(n for n in (1, 2, 5, 10, 20, len(rows)) if len(rows) <= 24 * n)
        axis, _ = labels(names, every=every)
        figure.update_layout(
            layout(height, xaxis={**axis, "range": ends, "title": {"text": "Block"}}, yaxis=title)
        )
    else:
        axis, narrow = labels(names)
        figure.update_layout(
            layout(
                height,
                meta={"narrow": narrow},
                xaxis=title,
                yaxis={**axis, "range": ends[::-1], "showgrid": False},
            )
        )
    figure.update_layout(barmode="overlay")
    best = max(rows, key=lambda row: row["ratio"])
    label = (
        f"Bar chart of how many times its share of units each {WORDS[by]} holds. The most is "
        f"{best['group']}, with {number(best['ratio'])} times its share."
    )
    return chart(figure, label, height, name=f"by {WORDS[by]}", table=_table(own, by))


def _table(own: "DataFrame", by: str) -> Table:
    heads = ("Sites", "Units", "In network", "Ratio", "Distinct units", "In network", "Expected",
             "Ratio", "p, units", "p, sites")  # fmt: skip
    rows = []
    for row in own.to_dict("records"):
        rows.append(
            (
                cell(row["group"]),
                *(cell(integer(row[n]), row[n]) for n in ("sites", "units", "chosen")),
                _number(row["ratio_all"], score),
                *(cell(integer(row[n]), row[n]) for n in ("distinct", "distinct_chosen")),
                _number(row["expected"], number),
                _number(row["ratio"], score),
                _number(row["p_units_holm"], probability),
                _number(row["p_sites_holm"], probability),
            )
        )
    return Table(
        f"the network by {WORDS[by]}",
        (Column(WORDS[by].capitalize(), numeric=False), *map(Column, heads)),
        tuple(rows),
        sortable=True,
    )


def _number(value: float, how: Any) -> Cell:
    return cell("–") if math.isnan(value) else cell(how(value), value)


def overlay_chart(found: "Where") -> Chart | None:
    """The share of each block that both networks hold; none without a prediction."""
    import plotly.graph_objects as go

    own = found.blocks
    if not len(own):
        return None
    figure = go.Figure()
    for column, name, colour in (
        ("predictor", "network that predicts", CONTROL),
        ("target", "network that is predicted", NETWORK),
    ):
        figure.add_scatter(
            x=own["block"].tolist(),
            y=(100 * own[column]).round(4).tolist(),
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"size": 6},
            name=name,
            hovertemplate="block %{x}: %{y:.2f} %<extra></extra>",
        )
    figure.update_layout(
        layout(
            340,
            xaxis={"title": {"text": "Block"}},
            yaxis={"title": {"text": "Share in the network (%)"}, "rangemode": "tozero"},
        )
    )
    said = found.prediction
    rows = tuple(
        (
            cell(str(int(row["block"]))),
            cell(score(100 * row["predictor"])),
            cell(score(100 * row["target"])),
        )
        for row in own.to_dict("records")
    )
    columns = (Column("Block", numeric=False), Column("Predicts, %"), Column("Predicted, %"))
    label = (
        "Line chart of the share of each block in both networks; the rank correlation is "
        f"{score(said['spearman'])}."
    )
    table = Table("both networks by block", columns, rows)
    return chart(figure, label, 340, table=table)


def prediction_chart(found: "Where") -> Chart | None:
    """R² of the network and of every random network; none without stored activations."""
    import plotly.graph_objects as go

    said = found.prediction
    if "r2" not in said:
        return None
    controls = said["r2_controls"]
    spread = [0.12 * ((i * 7) % 11 - 5) / 5 for i in range(len(controls))]
    figure = go.Figure()
    figure.add_scatter(
        x=[round(value, 4) for value in controls],
        y=spread,
        mode="markers",
        marker=CIRCLE,
        name="random networks",
        hovertemplate="R² %{x:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[round(said["r2"], 4)],
        y=[0],
        mode="markers",
        marker=DIAMOND,
        name="network",
        hovertemplate="R² %{x:.3f}<extra></extra>",
    )
    figure.update_layout(
        layout(
            200,
            xaxis={"title": {"text": "R² within conditions, in held-out stimuli"},
                   "zeroline": True, "zerolinecolor": "var(--rule)"},
            yaxis={"visible": False, "range": [-0.4, 0.4]},
        )
    )  # fmt: skip
    label = (
        f"Dot plot of R². The network's is {score(said['r2'])}; the median of {len(controls)} "
        f"random networks is {score(said['r2_controls_median'])}."
    )
    return chart(figure, label, 200)
