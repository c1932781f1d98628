"""The hidden folder that belongs to a folder while it is being made, and to one process alone."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from onnxloc.errors import RunError

__all__ = [
    "KEPT_FOLDER",
    "STAGING_PREFIX",
    "claimed",
    "hidden_name",
    "partial_folder",
    "remove_when_empty",
]

LOCK_FILE = "lock"
# Of a folder that is to take the name of the one that is being made.
STAGING_PREFIX = "new-"
# A state that is kept of what was not finished, and one that was being written.
STATE = re.compile(r"\d{3}\.npz")
# Of what is written while a study goes on; it lasts as long as the states do.
KEPT_FOLDER = "kept"
# A staging folder may be made within a hidden folder of its own.
OURS = re.compile(
    rf"{LOCK_FILE}|{KEPT_FOLDER}|{STAGING_PREFIX}\w+|\.{STAGING_PREFIX}\w+\.partial|\d{{3}}\.(npz|half)"
)
# File names have at most 255 bytes.
MAX_NAME = 200


def hidden_name(path: Path, what: str) -> str:
    """The name of a hidden file or folder that belongs to the folder `path` and lies beside it."""
    name = path.name
    if len(name.encode()) > MAX_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f".{name}.{what}"


def partial_folder(path: Path) -> Path:
    """Where what is not finished of the folder `path` lies."""
    path = path.resolve()
    return path.with_name(hidden_name(path, "partial"))


@contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Hold the hidden folder of `path` against other processes, without what a killed one left.

    States that are kept there stay; without any, the folder goes when the block ends.

    Raises
    ------
    RunError
        If another process has it, if something lies there that onnxloc did not leave, or if it
        cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = partial_folder(path)
    lock = FileLock(folder / LOCK_FILE)
    with ExitStack() as stack:
        stack.enter_context(remove_when_empty(folder.parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            stack.callback(lock.release)
            _clear(folder)
        except (Timeout, FileNotFoundError) as error:
            # It is not found if the process that had it went meanwhile, or cannot be made.
            if isinstance(error, FileNotFoundError) and not folder.is_dir():
                raise RunError(f"cannot write {path}: {error.strerror}") from error
            raise RunError(
                f"another process is writing {path}; wait for it, or choose another output path"
            ) from error
        except FileExistsError as error:
            raise RunError(f"{folder} is in the way; choose another output path") from error
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        stack.callback(_leave, folder)
        yield folder


def _clear(folder: Path) -> None:
    entries = list(folder.iterdir())
    for entry in entries:
        if entry.is_symlink() or not OURS.fullmatch(entry.name):
            raise RunError(
                f"{folder} is in the way: {entry.name!r} is nothing that onnxloc left; choose "
                "another output path"
            )
    has_state = any(STATE.fullmatch(entry.name) for entry in entries)
    for entry in entries:
        # Only the holder of the lock writes here.
        if entry.is_dir():
            if entry.name != KEPT_FOLDER or not has_state:
                shutil.rmtree(entry)
        elif entry.name != LOCK_FILE and not STATE.fullmatch(entry.name):
            entry.unlink()


def _leave(folder: Path) -> None:
    with suppress(OSError):
        _clear(folder)
        (folder / LOCK_FILE).unlink()
        # It stays if a state is kept in it.
        folder.rmdir()


@contextmanager
def remove_when_empty(folder: Path) -> Iterator[None]:
    """Remove `folder` and those above it that did not exist before, if they stay empty."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    finally:
        # The innermost first; the first that stays holds all others.
        with suppress(OSError):
            for one in made:
                one.rmdir()
