"""Tiny seeded GGUF files, and what their models must compute, in float64 NumPy."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from helpers.byte_bpe import BYTE_SYMBOLS, ByteBPE

__all__ = ["TinyModel", "Vocabulary", "metadata_bpe", "tiny_vocabulary"]

CORPUS = (
    "the quick brown fox jumps over the lazy dog while the other dogs sleep in the sun and dream "
    "of foxes that never jump; don't they know it's 1998? I've 42 of them, they'll say, we're "
    "here in Straße and naïve привет 日本語 words"
)


@dataclass(frozen=True)
class Vocabulary:
    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    types: tuple[int, ...]
    added: tuple[str, ...]


@cache
def tiny_vocabulary(count: int = 120) -> Vocabulary:
    """All bytes, `count` merges of the commonest pairs, and one token of each other kind."""
    words = Counter(
        tuple(BYTE_SYMBOLS[byte] for byte in f" {word}".encode()) for word in CORPUS.split()
    )
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_joined(word, best): times for word, times in words.items()})
    plain = dict.fromkeys([*BYTE_SYMBOLS, *("".join(pair) for pair in merges)])
    # Only a tokenizer that takes whole pieces first can reach the last plain token.
    tokens = ["<|end|>", "<|start|>", *plain, "Ġsleeping", "[user]"]
    types = [int(TokenType.CONTROL)] * 2 + [int(TokenType.NORMAL)] * (len(tokens) - 3)
    return Vocabulary(
        tokens=tuple(tokens),
        merges=tuple(" ".join(pair) for pair in merges),
        types=(*types, int(TokenType.USER_DEFINED)),
        added=("<|end|>", "<|start|>", "[user]"),
    )


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def metadata_bpe(path: Path) -> ByteBPE:
    """The tokenizer that a file's metadata prescribe, by the independent encoder."""
    fields = GGUFReader(path).fields
    tokens, types, merges, pre = (
        fields[f"tokenizer.ggml.{key}"].contents()
        for key in ("tokens", "token_type", "merges", "pre")
    )
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    added = [token for token, kind in zip(tokens, types, strict=True) if kind in kinds]
    return ByteBPE(tokens, merges, added, pre)


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A random decoder; weights are ``[out, in]`` in Hugging Face's order of rows.

    `metadata` replaces or adds keys, None drops one; `tensors` does the same with tensors.
    """

    architecture: str = "llama"
    blocks: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 16
    width: int = 64
    hidden: int = 96
    tied: bool = True
    bias: bool = False
    kind: GGMLQuantizationType = GGMLQuantizationType.F32
    pre: str = "gpt-2"
    rope_base: float = 10000.0
    rope_factor: float = 1.0
    rope_factors: tuple[float, ...] = ()
    seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        return tiny_vocabulary()

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Dequantised weights by GGUF name, before the rows are put in llama.cpp's order."""
        draw = np.random.default_rng(self.seed)
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width

        def matrix(rows: int, columns: int) -> np.ndarray:
            values = draw.standard_normal((rows, columns), np.float32) / np.sqrt(columns)
            return dequantize(quantize(values, self.kind), self.kind)

        def vector(size: int, around: float) -> np.ndarray:
            return around + 0.2 * draw.standard_normal(size, np.float32)

        vocabulary = len(self.vocabulary.tokens)
        weights = {"token_embd.weight": matrix(vocabulary, self.width) * 4}
        for i in range(self.blocks):
            shapes = {
                "attn_q": (queries, self.width),
                "attn_k": (keys, self.width),
                "attn_v": (keys, self.width),
                "attn_output": (self.width, queries),
                "ffn_gate": (self.hidden, self.width),
                "ffn_up": (self.hidden, self.width),
                "ffn_down": (self.width, self.hidden),
            }
            for name, shape in shapes.items():
                weights[f"blk.{i}.{name}.weight"] = matrix(*shape)
                if self.bias and name in ("attn_q", "attn_k", "attn_v"):
                    weights[f"blk.{i}.{name}.bias"] = vector(shape[0], 0.0)
            weights[f"blk.{i}.attn_norm.weight"] = vector(self.width, 1.0)
            weights[f"blk.{i}.ffn_norm.weight"] = vector(self.width, 1.0)
        weights["output_norm.weight"] = vector(self.width, 1.0)
        if not self.tied:
            weights["output.weight"] = matrix(vocabulary, self.width)
        return weights

    def write(self, path: Path) -> Path:
        writer = GGUFWriter(path, self.architecture)
        for key, value in self._metadata().items():
            _add(writer, key, value)
        for name, values in self._tensors().items():
            if isinstance(values, tuple):  # raw bytes of a type that NumPy lacks
                writer.add_tensor(name, values[0], raw_dtype=values[1])
            elif name.endswith("weight") and values.ndim == 2 and self.kind.name != "F32":
                writer.add_tensor(name, quantize(values, self.kind), raw_dtype=self.kind)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _metadata(self) -> dict[str, Any]:
        arch, words = self.architecture, self.vocabulary
        base = {
            "general.license": "apache-2.0",
            f"{arch}.block_count": self.blocks,
            f"{arch}.context_length": 64,
            f"{arch}.embedding_length": self.width,
            f"{arch}.feed_forward_length": self.hidden,
            f"{arch}.attention.head_count": self.heads,
            f"{arch}.attention.head_count_kv": self.kv_heads,
            f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
            f"{arch}.rope.freq_base": self.rope_base,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": list(words.tokens),
            "tokenizer.ggml.token_type": list(words.types),
            "tokenizer.ggml.merges": list(words.merges),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 0,
            "tokenizer.ggml.add_bos_token": False,
        }
        if self.head_width * self.heads != self.width:
            base[f"{arch}.attention.key_length"] = self.head_width
            base[f"{arch}.attention.value_length"] = self.head_width
        if self.rope_factor != 1:
            base[f"{arch}.rope.scaling.type"] = "linear"
            base[f"{arch}.rope.scaling.factor"] = self.rope_factor
        return _changed(base, self.metadata)

    def _tensors(self) -> dict[str, Any]:
        base: dict[str, Any] = dict(self.weights)
        if self.architecture == "llama":
            for name, values in base.items():
                if ".attn_q." in name or ".attn_k." in name:
                    heads = self.heads if ".attn_q." in name else self.kv_heads
                    # llama.cpp's convert script: the two halves of a head become pairs.
                    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
                    base[name] = halves.swapaxes(1, 2).reshape(values.shape)
        if self.rope_factors:
            base["rope_freqs.weight"] = np.array(self.rope_factors, np.float32)
        return _changed(base, self.tensors)

    def logits(self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What the model must give, in float64; all arguments are ``[batch, sequence]``."""
        w = {name: values.astype(np.float64) for name, values in self.weights.items()}
        batch, length = ids.shape
        exponents = np.arange(0, self.head_width, 2) / self.head_width
        speeds = self.rope_base**-exponents / self.rope_factor
        if self.rope_factors:
            speeds = speeds / np.array(self.rope_factors)
        turns = np.exp(1j * positions[:, :, None, None] * speeds)
        seen = np.tril(np.ones((length, length), bool)) & mask[:, None, None, :].astype(bool)

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[name]

        def project(x: np.ndarray, name: str) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

        def heads(x: np.ndarray, count: int, *, turn: bool) -> np.ndarray:
            x = x.reshape(batch, length, count, self.head_width)
            if turn:
                half = self.head_width // 2
                z = (x[..., :half] + 1j * x[..., half:]) * turns
                x = np.concatenate([z.real, z.imag], -1)
            return np.repeat(x.transpose(0, 2, 1, 3), self.heads // count, 1)

        x = w["token_embd.weight"][ids]
        for i in range(self.blocks):
            y, blk = norm(x, f"blk.{i}.attn_norm.weight"), f"blk.{i}"
            q = heads(project(y, f"{blk}.attn_q"), self.heads, turn=True)
            k = heads(project(y, f"{blk}.attn_k"), self.kv_heads, turn=True)
            v = heads(project(y, f"{blk}.attn_v"), self.kv_heads, turn=False)
            scores = q @ k.swapaxes(-1, -2) / np.sqrt(self.head_width)
            scores = np.where(seen, scores, -1e9)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, -1)
            x = x + project(mixed, f"{blk}.attn_output")
            y = norm(x, f"blk.{i}.ffn_norm.weight")
            gate = project(y, f"{blk}.ffn_gate")
            hidden = gate / (1 + np.exp(-gate)) * project(y, f"{blk}.ffn_up")
            x = x + project(hidden, f"{blk}.ffn_down")
        head = w["token_embd.weight" if self.tied else "output.weight"]
        return norm(x, "output_norm.weight") @ head.T


def _changed(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value and isinstance(value[0], int):
        writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=GGUFValueType.INT32)
    else:
        writer.add_array(key, value)
