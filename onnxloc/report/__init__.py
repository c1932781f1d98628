"""One self-contained HTML page for a run folder."""

import os
import tempfile
from pathlib import Path

from onnxloc.errors import RunError

__all__ = ["render", "write_report"]

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
    try:
        handle, name = tempfile.mkstemp(prefix=f".{REPORT_FILE}.", dir=run)
        staged = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n", errors="replace") as file:
                file.write(text)
            staged.chmod(0o644)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}") from error
    return target
