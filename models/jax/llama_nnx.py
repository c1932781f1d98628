"""Llama in Flax NNX: the same equations, names and shapes as in `onnxloc_models.jax.llama`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from onnxloc_exporters.decoder import DecoderConfig
from onnxloc_models.jax.checkpoint import Turns, llama_from_folder, llama_from_gguf
from onnxloc_models.jax.common import FLOOR, Params, Program, causal, example_inputs, fill
from onnxloc_models.jax.llama import rotate

__all__ = ["Llama", "from_folder", "from_gguf"]


def from_folder(path: str) -> Program:
    """A Hugging Face folder's model, as ``onnxloc export jax`` takes it.

    Parameters
    ----------
    path : str
        A folder with ``config.json`` and safetensors.

    Returns
    -------
    tuple
        The module, None as its parameters are in it, and example inputs.
    """
    return _filled(*llama_from_folder(path)), None, example_inputs()


def from_gguf(path: str) -> Program:
    """A GGUF file's model, dequantised, as ``onnxloc export jax`` takes it."""
    return _filled(*llama_from_gguf(path)), None, example_inputs()


def _filled(config: DecoderConfig, turns: Turns, params: Params) -> "Llama":
    return fill(lambda: Llama(config, turns, nnx.Rngs(0)), params)


class Llama(nnx.Module):
    """A decoder of RMSNorm, rotary positions, grouped-query attention and SwiGLU.

    Parameters
    ----------
    config
        Sizes and switches.
    turns : array of shape (d / 2,)
        Radians that each pair of coordinates turns for each position.
    rngs
        Where the initial values of the parameters come from.
    """

    def __init__(self, config: DecoderConfig, turns: Turns, rngs: nnx.Rngs) -> None:
        # A tuple, as these are no parameters.
        self.tied, self.turns = config.tied, tuple(turns.tolist())
        self.embed = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.block = nnx.List([Block(config, rngs) for _ in range(config.blocks)])
        self.norm = nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        if not config.tied:
            self.head = nnx.Linear(config.width, config.vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, input_ids: Array, attention_mask: Array) -> Array:
        """The logits of every token, float32 ``[B, T, V]``; both inputs are ``[B, T]``."""
        places, allowed = causal(attention_mask)
        angles = places[:, None] * jnp.asarray(self.turns)
        rotation = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        stream = self.embed(input_ids)
        for i, block in enumerate(self.block):
            with jax.named_scope(f"block.{i}"):
                stream = block(stream, rotation, allowed)
        with jax.named_scope("head"):
            stream = self.norm(stream)
            return self.embed.attend(stream) if self.tied else self.head(stream)


class Block(nnx.Module):
    """Attention and an MLP, each behind a norm, each added to the stream."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.attn_norm = nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attn = Attention(config, rngs)
        self.mlp_norm = nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: Array, rotation: tuple[Array, Array], allowed: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``."""
        with jax.named_scope("attn"):
            x = x + self.attn(self.attn_norm(x), rotation, allowed)
        with jax.named_scope("mlp"):
            return x + self.mlp(self.mlp_norm(x))


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_width = config.head_width
        wide, narrow = config.heads * config.head_width, config.kv_heads * config.head_width
        bias = config.qkv_bias
        self.q = nnx.Linear(config.width, wide, use_bias=bias, rngs=rngs)
        self.k = nnx.Linear(config.width, narrow, use_bias=bias, rngs=rngs)
        self.v = nnx.Linear(config.width, narrow, use_bias=bias, rngs=rngs)
        self.out = nnx.Linear(wide, config.width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, rotation: tuple[Array, Array], allowed: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``; `allowed` is bool ``[B, 1, T, T]``."""
        query = rotate(self._parted(self.q(x)), rotation)
        key = rotate(self._parted(self.k(x)), rotation)
        value = self._parted(self.v(x))
        if self.heads != self.kv_heads:
            group = self.heads // self.kv_heads
            key, value = jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2)
        scores = jnp.einsum("bthd,bshd->bhts", query, key) * self.head_width**-0.5
        weights = jax.nn.softmax(jnp.where(allowed, scores, FLOOR), axis=-1)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, value)
        return self.out(mixed.reshape(*x.shape[:2], self.heads * self.head_width))

    def _parted(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1, self.head_width)


class MLP(nnx.Module):
    """SwiGLU, ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.gate = nnx.Linear(config.width, config.hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(config.width, config.hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(config.hidden, config.width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
