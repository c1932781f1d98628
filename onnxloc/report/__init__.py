"""One self-contained HTML page for a run folder."""

from pathlib import Path

from onnxloc.errors import RunError
from onnxloc.whole_file import write_whole

__all__ = ["REPORT_FILE", "add_profile", "render", "write_report"]

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


def add_profile(run: Path, profile: Path) -> None:
    """Put the response profile of a run's network into the run, for its page.

    Parameters
    ----------
    run : Path
        The run folder; ``profile.json`` is written into it.
    profile : Path
        A folder that `onnxloc profile` wrote.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the profile is damaged, or is of another network than the run's.
    """
    from onnxloc.network import Network
    from onnxloc.report.profile_part import PROFILE_FILE, read_profile

    file = Path(profile) / PROFILE_FILE
    found = read_profile(file).network
    own = Network.load(Path(run))
    if (found.size, found.n_units, found.model_hash) != (own.size, own.n_units, own.model_hash):
        raise RunError(f"{file} is of another network than that of {run}; make a profile of it")
    write_whole(Path(run) / PROFILE_FILE, file.read_text(encoding="utf-8"))
