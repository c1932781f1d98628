"""Bundles: a model, its tokenizer, and what the graph itself cannot say, in one folder.

A bundle holds ``model.onnx`` with its weights beside it as external data, ``tokenizer.json`` and
``bundle.json``. A bare ``.onnx`` file and a folder as optimum writes it open as bundles too, with
what can be known of them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from onnxloc.bundle_info import BundleInfo, FileInfo, Parity, ParityCase, fits_type
from onnxloc.errors import BundleError, ModelError
from onnxloc.folder import new_folder, sha256_file
from onnxloc.registry import one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "Bundle",
    "BundleInfo",
    "FileInfo",
    "Parity",
    "ParityCase",
    "checkpoint_info",
    "fits_type",
]

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
INFO_FILE = "bundle.json"
MAX_JSON_BYTES = 64 << 20


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
            info = checkpoint_info(model)
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


def checkpoint_info(model: Path, tokenizer: Path | None = None) -> BundleInfo:
    """What a Hugging Face style folder says of a model that has no ``bundle.json``.

    Parameters
    ----------
    model : Path
        A file in that folder, or in ``onnx/`` below it; it need not exist.
    tokenizer : Path or None
        Its ``tokenizer.json``; by default the one beside it.

    Raises
    ------
    BundleError
        If the folder's settings cannot be read.
    """

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
        add_bos = _puts_in_front(tokenizer or _beside(model, TOKENIZER_FILE), bos)
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
