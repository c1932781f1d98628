"""The page of a robustness study: a matrix of overlaps, and what each network's ablation does."""

from pathlib import Path
from typing import Any

from onnxloc.report.chart import (
    CONTROL,
    DIAMOND,
    INTACT,
    NETWORK,
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
from onnxloc.report.page import render_template
from onnxloc.report.words import count, integer, number, probability, score, signed
from onnxloc.store import package_versions
from onnxloc.studies.robustness import Robustness

__all__ = ["render_robustness", "write_robustness_page"]

PAGE_FILE = "robustness.html"
_SCALE = [[i / 6, f"var(--div-{i})"] for i in range(7)]


def render_robustness(found: Robustness, name: str) -> str:
    """Render a study as one page of HTML that needs no network.

    Parameters
    ----------
    found : Robustness
        What it shows.
    name : str
        Title.
    """
    dice, correlation = (
        _matrix(found, values, what)
        for values, what in ((found.dice, "Dice"), (found.correlation, "Rank correlation of t"))
    )
    chance = found.chance
    parts: dict[str, Any] = {
        "name": name,
        "did": (
            f"The {found.localizer} network of {found.model.get('name')}, found in "
            f"{count(len(found.variants), 'way')}: {integer(found.k)} of "
            f"{count(found.n_units, 'unit')} each."
        ),
        "finding": _finding(found),
        "chance": (
            f"{score(chance.estimate)} ({score(chance.low)} to {score(chance.high)} in 95\u202f% "
            "of draws)"
        ),
        "notes": found.notes,
        "variants": _variants(found),
        "matrices": [dice, correlation],
        "pairs": _pairs(found),
        "effects": [_effect_chart(found, task) for task in _tasks(found)],
        "command": found.step.command,
        "version": package_versions(["onnxloc"])["onnxloc"],
    }
    return render_template("robustness.html", parts)


def write_robustness_page(folder: Path, found: Robustness, name: str) -> None:
    """Write ``robustness.html`` into a folder; parameters are those of `render_robustness`."""
    text = render_robustness(found, name)
    # Half a surrogate pair may stand in a file's name, and is no text.
    (folder / PAGE_FILE).write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _finding(found: Robustness) -> str:
    """The variants that share least and most with the default network."""
    others = [(float(found.dice[0, i]), name) for i, name in enumerate(found.names) if i]
    (low, least), (high, most) = min(others), max(others)
    return (
        f"Dice with the default network runs from {score(low)} ({least}) to {score(high)} ({most})."
    )


def _variants(found: Robustness) -> Table:
    rows = [
        (
            cell(variant.way.name),
            cell(variant.way.about),
            cell(integer(variant.n_positive + variant.n_control)),
            cell(score(float(found.dice[0, i]))),
            cell(score(float(found.correlation[0, i]))),
        )
        for i, variant in enumerate(found.variants)
    ]
    words = (Column("Variant", numeric=False), Column("What is done", numeric=False))
    heads = ("Stimuli", "Dice with default", "Rank correlation of t")
    return Table("The variants", (*words, *map(Column, heads)), tuple(rows))


def _pairs(found: Robustness) -> Table:
    rows = [
        (
            cell(f"{row['a']} – {row['b']}"),
            cell(integer(int(row["shared"])), row["shared"]),
            cell(score(row["dice"]), row["dice"]),
            cell(probability(row["p"]), row["p"]),
            cell(score(row["spearman"]), row["spearman"]),
        )
        for row in found.pairs.to_dict("records")
    ]
    heads = ("Shared units", "Dice", "p by chance", "Rank correlation of t")
    return Table(
        "Each two variants",
        (Column("Variants", numeric=False), *map(Column, heads)),
        tuple(rows),
        sortable=True,
    )


def _matrix(found: Robustness, values: Any, what: str) -> Chart:
    import plotly.graph_objects as go

    names = list(found.names)
    figure = go.Figure()
    figure.add_heatmap(
        z=values.round(4),
        text=[[f"{value:.2f}" for value in row] for row in values],
        texttemplate="%{text}",
        hovertext=[
            [f"{plain(a)} and {plain(b)}: {score(float(values[i, j]))}"
             for j, b in enumerate(names)]
            for i, a in enumerate(names)
        ],
        hoverinfo="text",
        zmin=-1,
        zmax=1,
        colorscale=_SCALE,
        showscale=False,
        xgap=2,
        ygap=2,
    )  # fmt: skip
    height = 120 + 40 * len(names)
    axis, narrow = labels(names, length=18)
    figure.update_layout(
        layout(
            height,
            xaxis={**axis, "showgrid": False, "tickangle": -45},
            yaxis={**axis, "showgrid": False, "autorange": "reversed"},
            meta={"narrow": narrow},
            margin={"l": 8, "r": 12, "t": 8, "b": 8},
        )
    )
    label = f"Matrix of variants: {what}. " + "; ".join(
        f"{names[0]} and {name} {score(float(values[0, i]))}" for i, name in enumerate(names) if i
    )
    return chart(figure, f"{label}.", height, name=what)


def _tasks(found: Robustness) -> list[str]:
    return list(dict.fromkeys(entry["task"] for entry in found.effects))


def _effect_chart(found: Robustness, task: str) -> Chart:
    """Each variant's score beside intact and the random networks."""
    import plotly.graph_objects as go

    own = [entry for entry in found.effects if entry["task"] == task]
    log = all(_finite(entry["perplexity"]) for entry in own)
    key = "perplexity" if log else "score"
    title = "Perplexity (log axis)" if log else str(own[0]["metric"]).capitalize()
    write = number if log else score
    intact = own[0][key]
    networks = [entry for entry in own if entry["kind"] == "network"]
    controls = [entry for entry in own if entry["kind"] == "site"]
    figure = go.Figure()
    ends = [-0.7, len(networks) + bool(controls) - 0.3]
    figure.add_scatter(
        x=[intact] * 2,
        y=ends,
        mode="lines",
        line={"color": INTACT, "width": 2},
        name=f"intact {write(intact)}",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[entry[key] for entry in networks],
        y=list(range(len(networks))),
        mode="markers",
        marker={**DIAMOND, "size": 12, "color": NETWORK},
        name="variant's network ablated",
        hovertext=[f"{plain(e['condition'])}: {write(e[key])}" for e in networks],
        hoverinfo="text",
    )
    names = [entry["condition"] for entry in networks]
    if controls:
        figure.add_scatter(
            x=[entry[key] for entry in controls],
            y=[len(names)] * len(controls),
            mode="markers",
            marker={"color": CONTROL, "size": 9, "opacity": 0.65},
            name="random networks ablated",
            hovertext=[f"{e['condition']}: {write(e[key])}" for e in controls],
            hoverinfo="text",
        )
        names.append("random networks")
    axis, narrow = labels(names, length=20)
    height = 140 + 30 * len(names)
    figure.update_layout(layout(height, meta={"narrow": narrow}, yaxis=axis))
    figure.update_xaxes(scale(title, log, [entry[key] for entry in own], None))
    figure.update_yaxes(range=[ends[1], ends[0]])
    label = f"{title} on task {task}, {count(own[0]['n_items'], 'item')}. " + "; ".join(
        f"{entry['condition']} {write(entry[key])}" for entry in own
    )
    return chart(figure, f"{label}.", height, name=task, table=_effect_table(task, own))


def _finite(value: float | None) -> bool:
    return value is not None and 0 < value < float("inf")


def _effect_table(task: str, own: list[dict[str, Any]]) -> Table:
    rows = []
    for entry in own:
        interval = "–"
        if entry["low"] is not None:
            interval = f"{signed(entry['low'])} to {signed(entry['high'])}"
        row = [entry["condition"], score(entry["score"]), signed(entry["difference"]), interval]
        if entry["perplexity"] is not None:
            row.append(number(entry["perplexity"]))
        rows.append(tuple(map(cell, row)))
    heads = [str(own[0]["metric"]).capitalize(), "Minus intact", "95\u202f% interval"]
    if own[0]["perplexity"] is not None:
        heads.append("Perplexity")
    return Table(
        f"Task {task}, {count(own[0]['n_items'], 'item')}; intervals are bootstrapped over items",
        (Column("Ablated", numeric=False), *map(Column, heads)),
        tuple(rows),
    )
