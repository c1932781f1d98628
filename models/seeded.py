"""Tiny models with seeded random weights, as Hugging Face checkpoints: they need no download.

Each function writes ``config.json``, ``model.safetensors`` and a byte-level tokenizer, with NumPy
alone, so that torch and JAX are given the same weights. The networks found in them mean nothing;
they show that an exporter and a localizer work.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import RuntimeMissingError

__all__ = ["bert", "gpt2", "gpt_neox", "llama", "t5"]

BLOCKS, WIDTH, HEADS, HIDDEN, POSITIONS = 4, 64, 4, 256, 512
# Before the 256 bytes.
SPECIAL = ("<pad>", "</s>", "<s>")
VOCABULARY = len(SPECIAL) + 256
SEED = 0

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def gpt2(source: None, folder: Path) -> None:
    """Write a GPT-2 of four blocks of width 64."""
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": BLOCKS,
        "n_positions": POSITIONS,
        "activation_function": "gelu_new",
    }
    _write(folder, config, _gpt2())


def llama(source: None, folder: Path) -> None:
    """Write a Llama of four blocks of width 64, with two key heads."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": HEADS // 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    _write(folder, config, _llama())


def gpt_neox(source: None, folder: Path) -> None:
    """Write a GPT-NeoX of four blocks of width 64, with attention and MLP side by side."""
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": BLOCKS,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    }
    _write(folder, config, _gpt_neox())


def bert(source: None, folder: Path) -> None:
    """Write a masked BERT of four blocks of width 64."""
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": BLOCKS,
        "type_vocab_size": 2,
    }
    _write(folder, config, _bert())


def t5(source: None, folder: Path) -> None:
    """Write a T5 of four blocks of width 64 on each side."""
    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_ff": HIDDEN,
        "d_kv": WIDTH // HEADS,
        "d_model": WIDTH,
        "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
        "num_decoder_layers": BLOCKS,
        "num_heads": HEADS,
        "num_layers": BLOCKS,
        "relative_attention_num_buckets": 32,
    }
    _write(folder, config, _t5())


def _write(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise RuntimeMissingError(
            "safetensors is not installed; run pip install safetensors"
        ) from error
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": VOCABULARY}
    _write_json(folder / "config.json", {**config, **tokens})
    draw = np.random.default_rng(SEED)
    values = {name: _values(draw, name, shape) for name, shape in shapes}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder)


def _values(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Matrices that keep the size of what they are given, scales near 1, small biases."""
    noise = draw.standard_normal(shape)
    if len(shape) == 2:
        noise /= np.sqrt(WIDTH)
    else:
        noise = 0.1 * noise + (not name.endswith("bias"))
    values: NDArray[np.float32] = noise.astype(np.float32)
    return values


def _write_tokenizer(folder: Path) -> None:
    """One token a byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": POSITIONS,
        "pad_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "bos_token": SPECIAL[2],
        "add_bos_token": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _linear(name: str, *shape: int) -> Shapes:
    """A weight as torch keeps it, ``[out, in]``, or a norm's scale, and a bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _gpt2() -> Shapes:
    yield "transformer.wte.weight", (VOCABULARY, WIDTH)
    yield "transformer.wpe.weight", (POSITIONS, WIDTH)
    for i in range(BLOCKS):
        block = f"transformer.h.{i}"
        yield from _linear(f"{block}.ln_1", WIDTH)
        yield from _linear(f"{block}.ln_2", WIDTH)
        # GPT-2 keeps these as [in, out].
        for name, wide, out in (
            ("attn.c_attn", WIDTH, 3 * WIDTH), ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, HIDDEN), ("mlp.c_proj", HIDDEN, WIDTH),
        ):  # fmt: skip
            yield f"{block}.{name}.weight", (wide, out)
            yield f"{block}.{name}.bias", (out,)
    yield from _linear("transformer.ln_f", WIDTH)


def _llama() -> Shapes:
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for i in range(BLOCKS):
        block = f"model.layers.{i}"
        for name, out, wide in (
            ("self_attn.q_proj", WIDTH, WIDTH), ("self_attn.k_proj", WIDTH // 2, WIDTH),
            ("self_attn.v_proj", WIDTH // 2, WIDTH), ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", HIDDEN, WIDTH), ("mlp.up_proj", HIDDEN, WIDTH),
            ("mlp.down_proj", WIDTH, HIDDEN),
        ):  # fmt: skip
            yield f"{block}.{name}.weight", (out, wide)
        yield f"{block}.input_layernorm.weight", (WIDTH,)
        yield f"{block}.post_attention_layernorm.weight", (WIDTH,)
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (VOCABULARY, WIDTH)


def _gpt_neox() -> Shapes:
    yield "gpt_neox.embed_in.weight", (VOCABULARY, WIDTH)
    for i in range(BLOCKS):
        block = f"gpt_neox.layers.{i}"
        yield from _linear(f"{block}.input_layernorm", WIDTH)
        yield from _linear(f"{block}.post_attention_layernorm", WIDTH)
        yield from _linear(f"{block}.attention.query_key_value", 3 * WIDTH, WIDTH)
        yield from _linear(f"{block}.attention.dense", WIDTH, WIDTH)
        yield from _linear(f"{block}.mlp.dense_h_to_4h", HIDDEN, WIDTH)
        yield from _linear(f"{block}.mlp.dense_4h_to_h", WIDTH, HIDDEN)
    yield from _linear("gpt_neox.final_layer_norm", WIDTH)
    yield "embed_out.weight", (VOCABULARY, WIDTH)


def _bert() -> Shapes:
    for name, rows in (("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)):
        yield f"bert.embeddings.{name}_embeddings.weight", (rows, WIDTH)
    yield from _linear("bert.embeddings.LayerNorm", WIDTH)
    for i in range(BLOCKS):
        block = f"bert.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{block}.attention.{name}", WIDTH, WIDTH)
        yield from _linear(f"{block}.attention.output.LayerNorm", WIDTH)
        yield from _linear(f"{block}.intermediate.dense", HIDDEN, WIDTH)
        yield from _linear(f"{block}.output.dense", WIDTH, HIDDEN)
        yield from _linear(f"{block}.output.LayerNorm", WIDTH)
    yield "cls.predictions.bias", (VOCABULARY,)
    yield from _linear("cls.predictions.transform.dense", WIDTH, WIDTH)
    yield from _linear("cls.predictions.transform.LayerNorm", WIDTH)


def _t5() -> Shapes:
    yield "shared.weight", (VOCABULARY, WIDTH)
    for side in ("encoder", "decoder"):
        attentions = ("SelfAttention", "EncDecAttention")[: 1 if side == "encoder" else 2]
        for i in range(BLOCKS):
            block = f"{side}.block.{i}.layer"
            for layer, name in enumerate(attentions):
                for part in "qkvo":
                    yield f"{block}.{layer}.{name}.{part}.weight", (WIDTH, WIDTH)
                yield f"{block}.{layer}.layer_norm.weight", (WIDTH,)
            if i == 0:
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", (32, HEADS)
            mlp = f"{block}.{len(attentions)}"
            yield f"{mlp}.DenseReluDense.wi.weight", (HIDDEN, WIDTH)
            yield f"{mlp}.DenseReluDense.wo.weight", (WIDTH, HIDDEN)
            yield f"{mlp}.layer_norm.weight", (WIDTH,)
        yield f"{side}.final_layer_norm.weight", (WIDTH,)
