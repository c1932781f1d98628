"""Charts of a profile: the network beside random ones, and every block."""

import math
from typing import TYPE_CHECKING, Protocol

from onnxloc.report.chart import (
    CONTROL,
    NETWORK,
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
from onnxloc.report.words import integer, probability, score

if TYPE_CHECKING:
    from pandas import DataFrame

    from onnxloc.studies.profile_result import Profile

__all__ = ["block_charts", "profile_chart", "response_name", "test_table"]

_SCALE = [[i / 6, f"var(--div-{i})"] for i in range(7)]
_POINT = {
    "symbol": "circle",
    "size": 7,
    "color": CONTROL,
    "opacity": 0.7,
    "line": {"width": 0.5, "color": "var(--card)"},
}
# Of a bar, in conditions; points are spread over less.
_WIDTH = 0.62


class Profiled(Protocol):
    """What a chart needs of a profile, just made or read from a file."""

    @property
    def conditions(self) -> "DataFrame":
        """One row a set of units and condition."""

    @property
    def options(self) -> "Measured":
        """How responses were measured."""

    def of(self, source: str = "network") -> "DataFrame":
        """The rows of one set of units."""


class Measured(Protocol):
    """How responses were measured."""

    @property
    def response(self) -> str:
        """Standardised ("z") or as activations are ("raw")."""


def response_name(found: Profiled) -> str:
    """What the numbers are, for an axis."""
    return "Mean response (z)" if found.options.response == "z" else "Mean activation"


def profile_chart(found: Profiled) -> Chart:
    """A bar a condition, with its interval; every random network as a point."""
    import plotly.graph_objects as go

    own = found.of()
    names = own["label"].tolist()
    controls = found.conditions[found.conditions["kind"] == "control"]
    figure = go.Figure()
    figure.add_bar(
        x=list(range(len(names))),
        y=own["mean"].round(5).tolist(),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (own["high"] - own["mean"]).round(5).tolist(),
            "arrayminus": (own["mean"] - own["low"]).round(5).tolist(),
            "color": "var(--ink)",
            "thickness": 1.5,
            "width": 5,
        },
        width=_WIDTH,
        marker={"color": NETWORK, "line": {"width": 0}},
        name="network, with the 95 % interval over texts",
        hovertext=[
            f"<b>{plain(row['label'])}</b><br>{score(row['mean'])} ({score(row['low'])} to "
            f"{score(row['high'])})<br>{integer(row['n'])} texts"
            for row in own.to_dict("records")
        ],
        hoverinfo="text",
    )
    if len(controls):
        order = {name: place for place, name in enumerate(own["condition"])}
        n = controls["source"].nunique()
        numbers = {source: i for i, source in enumerate(controls["source"].unique())}
        # Spread like the cells of a grid, so that equal values stay apart.
        spread = [((7 * numbers[s]) % n / max(n - 1, 1) - 0.5) * 0.5 for s in controls["source"]]
        places = controls["condition"].map(order)
        figure.add_scatter(
            x=[round(place + off, 4) for place, off in zip(places, spread, strict=True)],
            y=controls["mean"].round(5).tolist(),
            mode="markers",
            marker=_POINT,
            name=f"{integer(n)} random networks",
            hovertext=[
                f"{plain(row['source'])}, {plain(row['label'])}<br>{score(row['mean'])}"
                for row in controls.to_dict("records")
            ],
            hoverinfo="text",
        )
    axis, narrow = labels(names, length=18)
    figure.update_layout(
        layout(
            440,
            xaxis={**axis, "showgrid": False},
            yaxis={"title": {"text": response_name(found)}, "zeroline": True,
                   "zerolinecolor": "var(--rule)"},
            meta={"narrow": narrow},
        )
    )  # fmt: skip
    said = "; ".join(f"{row['label']} {score(row['mean'])}" for row in own.to_dict("records"))
    return chart(
        figure, f"Bar chart of the network's mean response: {said}.", 440, table=_means(found)
    )


def _means(found: Profiled) -> Table:
    rows = []
    for row in found.of().to_dict("records"):
        spread = f"{score(row['controls_low'])} to {score(row['controls_high'])}"
        rows.append(
            (
                cell(row["label"]),
                cell(integer(row["n"])),
                cell(score(row["mean"])),
                cell(f"{score(row['low'])} to {score(row['high'])}"),
                cell(score(row["controls_median"])),
                cell("–" if math.isnan(row["controls_low"]) else spread),
                cell(probability(row["p_controls"])),
            )
        )
    heads = ("Texts", "Mean", "95 % interval", "Random: median", "Middle 95 %", "p among random")
    return Table(
        "Mean response to each condition",
        (Column("Condition", numeric=False), *map(Column, heads)),
        tuple(rows),
    )


def test_table(found: "Profile") -> Table:
    """All tests between conditions, of the network."""
    names = dict(zip(found.of()["condition"], found.of()["label"], strict=True))
    rows = []
    for row in found.tests_of().to_dict("records"):
        rows.append(
            (
                cell(f"{names[row['a']]} – {names[row['b']]}"),
                cell(score(row["difference"]), row["difference"]),
                cell(f"{score(row['low'])} to {score(row['high'])}", row["low"]),
                _number(row["t"], f"{row['t']:.2f}".replace("-", "−")),
                _number(row["p_holm"], probability(row["p_holm"])),
                _number(row["p_permutation_holm"], probability(row["p_permutation_holm"])),
                _number(row["d"], f"{row['d']:.2f}".replace("-", "−")),
                _number(row["controls_median"], score(row["controls_median"])),
                _number(row["p_controls"], probability(row["p_controls"])),
            )
        )
    heads = ("Difference", "95 % interval", "Welch's t", "p, Holm", "Permuted p, Holm",
             "Cohen's d", "Random: median", "p among random")  # fmt: skip
    return Table(
        "Differences between conditions",
        (Column("Conditions", numeric=False), *map(Column, heads)),
        tuple(rows),
        sortable=True,
    )


def _number(value: float, text: str) -> Cell:
    return cell("–") if math.isnan(value) else cell(text, value)


def block_charts(found: "Profile") -> list[Chart]:
    """Maps of condition by block: of the network's units of each block, and of all units."""
    charts = []
    for kind, name in (
        ("network in block", "the network's units of each block"),
        ("block", "all units of each block"),
    ):
        own = found.conditions[found.conditions["kind"] == kind]
        own = own[own["mean"].notna()]
        if len(own):
            charts.append(_block_chart(found, own, name))
    return charts


def _block_chart(found: "Profile", own: "DataFrame", name: str) -> Chart:
    import plotly.graph_objects as go

    order = found.of()["condition"].tolist()
    words = found.of()["label"].tolist()
    wide = own.pivot_table(index="condition", columns="block", values="mean", sort=False)
    # Blocks in which the network has no units stay empty.
    blocks = sorted({s.block for s in found.sources if s.block is not None})
    wide = wide.reindex(index=order, columns=blocks)
    largest = float(wide.abs().max().max())
    figure = go.Figure()
    figure.add_heatmap(
        x=list(range(len(blocks))),
        z=wide.to_numpy(dtype=float).round(4),
        customdata=[[[block, plain(word)] for block in blocks] for word in words],
        zmin=-largest,
        zmax=largest,
        colorscale=_SCALE,
        hoverongaps=False,
        hovertemplate="block %{customdata[0]}, %{customdata[1]}<br>%{z:.3f}<extra></extra>",
        colorbar={"title": {"text": response_name(found), "side": "right"}, "thickness": 12,
                  "outlinewidth": 0},
        xgap=1,
        ygap=1,
    )  # fmt: skip
    height = 120 + 34 * len(words)
    every = next(n for n in (1, 2, 5, 10, 20, len(blocks)) if len(blocks) <= 24 * n)
    across, _ = labels([str(block) for block in blocks], every=every)
    down, narrow = labels(words, length=18)
    figure.update_layout(
        layout(
            height,
            xaxis={**across, "showgrid": False, "title": {"text": "Block"}},
            yaxis={**down, "showgrid": False, "autorange": "reversed"},
            meta={"narrow": narrow},
            margin={"l": 8, "r": 12, "t": 12, "b": 8},
        )
    )
    best = own.iloc[int(own["mean"].argmax())]
    label = (
        f"Heat map of the mean response of {name} to each condition. The largest is "
        f"{score(float(best['mean']))}, of block {int(best['block'])} to {best['label']}."
    )
    heads = [Column(f"Block {block}") for block in blocks]
    rows = tuple(
        (cell(word), *(cell(score(v)) for v in wide.loc[condition]))
        for word, condition in zip(words, order, strict=True)
    )
    table = Table(f"Mean response of {name}", (Column("Condition", numeric=False), *heads), rows)
    return chart(figure, label, height, name=name, table=table)
