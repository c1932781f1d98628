"""GPT-2 in plain JAX: a function of nested dictionaries of arrays.

The model of "Language Models are Unsupervised Multitask Learners" (2019). Shapes are named as in
`onnxloc_models.jax.llama`. Kernels are ``[in, out]``. Texts are padded on the right.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from onnxloc_models.jax.checkpoint import GPT2Config, gpt2_from_folder
from onnxloc_models.jax.common import FLOOR, Params, Program, causal, example_inputs

__all__ = ["forward", "from_folder"]


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
    config, params = gpt2_from_folder(path)
    return partial(forward, config), params, example_inputs()


def forward(config: GPT2Config, params: Params, input_ids: Array, attention_mask: Array) -> Array:
    """The logits of every token, float32 ``[B, T, V]``.

    Parameters
    ----------
    config
        Sizes and switches.
    params : mapping
        As `from_folder` gives it.
    input_ids, attention_mask : integer arrays of shape (B, T)
        The mask is 1 at tokens and 0 at padding.
    """
    places, allowed = causal(attention_mask)
    tokens, positions = params["embed"]["embedding"], params["position"]["embedding"]
    stream = tokens[input_ids] + positions[places]
    for i, block in enumerate(params["block"]):
        with jax.named_scope(f"block.{i}"):
            with jax.named_scope("attn"):
                normed = norm(config, block["attn_norm"], stream)
                stream = stream + attention(config, block["attn"], normed, allowed)
            with jax.named_scope("mlp"):
                normed = norm(config, block["mlp_norm"], stream)
                stream = stream + mlp(config, block["mlp"], normed)
    with jax.named_scope("head"):
        stream = norm(config, params["norm"], stream)
        logits: Array = stream @ (tokens.T if config.tied else params["head"]["kernel"])
        return logits


def norm(config: GPT2Config, params: Params, x: Array) -> Array:
    """LayerNorm, ``(x - mean) / sqrt(variance + epsilon) * scale + bias``."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    scaled: Array = centred / jnp.sqrt(variance + config.epsilon) * params["scale"]
    shifted: Array = scaled + params["bias"]
    return shifted


def linear(params: Params, x: Array) -> Array:
    """``x @ kernel + bias``."""
    y: Array = x @ params["kernel"] + params["bias"]
    return y


def attention(config: GPT2Config, params: Params, x: Array, allowed: Array) -> Array:
    """Attention of several heads, from ``[B, T, D]`` to ``[B, T, D]``."""
    batch, length, width = x.shape
    shape = batch, length, config.heads, width // config.heads
    parts = jnp.split(linear(params["qkv"], x), 3, axis=-1)
    query, key, value = (part.reshape(shape) for part in parts)
    scores = jnp.einsum("bthd,bshd->bhts", query, key) * shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(allowed, scores, FLOOR), axis=-1)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, value)
    return linear(params["out"], mixed.reshape(batch, length, width))


def mlp(config: GPT2Config, params: Params, x: Array) -> Array:
    """``down(gelu(up(x)))``."""
    hidden = jax.nn.gelu(linear(params["up"], x), approximate=config.tanh)
    return linear(params["down"], hidden)
