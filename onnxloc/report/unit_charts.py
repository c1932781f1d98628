"""Charts of the units: where the network sits, the heat map of t, and its histogram."""

from collections import Counter
from typing import TYPE_CHECKING, Any

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
from onnxloc.report.folder import Localized, Units
from onnxloc.report.words import count, integer, number, percent, probability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_COLUMNS", "heat_charts", "histogram_chart", "location_charts", "top_table"]

MAX_COLUMNS = 600
# All heat maps together, so that a run with many roles stays a small page.
MAX_CELLS = 100_000
MAX_BARS = 40
TOP = 50
OUTSIDE = "other"
_SCALE = [[i / 6, f"var(--div-{i})"] for i in range(7)]


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


def heat_charts(units: Units, localize: Localized) -> tuple[list[Chart], str]:
    """Heat maps of t, block × unit, one for each canonical role, the main one first.

    Each row is sorted from the largest t to the smallest. A row of more units than columns is
    shown by its quantiles.

    Returns
    -------
    charts : list of Chart
        Empty where no site has a block and a role.
    note : str
        How rows were made narrower, and the limits of the colours.
    """
    import numpy as np

    rows: dict[str, dict[int, list[int]]] = {}
    for site, (block, role) in enumerate(zip(units.block, units.role, strict=True)):
        if block is not None and role and not units.sites[site].startswith("op:"):
            rows.setdefault(role, {}).setdefault(block, []).append(site)
    if not rows:
        return [], ""
    order = np.argsort(units.site, kind="stable")
    bounds = np.searchsorted(units.site[order], np.arange(len(units.sites) + 1))
    roles = sorted(rows, key=lambda role: (role != "out", role))
    lines = sum(len(blocks) for blocks in rows.values())
    columns = max(20, min(MAX_COLUMNS, MAX_CELLS // lines))
    charts = []
    narrowed = False
    for role in roles:
        data = []
        for block in sorted(rows[role]):
            where = np.concatenate([order[bounds[s] : bounds[s + 1]] for s in rows[role][block]])
            t = units.t[where]
            data.append((block, len(t), np.sort(t[~np.isnan(t)])[::-1], units.selected[where]))
        made, narrower = _heat_chart(role, data, columns, localize)
        charts.append(made)
        narrowed |= narrower
    note = ""
    if narrowed:
        note = (
            f"Rows of more than {columns} units are shown by {columns} quantiles from the largest "
            "t to the smallest."
        )
    return charts, note


def _heat_chart(
    role: str,
    data: "list[tuple[int, int, NDArray[np.float64], NDArray[np.bool_]]]",
    columns: int,
    localize: Localized,
) -> tuple[Chart, bool]:
    import numpy as np
    import plotly.graph_objects as go

    width = max(n for _, n, _, _ in data)
    narrower = width > columns
    z = np.full((len(data), columns if narrower else width), np.nan, dtype=np.float32)
    for row, (_, _, t, _) in zip(z, data, strict=True):
        if not narrower:
            row[: len(t)] = t
        elif len(t):
            row[:] = np.quantile(t, np.linspace(1, 0, columns))
    finite = np.concatenate([t for _, _, t, _ in data])
    limit = float(np.quantile(np.abs(finite), 0.99)) if len(finite) else 0.0
    limit = limit or 1.0
    x = np.linspace(0, 100, z.shape[1]) if narrower else np.arange(1, z.shape[1] + 1)
    figure = go.Figure()
    figure.add_heatmap(
        z=z,
        x=x,
        y=[block for block, _, _, _ in data],
        zmin=-limit,
        zmax=limit,
        zmid=0,
        colorscale=_SCALE,
        hoverongaps=False,
        hovertemplate=(
            "block %{y}, "
            + ("%{x:.1f} % down" if narrower else "unit ranked %{x}")
            + "<br>t = %{z:.3g}<extra></extra>"
        ),
        colorbar={
            "title": {"text": "t", "side": "top"},
            "thickness": 12,
            "len": 1.0,
            "outlinewidth": 0,
        },
    )
    height = min(640, max(170, 90 + 14 * len(data)))
    words = "Place in the block, largest t first (%)" if narrower else "Rank in the block by t"
    figure.update_layout(layout(height, margin={"l": 8, "r": 8, "t": 8, "b": 8}))
    figure.update_xaxes(title={"text": words}, showgrid=False, ticks="outside")
    figure.update_yaxes(title={"text": "Block"}, showgrid=False, tickformat="d")
    if len(data) <= 16:
        figure.update_yaxes(dtick=1)
    rows = []
    for block, n, t, chosen in data:
        points = np.quantile(t, [0, 0.05, 0.5, 0.95, 1]) if len(t) else [None] * 5
        values = [None if value is None else float(value) for value in points]
        k = int(chosen.sum())
        rows.append(
            (
                cell(str(block)),
                cell(integer(n), n),
                cell(integer(n - len(t)), n - len(t)),
                *(cell(number(value), value) for value in values),
                cell(integer(k), k),
            )
        )
    names = ("Units", "No t", "Smallest t", "5\u202f%", "Median", "95\u202f%", "Largest t")
    table = Table(
        f"t by block, role {role}",
        (Column("Block", numeric=False), *map(Column, names), Column("In the network")),
        tuple(rows),
    )
    high = max(data, key=lambda row: float(np.median(row[2])) if len(row[2]) else -np.inf)
    label = (
        f"Heat map of t for role {role}: {count(len(data), 'block')} as rows, up to "
        f"{integer(width)} units as columns, sorted. Positive t means more response to "
        f"{localize.positive_label}. The median t is largest in block {high[0]}. Colours reach "
        f"their ends at t = ±{number(limit)}, the 99th percentile of |t|."
    )
    return chart(figure, label, height, name=role, table=table), narrower


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
    return Table(f"The {n} units with the largest t", tuple(columns), tuple(rows), sortable=True)
