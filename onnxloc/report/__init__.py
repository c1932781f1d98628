"""One self-contained HTML page for a run folder."""

from pathlib import Path

from onnxloc.whole_file import write_whole

__all__ = ["REPORT_FILE", "render", "write_report"]

REPORT_FILE = "report.html"


def render(run: Path) -> str:
    """Render the page of a run folder as HTML.

    Raises
    ------
    RunError
        If `run` is no run folder or one of its files is damaged.
    """
    from onnxloc.report.page import render as render_page

    return render_page(Path(run))


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder; an older one is replaced once the new one is whole.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        As `render`, or if the folder cannot be written.
    """
    run = Path(run)
    text = render(run)
    target = run / REPORT_FILE
    write_whole(target, text)
    return target
