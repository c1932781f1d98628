"""Whole folders, or none: a result appears under its name only once it is complete."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnxloc.errors import RunError

__all__ = ["check_free", "new_folder", "sha256_file"]

MAX_RECORD = 64 << 20


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse an output path that is taken, before any work is done for it. Nothing is made.

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
        record = json.loads(file.read_bytes()) if file.stat().st_size <= MAX_RECORD else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"format", "onnxloc"} <= set(record)


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty staging folder that takes the name `path` when the block ends well.

    On any exception, KeyboardInterrupt included, everything that was made is removed and whatever
    stood at `path` is left as it was.

    Raises
    ------
    RunError
        As `check_free`, or if the folder cannot be written.
    """
    check_free(path, force=force)
    path = path.resolve()
    made = _missing(path.parent)
    try:
        with ExitStack() as stack:
            stack.callback(_remove_empty, made)
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.partial-", dir=path.parent))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            staging.chmod(0o755)
            yield staging
            check_free(path, force=force)
            _replace(staging, path)
    except OSError as error:
        # An error that names another file is not about this folder.
        name = error.filename
        if name is not None and not Path(os.fsdecode(name)).is_relative_to(path.parent):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _missing(folder: Path) -> list[Path]:
    """The folders that do not exist yet, the innermost first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            # It holds the result, or something that another process put there.
            return


def _replace(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    hold = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.old-", dir=path.parent))
    try:
        path.rename(hold / "old")
        staging.rename(path)
    except BaseException:
        if not path.exists():
            (hold / "old").rename(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(hold, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
