"""Runs that survive: what is kept of a run that is not finished, beside where it will lie.

While a study writes the run ``runs/x``, the hidden folder ``runs/.x.partial`` is its own. A lock in
it keeps a second process from writing the same run. Each part of the study has a file there that is
replaced as a whole every few seconds, and so has the folder that becomes the run once it is
complete. It goes when the run is finished.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from onnxloc.claim import KEPT_FOLDER, claimed
from onnxloc.errors import OnnxlocError, RunError
from onnxloc.folder import check_free, new_folder
from onnxloc.registry import one_line
from onnxloc.signals import HeldSignals
from onnxloc.state_file import STATE_SUFFIX, UNREADABLE, read_state, write_state
from onnxloc.store import VERSIONED, package_versions

__all__ = ["Checkpoint", "Part"]

State = Mapping[str, NDArray[Any]]

FORMAT = 1
# How much work may be lost to a kill that no process can answer.
EVERY_SECONDS = 20.0
# Saving takes no more than this share of the time.
MAX_SHARE = 0.05
RESUME = "to go on, run the same command with --resume"
AFRESH = "--force starts afresh"


class Checkpoint:
    """The unfinished state of a run: saved while a study goes on, and read when it is resumed.

    Use it in a ``with`` statement around the study and `writing`. When the run is written, the
    state is removed. After Ctrl-C, SIGTERM, or a failed write, what was done is saved, and a note
    on the exception says how to go on; after any other error only what was saved before is kept.

    Ctrl-C and SIGTERM wait while a batch is being added or the run is being written; a second one
    does not.

    Parameters
    ----------
    path : Path
        The run folder that is to be written.
    resume : bool
        Go on with what is there; start afresh if nothing is.
    force : bool
        Replace a run that stands at `path`, and discard an unfinished one unless `resume`.
    report : callable, optional
        Told in a line what is resumed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.folder = Path()
        self._resume = resume
        self._force = force
        self._report = report or (lambda _: None)
        self._parts: list[Part] = []
        self._finished = False
        self._refused = False
        self._stack = ExitStack()
        self.signals = HeldSignals()

    def __enter__(self) -> Self:
        """Take the folder.

        Raises
        ------
        RunError
            As `check_free`; if another process writes the same run, or an unfinished run is there
            and it was not said what becomes of it.
        """
        check_free(self.path, force=self._force)
        with ExitStack() as stack:
            self.folder = stack.enter_context(claimed(self.path))
            self._look()
            stack.enter_context(self.signals)
            self._stack = stack.pop_all()
        return self

    def _look(self) -> None:
        """See whether there is an unfinished run, and whether it may go."""
        if self._resume and not self._states:
            self._report("there is nothing to resume; starting afresh")
        elif self._states and not (self._resume or self._force):
            raise RunError(
                f"an unfinished run lies at {self.folder}: --resume goes on with it, {AFRESH}"
            )
        elif not self._resume:
            self._discard()

    @property
    def _states(self) -> list[Path]:
        return list(self.folder.glob(f"*{STATE_SUFFIX}"))

    def _discard(self) -> None:
        try:
            for state in self._states:
                state.unlink()
            # What belongs to no state is of no use.
            shutil.rmtree(self.folder / KEPT_FOLDER, ignore_errors=True)
        except OSError as error:
            raise RunError(f"cannot write {self.folder}: {error.strerror}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack, self.signals.held(drop=error is not None):
            if error is not None and not self._finished:
                by_input = isinstance(error, OnnxlocError) and not isinstance(error, RunError)
                if not by_input:
                    for part in self._parts:
                        # The disk may be full; what was saved before stands.
                        with suppress(OSError):
                            part.save()
                if self._states and not self._refused:
                    error.add_note(RESUME)
                return
            # The run is there: what cannot be removed must not make it look as if it were not.
            with suppress(RunError):
                self._discard()

    def begin(
        self, name: str, key: Mapping[str, Any], fresh: State, *, total: int, unit: str
    ) -> "Part":
        """Begin a part of the study, or go on with it.

        Parts are begun in the same order in every run of the same study.

        Parameters
        ----------
        name : str
            What is done, for people.
        key : mapping
            All that the result depends on, as plain values: hashes, options. Versions and the kind
            of machine are added.
        fresh : mapping of str to ndarray
            The state before the first batch: a saved state has the same arrays.
        total : int
            How much there is to do.
        unit : str
            Of what.

        Raises
        ------
        RunError
            If what is to be resumed is of something else, or is damaged.
        """
        file = self.folder / f"{len(self._parts):03d}{STATE_SUFFIX}"
        plain = json.loads(json.dumps({**key, **_machine()}, sort_keys=True, default=str))
        part = Part(self, file, plain, total)
        if file.is_file():
            # Going on is not what helps if this fails.
            self._refused = True
            part.load(name, fresh)
            self._refused = False
            self._report(f"{name}: {part.done:,} of {total:,} {unit} were done before")
        self._parts.append(part)
        return part

    @property
    def earlier(self) -> dict[str, float]:
        """For the record, the seconds of what was done before; empty if nothing was."""
        seconds = sum(part.earlier for part in self._parts)
        return {"earlier": seconds} if seconds else {}

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """An empty folder that becomes the run when the block ends well; see `new_folder`.

        What was kept stands there too in the end.

        Raises
        ------
        RunError
            If a run stands there and may not be replaced, or it cannot be written.
        """
        # A signal that comes meanwhile finds the run finished.
        with self.signals.held():
            with new_folder(self.path, force=self._force, within=self.folder) as staging:
                yield staging
                kept = self.folder / KEPT_FOLDER
                if kept.is_dir():
                    # Not moved: a kill before the run is in its place must leave it resumable.
                    shutil.copytree(kept, staging, copy_function=_link, dirs_exist_ok=True)
            self._finished = True

    @contextmanager
    def keeping(self) -> Iterator[Path]:
        """A folder that a study writes to while it goes on; it lasts as long as the states do.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        folder = self.folder / KEPT_FOLDER
        try:
            folder.mkdir(exist_ok=True)
            yield folder
        except OSError as error:
            # An error that names another file is not about this folder.
            name = error.filename
            if name is not None and not Path(os.fsdecode(name)).is_relative_to(self.folder):
                raise
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error


class Part:
    """One part of a study that goes on batch by batch.

    Attributes
    ----------
    done : int
        How much of it was done before.
    batches : int
        How many batches that was.
    saved : mapping of str to ndarray or None
        The state to go on from.
    earlier : float
        Seconds that it took until then.
    """

    def __init__(
        self, checkpoint: Checkpoint, file: Path, key: Mapping[str, Any], total: int
    ) -> None:
        self._checkpoint = checkpoint
        self._total = total
        self._file = file
        self._key = key
        self.done = 0
        self.batches = 0
        self.saved: State | None = None
        self.earlier = 0.0
        self._started = time.monotonic()
        self._next = self._started + EVERY_SECONDS
        self._state: Callable[[], State] | None = None
        self._written = 0

    @contextmanager
    def batch(self, count: int, state: Callable[[], State]) -> Iterator[None]:
        """Add a batch to the state; it is saved now and then.

        Parameters
        ----------
        count : int
            How much the batch was.
        state : callable
            Gives all arrays of the state when the block has ended.

        Raises
        ------
        RunError
            If the state cannot be saved.
        """
        # While it is being changed it is the state after no batch.
        self._state = None
        with self._checkpoint.signals.held():
            yield
            self.done += count
            self.batches += 1
            self._state = state
            if time.monotonic() >= self._next:
                self._save()

    def finish(self) -> None:
        """Save the end of a part behind which another begins.

        Raises
        ------
        RunError
            If it cannot be saved.
        """
        with self._checkpoint.signals.held():
            self._save()

    def _save(self) -> None:
        try:
            self.save()
        except OSError as error:
            raise RunError(f"cannot write {self._file}: {error.strerror}") from error

    def save(self) -> None:
        """Write the state after the last whole batch, if there was one since it was read."""
        if self._state is None or self._written == self.batches:
            return
        began = time.monotonic()
        header = {
            "format": FORMAT,
            "key": self._key,
            "done": self.done,
            "batches": self.batches,
            "seconds": self.seconds,
        }
        write_state(self._file, header, self._state())
        self._written = self.batches
        now = time.monotonic()
        self._next = now + max(EVERY_SECONDS, (now - began) / MAX_SHARE)

    @property
    def seconds(self) -> float:
        """How long the part took until now, in all its runs."""
        return self.earlier + time.monotonic() - self._started

    def load(self, name: str, fresh: State) -> None:
        """Read what was saved.

        Raises
        ------
        RunError
            If it is of something else, or is damaged.
        """
        where = self._file
        try:
            header, arrays = read_state(where)
            key, numbers = header["key"], [header[x] for x in ("done", "batches", "seconds")]
            fits = header["format"] == FORMAT and isinstance(key, dict)
            fits = fits and all(type(x) in (int, float) and x >= 0 for x in numbers)
            if not fits:
                raise ValueError("its header does not fit")
        except UNREADABLE as error:
            raise RunError(f"{where} is damaged ({one_line(error)}); {AFRESH}") from error
        other = [x[:40] for x in {**key, **self._key} if key.get(x) != self._key.get(x)]
        if other:
            raise RunError(
                f"the unfinished run at {where.parent} was begun otherwise ({name}: "
                f"{', '.join(other[:5])}); resume it with the command that began it, or {AFRESH}"
            )
        form, expected = (
            {name: (array.dtype, array.shape) for name, array in state.items()}
            for state in (arrays, fresh)
        )
        # A batch is not empty.
        if form != expected or not numbers[1] <= numbers[0] <= self._total:
            raise RunError(f"{where} is damaged (its state does not fit); {AFRESH}")
        self.saved = arrays
        self.done, self.batches, self.earlier = int(numbers[0]), int(numbers[1]), numbers[2]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems know no links
        shutil.copy2(source, target)


def _machine() -> dict[str, str]:
    """What results depend on beside what a user chose."""
    found = package_versions(VERSIONED)
    return {
        **{f"version of {name}": value for name, value in found.items()},
        "machine": platform.machine(),
        # onnxruntime's default number of threads follows it.
        "processors": str(os.cpu_count()),
    }
