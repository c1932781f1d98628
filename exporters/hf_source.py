"""Hugging Face checkpoints: found, checked, and loaded without pickle or foreign code."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxloc.bundle import MODEL_FILE, TOKENIZER_FILE, BundleInfo, checkpoint_info
from onnxloc.errors import BundleError, ExportError
from onnxloc.folder import sha256_file
from onnxloc.registry import one_line

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "Checkpoint", "computing", "open_checkpoint", "quiet", "versions"]

DTYPES = ("float32", "float16", "bfloat16")
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 64 << 20
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# All that is fetched from the hub: no code, no pickle.
PATTERNS = ("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt")
TOKENIZER_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
                   "vocab.txt")  # fmt: skip

# What a class of transformers does: the kinds, the table of classes, the loader. Some classes stand
# in several tables; the first counts.
KINDS = (
    ("seq2seq", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "AutoModelForSeq2SeqLM"),
    ("causal", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM"),
    ("masked", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "AutoModelForMaskedLM"),
    ("classifier", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
     "AutoModelForSequenceClassification"),
    ("tagger", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "AutoModelForTokenClassification"),
    ("encoder", "MODEL_MAPPING_NAMES", "AutoModel"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with ``config.json`` and weights in safetensors.

    Attributes
    ----------
    folder : Path
        Where it lies.
    name : str
        The hub name, or the folder's.
    kind : {"causal", "masked", "seq2seq", "classifier", "tagger", "encoder"}
        What the model does, by ``architectures`` of its configuration.
    loader : str
        The class of transformers that loads it.
    sha256 : str
        SHA-256 over the lines ``<hash of a file>  <its name>`` of configuration and weights, sorted
        by name, as ``sha256sum config.json *.safetensors`` prints them.
    """

    folder: Path
    name: str
    kind: str
    loader: str
    sha256: str

    def load(self, dtype: str) -> "torch.nn.Module":
        """The model in torch, with attention as plain operators, ready to be run.

        Raises
        ------
        ExportError
            If transformers cannot load it, or weights are missing.
        """
        import torch
        import transformers

        try:
            with quiet():
                model, said = getattr(transformers, self.loader).from_pretrained(
                    self.folder,
                    dtype=torch.float16 if dtype == "float16" else torch.float32,
                    attn_implementation="eager",
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # whatever a constructor makes of a configuration may be raised
            why = one_line(error)
            raise ExportError(f"transformers cannot load {self.folder}: {why}") from error
        # Encoders are often saved without the pooler; no output that is exported depends on it.
        missing = sorted(key for key in said["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ExportError(
                f"{self.folder} lacks {len(missing)} weights of {type(model).__name__}, such as "
                f"{missing[0]}"
            )
        return computing(model.eval(), dtype)[0]

    def write_tokenizer(self, folder: Path) -> Path | None:
        """Write ``tokenizer.json`` into a folder: copied, or converted from an older form.

        Returns
        -------
        Path or None
            None if the checkpoint has no tokenizer.

        Raises
        ------
        ExportError
            If the tokenizer cannot be read.
        """
        target = folder / TOKENIZER_FILE
        if (self.folder / TOKENIZER_FILE).is_file():
            target.write_bytes((self.folder / TOKENIZER_FILE).read_bytes())
        elif any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            from transformers import AutoTokenizer

            try:
                with quiet():
                    fast = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                        self.folder, use_fast=True, local_files_only=True, trust_remote_code=False
                    ).backend_tokenizer
                    target.write_text(fast.to_str(pretty=True), encoding="utf-8")
            except Exception as error:  # converters raise whatever a malformed file leads them to
                raise ExportError(
                    f"the tokenizer of {self.folder} cannot be converted ({one_line(error)}); put "
                    f"a {TOKENIZER_FILE} there"
                ) from error
        else:
            return None
        return target

    def info(self, tokenizer: Path | None, *, name: str | None, **known: Any) -> BundleInfo:
        """What the checkpoint says of itself, and what the exporter knows.

        Raises
        ------
        ExportError
            If the tokenizer or its settings are malformed.
        """
        try:
            info = checkpoint_info(self.folder / MODEL_FILE, tokenizer)
        except BundleError as error:
            raise ExportError(str(error)) from error
        # Where positions begin behind the padding id, the embedding has more rows than the model
        # takes tokens; the tokenizer's settings know.
        longest = _json(self.folder, "tokenizer_config.json").get("model_max_length")
        whole = isinstance(longest, int) and not isinstance(longest, bool) and longest > 0
        limits = [n for n in (info.max_tokens, longest if whole else None) if n]
        return replace(
            info,
            name=name or self.name,
            source=self.name,
            source_sha256=self.sha256,
            max_tokens=min(limits, default=None),
            **known,
        )


def open_checkpoint(source: str) -> Checkpoint:
    """Find a checkpoint in a folder or, by its name, on the hub.

    Raises
    ------
    ExportError
        If there is none, its weights are not in safetensors, or it is not a model known here.
    """
    try:
        local = Path(source).is_dir()
    except (OSError, ValueError) as error:
        raise ExportError(f"{source[:80]!r} is no usable path: {one_line(error)}") from error
    folder = Path(source) if local else _fetched(source)
    config = _json(folder, CONFIG)
    if not config:
        raise ExportError(f"{folder} has no {CONFIG}; name a folder of a Hugging Face checkpoint")
    files = _weight_files(folder)
    if config.get("quantization_config"):
        raise ExportError(f"{folder} holds quantised weights; name the unquantised checkpoint")
    kind, loader = _kind(folder, config)
    lines = (f"{sha256_file(folder / file)}  {file}\n" for file in sorted([CONFIG, *files]))
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    name = folder.resolve().name if local else source
    return Checkpoint(folder=folder.resolve() if local else folder, name=name, kind=kind,
                      loader=loader, sha256=digest)  # fmt: skip


def _fetched(source: str) -> Path:
    if not HUB_NAME.fullmatch(source):
        raise ExportError(f"there is no folder {source[:200]!r}, and no model has such a name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(source, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ExportError(
            f"there is no folder {source!r}, and the model hub does not give such a model: "
            f"{one_line(error)}"
        ) from error


def _json(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    try:
        if not file.is_file():
            return {}
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ExportError(f"{file} is too large for what it should hold")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"cannot read {file}: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{file} must hold a JSON object")
    return value


def _weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, all beside the configuration."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    shards = _json(folder, INDEX).get("weight_map")
    if isinstance(shards, dict) and shards:
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ExportError(f"{folder / INDEX}: {name!r} is not a file beside it")
            if not (folder / name).is_file():
                raise ExportError(f"{folder} lacks {name}, which its {INDEX} names")
        return names
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise ExportError(
            f"{folder} holds pickled weights, which can run code and are not read; save the model "
            "with safe_serialization=True"
        )
    raise ExportError(f"{folder} has no {WEIGHTS}")


def _kind(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    from transformers.models.auto import modeling_auto

    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    for kind, table, loader in KINDS:
        classes = getattr(modeling_auto, table).get(config.get("model_type"), ())
        if name in ((classes,) if isinstance(classes, str) else classes):
            return kind, loader
    raise ExportError(
        f"{folder / CONFIG}: the architecture {name!r} of model type {config.get('model_type')!r} "
        "is not a language model or encoder that transformers knows"
    )


def computing(module: "torch.nn.Module", dtype: str) -> "tuple[torch.nn.Module, torch.dtype]":
    """A module with weights rounded to a type of `DTYPES`, and the type that it computes in.

    For bfloat16 that is float32. Buffers, such as the frequencies of positions, are not rounded
    then.
    """
    import torch

    if dtype == "bfloat16":
        module = module.to(torch.float32)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
        return module, torch.float32
    wanted: torch.dtype = getattr(torch, dtype)
    return module.to(wanted), wanted


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages, and onnxloc's."""
    found = {}
    for package in ("onnxloc", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries print, warn of, log and draw to themselves."""
    import io
    import logging
    import warnings
    from contextlib import redirect_stderr, redirect_stdout

    from transformers.utils import logging as hf_logging

    level, bars = logging.root.manager.disable, hf_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
