"""Bundles: a model, its tokenizer, and what the graph itself cannot say, in one folder.

A bundle holds ``model.onnx`` with its weights beside it as external data, ``tokenizer.json`` and
``bundle.json``. A bare ``.onnx`` file and a folder as optimum writes it open as bundles too, with
what can be known of them.
"""

import json
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

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Bundle", "BundleInfo", "FileInfo"]

FORMAT = 1
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
INFO_FILE = "bundle.json"


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
        except ValueError as error:
            raise BundleError(f"{where} is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise BundleError(f"{where} must hold a JSON object")
        unknown = sorted(set(raw) - {f.name for f in fields(cls)})
        if unknown:
            raise BundleError(f"{where}: unknown key {unknown[0]!r}")
        if raw.get("format") != FORMAT:
            raise BundleError(f"{where}: format {raw.get('format')!r} is not {FORMAT}")
        for name, hint in typing.get_type_hints(cls).items():
            if name in raw and not _fits(raw[name], hint):
                raise BundleError(f"{where}: {name} has the wrong type")
        files: dict[str, FileInfo] = {}
        for name, entry in raw.get("files", {}).items():
            if Path(name).name != name or not isinstance(entry, dict):
                raise BundleError(f"{where}: files: {name!r} is not the name of a file beside it")
            if set(entry) != {"size", "sha256"}:
                raise BundleError(f"{where}: files: {name!r} needs size and sha256")
            files[name] = FileInfo(**entry)
        if "name" not in raw:
            raise BundleError(f"{where}: name is missing")
        return cls(**{**raw, "files": files})

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def _fits(value: object, hint: Any) -> bool:
    if typing.get_origin(hint) is types.UnionType:
        return any(_fits(value, part) for part in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    if isinstance(value, bool):
        return kind is bool
    if kind is Mapping:
        return isinstance(value, dict)
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
        if path.is_file():
            model = path
        elif path.is_dir():
            model = _model_in(path)
        else:
            raise ModelError(f"there is no model at {path}")
        folder = model.parent
        tokenizer = folder / TOKENIZER_FILE
        info_path = folder / INFO_FILE
        if info_path.is_file():
            info = BundleInfo.from_json(_read_text(info_path), info_path)
        else:
            info = _foreign_info(folder, model)
        return cls(folder, model, tokenizer if tokenizer.is_file() else None, info)

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
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        except Exception as error:  # tokenizers raises bare Exception for a bad file
            raise BundleError(f"cannot read {self.tokenizer_path}: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

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
            if file.name != INFO_FILE
        }
        (folder / INFO_FILE).write_text(replace(info, files=files).to_json(), encoding="utf-8")


def _model_in(folder: Path) -> Path:
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE
    found = sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))
    if not found:
        raise ModelError(f"{folder} holds no .onnx file")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelError(f"{folder} holds several models ({names}); name one of them")
    return found[0]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {path}: {error}") from error


def _foreign_info(folder: Path, model: Path) -> BundleInfo:
    """What a Hugging Face style folder says of a model that has no ``bundle.json``."""

    def load(name: str) -> dict[str, Any]:
        file = folder / name
        if not file.is_file():
            return {}
        try:
            value = json.loads(_read_text(file))
        except ValueError as error:
            raise BundleError(f"{file} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BundleError(f"{file} must hold a JSON object")
        return value

    config = load("config.json")
    tokens = load("tokenizer_config.json")

    def token(name: str) -> int | None:
        value = config.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    limit = config.get("max_position_embeddings") or config.get("n_positions")
    return BundleInfo(
        name=model.stem if model.stem != "model" else folder.resolve().name,
        architecture=str(config.get("model_type", "")),
        max_tokens=limit if isinstance(limit, int) else None,
        add_bos=tokens.get("add_bos_token") is True,
        bos_token_id=token("bos_token_id"),
        eos_token_id=token("eos_token_id"),
        pad_token_id=token("pad_token_id"),
    )
