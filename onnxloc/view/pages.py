"""What the viewer answers to an address."""

import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from onnxloc.errors import OnnxlocError, RunError
from onnxloc.report.runs_page import Listed, render_message, render_runs, side_table
from onnxloc.view.collection import Collection, Entry, is_own_file

__all__ = ["OWN_POLICY", "Page", "Pages"]

MAX_COMPARED = 8
MAX_PAGE_BYTES = 64 << 20
# Pages that were made, kept for the next time they are asked for: some 5 MB each.
KEPT_PAGES = 12
# A stored page may be from anybody. It may run the script that stands in it, cut off from all
# other pages and from the network.
STORED_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; base-uri 'none'; "
    "form-action 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
OWN_POLICY = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """An answer: its status, its HTML, and the content security policy that goes with it."""

    status: HTTPStatus
    html: str
    policy: str = OWN_POLICY


class Pages:
    """All pages of a collection.

    Parameters
    ----------
    collection : Collection
        What is shown.
    place : str
        What it is called on the first page.
    """

    def __init__(self, collection: Collection, place: str) -> None:
        self._collection = collection
        self._place = place
        self._kept: dict[tuple[object, ...], str] = {}
        # Making a page takes a second and much memory: one at a time.
        self._lock = threading.Lock()

    def answer(self, target: str) -> Page:
        """Answer a request.

        Parameters
        ----------
        target : str
            Path and query, as the browser sent them.
        """
        try:
            parts = urlsplit(target)
            query = parse_qs(parts.query, max_num_fields=100)
        except ValueError:
            return _missing()
        if not target.startswith("/") or target.startswith("//"):
            return _missing()
        words = parts.path.split("/")[1:]
        entries = self._collection.entries()
        if words == [""]:
            return Page(
                HTTPStatus.OK, render_runs([_listed(e) for e in entries.values()], self._place)
            )
        if words == ["compare"]:
            return self._compare(query.get("run", []), entries)
        # A key and a page's name are looked up among those that are there: nothing that was sent
        # becomes part of a path.
        entry = entries.get(words[1]) if len(words) > 1 else None
        if entry is not None and len(words) == 2 and words[0] == "run" and entry.summary:
            return self._report(entry)
        if entry is not None and len(words) == 3 and words[0] == "page" and words[2] in entry.pages:
            return _stored(entry.folder / words[2])
        return _missing()

    def _report(self, entry: Entry) -> Page:
        from onnxloc.report.page import render

        try:
            with self._lock:
                return Page(
                    HTTPStatus.OK,
                    self._once((entry.folder,), lambda: render(entry.folder, home="/")),
                )
        except OnnxlocError as error:
            return _failed("This run cannot be shown", error)
        except FileNotFoundError:
            # It went away after it was listed.
            return _missing()

    def _compare(self, keys: Sequence[str], entries: Mapping[str, Entry]) -> Page:
        chosen = [entries[key] for key in dict.fromkeys(keys) if key in entries]
        chosen = [entry for entry in chosen if entry.summary is not None]
        if len(chosen) != len(set(keys)) or not 2 <= len(chosen) <= MAX_COMPARED:
            return Page(
                HTTPStatus.BAD_REQUEST,
                render_message(
                    "Nothing to compare", f"Tick two to {MAX_COMPARED} runs that are in the list."
                ),
            )
        try:
            with self._lock:
                folders = tuple(entry.folder for entry in chosen)
                return Page(HTTPStatus.OK, self._once(folders, lambda: _comparison(chosen)))
        except OnnxlocError as error:
            return _failed("These runs cannot be compared", error)
        except FileNotFoundError:
            return _missing()

    def _once(self, folders: tuple[Path, ...], make: Callable[[], str]) -> str:
        """The page of some folders, made anew where one of their files has changed."""
        key = tuple((folder, _stamp(folder)) for folder in folders)
        page = self._kept.pop(key, None)
        if page is None:
            page = make()
        self._kept[key] = page
        while len(self._kept) > KEPT_PAGES:
            del self._kept[next(iter(self._kept))]
        return page


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the files of a folder.

    Raises
    ------
    RunError
        If one of them is a link: it may lead anywhere.
    """
    stats = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    for name, found in stats:
        if stat.S_ISLNK(found.st_mode):
            raise RunError(f"{name} in {folder} is a link, and links are not followed here")
    return tuple((name, found.st_mtime_ns, found.st_size) for name, found in stats)


def _listed(entry: Entry) -> Listed:
    more = {name.removesuffix(".html"): f"/page/{entry.key}/{name}" for name in entry.pages}
    address = f"/run/{entry.key}" if entry.is_run else ""
    if not address and more:
        address = more.pop(next(iter(more)))
    return Listed(
        key=entry.key if entry.is_run else "",
        name=entry.name,
        address=address,
        more=more,
        summary=entry.summary,
        steps=entry.steps,
        created=entry.created,
        problem=entry.problem,
    )


def _comparison(chosen: Sequence[Entry]) -> str:
    """Runs side by side: all numbers in a table, and what `onnxloc compare` finds of the units."""
    from onnxloc.report.compare_page import render_comparison
    from onnxloc.studies.compare import compare
    from onnxloc.studies.compared_run import ComparedRun
    from onnxloc.studies.comparison import CompareOptions, Comparison

    side = side_table({entry.name: entry.summary for entry in chosen if entry.summary})
    folders, notes = [], []
    for entry in chosen:
        try:
            ComparedRun.open(entry.folder, entry.name)
            folders.append(entry.folder)
        except OnnxlocError as error:
            notes.append(f"the units of {entry.name} are not compared: {error}")
    options = CompareOptions(representations=False)
    found = Comparison.of_rows(options, {}, None, ())
    if len(folders) > 1:
        found = compare(folders, options)
    found = replace(found, notes=(*found.notes, *notes))
    return render_comparison(found, ", ".join(e.name for e in chosen), home="/", side=side)


def _stored(file: Path) -> Page:
    try:
        if not is_own_file(file) or file.stat().st_size > MAX_PAGE_BYTES:
            return _missing()
        return Page(
            HTTPStatus.OK, file.read_text(encoding="utf-8", errors="replace"), STORED_POLICY
        )
    except OSError:
        # It went away after it was listed.
        return _missing()


def _missing() -> Page:
    html = render_message("There is no such page", "The run may have been moved or removed.")
    return Page(HTTPStatus.NOT_FOUND, html)


def _failed(title: str, error: OnnxlocError) -> Page:
    return Page(HTTPStatus.UNPROCESSABLE_ENTITY, render_message(title, f"{error}."))
