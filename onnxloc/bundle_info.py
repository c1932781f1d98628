"""What ``bundle.json`` says: a model's name, where it came from, its tokens, its parity."""

import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from onnxloc.errors import BundleError
from onnxloc.registry import one_line

__all__ = ["BundleInfo", "FileInfo", "Parity", "ParityCase", "fits_type"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Size in bytes and SHA-256 of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One batch that the graph and the source framework both ran.

    Attributes
    ----------
    rows, tokens : int
        Size of the batch; `tokens` is 0 where the inputs are not tokens.
    padded : bool
        Whether some rows were shorter, and padded on the right. Padding is not compared.
    max_abs : float
        Largest absolute difference of any value of the output.
    max_rel : float
        `max_abs` divided by the largest absolute value of the source framework's output.
    """

    rows: int
    tokens: int
    padded: bool
    max_abs: float
    max_rel: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the graph is from the source framework, as seen when the bundle was made.

    Attributes
    ----------
    output : str
        The output of the graph that was compared.
    reference : str
        What it was compared with: a framework, its version and the type of its numbers.
    tolerance : float
        The largest `max_rel` that the export allows.
    max_abs, max_rel : float
        The worst of all cases.
    cases : tuple of ParityCase
        What was run.
    """

    output: str
    reference: str
    tolerance: float
    max_abs: float
    max_rel: float
    cases: tuple[ParityCase, ...]

    @property
    def within(self) -> bool:
        """Whether every case is within the tolerance."""
        return self.max_rel <= self.tolerance

    @classmethod
    def of(
        cls, output: str, reference: str, tolerance: float, cases: tuple[ParityCase, ...]
    ) -> Self:
        """The report of some cases, of which there is at least one."""
        return cls(
            output=output,
            reference=reference,
            tolerance=tolerance,
            max_abs=max(case.max_abs for case in cases),
            max_rel=max(case.max_rel for case in cases),
            cases=cases,
        )


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What ``bundle.json`` says.

    Attributes
    ----------
    name : str
        A name for people; nothing is looked up by it.
    framework, exporter : str
        Where the model came from ("gguf", "torch", ...) and what made the graph of it.
    versions : mapping of str to str
        Versions of the packages that made the graph.
    source, source_sha256 : str
        The source file or hub name, and the hash of the source file where there is one.
    architecture, dtype, license : str
        As the source names them; `dtype` is that of the weights ("float32", "float16").
    opset : int
        Opset of the default ONNX domain; 0 if unknown.
    max_tokens : int or None
        Longest input the model takes, in tokens.
    add_bos : bool
        Whether the model's own metadata asks for a BOS token in front of each text.
    bos_token_id, eos_token_id, pad_token_id : int or None
        Special tokens.
    parity : Parity or None
        How far the graph is from the source framework; None if that was not measured.
    files : mapping of str to FileInfo
        Every other file of the bundle.
    format : int
        Version of this record.
    """

    name: str
    framework: str = "unknown"
    exporter: str = "unknown"
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    source_sha256: str = ""
    architecture: str = ""
    dtype: str = ""
    license: str = ""
    opset: int = 0
    max_tokens: int | None = None
    add_bos: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    parity: Parity | None = None
    files: Mapping[str, FileInfo] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str, where: Path) -> Self:
        """Read ``bundle.json``; unknown keys and wrong types are errors.

        Raises
        ------
        BundleError
            If the text is not such a record.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON: {one_line(error)}") from error
        if not isinstance(raw, dict):
            raise BundleError(f"{where} must hold a JSON object")
        unknown = sorted(set(raw) - {f.name for f in fields(cls)})
        if unknown:
            raise BundleError(f"{where}: unknown key {unknown[0]!r}")
        if raw.get("format") != FORMAT:
            raise BundleError(f"{where}: format {raw.get('format')!r} is not {FORMAT}")
        for name, hint in typing.get_type_hints(cls).items():
            if name in raw and name not in ("files", "parity") and not fits_type(raw[name], hint):
                raise BundleError(f"{where}: {name} has the wrong type")
        for name in ("max_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "opset"):
            if (raw.get(name) or 0) < 0 or (name == "max_tokens" and raw.get(name) == 0):
                raise BundleError(f"{where}: {name} cannot be {raw[name]}")
        if "name" not in raw:
            raise BundleError(f"{where}: name is missing")
        read = {
            "files": _files(raw.get("files", {}), where),
            "parity": _parity(raw.get("parity"), where),
        }
        return cls(**{**raw, **read})

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def _files(raw: object, where: Path) -> dict[str, FileInfo]:
    if not isinstance(raw, dict):
        raise BundleError(f"{where}: files has the wrong type")
    files: dict[str, FileInfo] = {}
    for name, entry in raw.items():
        if Path(name).name != name or name == "..":
            raise BundleError(f"{where}: files: {name!r} is not the name of a file beside it")
        keys = set(entry) if isinstance(entry, dict) else set()
        if keys != {"size", "sha256"} or not fits_type(entry["size"], int):
            raise BundleError(f"{where}: files: {name!r} needs size and sha256")
        if not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            raise BundleError(f"{where}: files: the sha256 of {name!r} is not 64 hex digits")
        files[name] = FileInfo(size=entry["size"], sha256=entry["sha256"])
    return files


def _parity(raw: object, where: Path) -> Parity | None:
    if raw is None:
        return None
    whole = _record(Parity, raw, where, skip="cases")
    cases = whole["cases"]
    if not isinstance(cases, list) or not cases:
        raise BundleError(f"{where}: parity: cases must be a list that is not empty")
    read = tuple(ParityCase(**_record(ParityCase, case, where)) for case in cases)
    return Parity(**{**whole, "cases": read})


def _record(kind: type, raw: object, where: Path, *, skip: str = "") -> dict[str, Any]:
    """A JSON object that has the fields of a parity record, no more and no fewer."""
    hints = typing.get_type_hints(kind)
    if not isinstance(raw, dict) or set(raw) != set(hints):
        raise BundleError(f"{where}: parity must have the keys {', '.join(hints)}")
    for name, hint in hints.items():
        value = raw[name]
        if name == skip:
            continue
        number = isinstance(value, int | float)
        if not fits_type(value, hint) or (number and not 0 <= value <= sys.float_info.max):
            raise BundleError(f"{where}: parity: {name} cannot be {value!r:.40}")
    return raw


def fits_type(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the type that a field's hint asks for."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return True
    if kind is types.UnionType:
        return any(fits_type(value, part) for part in parts)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    if kind is Mapping:
        inner = parts[1]
        return isinstance(value, dict) and all(fits_type(v, inner) for v in value.values())
    return isinstance(value, kind)
