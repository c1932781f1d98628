"""Checkpoints read without torch: Hugging Face folders with safetensors, and GGUF files.

What is read becomes nested dictionaries of float32 arrays with the names that Flax uses: a kernel
is ``[in, out]``, an embedding ``[vocabulary, width]``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from onnxloc_exporters.decoder import DecoderConfig, decoder_weights
from onnxloc_exporters.gguf_ import read_decoder
from onnxloc_models.jax.common import Params

from onnxloc.errors import ExportError
from onnxloc.registry import one_line

__all__ = [
    "FolderCheckpoint",
    "GPT2Config",
    "Turns",
    "gpt2_from_folder",
    "llama_from_folder",
    "llama_from_gguf",
]

Turns = NDArray[np.float32]
MAX_JSON = 64 << 20
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class FolderCheckpoint:
    """A folder as Hugging Face's libraries write it: ``config.json`` and safetensors files.

    Attributes
    ----------
    path : Path
        The folder.
    config : mapping
        What ``config.json`` holds.
    files : mapping of str to Path
        The file that each tensor lies in.
    """

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, Path]

    @classmethod
    def open(cls, path: str | Path) -> "FolderCheckpoint":
        """Read the configuration and find the tensors.

        Raises
        ------
        ExportError
            If the folder lacks a file, or a file is not what it should be.
        """
        path = Path(path)
        config = _json(path / "config.json")
        index = path / f"{WEIGHTS}.index.json"
        names = {WEIGHTS}
        if index.is_file():
            where = _json(index).get("weight_map")
            if not isinstance(where, dict) or not all(isinstance(x, str) for x in where.values()):
                raise ExportError(f"{index}: weight_map must give each tensor's file")
            names = set(where.values())
        files: dict[str, Path] = {}
        for name in sorted(names):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ExportError(f"{index}: {name!r} is no safetensors file in that folder")
            files |= dict.fromkeys(_tensors(path / name), path / name)
        return cls(path, config, files)

    def size(self, key: str, default: int | None = None) -> int:
        """Read a positive whole number of the configuration."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ExportError(f"{self.path}: config.json: {key} must be a size, not {value!r:.40}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Read a positive number of the configuration."""
        return _positive(self.config, key, self.path, default)

    def require(self, key: str, *known: Any, absent: bool = True) -> Any:
        """Read a setting, and refuse values that would make another model."""
        value = self.config.get(key)
        if (value is None and absent) or value in known:
            return value
        raise ExportError(
            f"{self.path}: config.json: {key} is {value!r:.60}, which is not known here "
            f"(known: {', '.join(map(repr, known))})"
        )

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Read a tensor as float32.

        Raises
        ------
        ExportError
            If it is missing, has another shape, or holds values that are not finite.
        """
        from safetensors import safe_open

        if name not in self.files:
            raise ExportError(f"{self.path}: the tensor {name} is missing")
        with safe_open(self.files[name], framework="flax") as file:
            found = tuple(file.get_slice(name).get_shape())
            if found != shape:
                raise ExportError(f"{self.path}: {name} has the shape {found}, not {shape}")
            values: Array = file.get_tensor(name).astype(jnp.float32)
        if not np.isfinite(values).all():
            raise ExportError(f"{self.path}: {name} holds values that are not finite")
        return values


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ExportError(f"{path} is too large for what it should hold")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path} must hold a JSON object")
    return value


def _tensors(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="flax") as opened:
            return list(opened.keys())
    except OSError as error:
        raise ExportError(
            f"cannot read {file}: {error.strerror or 'no such file'}; the weights must be "
            "safetensors (pickled .bin files are not opened)"
        ) from error
    except SafetensorError as error:
        raise ExportError(f"{file} is corrupt: {one_line(error)}; get it again") from error


def _positive(raw: Mapping[str, Any], key: str, where: Path, default: float | None = None) -> float:
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise ExportError(f"{where}: config.json: {key} must be positive, not {value!r:.40}")
    return float(value)


# --- Llama -------------------------------------------------------------------------------------


def llama_from_folder(path: str | Path) -> tuple[DecoderConfig, Turns, Params]:
    """Sizes, rotary frequencies and parameters of a Llama in a Hugging Face folder.

    Raises
    ------
    ExportError
        If the folder holds another model, or anything that is not known here.
    """
    folder = FolderCheckpoint.open(path)
    folder.require("model_type", "llama", absent=False)
    folder.require("hidden_act", "silu")
    folder.require("attention_bias", False)
    folder.require("mlp_bias", False)
    width, heads = folder.size("hidden_size"), folder.size("num_attention_heads")
    config = DecoderConfig(
        blocks=folder.size("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=folder.size("num_key_value_heads", heads),
        head_width=folder.size("head_dim", width // heads or 1),
        hidden=folder.size("intermediate_size"),
        vocabulary=folder.size("vocab_size"),
        epsilon=folder.number("rms_norm_eps"),
        tied=bool(folder.require("tie_word_embeddings", True, False)),
    )
    if config.heads % config.kv_heads or config.head_width % 2:
        raise ExportError(
            f"{path}: {heads} heads of {config.head_width}, {config.kv_heads} key heads: these do "
            "not fit"
        )
    shapes = dict(decoder_weights(config))

    def read(name: str) -> Array:
        shape = shapes[name]
        # torch keeps matrices as [out, in], and embeddings as everybody does.
        turned = len(shape) == 2 and "embed" not in name
        values = folder.read(name, shape[::-1] if turned else shape)
        return values.T if turned else values

    return config, _turns(folder, config.head_width), _llama_params(config, read)


def llama_from_gguf(path: str | Path) -> tuple[DecoderConfig, Turns, Params]:
    """Sizes, rotary frequencies and parameters of a Llama in a GGUF file, dequantised.

    Raises
    ------
    ExportError
        If the file is damaged, or holds anything that is not known here.
    """
    config, turns, read = read_decoder(Path(path))
    return config, turns, _llama_params(config, lambda name: jnp.asarray(read(name)))


def _llama_params(config: DecoderConfig, read: Callable[[str], Array]) -> Params:
    def linear(name: str) -> dict[str, Array]:
        found = {"kernel": read(f"{name}.weight")}
        if config.qkv_bias and name.endswith(("q_proj", "k_proj", "v_proj")):
            found["bias"] = read(f"{name}.bias")
        return found

    def scale(name: str) -> dict[str, Array]:
        return {"scale": read(f"{name}.weight")}

    def block(name: str) -> dict[str, Any]:
        return {
            "attn_norm": scale(f"{name}.input_layernorm"),
            "attn": {
                role: linear(f"{name}.self_attn.{role[0]}_proj") for role in ("q", "k", "v", "out")
            },
            "mlp_norm": scale(f"{name}.post_attention_layernorm"),
            "mlp": {role: linear(f"{name}.mlp.{role}_proj") for role in ("gate", "up", "down")},
        }

    params = {
        "embed": {"embedding": read("model.embed_tokens.weight")},
        "block": [block(f"model.layers.{i}") for i in range(config.blocks)],
        "norm": scale("model.norm"),
    }
    return params if config.tied else {**params, "head": linear("lm_head")}


def _turns(folder: FolderCheckpoint, head_width: int) -> Turns:
    """Radians for each position and pair of coordinates: ``base ** (-2 i / head_width)``.

    Linear scaling divides them by a factor; that of Llama 3 divides those of long waves, leaves
    those of short ones, and blends between (as Meta's llama-models computes it).
    """
    config, where = folder.config, folder.path
    raw = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(raw, dict):
        raise ExportError(f"{where}: config.json: rope_scaling must hold an object")
    base = _positive(raw, "rope_theta", where, folder.number("rope_theta", 10000.0))
    turns = base ** -(np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind == "linear":
        turns /= _positive(raw, "factor", where)
    elif kind == "llama3":
        factor, low, high, before = (
            _positive(raw, key, where)
            for key in (
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            )
        )
        if high <= low:
            raise ExportError(
                f"{where}: config.json: high_freq_factor must be over low_freq_factor"
            )
        blend = np.clip((before * turns / (2 * np.pi) - low) / (high - low), 0, 1)
        turns *= (1 - blend) / factor + blend
    elif kind != "default":
        raise ExportError(
            f"{where}: the rope scaling {kind!r:.40} is not known (known: default, linear, llama3)"
        )
    return turns.astype(np.float32)


# --- GPT-2 -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The sizes and switches of a GPT-2.

    Attributes
    ----------
    blocks, width, heads, hidden, vocabulary, positions : int
        Sizes; `positions` is the length of the longest text.
    epsilon : float
        Added to the variance in LayerNorm.
    tanh : bool
        Whether GELU is approximated by a hyperbolic tangent.
    tied : bool
        Whether the output head is the transposed embedding.
    """

    blocks: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    positions: int
    epsilon: float
    tanh: bool
    tied: bool


def gpt2_from_folder(path: str | Path) -> tuple[GPT2Config, Params]:
    """Sizes and parameters of a GPT-2 in a Hugging Face folder.

    Raises
    ------
    ExportError
        If the folder holds another model, or anything that is not known here.
    """
    folder = FolderCheckpoint.open(path)
    folder.require("model_type", "gpt2", absent=False)
    folder.require("scale_attn_weights", True)
    folder.require("scale_attn_by_inverse_layer_idx", False)
    folder.require("add_cross_attention", False)
    gelu = folder.require("activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu")
    width = folder.size("n_embd", 768)
    config = GPT2Config(
        blocks=folder.size("n_layer", 12),
        width=width,
        heads=folder.size("n_head", 12),
        hidden=folder.size("n_inner", 4 * width),
        vocabulary=folder.size("vocab_size", 50257),
        positions=folder.size("n_positions", 1024),
        epsilon=folder.number("layer_norm_epsilon", 1e-5),
        tanh=gelu != "gelu",
        tied=folder.require("tie_word_embeddings", True, False) is not False,
    )
    if width % config.heads:
        raise ExportError(f"{path}: {config.heads} heads do not fit a width of {width}")
    # The first GPT-2 checkpoints were saved without the prefix.
    stem = "transformer." if "transformer.wte.weight" in folder.files else ""

    def linear(name: str, sizes: tuple[int, int]) -> dict[str, Array]:
        return {
            "kernel": folder.read(f"{name}.weight", sizes),
            "bias": folder.read(f"{name}.bias", sizes[1:]),
        }

    def norm(name: str) -> dict[str, Array]:
        return {
            "scale": folder.read(f"{name}.weight", (width,)),
            "bias": folder.read(f"{name}.bias", (width,)),
        }

    def block(name: str) -> dict[str, Any]:
        return {
            "attn_norm": norm(f"{name}.ln_1"),
            "attn": {
                "qkv": linear(f"{name}.attn.c_attn", (width, 3 * width)),
                "out": linear(f"{name}.attn.c_proj", (width, width)),
            },
            "mlp_norm": norm(f"{name}.ln_2"),
            "mlp": {
                "up": linear(f"{name}.mlp.c_fc", (width, config.hidden)),
                "down": linear(f"{name}.mlp.c_proj", (config.hidden, width)),
            },
        }

    params = {
        "embed": {"embedding": folder.read(f"{stem}wte.weight", (config.vocabulary, width))},
        "position": {"embedding": folder.read(f"{stem}wpe.weight", (config.positions, width))},
        "block": [block(f"{stem}h.{i}") for i in range(config.blocks)],
        "norm": norm(f"{stem}ln_f"),
    }
    if not config.tied:
        head = folder.read("lm_head.weight", (config.vocabulary, width))
        params["head"] = {"kernel": head.T}
    return config, params
