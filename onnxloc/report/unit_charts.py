"""Charts of the units: where the network sits, the histogram of t, and the table of the top."""

from collections import Counter
from typing import Any

from onnxloc.report.chart import (
    CHANCE,
    NETWORK,
    OTHER,
    Chart,
    Column,
    Table,
    cell,
    chart,
    labels,
    layout,
    plain,
)
from onnxloc.report.folder import Localized
from onnxloc.report.units import Units
from onnxloc.report.words import count, integer, number, percent, probability

__all__ = ["histogram_chart", "location_charts", "top_table"]

MAX_BARS = 40
TOP = 500
OUTSIDE = "other"


def location_charts(units: Units) -> list[Chart]:
    """Share of the units that the network took: by block, by role and by op type.

    Blocks come first where there are any, else sites. Roles and op types are left out where all
    units share one.
    """
    charts = []
    if any(block is not None for block in units.block):
        names = [OUTSIDE if block is None else str(block) for block in units.block]
        order = [str(block) for block in sorted({b for b in units.block if b is not None})]
        if None in units.block:
            order.append(OUTSIDE)
        charts.append(_share_chart(units, names, "block", order))
    else:
        charts.append(_share_chart(units, list(units.sites), "site"))
    for what, words in (("role", units.role), ("op type", units.op_type)):
        if len(set(words)) > 1:
            charts.append(_share_chart(units, [word or "unnamed" for word in words], what))
    return charts


def _share_chart(
    units: Units, names: list[str], what: str, order: list[str] | None = None
) -> Chart:
    import numpy as np
    import plotly.graph_objects as go

    per_site = np.bincount(units.site, minlength=len(units.sites))
    taken_at = np.bincount(units.site[units.selected], minlength=len(units.sites))
    total: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for name, n, k in zip(names, per_site, taken_at, strict=True):
        total[name] += int(n)
        taken[name] += int(k)
    expected = 100 * float(units.selected.mean()) if len(units.selected) else 0.0
    share = {name: 100 * taken[name] / total[name] for name in total}
    ranked = sorted(share, key=lambda name: -share[name])
    rows = order or ranked
    shown = rows if order else ranked[:MAX_BARS]
    title = "Share in the network (%)"
    detail = [
        f"<b>{plain(what)} {plain(name)}</b><br>{integer(taken[name])} of {integer(total[name])} "
        f"units: {percent(share[name])}"
        for name in shown
    ]
    values = np.array([share[name] for name in shown])
    spot = np.arange(len(shown))
    upright = order is not None
    top = max([*share.values(), expected, 1e-9]) * 1.08
    bars: dict[str, Any] = {"x": spot, "y": values} if upright else {"x": values, "y": spot}
    ends = [-0.5, len(shown) - 0.5]
    flat = [expected, expected]
    line: dict[str, Any] = {"x": ends, "y": flat} if upright else {"x": flat, "y": ends}
    figure = go.Figure()
    figure.add_bar(
        **bars,
        orientation="v" if upright else "h",
        marker={"color": NETWORK, "line": {"width": 0}},
        name="share in the network",
        hovertext=detail,
        hoverinfo="text",
    )
    figure.add_scatter(
        **line,
        mode="lines",
        line={"color": CHANCE, "dash": "dash", "width": 2},
        name=f"expected by chance: {percent(expected)}",
        hoverinfo="skip",
    )
    height = 320 if upright else 110 + 24 * len(shown)
    if upright:
        figure.update_layout(
            layout(height, xaxis={"title": {"text": "Block"}}, yaxis={"title": {"text": title}})
        )
        figure.update_yaxes(range=[0, top])
        step = next(n for n in (1, 2, 5, 10, 20, len(shown)) if len(shown) <= 24 * n)
        figure.update_xaxes(labels(shown, every=step)[0], range=ends)
    else:
        axis, narrow = labels(shown)
        figure.update_layout(layout(height, meta={"narrow": narrow}, yaxis=axis))
        figure.update_xaxes(range=[0, top], title={"text": title})
        figure.update_yaxes(range=ends[::-1], showgrid=False)
    best = ranked[0]
    label = (
        f"Bar chart of the share of units in the network by {what}. The largest is {what} {best} "
        f"with {percent(share[best])}; by chance {percent(expected)} are expected."
    )
    table = Table(
        f"Units in the network by {what}",
        (
            Column(what.capitalize(), numeric=False),
            Column("Units"),
            Column("In the network"),
            Column("Share"),
            Column("Times chance"),
        ),
        tuple(
            (
                cell(name),
                cell(integer(total[name]), total[name]),
                cell(integer(taken[name]), taken[name]),
                cell(percent(share[name]), share[name]),
                cell(number(share[name] / expected if expected else None, 2), share[name]),
            )
            for name in rows
        ),
    )
    return chart(figure, label, height, name=f"by {what}", table=table)


def histogram_chart(units: Units, localize: Localized) -> Chart | None:
    """Draw a histogram of t, with the network's units apart and the threshold as a line."""
    import numpy as np
    import plotly.graph_objects as go

    defined = ~np.isnan(units.t)
    t, chosen = units.t[defined], units.selected[defined]
    if not len(t):
        return None
    low, high = float(t.min()), float(t.max())
    threshold = None if localize.drawn or localize.least else localize.smallest_t
    step = (high - low) / 80 or 1.0
    # An edge at the threshold keeps each bin wholly on one side of it.
    start = threshold if threshold is not None else low
    edges = start + step * np.arange(
        np.floor((low - start) / step), np.ceil((high - start) / step) + 1.5
    )
    inside = np.histogram(t[chosen], edges)[0]
    outside = np.histogram(t[~chosen], edges)[0]
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    for counts, name, colour in (
        (outside, "not chosen", OTHER),
        (inside, "in the network", NETWORK),
    ):
        figure.add_bar(
            x=middle,
            y=counts,
            width=step,
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="t near %{x:.3g}: %{y} units<extra>" + name + "</extra>",
        )
    top = int((inside + outside).max())
    if threshold is not None:
        figure.add_scatter(
            x=[threshold, threshold],
            y=[0, top],
            mode="lines",
            line={"color": CHANCE, "dash": "dash", "width": 2},
            name=f"threshold: t = {number(threshold)}",
            hoverinfo="skip",
        )
    figure.update_layout(layout(320, barmode="stack", bargap=0))
    figure.update_xaxes(title={"text": "t"})
    figure.update_yaxes(title={"text": "Units"}, tickformat=",d", range=[0, top * 1.05])
    wide = edges[::5] if len(edges) > 12 else edges
    if wide[-1] < edges[-1]:
        wide = np.append(wide, edges[-1])
    both = [np.histogram(t[pick], wide)[0] for pick in (slice(None), chosen)]
    table = Table(
        "Units by t",
        (
            Column("From t", numeric=False),
            Column("To t"),
            Column("Units"),
            Column("In the network"),
        ),
        tuple(
            (
                cell(number(float(wide[i])), float(wide[i])),
                cell(number(float(wide[i + 1])), float(wide[i + 1])),
                cell(integer(int(n)), int(n)),
                cell(integer(int(k)), int(k)),
            )
            for i, (n, k) in enumerate(zip(*both, strict=True))
        ),
    )
    label = (
        f"Histogram of t of {count(len(t), 'unit')}, from {number(low)} to {number(high)}, median "
        f"{number(float(np.median(t)))}."
    )
    if threshold is not None:
        label += f" The network begins at t = {number(threshold)}."
    return chart(figure, label, 320, table=table)


def top_table(units: Units, localize: Localized) -> Table:
    """Tabulate the units with the largest t; ties go to the earlier row."""
    import numpy as np

    sortable = np.where(np.isnan(units.t), -np.inf, units.t)
    n = min(TOP, int((~np.isnan(units.t)).sum()))
    if len(sortable) > 4 * TOP:
        # The stable sort then runs over few units, all ties with the last one among them.
        cut = np.partition(sortable, -max(n, 1))[-max(n, 1)]
        near = np.flatnonzero(sortable >= cut)
    else:
        near = np.arange(len(sortable))
    best = near[np.argsort(-sortable[near], kind="stable")][:n]
    mark = not bool(units.selected[best].all())
    rows = []
    for rank, i in enumerate(best, 1):
        row = [
            cell(str(rank), rank),
            cell(units.sites[units.site[i]]),
            cell(str(units.unit[i]), int(units.unit[i])),
            cell(number(float(units.t[i]), 4), float(units.t[i])),
            cell(probability(float(units.q[i])), float(units.q[i])),
            cell(number(float(units.d[i])), float(units.d[i])),
            cell(number(float(units.mean_positive[i]), 4), float(units.mean_positive[i])),
            cell(number(float(units.mean_control[i]), 4), float(units.mean_control[i])),
        ]
        if mark:
            row.append(cell("yes" if units.selected[i] else "no", float(units.selected[i])))
        rows.append(tuple(row))
    columns = [
        Column("Rank"),
        Column("Site", numeric=False),
        *map(Column, ("Unit", "t", "q", "d")),
        Column(f"Mean, {localize.positive_label}"),
        Column(f"Mean, {localize.control_label}"),
    ]
    if mark:
        columns.append(Column("In the network", numeric=False))
    return Table(
        f"The {n} units with the largest t", tuple(columns), tuple(rows), sortable=True, sorted=True
    )
