"""The runs and comparisons below the folders that are viewed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxloc.errors import OnnxlocError, RunError
from onnxloc.report import REPORT_FILE
from onnxloc.report.folder import Summary
from onnxloc.report.schema import build
from onnxloc.store import MANIFEST_FILE, SUMMARY_FILE, read_json

__all__ = ["Collection", "Entry"]

# Below this many folders deep, and beyond this many folders, nothing is looked for.
MAX_DEPTH = 4
MAX_FOLDERS = 20_000
MAX_ENTRIES = 2_000
MAX_PAGES = 20


@dataclass(frozen=True)
class Entry:
    """A folder that can be viewed.

    Attributes
    ----------
    key : str
        Its name in addresses: a hash of its path, so that no path stands in an address.
    name : str
        Its path from the viewed folder, for people.
    folder : Path
        Where it lies.
    pages : tuple of str
        Pages that are stored in it, the report of a run aside.
    summary : Summary or None
        What a run found; None for a folder that is no run, or if it cannot be read.
    steps : tuple of str
        What was done.
    created : str
        When.
    problem : str
        Why it cannot be read; empty if it can.
    """

    key: str
    name: str
    folder: Path
    pages: tuple[str, ...] = ()
    summary: Summary | None = None
    steps: tuple[str, ...] = ()
    created: str = ""
    problem: str = ""

    @property
    def is_run(self) -> bool:
        """Whether a report can be made of it."""
        return self.summary is not None and not self.problem


class Collection:
    """Runs and comparisons in some folders.

    Parameters
    ----------
    roots : sequence of Path
        Run folders, or folders that hold some. Links inside them are not followed.

    Raises
    ------
    RunError
        If one of them is no folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        for root in roots:
            if not root.is_dir():
                raise RunError(f"there is no folder at {root}")
        self._roots = [root.resolve() for root in roots]

    def entries(self) -> dict[str, Entry]:
        """All that is there now, by key, in the order of their names."""
        found: dict[str, Entry] = {}
        for root in self._roots:
            above = root if len(self._roots) == 1 and not _is_kept(root) else root.parent
            for folder in _kept_folders(root):
                if len(found) >= MAX_ENTRIES:
                    break
                entry = _entry(folder, folder.relative_to(above).as_posix())
                found.setdefault(entry.key, entry)
        return dict(sorted(found.items(), key=lambda item: item[1].name))


def _kept_folders(root: Path) -> Iterator[Path]:
    """Folders that onnxloc wrote results to, `root` itself or below it."""
    waiting = [(root, 0)]
    seen = 0
    while waiting and seen < MAX_FOLDERS:
        folder, depth = waiting.pop(0)
        seen += 1
        if _is_kept(folder):
            yield folder
        elif depth < MAX_DEPTH:
            waiting += [(inside, depth + 1) for inside in _folders_in(folder)]


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as items:
            names = [
                item.name
                for item in items
                if item.is_dir(follow_symlinks=False) and not item.name.startswith(".")
            ]
    except OSError:
        # What may not be read is passed over, as another program's folder is.
        return []
    return [folder / name for name in sorted(names)]


def _is_kept(folder: Path) -> bool:
    return is_own_file(folder / MANIFEST_FILE) and (
        is_own_file(folder / SUMMARY_FILE) or bool(_pages(folder))
    )


def is_own_file(path: Path) -> bool:
    """Whether a path is a file of its folder, and no link to another place."""
    return path.is_file() and not path.is_symlink()


def _pages(folder: Path) -> tuple[str, ...]:
    names = sorted(
        path.name
        for path in folder.glob("*.html")
        if path.name != REPORT_FILE and is_own_file(path)
    )
    return tuple(names[:MAX_PAGES])


def _entry(folder: Path, name: str) -> Entry:
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    pages = _pages(folder)
    steps: tuple[str, ...] = ()
    created = problem = ""
    summary = None
    try:
        manifest = read_json(folder / MANIFEST_FILE)
        # What is written of steps may be anything until the run is opened.
        listed = manifest.get("steps")
        steps = tuple(
            str(step.get("step") or "")
            for step in (listed if isinstance(listed, list) else [])
            if isinstance(step, dict)
        )
        created = str(manifest.get("created") or "")
        if is_own_file(folder / SUMMARY_FILE):
            summary = _summary(folder)
    except OnnxlocError as error:
        problem = str(error)
    return Entry(key, name, folder, pages, summary, steps, created, problem)


def _summary(folder: Path) -> Summary | None:
    """What a run found; None where the summary is of a study that has a page of its own."""
    raw = read_json(folder / SUMMARY_FILE)
    if _pages(folder) and not {"localize", "ablate"} & set(raw):
        return None
    return build(Summary, raw, f"{folder / SUMMARY_FILE}: run")
