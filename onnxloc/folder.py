"""Whole folders, or none: a result appears under its name only once it is complete."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnxloc.claim import STAGING_PREFIX, claimed, hidden_name
from onnxloc.errors import RunError

__all__ = ["check_free", "new_folder", "sha256_file"]

MAX_RECORD = 64 << 20
OLD = "old"
# Linux's numbers for renameat2(2): paths from the current folder, and both names exchanged.
AT_FDCWD = -100
RENAME_EXCHANGE = 2


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse an output path that is taken, before any work is done for it. Nothing is made.

    A folder that a process was about to replace when it was killed is put back first.

    Raises
    ------
    RunError
        If `path` exists and `force` is false, if it is a file or a link, if it is a folder that
        onnxloc did not write, if its name is not UTF-8, or if no folder can be made there.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        # The library that writes Parquet takes no other.
        raise RunError(f"{str(path)!r} is not UTF-8; choose another output path") from error
    try:
        _put_back(path)
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise RunError(f"{path} is not a folder; choose another output path")
        if path.is_dir() and any(path.iterdir()):
            if not force:
                raise RunError(
                    f"{path} exists; choose another output path, or --force to replace it"
                )
            if not _is_ours(path):
                raise RunError(f"{path} was not written by onnxloc; --force does not replace it")
        above = path.absolute().parent
        while not above.exists():
            above = above.parent
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"cannot make a folder in {above}; choose another output path")


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a record that onnxloc wrote."""
    if (folder / "bundle.json").is_file():
        return True
    # Web applications have a manifest.json too.
    file = folder / "manifest.json"
    try:
        small = file.is_file() and file.stat().st_size <= MAX_RECORD
        record = json.loads(file.read_bytes()) if small else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"format", "onnxloc"} <= set(record)


@contextmanager
def new_folder(path: Path, *, force: bool = False, within: Path | None = None) -> Iterator[Path]:
    """Yield an empty staging folder that takes the name `path` when the block ends well.

    On any exception, KeyboardInterrupt included, everything that was made is removed and whatever
    stood at `path` is left as it was. What a killed process leaves is hidden, and removed when
    `path` is made again.

    Parameters
    ----------
    path : Path
        The folder to make.
    force : bool
        Replace what onnxloc wrote there before.
    within : Path, optional
        The hidden folder of `path`, by a caller who holds it already; see `claimed`.

    Raises
    ------
    RunError
        As `check_free` and `claimed`, or if the folder cannot be written.
    """
    check_free(path, force=force)
    with ExitStack() as stack:
        hidden = stack.enter_context(claimed(path)) if within is None else within
        yield stack.enter_context(_staged(path.resolve(), hidden, force=force))


@contextmanager
def _staged(path: Path, hidden: Path, *, force: bool) -> Iterator[Path]:
    try:
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=hidden))
        try:
            staging.chmod(0o755)
            yield staging
            check_free(path, force=force)
            _replace(staging, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        # An error that names another file is not about this folder.
        name = error.filename
        if name is not None and not Path(os.fsdecode(name)).is_relative_to(path.parent):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _replace(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    if _exchange(staging, path):
        # What stood there is removed with the staging folder, whose name it has now.
        return
    hold = Path(tempfile.mkdtemp(prefix=f"{hidden_name(path, 'old')}-", dir=path.parent))
    try:
        path.rename(hold / OLD)
        staging.rename(path)
    except BaseException:
        if not path.exists():
            (hold / OLD).rename(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(hold, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Give two folders each other's name at once, where the system can; whether it could."""
    if sys.platform != "linux":
        return False
    # The standard library has no call for it.
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    return call is not None and call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _put_back(path: Path) -> None:
    """Put a folder back that a process held when it was killed between two renames."""
    path = path.absolute()
    if path.exists() or not path.parent.is_dir():
        return
    held = re.compile(re.escape(hidden_name(path, "old")) + r"-\w+")
    for hold in path.parent.iterdir():
        if held.fullmatch(hold.name) and (hold / OLD).is_dir():
            (hold / OLD).rename(path)
            hold.rmdir()
            return


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
