"""Bundles: a model, its tokenizer, and what the graph itself cannot say, in one folder.

A bundle holds ``model.onnx`` with its weights beside it as external data, ``tokenizer.json`` and
``bundle.json``. A bare ``.onnx`` file and a folder as optimum writes it open as bundles too, with
what can be known of them.
"""

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from onnxloc.errors import BundleError, ModelError
from onnxloc.folder import new_folder, sha256_file
from onnxloc.registry import one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Bundle", "BundleInfo", "FileInfo", "fits_type"]

FORMAT = 1
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
INFO_FILE = "bundle.json"
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Size in bytes and SHA-256 of one file of a bundle."""

    size: int
    sha256: str


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
            if name in raw and name != "files" and not fits_type(raw[name], hint):
                raise BundleError(f"{where}: {name} has the wrong type")
        for name in ("max_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "opset"):
            if (raw.get(name) or 0) < 0 or (name == "max_tokens" and raw.get(name) == 0):
                raise BundleError(f"{where}: {name} cannot be {raw[name]}")
        if "name" not in raw:
            raise BundleError(f"{where}: name is missing")
        return cls(**{**raw, "files": _files(raw.get("files", {}), where)})

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


@dataclass(frozen=True)
class Bundle:
    """A model on disk, opened without reading its weights.

    Attributes
    ----------
    folder : Path
        Where external data is looked for.
    model_path : Path
        The ``.onnx`` file.
    tokenizer_path : Path or None
        ``tokenizer.json``, if there is one.
    info : BundleInfo
        What is known beyond the graph.
    """

    folder: Path
    model_path: Path
    tokenizer_path: Path | None
    info: BundleInfo

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle folder, a bare ``.onnx`` file, or a folder as optimum writes it.

        Raises
        ------
        ModelError
            If there is no model at `path`.
        BundleError
            If ``bundle.json`` or the tokenizer's settings cannot be read.
        """
        path = Path(path)
        try:
            if path.is_file():
                model = path
            elif path.is_dir():
                model = _model_in(path)
            else:
                raise ModelError(f"there is no model at {path}")
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
        info_path = model.parent / INFO_FILE
        if info_path.is_file():
            info = BundleInfo.from_json(_read_text(info_path), info_path)
        else:
            info = _foreign_info(model)
        return cls(model.parent, model, _beside(model, TOKENIZER_FILE), info)

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer, with its own padding, truncation and special tokens switched off.

        Raises
        ------
        BundleError
            If the bundle has none, or it cannot be read.
        """
        if self.tokenizer_path is None:
            raise BundleError(
                f"{self.folder} has no {TOKENIZER_FILE}; put the model's own beside {MODEL_FILE}"
            )
        return _read_tokenizer(self.tokenizer_path)

    @staticmethod
    @contextmanager
    def writing(path: Path, *, force: bool = False) -> Iterator[Path]:
        """A staging folder for a new bundle; see `onnxloc.folder.new_folder`."""
        with new_folder(path, force=force) as staging:
            yield staging

    @staticmethod
    def describe(folder: Path, info: BundleInfo) -> None:
        """Write ``bundle.json`` for the files that stand in `folder`."""
        files = {
            file.name: FileInfo(size=file.stat().st_size, sha256=sha256_file(file))
            for file in sorted(folder.iterdir())
            if file.name != INFO_FILE and file.is_file()
        }
        (folder / INFO_FILE).write_text(replace(info, files=files).to_json(), encoding="utf-8")


def _model_in(folder: Path) -> Path:
    for name in (MODEL_FILE, f"onnx/{MODEL_FILE}"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))
    if not found:
        raise ModelError(f"{folder} holds no .onnx file")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelError(f"{folder} holds several models ({names:.200}); name one of them")
    return found[0]


def _beside(model: Path, name: str) -> Path | None:
    """A file that goes with a model: beside it, or above it where the model lies in ``onnx/``."""
    folder = model.absolute().parent
    for place in (folder, folder.parent) if folder.name == "onnx" else (folder,):
        if (place / name).is_file():
            return place / name
    return None


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BundleError(f"{path} is too large for what it should hold")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {path}: {one_line(error)}") from error


def _foreign_info(model: Path) -> BundleInfo:
    """What a Hugging Face style folder says of a model that has no ``bundle.json``."""

    def load(name: str) -> dict[str, Any]:
        file = _beside(model, name)
        if file is None:
            return {}
        try:
            value = json.loads(_read_text(file))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file} is not JSON: {one_line(error)}") from error
        if not isinstance(value, dict):
            raise BundleError(f"{file} must hold a JSON object")
        return value

    config = load("config.json")
    tokens = load("tokenizer_config.json")

    def number(name: str, least: int) -> int | None:
        value: Any = config.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        whole = isinstance(value, int) and not isinstance(value, bool)
        return int(value) if whole and value >= least else None

    bos = number("bos_token_id", 0)
    add_bos = tokens.get("add_bos_token")
    if add_bos is None and bos is not None:
        add_bos = _puts_in_front(_beside(model, TOKENIZER_FILE), bos)
    return BundleInfo(
        name=model.stem if model.stem != "model" else model.resolve().parent.name,
        architecture=str(config.get("model_type", "")),
        max_tokens=number("max_position_embeddings", 1) or number("n_positions", 1),
        add_bos=add_bos is True,
        bos_token_id=bos,
        eos_token_id=number("eos_token_id", 0),
        pad_token_id=number("pad_token_id", 0),
    )


def _read_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        raise BundleError(f"cannot read {path}: {one_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _puts_in_front(tokenizer: Path | None, token: int) -> bool:
    """Whether a tokenizer's own template begins a text with `token`, as Llama 3's does."""
    if tokenizer is None:
        return False
    front: list[int] = _read_tokenizer(tokenizer).encode("a").ids[:1]
    return front == [token]
