"""Whole folders, or none: a result appears under its name only once it is complete."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxloc.errors import RunError

__all__ = ["check_free", "new_folder", "sha256_file"]


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse an output path that is taken, before any work is done for it.

    Raises
    ------
    RunError
        If `path` exists and `force` is false, if it is a file or a link, if it is a folder that
        onnxloc did not write, or if its parent cannot be made.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise RunError(f"{path} is not a folder; choose another output path")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise RunError(f"{path} exists; choose another output path, or --force to replace it")
        if not any((path / name).is_file() for name in ("manifest.json", "bundle.json")):
            raise RunError(f"{path} was not written by onnxloc; --force does not replace it")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path.parent}: {error.strerror}") from error


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty staging folder that takes the name `path` when the block ends well.

    On any exception, KeyboardInterrupt included, the staging folder is removed and whatever stood
    at `path` is left as it was.

    Raises
    ------
    RunError
        As `check_free`, or if the folder cannot be written.
    """
    path = path.absolute()
    check_free(path, force=force)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        staging.chmod(0o755)
    except OSError as error:
        raise RunError(f"cannot write in {path.parent}: {error.strerror}") from error
    try:
        yield staging
        _replace(staging, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent)) / "old"
    path.rename(old)
    try:
        staging.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
