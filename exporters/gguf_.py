"""From a GGUF file to a bundle, without a training framework."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxloc_exporters.decoder import OPSET, DecoderConfig, decoder_model, decoder_weights
from onnxloc_exporters.gguf_reader import GGUFFile
from onnxloc_exporters.gguf_tokenizer import gguf_tokenizer
from onnxloc_exporters.graph_builder import WeightFile

from onnxloc.bundle import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleInfo
from onnxloc.errors import ExportError
from onnxloc.folder import check_free, sha256_file
from onnxloc.progress import Progress

__all__ = ["GGUFExporter", "read_decoder"]

# Whether llama.cpp's converter stores the query and key rows in the order of adjacent pairs.
PERMUTED = {"llama": True, "qwen2": False}

# What may stand under the architecture's name; anything else may change the model.
KEYS = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
)

TENSORS = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class GGUFExporter:
    """Turns a GGUF file of a Llama-family decoder into a bundle.

    Parameters
    ----------
    dtype : {"float32", "float16"}
        What the dequantised weights are stored as; with float16, activations are float16 too.
    with_past : bool
        Give the graph inputs and outputs for the keys and values of earlier tokens, as optimum's
        exports have them, so that generating a token need not run the whole text again.
    parity : bool
        Compare the bundle with the model as transformers reads it from the file; that needs torch.
    allow_mismatch : bool
        Write a bundle even if it differs from that by more than the tolerance.
    """

    dtype: Literal["float32", "float16"] = "float32"
    with_past: bool = False
    parity: bool = False
    allow_mismatch: bool = False

    # Recorded in each bundle; raise it when the same file would give another bundle.
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise ExportError(f"dtype must be float32 or float16, not {self.dtype!r}")

    def export(
        self, source: Path, output: Path, *, force: bool = False, name: str | None = None
    ) -> Path:
        """Write a bundle.

        Parameters
        ----------
        source : Path
            The GGUF file.
        output : Path
            The bundle's folder.
        force : bool
            Replace a bundle that stands there.
        name : str or None
            The bundle's name; by default that of the file.

        Returns
        -------
        Path
            `output`.

        Raises
        ------
        ExportError
            If the file is damaged, or holds anything that this exporter does not know.
        RunError
            If `output` is taken or cannot be written.
        """
        check_free(output, force=force)
        file = GGUFFile(source)
        config = _config(file, half=self.dtype == "float16", with_past=self.with_past)
        frequencies = _inverse_frequencies(file, config.head_width)
        tokenizer = gguf_tokenizer(file)
        if tokenizer.size != config.vocabulary:
            raise ExportError(
                f"{source}: {tokenizer.size} tokens do not fit an embedding of {config.vocabulary}"
            )
        _check_tensors(file, config)
        weights = _Weights(file, config)
        producer = ("onnxloc", _version("onnxloc"))
        with Bundle.writing(output, force=force) as staging:
            total = sum(1 for _ in decoder_weights(config))
            with (
                WeightFile(staging / WEIGHTS_FILE) as data,
                Progress(f"converting {source.name}", total, show=True, unit="tensor") as progress,
            ):

                def weight(key: str) -> onnx.TensorProto:
                    progress.add(1)
                    return data.write(key, weights.read(key))

                model = decoder_model(config, frequencies, weight, producer)
            onnx.save(model, staging / MODEL_FILE)
            (staging / TOKENIZER_FILE).write_text(tokenizer.json, encoding="utf-8")
            packages = ("onnxloc", "gguf", "numpy", "onnx", "tokenizers")
            info = BundleInfo(
                name=name or source.stem,
                framework="gguf",
                exporter="gguf",
                versions={"exporter": self.version} | {each: _version(each) for each in packages},
                source=source.name,
                source_sha256=sha256_file(source),
                architecture=file.text("general.architecture"),
                dtype=self.dtype,
                license=file.text("general.license", ""),
                opset=OPSET,
                max_tokens=_size(file, "context_length"),
                add_bos=tokenizer.add_bos,
                bos_token_id=tokenizer.bos,
                eos_token_id=tokenizer.eos,
                pad_token_id=tokenizer.pad,
            )
            if self.parity:
                # These need a training framework, the rest of this module none.
                from onnxloc_exporters.gguf_parity import gguf_reference
                from onnxloc_exporters.parity import record

                reference, by = gguf_reference(source)
                record(
                    staging,
                    info,
                    reference,
                    vocabulary=config.vocabulary,
                    name=by,
                    allow_mismatch=self.allow_mismatch,
                )
            else:
                Bundle.describe(staging, info)
        return output


def read_decoder(
    source: Path,
) -> tuple[DecoderConfig, NDArray[np.float32], Callable[[str], NDArray[np.floating]]]:
    """Open the decoder that a GGUF file holds, for other exporters.

    Parameters
    ----------
    source : Path
        The GGUF file.

    Returns
    -------
    tuple
        Its sizes, the radians that each pair of coordinates turns for each position, and a function
        that reads one float32 weight, by the names and in the shapes of `decoder_weights`.

    Raises
    ------
    ExportError
        If the file is damaged, or holds anything that is not known here.
    """
    file = GGUFFile(source)
    config = _config(file, half=False, with_past=False)
    _check_tensors(file, config)
    return config, _inverse_frequencies(file, config.head_width), _Weights(file, config).read


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _architecture(file: GGUFFile) -> str:
    name = file.text("general.architecture")
    if name not in PERMUTED:
        known = ", ".join(PERMUTED)
        raise ExportError(f"{file.path}: the architecture {name!r} is not known (known: {known})")
    return name


def _size(file: GGUFFile, key: str, default: int | None = None) -> int:
    """Read a size, which is positive, under the architecture's name."""
    key = f"{_architecture(file)}.{key}"
    value = file.integer(key, default)
    if value == 0:
        raise ExportError(f"{file.path}: {key} must not be 0")
    return value


def _config(file: GGUFFile, *, half: bool, with_past: bool) -> DecoderConfig:
    architecture = _architecture(file)
    file.refuse_unknown(f"{architecture}.", (f"{architecture}.{key}" for key in KEYS))
    if file.integer("split.count", 1) > 1:
        raise ExportError(f"{file.path} is one of several parts; join them with gguf-split first")
    if file.integer(f"{architecture}.expert_count", 0):
        raise ExportError(f"{file.path}: mixtures of experts are not supported (expert_count)")
    width, heads = _size(file, "embedding_length"), _size(file, "attention.head_count")
    kv_heads = _size(file, "attention.head_count_kv", heads)
    head_width = _size(file, "attention.key_length", width // heads or 1)
    if heads % kv_heads or head_width % 2:
        raise ExportError(
            f"{file.path}: {heads} heads of {head_width}, {kv_heads} key heads: these do not fit"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if _size(file, key, head_width) != head_width:
            raise ExportError(f"{file.path}: {key} must be the head width, {head_width}")
    embedding = "token_embd.weight"
    if embedding not in file.tensors:
        raise ExportError(f"{file.path}: the tensor {embedding} is missing")
    vocabulary = file.shape(embedding)[0]
    if _size(file, "vocab_size", vocabulary) != vocabulary:
        raise ExportError(f"{file.path}: vocab_size does not fit the {vocabulary} embeddings")
    epsilon = file.number(f"{architecture}.attention.layer_norm_rms_epsilon")
    if not 0 < epsilon < 1:
        raise ExportError(f"{file.path}: the epsilon of the norms is {epsilon}, not in (0, 1)")
    return DecoderConfig(
        blocks=_size(file, "block_count"),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        hidden=_size(file, "feed_forward_length"),
        vocabulary=vocabulary,
        epsilon=epsilon,
        tied="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        half=half,
        with_past=with_past,
    )


def _inverse_frequencies(file: GGUFFile, head_width: int) -> NDArray[np.float32]:
    """Radians for each position and pair of coordinates: ``base ** (-2 i / head_width)``.

    Linear scaling divides them by its factor, and a tensor of factors, as Llama 3.1 has it, each
    by its own.
    """
    architecture = _architecture(file)
    base = file.number(f"{architecture}.rope.freq_base", 10000.0)
    # llama.cpp takes a factor without a type for a linear one.
    kind = file.text(f"{architecture}.rope.scaling.type", "linear")
    legacy = file.number(f"{architecture}.rope.scale_linear", 1.0)
    factor = file.number(f"{architecture}.rope.scaling.factor", legacy)
    if kind not in ("none", "linear"):
        raise ExportError(
            f"{file.path}: the rope scaling {kind!r} is not known (known: none, linear)"
        )
    if base <= 0 or factor < 0:
        raise ExportError(f"{file.path}: rope base {base} and factor {factor} make no sense")
    exponents = np.arange(0, head_width, 2, dtype=np.float64) / head_width
    frequencies = base**-exponents
    if kind == "linear" and factor:
        frequencies /= factor
    if FREQUENCIES in file.tensors:
        if file.shape(FREQUENCIES) != (head_width // 2,):
            raise ExportError(f"{file.path}: {FREQUENCIES} must have the shape ({head_width // 2})")
        factors = file.read(FREQUENCIES)
        if not (factors > 0).all():
            raise ExportError(f"{file.path}: {FREQUENCIES} holds factors that are not positive")
        frequencies /= factors
    return frequencies.astype(np.float32)


def _gguf_name(key: str) -> str:
    """Turn ``model.layers.3.mlp.up_proj.weight`` into ``blk.3.ffn_up.weight``."""
    *scope, layer, kind = key.split(".")
    block = f"blk.{scope[2]}." if "layers" in scope else ""
    return f"{block}{TENSORS[layer]}.{kind}"


def _is_matrix(key: str) -> bool:
    """Whether a weight is multiplied with; GGUF stores these as ``[out, in]``."""
    return key.endswith(("_proj.weight", "lm_head.weight"))


def _check_tensors(file: GGUFFile, config: DecoderConfig) -> None:
    """Every weight is there, in its shape, and nothing else is."""
    expected = {FREQUENCIES}
    for key, shape in decoder_weights(config):
        name = _gguf_name(key)
        if name not in file.tensors:
            raise ExportError(f"{file.path}: the tensor {name} is missing")
        shape = shape[::-1] if _is_matrix(key) else shape
        if file.shape(name) != shape:
            raise ExportError(f"{file.path}: {name} has the shape {file.shape(name)}, not {shape}")
        expected.add(name)
    for name in file.tensors:
        if name not in expected:
            raise ExportError(f"{file.path}: the tensor {name} is not known")


@dataclass(frozen=True)
class _Weights:
    """Reads one weight at a time, in the layout that the graph wants."""

    file: GGUFFile
    config: DecoderConfig

    def read(self, key: str) -> NDArray[np.floating]:
        name = _gguf_name(key)
        values = self.file.read(name)
        if PERMUTED[_architecture(self.file)]:
            if ".q_proj." in key:
                values = _halves(values, self.config.heads)
            elif ".k_proj." in key:
                values = _halves(values, self.config.kv_heads)
        if _is_matrix(key):
            values = values.T
        if not self.config.half:
            return values
        if max(values.max(), -values.min()) > np.finfo(np.float16).max:
            raise ExportError(f"{self.file.path}: {name} overflows float16; export it as float32")
        return values.astype(np.float16)


def _halves(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of rows: from adjacent pairs to the two halves of each head."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)
