"""Charts of a comparison of runs: overlap, t against t, depth, and similarity of sites."""

import math
from typing import TYPE_CHECKING, Any

from onnxloc.report.chart import (
    CHANCE,
    CONTROL,
    INTACT,
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
    short,
)
from onnxloc.report.words import integer, number, percent, probability, score

if TYPE_CHECKING:
    from pandas import DataFrame

    from onnxloc.studies.comparison import Comparison

__all__ = ["depth_chart", "dice_chart", "scatter_charts", "similarity_charts"]

# All maps of similarity together, so that many runs or sites stay a small page.
MAX_CELLS = 150_000
_SCALE = [[i / 6, f"var(--div-{i})"] for i in range(7)]
_COLOURS = (NETWORK, CONTROL, INTACT, CHANCE, OTHER)
_DASHES = ("solid", "dash", "dot", "dashdot")
_TICKS = 24
MEASURES = {
    "cka_debiased": "debiased CKA",
    "cka": "CKA",
    "rsa": "RSA",
}


def dice_chart(found: "Comparison") -> Chart | None:
    """Overlap of the networks of all runs, a matrix; none for less than three that align."""
    import numpy as np
    import plotly.graph_objects as go

    pairs = [row for row in found.pairs.to_dict("records") if row["sites"]]
    if not pairs:
        return None
    among = {row[side] for row in pairs for side in ("a", "b")}
    names = [name for name in found.runs["run"] if name in among]
    if len(names) < 3:
        return None
    at = {name: i for i, name in enumerate(names)}
    z = np.full((len(names), len(names)), np.nan)
    hover = [[""] * len(names) for _ in names]
    for row in pairs:
        said = (
            f"{plain(row['a'])} and {plain(row['b'])}<br>Dice {score(row['dice'])}; by chance "
            f"{score(row['dice_chance'])} ({score(row['dice_low'])} to {score(row['dice_high'])})"
        )
        for i, j in ((at[row["a"]], at[row["b"]]), (at[row["b"]], at[row["a"]])):
            z[i, j], hover[i][j] = row["dice"], said
    figure = go.Figure()
    figure.add_heatmap(
        z=z,
        text=[["" if math.isnan(v) else score(v) for v in row] for row in z],
        texttemplate="%{text}",
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        zmin=-1,
        zmax=1,
        colorscale=_SCALE,
        showscale=False,
        xgap=3,
        ygap=3,
    )
    height = 110 + 52 * len(names)
    axis, narrow = labels(names, length=22)
    figure.update_layout(
        layout(
            height,
            xaxis={**axis, "showgrid": False},
            yaxis={**axis, "showgrid": False, "autorange": "reversed"},
            meta={"narrow": narrow},
            margin={"l": 8, "r": 12, "t": 8, "b": 8},
        )
    )
    best = max(pairs, key=lambda row: row["dice"])
    label = (
        f"Matrix of the overlap of networks. The largest Dice is {score(best['dice'])}, of "
        f"{best['a']} and {best['b']}."
    )
    return chart(figure, label, height)


def scatter_charts(found: "Comparison") -> list[Chart]:
    """The t of each unit in one run against its t in another, a chart a pair of runs."""
    import plotly.graph_objects as go

    charts = []
    for pair, points in found.scatter.groupby(["a", "b"], sort=False):
        a, b = map(str, pair)
        chosen = points["chosen_a"].astype(int) + points["chosen_b"].astype(int)
        figure = go.Figure()
        groups = (
            (0, "in neither network", OTHER, "circle"),
            (1, "in one network", CONTROL, "diamond"),
            (2, "in both networks", NETWORK, "circle"),
        )
        low = float(min(points["t_a"].min(), points["t_b"].min()))
        high = float(max(points["t_a"].max(), points["t_b"].max()))
        figure.add_scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": CHANCE, "dash": "dash", "width": 1},
            name="equal",
            hoverinfo="skip",
        )
        for count, name, colour, symbol in groups:
            own = points[chosen == count]
            if len(own):
                figure.add_scatter(
                    x=own["t_a"].round(3).tolist(),
                    y=own["t_b"].round(3).tolist(),
                    mode="markers",
                    marker={"color": colour, "size": 4 if count == 0 else 7, "symbol": symbol,
                            "opacity": 0.5 if count == 0 else 0.9},
                    name=name,
                    hovertemplate="t = %{x:.3g} and %{y:.3g}<extra></extra>",
                )  # fmt: skip
        figure.update_layout(
            layout(
                480,
                xaxis={"title": {"text": f"t in {plain(short(a, 40))}"}},
                yaxis={"title": {"text": f"t in {plain(short(b, 40))}"}},
            )
        )
        row = found.pairs[(found.pairs["a"] == a) & (found.pairs["b"] == b)].iloc[0]
        label = (
            f"Scatter plot of the t of {integer(len(points))} units in {a} and in {b}; over all "
            f"units Pearson's correlation is {score(row['pearson'])}."
        )
        charts.append(chart(figure, label, 480, name=f"{a} – {b}", table=_site_table(found, a, b)))
    return charts


def _site_table(found: "Comparison", a: str, b: str) -> Table:
    own = found.sites[(found.sites["a"] == a) & (found.sites["b"] == b)]
    heads = ("Units", "Pearson", "Spearman", "Largest |Δt|", "In a", "In b", "Shared", "Dice",
             "By chance", "p")  # fmt: skip
    rows = []
    for row in own.to_dict("records"):
        rows.append(
            (
                cell(row["site"]),
                cell(integer(row["units"]), row["units"]),
                _number(row["pearson"], score),
                _number(row["spearman"], score),
                _number(row["largest_t_difference"], number),
                *(cell(integer(row[n]), row[n]) for n in ("size_a", "size_b", "shared")),
                _number(row["dice"], score),
                _number(row["dice_chance"], score),
                _number(row["dice_p"], probability),
            )
        )
    return Table(
        f"{a} (a) and {b} (b) by site",
        (Column("Site", numeric=False), *map(Column, heads)),
        tuple(rows),
        sortable=True,
    )


def _number(value: float, how: Any) -> Cell:
    known = value is not None and not math.isnan(value)
    return cell(how(value if known else None), value if known else None)


def depth_chart(found: "Comparison") -> Chart | None:
    """Density of each run's network over relative depth; none where no model has blocks."""
    import plotly.graph_objects as go

    figure = go.Figure()
    rows, highest = [], 1.0
    runs = [(str(run), own) for run, own in found.depth.groupby("run", sort=False)]
    runs = [(run, own) for run, own in runs if own["chosen"].any()]
    if not runs:
        return None
    for i, (run, own) in enumerate(runs):
        width = own["depth_to"] - own["depth_from"]
        density = (own["share_of_network"] / width).tolist()
        x = [v for pair in zip(own["depth_from"], own["depth_to"], strict=True) for v in pair]
        highest = max(highest, *density)
        figure.add_scatter(
            x=[round(v, 5) for v in x],
            y=[round(v, 5) for v in density for _ in (0, 1)],
            mode="lines",
            line={"color": _COLOURS[i % len(_COLOURS)], "width": 2.5,
                  "dash": _DASHES[i % len(_DASHES)]},
            name=plain(short(run, 30)),
            hovertemplate=f"{plain(run)}<br>depth %{{x:.2f}}: %{{y:.2f}} times even<extra></extra>",
        )  # fmt: skip
        middle = float((own["share_of_network"] * (own["depth_from"] + width / 2)).sum())
        peak = own.iloc[int(own["share_of_network"].argmax())]
        rows.append(
            (
                cell(run),
                cell(integer(len(own)), len(own)),
                cell(integer(int(own["chosen"].sum())), int(own["chosen"].sum())),
                cell(score(middle), middle),
                cell(str(int(peak["block"])), int(peak["block"])),
                cell(percent(100 * float(peak["share_of_network"])), peak["share_of_network"]),
            )
        )
    figure.add_scatter(
        x=[0, 1], y=[1, 1], mode="lines", name="spread evenly", hoverinfo="skip",
        line={"color": CHANCE, "dash": "dot", "width": 1},
    )  # fmt: skip
    figure.update_layout(
        layout(
            380,
            xaxis={"title": {"text": "Relative depth"}, "range": [0, 1]},
            yaxis={
                "title": {"text": "Density of the network"},
                "range": [0, highest * 1.05],
            },
        )
    )
    table = Table(
        "Depth of the networks",
        (Column("Run", numeric=False), Column("Blocks searched"), Column("Units in blocks"),
         Column("Mean depth"), Column("Fullest block"), Column("Its share")),
        tuple(rows),
    )  # fmt: skip
    label = "Line chart of where in relative depth the networks lie: " + "; ".join(
        f"mean depth of {row[0].text} {row[3].text}" for row in rows
    )
    return chart(figure, label + ".", 380, table=table)


def similarity_charts(found: "Comparison") -> tuple[list[Chart], int]:
    """Similarity of every site of one run to every site of another, a map a pair and measure.

    Returns
    -------
    charts : list of Chart
        Those of the first pairs, as many as fit a page.
    left_out : int
        How many did not.
    """
    charts: list[Chart] = []
    cells = left_out = 0
    for pair, own in found.representations.groupby(["a", "b"], sort=False):
        a, b = map(str, pair)
        if cells + len(own) * len(MEASURES) > MAX_CELLS:
            left_out += len(MEASURES)
            continue
        cells += len(own) * len(MEASURES)
        for measure, words in MEASURES.items():
            table = _best_table(found, a, b) if measure == "cka_debiased" else None
            charts.append(_similarity_chart(own, a, b, measure, words, table))
    return charts, left_out


def _similarity_chart(
    own: "DataFrame", a: str, b: str, measure: str, words: str, table: Table | None
) -> Chart:
    import plotly.graph_objects as go

    rows, columns = (list(dict.fromkeys(own[f"site_{side}"])) for side in ("a", "b"))
    z = own[measure].to_numpy(dtype=float).reshape(len(rows), len(columns))
    figure = go.Figure()
    figure.add_heatmap(
        z=z.round(4),
        customdata=[[[plain(r), plain(c)] for c in columns] for r in rows],
        zmin=-1,
        zmax=1,
        colorscale=_SCALE,
        hoverongaps=False,
        hovertemplate=(
            f"%{{customdata[0]}} and %{{customdata[1]}}<br>{words} %{{z:.3f}}<extra></extra>"
        ),
        colorbar={"title": {"text": words, "side": "top"}, "thickness": 12, "outlinewidth": 0},
    )
    height = min(720, 160 + 16 * max(len(rows), 8))
    across, _ = labels(columns, length=16, every=math.ceil(len(columns) / _TICKS))
    down, narrow = labels(rows, length=24, every=math.ceil(len(rows) / _TICKS))
    title = {"standoff": 10, "font": {"size": 13}}
    figure.update_layout(
        layout(
            height,
            margin={"l": 8, "r": 8, "t": 8, "b": 8},
            meta={"narrow": narrow},
            xaxis={**across, "showgrid": False, "tickangle": -60,
                   "title": {**title, "text": plain(short(b, 40))}},
            yaxis={**down, "showgrid": False, "title": {**title, "text": plain(short(a, 40))}},
        )
    )  # fmt: skip
    known = own[own[measure].notna()]
    best = known.iloc[int(known[measure].argmax())] if len(known) else None
    label = f"Heat map of {words} between the sites of {a} and of {b}."
    if best is not None:
        label += (
            f" The largest is {score(float(best[measure]))}, of {best['site_a']} and "
            f"{best['site_b']}."
        )
    return chart(figure, label, height, name=f"{a} – {b}: {words}", table=table)


def _best_table(found: "Comparison", a: str, b: str) -> Table:
    own = found.best[(found.best["a"] == a) & (found.best["b"] == b)]
    rows = [
        (
            cell(row["site_a"]),
            _number(row["depth_a"], score),
            cell(row["site_b"]),
            _number(row["depth_b"], score),
            _number(row["cka_debiased"], score),
            _number(row["p_best"], probability),
            _number(row["rsa"], score),
        )
        for row in own.to_dict("records")
    ]
    return Table(
        f"the best match in {b} of each site of {a}",
        (Column(f"Site of {a}", numeric=False), Column("Depth"),
         Column(f"Site of {b}", numeric=False), Column("Depth"), Column("Debiased CKA"),
         Column("p"), Column("RSA there")),
        tuple(rows),
        sortable=True,
    )  # fmt: skip
