"""Llama in plain JAX: a function of nested dictionaries of arrays.

RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864, halves rotated as in Hugging Face's
models), grouped-query attention (arXiv 2305.13245) and SwiGLU (arXiv 2002.05202).

Shapes are named by letters: B texts, T tokens of each, D the width of the residual stream, H heads,
K key heads, d the width of a head, F hidden units, V tokens of the vocabulary. Kernels are
``[in, out]``. Texts are padded on the right.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from onnxloc_exporters.decoder import DecoderConfig
from onnxloc_models.jax.checkpoint import llama_from_folder, llama_from_gguf
from onnxloc_models.jax.common import FLOOR, Params, Program, causal, example_inputs

__all__ = ["forward", "from_folder", "from_gguf"]


def from_folder(path: str) -> Program:
    """A Hugging Face folder's model, as ``onnxloc export jax`` takes it.

    Parameters
    ----------
    path : str
        A folder with ``config.json`` and safetensors.

    Returns
    -------
    tuple
        The function, its parameters and example inputs.
    """
    config, turns, params = llama_from_folder(path)
    return partial(forward, config, jnp.asarray(turns)), params, example_inputs()


def from_gguf(path: str) -> Program:
    """A GGUF file's model, dequantised, as ``onnxloc export jax`` takes it."""
    config, turns, params = llama_from_gguf(path)
    return partial(forward, config, jnp.asarray(turns)), params, example_inputs()


def forward(
    config: DecoderConfig, turns: Array, params: Params, input_ids: Array, attention_mask: Array
) -> Array:
    """The logits of every token, float32 ``[B, T, V]``.

    Parameters
    ----------
    config
        Sizes and switches.
    turns : array of shape (d / 2,)
        Radians that each pair of coordinates turns for each position.
    params : mapping
        As `from_folder` and `from_gguf` give it.
    input_ids, attention_mask : integer arrays of shape (B, T)
        The mask is 1 at tokens and 0 at padding.
    """
    places, allowed = causal(attention_mask)
    angles = places[:, None] * turns
    rotation = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    stream = params["embed"]["embedding"][input_ids]
    for i, block in enumerate(params["block"]):
        with jax.named_scope(f"block.{i}"):
            with jax.named_scope("attn"):
                normed = norm(config, block["attn_norm"], stream)
                stream = stream + attention(config, block["attn"], normed, rotation, allowed)
            with jax.named_scope("mlp"):
                stream = stream + mlp(block["mlp"], norm(config, block["mlp_norm"], stream))
    with jax.named_scope("head"):
        stream = norm(config, params["norm"], stream)
        kernel = params["embed"]["embedding"].T if config.tied else params["head"]["kernel"]
        logits: Array = stream @ kernel
        return logits


def norm(config: DecoderConfig, params: Params, x: Array) -> Array:
    """RMSNorm, ``x / sqrt(mean(x^2) + epsilon) * scale``."""
    root = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.epsilon)
    scaled: Array = x / root * params["scale"]
    return scaled


def linear(params: Params, x: Array) -> Array:
    """``x @ kernel (+ bias)``."""
    y: Array = x @ params["kernel"]
    return y + params["bias"] if "bias" in params else y


def attention(
    config: DecoderConfig,
    params: Params,
    x: Array,
    rotation: tuple[Array, Array],
    allowed: Array,
) -> Array:
    """Grouped-query attention, from ``[B, T, D]`` to ``[B, T, D]``."""
    batch, length, _ = x.shape

    def split(name: str, heads: int) -> Array:
        return linear(params[name], x).reshape(batch, length, heads, config.head_width)

    query = rotate(split("q", config.heads), rotation)
    key = rotate(split("k", config.kv_heads), rotation)
    value = split("v", config.kv_heads)
    if config.heads != config.kv_heads:
        group = config.heads // config.kv_heads
        key, value = jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2)
    scores = jnp.einsum("bthd,bshd->bhts", query, key) * config.head_width**-0.5
    weights = jax.nn.softmax(jnp.where(allowed, scores, FLOOR), axis=-1)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, value)
    return linear(params["out"], mixed.reshape(batch, length, config.heads * config.head_width))


def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Turn each pair ``(x[i], x[i + d / 2])`` by its token's angle."""
    cos, sin = rotation
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def mlp(params: Params, x: Array) -> Array:
    """SwiGLU, ``down(silu(gate(x)) * up(x))``."""
    hidden = jax.nn.silu(linear(params["gate"], x)) * linear(params["up"], x)
    return linear(params["down"], hidden)
