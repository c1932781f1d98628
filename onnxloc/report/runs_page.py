"""Pages on many runs: the list of all, some of them side by side, and what went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from onnxloc.report.chart import Cell, Column, Table, cell
from onnxloc.report.finding import main_effects
from onnxloc.report.folder import Effect, Summary
from onnxloc.report.page import render_template
from onnxloc.report.words import integer, number, percent, probability, score
from onnxloc.store import package_versions

__all__ = ["Listed", "render_message", "render_runs", "side_table"]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A line of the list.

    Attributes
    ----------
    key : str
        What chooses the run for a comparison; empty if it cannot be compared.
    name : str
        Of the folder.
    address : str
        Of its page; empty if it has none.
    more : mapping of str to str
        Addresses of other pages, by name.
    summary : Summary or None
        What it found, if it is a run.
    steps : tuple of str
        What was done.
    created : str
        When.
    problem : str
        Why it cannot be read; empty if it can.
    """

    key: str
    name: str
    address: str
    more: Mapping[str, str]
    summary: Summary | None
    steps: tuple[str, ...]
    created: str
    problem: str

    @property
    def facts(self) -> tuple[Cell, ...]:
        """Model, localizer, units searched, and the network's size."""
        summary = self.summary
        localize = summary.localize if summary else None
        return (
            cell(summary.model.name if summary else "–"),
            cell(localize.localizer if localize else "–"),
            cell(integer(localize.n_units), localize.n_units) if localize else cell("–"),
            cell(integer(localize.n_selected), localize.n_selected) if localize else cell("–"),
        )

    @property
    def effects(self) -> str:
        """What ablation did to each task, in a few words."""
        ablate = self.summary.ablate if self.summary else None
        return "; ".join(
            f"{effect.task} {score(effect.intact)} → {score(effect.network)}"
            for effect in (main_effects(ablate.effects) if ablate else [])
        )


def render_runs(listed: Sequence[Listed], place: str) -> str:
    """Render the list of runs, with a form that compares those that are ticked.

    Parameters
    ----------
    listed : sequence of Listed
        The lines.
    place : str
        What is viewed, for the heading.
    """
    return _render("runs.html", {"listed": listed, "place": place})


def render_message(title: str, text: str) -> str:
    """Render a page that says one thing, such as why there is nothing else to show."""
    return _render("message.html", {"title": title, "text": text})


def _render(name: str, parts: Mapping[str, object]) -> str:
    version = package_versions(["onnxloc"])["onnxloc"]
    return render_template(name, {**parts, "version": version}, charts=False)


def side_table(runs: Mapping[str, Summary]) -> Table:
    """What runs did and found, a column for each.

    Parameters
    ----------
    runs : mapping of str to Summary
        The runs by name.
    """
    rows: dict[str, list[str]] = {
        "Model": [run.model.name for run in runs.values()],
        "Source": [run.model.framework or "–" for run in runs.values()],
        "Blocks": [integer(run.model.blocks) for run in runs.values()],
    }
    found = [run.localize for run in runs.values()]
    if any(found):
        rows |= {
            "Localizer": [one.localizer if one else "–" for one in found],
            "Conditions": [
                f"{one.positive_label} − {one.control_label}" if one else "–" for one in found
            ],
            "Units searched": [integer(one.n_units) if one else "–" for one in found],
            "Units in the network": [
                f"{integer(one.n_selected)} ({percent(100 * one.n_selected / one.n_units)})"
                if one and one.n_units
                else "–"
                for one in found
            ],
            "Smallest t of the network": [number(one.smallest_t) if one else "–" for one in found],
            "Units with q ≤ 0.05": [integer(one.n_significant) if one else "–" for one in found],
        }
    effects = [
        {effect.task: effect for effect in main_effects(run.ablate.effects)} if run.ablate else {}
        for run in runs.values()
    ]
    for task in dict.fromkeys(name for own in effects for name in own):
        own = [one.get(task) for one in effects]
        rows |= {
            f"{task}: intact": [score(one.intact) if one else "–" for one in own],
            f"{task}: network ablated": [_network(one) for one in own],
            f"{task}: controls, median and range": [_controls(one) for one in own],
            f"{task}: p": [probability(one.p) if one else "–" for one in own],
        }
    return Table(
        "The runs side by side",
        (Column("", numeric=False), *(Column(name, numeric=False) for name in runs)),
        tuple((cell(name), *map(cell, texts)) for name, texts in rows.items()),
    )


def _network(effect: Effect | None) -> str:
    if effect is None:
        return "–"
    return f"{score(effect.network)} ({percent(effect.size)} of the units)"


def _controls(effect: Effect | None) -> str:
    if effect is None or not effect.scored:
        return "–"
    values = effect.scored
    return f"{score(median(values))} ({score(min(values))} to {score(max(values))})"
