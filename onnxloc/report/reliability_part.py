"""The part of the page on split-half reliability, if the run holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxloc.report.chart import CHANCE, CONTROL, NETWORK, Chart, Column, Table, cell, chart, layout
from onnxloc.report.folder import Run
from onnxloc.report.part import Part
from onnxloc.report.schema import build
from onnxloc.report.words import count, integer, score
from onnxloc.store import RELIABILITY_FILE, read_json

__all__ = ["reliability_part"]

_ROWS = {
    "dice": "Dice of the networks of both halves",
    "correlation": "Rank correlation of t",
    "spearman_brown": "Rank correlation of t, Spearman–Brown",
    "d_chosen": "Cohen's d in the half that chose the units",
    "d_held_out": "Cohen's d in the other half",
    "difference_chosen": "Difference of means in the half that chose",
    "difference_held_out": "Difference of means in the other half",
}


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """A median over splits, and the middle 95 % of them."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Split:
    """One split."""

    dice: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Reliability:
    """``reliability.json``."""

    k: int
    n_units: int
    n_positive: int
    n_control: int
    chance_dice: _Interval
    median: Mapping[str, _Interval]
    median_shuffled: Mapping[str, _Interval]
    splits: tuple[_Split, ...]
    shuffled: tuple[_Split, ...] = ()


def reliability_part(folder: Path, _: Run) -> Part | None:
    """Show how well the network of one half of the stimuli is that of the other.

    Raises
    ------
    RunError
        If ``reliability.json`` is damaged.
    """
    file = folder / RELIABILITY_FILE
    if not file.is_file():
        return None
    found = build(_Reliability, read_json(file), f"{file}: reliability")
    return Part(
        id="reliability",
        title="Reliability of the network",
        short="Reliability",
        text=(
            f"The stimuli ({integer(found.n_positive)} + {integer(found.n_control)}) were split "
            f"into random halves {count(len(found.splits), 'time')}. The {integer(found.k)} units "
            "with the largest t of each half were compared; the same with shuffled conditions says "
            "what chance gives.",
        ),
        charts=(_chart(found),),
        caption="Dice of the networks of two halves, a point for each split.",
        tables=(_table(found),),
    )


def _chart(found: _Reliability) -> Chart:
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = (("stimuli as they are", NETWORK, found.splits), ("shuffled", CONTROL, found.shuffled))
    for row, (name, colour, splits) in enumerate(rows):
        values = [split.dice for split in splits]
        figure.add_scatter(
            x=values,
            # A fixed zigzag keeps equal values apart.
            y=[-row + 0.07 * ((i * 3) % 7 - 3) for i in range(len(values))],
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.6},
            name=name,
            hovertemplate=f"{name}: Dice %{{x:.3f}}<extra></extra>",
        )
    chance = found.chance_dice.estimate
    if chance is not None:
        figure.add_scatter(
            x=[chance, chance],
            y=[-1.5, 0.5],
            mode="lines",
            line={"color": CHANCE, "dash": "dash", "width": 2},
            name=f"two random networks: {score(chance)}",
            hoverinfo="skip",
        )
    figure.update_layout(layout(250))
    figure.update_xaxes(title={"text": "Dice"}, range=[-0.02, 1.02])
    figure.update_yaxes(
        tickvals=[0, -1], ticktext=["as they<br>are", "shuffled"], range=[-1.5, 0.5], showgrid=False
    )
    label = (
        "Strip plot of the Dice of networks from two halves of the stimuli. Median "
        f"{_said(found.median.get('dice'))}; with shuffled conditions "
        f"{_said(found.median_shuffled.get('dice'))}; two random networks "
        f"{_said(found.chance_dice)}."
    )
    return chart(figure, label, 250)


def _table(found: _Reliability) -> Table:
    return Table(
        "Median over splits, and the middle 95\u202f% of them",
        (Column("", numeric=False), Column("Stimuli as they are"), Column("Conditions shuffled")),
        (
            *(
                (cell(words), cell(_said(found.median.get(name))),
                 cell(_said(found.median_shuffled.get(name))))
                for name, words in _ROWS.items()
            ),
            (cell("Dice of two random networks"), cell(_said(found.chance_dice)), cell("–")),
        ),
    )  # fmt: skip


def _said(interval: _Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{score(interval.estimate)} ({score(interval.low)} to {score(interval.high)})"
