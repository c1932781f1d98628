"""Run folders: what a study found, how it was made, and with what."""

import json
import math
import platform
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnxloc.bundle import fits_type
from onnxloc.errors import RunError
from onnxloc.notebook import effects_html, facts_html, shown
from onnxloc.registry import one_line

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "EFFECTS_FILE",
    "MANIFEST_FILE",
    "NETWORK_FILE",
    "RELIABILITY_FILE",
    "SUMMARY_FILE",
    "UNITS_FILE",
    "VERSIONED",
    "Manifest",
    "Run",
    "Step",
    "finite",
    "package_versions",
    "read_table",
    "record",
    "write_json",
    "write_summary",
    "write_table",
]

T = typing.TypeVar("T")

FORMAT = 1
MANIFEST_FILE = "manifest.json"
SUMMARY_FILE = "summary.json"
UNITS_FILE = "units.parquet"
NETWORK_FILE = "network.parquet"
EFFECTS_FILE = "effects.parquet"
RELIABILITY_FILE = "reliability.json"
VERSIONED = ("onnxloc", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "scipy", "tokenizers")
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Step:
    """One study of a run: what was asked, with what, and how long it took.

    Attributes
    ----------
    step : str
        "localize" or "ablate".
    command : str
        The command line that did it; empty if it was done from Python.
    parameters : mapping
        Every option, defaults included.
    hashes : mapping of str to str
        SHA-256 of the model, the plan, the stimuli and the tasks.
    versions : mapping of str to str
        Versions of Python and the packages that took part.
    seconds : mapping of str to float
        Wall time of each part.
    provider, threads
        onnxruntime's provider and its threads (0: one for each core).
    """

    step: str
    command: str
    parameters: Mapping[str, Any]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    provider: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a run came to be.

    Attributes
    ----------
    name : str
        A title for people.
    steps : tuple of Step
        In the order in which they were done.
    created : str
        Time in UTC, ISO 8601.
    onnxloc : str
        Version of onnxloc.
    """

    name: str
    steps: tuple[Step, ...]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    onnxloc: str = field(default_factory=lambda: package_versions(["onnxloc"])["onnxloc"])
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        write_json(folder / MANIFEST_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``manifest.json``.

        Raises
        ------
        RunError
            If there is none, or it is not one.
        """
        raw = read_json(folder / MANIFEST_FILE)
        if raw.get("format") != FORMAT:
            raise RunError(
                f"{folder / MANIFEST_FILE}: format {raw.get('format')!r} is not {FORMAT}"
            )
        where = folder / MANIFEST_FILE
        steps = raw.pop("steps", None)
        if not isinstance(steps, list):
            raise RunError(f"{where} is damaged: steps is missing or no list")
        return record(cls, {**raw, "steps": tuple(record(Step, s, where) for s in steps)}, where)


def record(kind: type[T], raw: object, where: Path) -> T:
    """Make a dataclass of what JSON holds.

    Raises
    ------
    RunError
        If a key is unknown or missing, or a value has the wrong type.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(raw, dict):
        raise RunError(f"{where} is damaged: a {kind.__name__.lower()} is no JSON object")
    for name, value in raw.items():
        if name not in hints:
            raise RunError(f"{where} is damaged: unknown key {name!r:.40}")
        if name != "steps" and not fits_type(value, hints[name]):
            raise RunError(f"{where} is damaged: {name} has the wrong type")
    try:
        return kind(**raw)
    except TypeError as error:
        raise RunError(f"{where} is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes
    ----------
    folder : Path
        Where it lies.
    manifest : Manifest
        How it came to be.
    summary : mapping
        ``summary.json``.
    """

    folder: Path
    manifest: Manifest
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a run folder.

        Raises
        ------
        RunError
            If it is no run folder, or is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"there is no run folder at {folder}")
        if not (folder / MANIFEST_FILE).is_file():
            raise RunError(f"{folder} is not a run folder: it has no {MANIFEST_FILE}")
        return cls(folder, Manifest.read(folder), read_json(folder / SUMMARY_FILE))

    @property
    def localizer(self) -> str | None:
        """What `load_stimuli` was given for the run, if units were localized in it."""
        step = self._localized
        return str(step.parameters.get("localizer", "")) or None if step else None

    @property
    def stimuli_hash(self) -> str | None:
        """Hash of the stimuli of the run, if units were localized in it."""
        step = self._localized
        return step.hashes.get("stimuli") if step else None

    @property
    def _localized(self) -> Step | None:
        return next((step for step in self.manifest.steps if step.step == "localize"), None)

    def _repr_html_(self) -> str:
        parts = {name: self.summary.get(name) for name in ("model", "localize", "ablate")}
        model, found, ablated = (v if isinstance(v, dict) else {} for v in parts.values())
        facts = {
            "Folder": str(self.folder),
            "Model": model.get("name"),
            "Steps": [step.step for step in self.manifest.steps],
            "Created": self.manifest.created,
        }
        if found:
            facts["Localizer"] = found.get("localizer")
            facts["Network"] = f"{shown(found.get('n_selected'))} of {shown(found.get('n_units'))}"
        title = f"Run {self.manifest.name}"
        return facts_html(title, facts) + effects_html(ablated.get("effects"))

    def table(self, name: str) -> "DataFrame":
        """One of the run's tables, by file name.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"the run {self.folder} has no {name}")
        return read_table(path)


def read_table(path: Path) -> "DataFrame":
    """Read a table from Parquet.

    Raises
    ------
    RunError
        If it cannot be read.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {one_line(error)}") from error


def write_table(folder: Path, name: str, table: "DataFrame") -> None:
    """Write a table as Parquet."""
    table.to_parquet(folder / name, index=False, compression="zstd")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    write_json(folder / SUMMARY_FILE, summary)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON; a number that is not finite becomes null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair stands for a byte of a file name; its escape is JSON's own.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    RunError
        If the file is missing, too large, or not a JSON object.
    """
    # A pipe would block.
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a file")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RunError(f"{path} is larger than any file that onnxloc writes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} must hold a JSON object")
    return value


def finite(value: Any) -> Any:
    """Make a value plain for JSON; a number that is not finite becomes None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
