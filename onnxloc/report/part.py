"""A part of the page that only some runs have: how it is made and what it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxloc.report.chart import Chart, Table
from onnxloc.report.folder import Run

__all__ = ["Part", "PartMaker"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    Attributes
    ----------
    id : str
        Its anchor: lower-case letters and hyphens.
    title : str
        Its heading.
    short : str
        Its name among the page's links; the title if empty.
    text : tuple of str
        Paragraphs above the charts.
    warnings : tuple of str
        What keeps the numbers from saying more.
    charts : tuple of Chart
        Shown one at a time, with a choice among their names.
    caption : str
        Of the charts.
    choice : str
        What is chosen where there are several charts.
    tables : tuple of Table
        Below the charts.
    """

    id: str
    title: str
    short: str = ""
    text: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    caption: str = ""
    choice: str = "Show"
    tables: tuple[Table, ...] = ()


# Makes a part of a run folder and what was read from it; None where the run has no such thing.
PartMaker = Callable[[Path, Run], Part | None]
