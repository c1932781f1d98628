"""GPT-2 in Flax NNX: the same equations, names and shapes as in `onnxloc_models.jax.gpt2`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from onnxloc_models.jax.checkpoint import GPT2Config, gpt2_from_folder
from onnxloc_models.jax.common import FLOOR, Program, causal, example_inputs, fill

__all__ = ["GPT2", "from_folder"]


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
    config, params = gpt2_from_folder(path)
    return fill(lambda: GPT2(config, nnx.Rngs(0)), params), None, example_inputs()


class GPT2(nnx.Module):
    """A decoder of LayerNorm, learned positions, attention and an MLP with GELU.

    Parameters
    ----------
    config
        Sizes and switches.
    rngs
        Where the initial values of the parameters come from.
    """

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        self.tied = config.tied
        self.embed = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.position = nnx.Embed(config.positions, config.width, rngs=rngs)
        self.block = nnx.List([Block(config, rngs) for _ in range(config.blocks)])
        self.norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        if not config.tied:
            self.head = nnx.Linear(config.width, config.vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, input_ids: Array, attention_mask: Array) -> Array:
        """The logits of every token, float32 ``[B, T, V]``; both inputs are ``[B, T]``."""
        places, allowed = causal(attention_mask)
        stream = self.embed(input_ids) + self.position(places)
        for i, block in enumerate(self.block):
            with jax.named_scope(f"block.{i}"):
                stream = block(stream, allowed)
        with jax.named_scope("head"):
            stream = self.norm(stream)
            return self.embed.attend(stream) if self.tied else self.head(stream)


class Block(nnx.Module):
    """Attention and an MLP, each behind a norm, each added to the stream."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        self.attn_norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attn = Attention(config, rngs)
        self.mlp_norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: Array, allowed: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``."""
        with jax.named_scope("attn"):
            x = x + self.attn(self.attn_norm(x), allowed)
        with jax.named_scope("mlp"):
            return x + self.mlp(self.mlp_norm(x))


class Attention(nnx.Module):
    """Attention of several heads; queries, keys and values come from one product."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        self.heads = config.heads
        self.qkv = nnx.Linear(config.width, 3 * config.width, rngs=rngs)
        self.out = nnx.Linear(config.width, config.width, rngs=rngs)

    def __call__(self, x: Array, allowed: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``; `allowed` is bool ``[B, 1, T, T]``."""
        batch, length, width = x.shape
        shape = batch, length, self.heads, width // self.heads
        query, key, value = (part.reshape(shape) for part in jnp.split(self.qkv(x), 3, axis=-1))
        scores = jnp.einsum("bthd,bshd->bhts", query, key) * shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(allowed, scores, FLOOR), axis=-1)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, value)
        return self.out(mixed.reshape(batch, length, width))


class MLP(nnx.Module):
    """``down(gelu(up(x)))``."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        self.tanh = config.tanh
        self.up = nnx.Linear(config.width, config.hidden, rngs=rngs)
        self.down = nnx.Linear(config.hidden, config.width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """From ``[B, T, D]`` to ``[B, T, D]``."""
        return self.down(jax.nn.gelu(self.up(x), approximate=self.tanh))
