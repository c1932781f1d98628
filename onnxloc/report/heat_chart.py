"""The heat map of t: a row for each block, a column for each of its units."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from onnxloc.report.chart import Chart, Column, Table, cell, chart, layout
from onnxloc.report.folder import Localized
from onnxloc.report.units import Units
from onnxloc.report.words import count, integer, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_COLUMNS", "heat_charts"]

MAX_COLUMNS = 2048
# All heat maps together, so that a run with many roles stays a small page.
MAX_CELLS = 80_000
_SCALE = [[i / 6, f"var(--div-{i})"] for i in range(7)]


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
            data.append(_Row.of(block, units.t[where], units.unit[where], units.selected[where]))
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


@dataclass(frozen=True)
class _Row:
    """The units of one block, from the largest t to the smallest; those without a t are left out.

    Attributes
    ----------
    n : int
        All units, those without a t too.
    t, unit : arrays
        Of the units with a t.
    chosen : int
        Units in the network.
    """

    block: int
    n: int
    t: "NDArray[np.float64]"
    unit: "NDArray[np.int64]"
    chosen: int

    @classmethod
    def of(
        cls,
        block: int,
        t: "NDArray[np.float64]",
        unit: "NDArray[np.int64]",
        selected: "NDArray[np.bool_]",
    ) -> Self:
        import numpy as np

        order = np.argsort(-t, kind="stable")[: len(t) - int(np.isnan(t).sum())]
        return cls(block, len(t), t[order], unit[order], int(selected.sum()))


def _heat_chart(
    role: str, data: list[_Row], columns: int, localize: Localized
) -> tuple[Chart, bool]:
    import numpy as np
    import plotly.graph_objects as go

    width = max(row.n for row in data)
    narrower = width > columns
    z = np.full((len(data), columns if narrower else width), np.nan, dtype=np.float32)
    highest = max((int(row.unit.max()) for row in data if len(row.unit)), default=0)
    # Of the smallest type that holds them, for the page's sake.
    unit = np.zeros(z.shape, dtype=np.uint16 if highest < 1 << 16 else np.int32)
    for line, at, row in zip(z, unit, data, strict=True):
        if not narrower:
            line[: len(row.t)], at[: len(row.t)] = row.t, row.unit
        elif len(row.t):
            line[:] = np.quantile(row.t, np.linspace(1, 0, columns))
    finite = np.concatenate([row.t for row in data])
    limit = float(np.quantile(np.abs(finite), 0.99)) if len(finite) else 0.0
    limit = limit or 1.0
    x = np.linspace(0, 100, z.shape[1]) if narrower else np.arange(1, z.shape[1] + 1)
    figure = go.Figure()
    figure.add_heatmap(
        z=z,
        x=x,
        y=[row.block for row in data],
        customdata=None if narrower else unit,
        zmin=-limit,
        zmax=limit,
        zmid=0,
        colorscale=_SCALE,
        hoverongaps=False,
        hovertemplate=(
            "block %{y}, "
            + ("%{x:.1f} % down" if narrower else "unit %{customdata}, ranked %{x}")
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
    for row in data:
        points = np.quantile(row.t, [0, 0.05, 0.5, 0.95, 1]) if len(row.t) else [None] * 5
        values = [None if value is None else float(value) for value in points]
        rows.append(
            (
                cell(str(row.block)),
                cell(integer(row.n), row.n),
                cell(integer(row.n - len(row.t)), row.n - len(row.t)),
                *(cell(number(value), value) for value in values),
                cell(integer(row.chosen), row.chosen),
            )
        )
    names = ("Units", "No t", "Smallest t", "5\u202f%", "Median", "95\u202f%", "Largest t")
    table = Table(
        f"t by block, role {role}",
        (Column("Block", numeric=False), *map(Column, names), Column("In the network")),
        tuple(rows),
    )
    high = max(data, key=lambda row: float(np.median(row.t)) if len(row.t) else -np.inf)
    label = (
        f"Heat map of t for role {role}: {count(len(data), 'block')} as rows, up to "
        f"{integer(width)} units as columns, sorted. Positive t means more response to "
        f"{localize.positive_label}. The median t is largest in block {high.block}. Colours reach "
        f"their ends at t = ±{number(limit)}, the 99th percentile of |t|."
    )
    return chart(figure, label, height, name=role, table=table), narrower
