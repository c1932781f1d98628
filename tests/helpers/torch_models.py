"""Tiny seeded torch models, exported to ONNX, and what each part of them computes, from hooks."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

__all__ = ["MODELS", "TorchModel", "export", "make"]

VOCABULARY, WIDTH, HIDDEN, HEADS = 101, 32, 88, 4

Values = dict[str, torch.Tensor]
Spec = tuple[str, str]


@dataclass(frozen=True)
class TorchModel:
    """A model, how it is called, and where its parts are.

    Attributes
    ----------
    module : torch.nn.Module
        With the signature ``(input_ids, attention_mask)``.
    parts : dict of str to (str, str)
        Site to module path below the wrapped model and "in" or "out"; `split` does the rest.
    split : callable
        Turns what the hooks saw into values of sites.
    """

    module: "Wrapped"
    parts: dict[str, Spec]
    split: Callable[[Values], Values]

    @torch.no_grad()
    def values(self, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Every named part's value, ``[batch, tokens, units]`` or ``[batch, heads, T, S]``."""
        seen: Values = {}
        handles = []
        for name, (path, side) in self.parts.items():
            module = self.module.model.get_submodule(path)

            def keep(_m, args, kwargs, out, name=name, side=side):
                value = out if side == "out" else (args[0] if args else kwargs["hidden_states"])
                value = value[0] if isinstance(value, tuple) else value
                # Cloned: Falcon adds its branches in place.
                seen[name] = value.detach().clone()

            handles.append(module.register_forward_hook(keep, with_kwargs=True))
        try:
            out = self.module.call(
                torch.from_numpy(ids), torch.from_numpy(mask).long(), output_attentions=True
            )
        finally:
            for handle in handles:
                handle.remove()
        if "logits" in out:
            seen["logits"] = out.logits
        for field, form in (
            ("attentions", "block.{}.attn.probs"),
            ("encoder_attentions", "encoder.block.{}.attn.probs"),
            ("decoder_attentions", "decoder.block.{}.attn.probs"),
            ("cross_attentions", "decoder.block.{}.cross.probs"),
        ):
            for i, probs in enumerate(out.get(field) or ()):
                seen[form.format(i)] = probs
        found = self.split(seen)
        return {
            name: value.numpy()
            if name.endswith("probs")
            # OPT merges batch and tokens.
            else value.reshape(*ids.shape, -1).numpy()
            for name, value in found.items()
        }


class Wrapped(torch.nn.Module):
    """A model as a function of token ids and a mask of real tokens."""

    def __init__(self, model: torch.nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def call(self, input_ids, attention_mask, **options) -> Any:
        if self.kind == "encoder":
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        if self.kind == "encoder-decoder":
            return self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=input_ids,
                use_cache=False,
                **options,
            )
        # transformers builds its own causal mask under vmap, which neither exporter traces.
        at = torch.arange(input_ids.shape[1])
        seen = (at[None, :] <= at[:, None])[None, None] & attention_mask[:, None, None, :].bool()
        return self.model(
            input_ids=input_ids,
            attention_mask=torch.where(seen, 0.0, torch.finfo(torch.float32).min),
            position_ids=at[None, :].expand(input_ids.shape[0], -1),
            use_cache=False,
            **options,
        )

    def forward(self, input_ids, attention_mask):
        out = self.call(input_ids, attention_mask)
        return out.logits if "logits" in out else out.last_hidden_state


def _in_blocks(form: str, parts: dict[str, Spec], count: int) -> dict[str, Spec]:
    stack, _, path = form.rpartition(" ")
    return {
        f"{stack}block.{i}.{name}": (f"{path}.{i}.{module}".rstrip("."), side)
        for i in range(count)
        for name, (module, side) in parts.items()
    }


def _same(values: Values) -> Values:
    return values


def _fused(split: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> Callable[[Values], Values]:
    """Replaces ``attn.qkv`` by its three parts."""

    def apply(values: Values) -> Values:
        out = {name: value for name, value in values.items() if not name.endswith(".qkv")}
        for name in values.keys() - out.keys():
            for role, part in zip("qkv", split(values[name]), strict=True):
                out[f"{name.removesuffix('qkv')}{role}"] = part
        return out

    return apply


def _gpt2(blocks: int) -> TorchModel:
    model = hf.GPT2LMHeadModel(
        hf.GPT2Config(
            n_layer=blocks, n_embd=WIDTH, n_head=HEADS, vocab_size=VOCABULARY, n_positions=64,
            n_inner=HIDDEN, attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("transformer.drop", "out"),
        "final_norm": ("transformer.ln_f", "out"),
        **_in_blocks("transformer.h", {
            "in": ("", "in"), "out": ("", "out"), "mid": ("ln_2", "in"),
            "attn.qkv": ("attn.c_attn", "out"), "attn.heads": ("attn.c_proj", "in"),
            "attn.out": ("attn.c_proj", "out"), "mlp.pre": ("mlp.act", "in"),
            "mlp.hidden": ("mlp.c_proj", "in"), "mlp.out": ("mlp.c_proj", "out"),
        }, blocks),
    }  # fmt: skip
    return TorchModel(Wrapped(model, "decoder"), parts, _fused(lambda x: x.split(WIDTH, -1)))


LLAMA_BLOCK = {
    "in": ("", "in"), "out": ("", "out"), "mid": ("post_attention_layernorm", "in"),
    "attn.q": ("self_attn.q_proj", "out"), "attn.k": ("self_attn.k_proj", "out"),
    "attn.v": ("self_attn.v_proj", "out"), "attn.heads": ("self_attn.o_proj", "in"),
    "attn.out": ("self_attn.o_proj", "out"), "mlp.pre": ("mlp.act_fn", "in"),
    "mlp.hidden": ("mlp.down_proj", "in"), "mlp.out": ("mlp.down_proj", "out"),
}  # fmt: skip


def _llama(blocks: int) -> TorchModel:
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=blocks,
            num_attention_heads=HEADS, num_key_value_heads=2, head_dim=6, vocab_size=VOCABULARY,
            max_position_embeddings=64, tie_word_embeddings=False, attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("model.embed_tokens", "out"),
        "final_norm": ("model.norm", "out"),
        **_in_blocks("model.layers", LLAMA_BLOCK, blocks),
    }
    return TorchModel(Wrapped(model, "decoder"), parts, _same)


def _gemma2(blocks: int) -> TorchModel:
    """Norms at both ends of each branch, scaled embeddings, capped scores and logits."""
    model = hf.Gemma2ForCausalLM(
        hf.Gemma2Config(
            hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=blocks,
            num_attention_heads=HEADS, num_key_value_heads=2, head_dim=6, vocab_size=VOCABULARY,
            max_position_embeddings=64, layer_types=["full_attention"] * blocks,
            attn_implementation="eager",
        )
    )  # fmt: skip
    block = LLAMA_BLOCK | {
        "mid": ("pre_feedforward_layernorm", "in"),
        "attn.out": ("post_attention_layernorm", "out"),
        "mlp.out": ("post_feedforward_layernorm", "out"),
    }
    parts = {
        "embed": ("model.layers.0", "in"),
        "final_norm": ("model.norm", "out"),
        **_in_blocks("model.layers", block, blocks),
    }
    return TorchModel(Wrapped(model, "decoder"), parts, _same)


def _opt(blocks: int) -> TorchModel:
    """A residual stream that merges batch and tokens for the MLP's half."""
    model = hf.OPTForCausalLM(
        hf.OPTConfig(
            hidden_size=WIDTH, ffn_dim=HIDDEN, num_hidden_layers=blocks, vocab_size=VOCABULARY,
            num_attention_heads=HEADS, max_position_embeddings=64, word_embed_proj_dim=WIDTH,
            attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("model.decoder.layers.0", "in"),
        "final_norm": ("model.decoder.final_layer_norm", "out"),
        **_in_blocks("model.decoder.layers", {
            "in": ("", "in"), "out": ("", "out"), "mid": ("final_layer_norm", "in"),
            "attn.q": ("self_attn.q_proj", "out"), "attn.k": ("self_attn.k_proj", "out"),
            "attn.v": ("self_attn.v_proj", "out"), "attn.heads": ("self_attn.out_proj", "in"),
            "attn.out": ("self_attn.out_proj", "out"), "mlp.pre": ("fc1", "out"),
            "mlp.hidden": ("fc2", "in"), "mlp.out": ("fc2", "out"),
        }, blocks),
    }  # fmt: skip
    return TorchModel(Wrapped(model, "encoder"), parts, _same)


def _phi3(blocks: int) -> TorchModel:
    """Queries, keys and values from one product, gate and up from one product."""
    model = hf.Phi3ForCausalLM(
        hf.Phi3Config(
            hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=blocks,
            num_attention_heads=HEADS, num_key_value_heads=2, vocab_size=VOCABULARY,
            max_position_embeddings=64, pad_token_id=0, attn_implementation="eager",
        )
    )  # fmt: skip
    apart = ("attn.q", "attn.k", "attn.v")
    block = {name: spec for name, spec in LLAMA_BLOCK.items() if name not in apart}
    block["attn.qkv"] = ("self_attn.qkv_proj", "out")
    block["mlp.pre"] = ("mlp.activation_fn", "in")
    parts = {
        "embed": ("model.embed_tokens", "out"),
        "final_norm": ("model.norm", "out"),
        **_in_blocks("model.layers", block, blocks),
    }
    return TorchModel(
        Wrapped(model, "decoder"), parts, _fused(lambda x: x.split([WIDTH, 16, 16], -1))
    )


def _gpt_neox(blocks: int) -> TorchModel:
    model = hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=blocks,
            num_attention_heads=HEADS, vocab_size=VOCABULARY, max_position_embeddings=64,
            rotary_pct=0.5, attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("gpt_neox.emb_dropout", "out"),
        "final_norm": ("gpt_neox.final_layer_norm", "out"),
        **_in_blocks("gpt_neox.layers", {
            "in": ("", "in"), "out": ("", "out"),
            "attn.qkv": ("attention.query_key_value", "out"),
            "attn.heads": ("attention.dense", "in"), "attn.out": ("attention.dense", "out"),
            "mlp.pre": ("mlp.act", "in"), "mlp.hidden": ("mlp.dense_4h_to_h", "in"),
            "mlp.out": ("mlp.dense_4h_to_h", "out"),
        }, blocks),
    }  # fmt: skip
    return TorchModel(
        Wrapped(model, "decoder"),
        parts,
        _fused(lambda x: x.unflatten(-1, (HEADS, -1)).chunk(3, -1)),
    )


def _gptj(blocks: int) -> TorchModel:
    model = hf.GPTJForCausalLM(
        hf.GPTJConfig(
            n_embd=WIDTH, n_inner=HIDDEN, n_layer=blocks, n_head=HEADS, vocab_size=VOCABULARY,
            n_positions=64, rotary_dim=4, attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("transformer.drop", "out"),
        "final_norm": ("transformer.ln_f", "out"),
        **_in_blocks("transformer.h", {
            "in": ("", "in"), "out": ("", "out"),
            "attn.q": ("attn.q_proj", "out"), "attn.k": ("attn.k_proj", "out"),
            "attn.v": ("attn.v_proj", "out"), "attn.heads": ("attn.out_proj", "in"),
            "attn.out": ("attn.out_proj", "out"), "mlp.pre": ("mlp.act", "in"),
            "mlp.hidden": ("mlp.fc_out", "in"), "mlp.out": ("mlp.fc_out", "out"),
        }, blocks),
    }  # fmt: skip
    return TorchModel(Wrapped(model, "decoder"), parts, _same)


def _falcon(blocks: int) -> TorchModel:
    model = hf.FalconForCausalLM(
        hf.FalconConfig(
            hidden_size=WIDTH, ffn_hidden_size=HIDDEN, num_hidden_layers=blocks,
            num_attention_heads=HEADS, vocab_size=VOCABULARY, multi_query=True, parallel_attn=True,
            new_decoder_architecture=False, alibi=False, bias=False, attn_implementation="eager",
        )
    )  # fmt: skip
    parts = {
        "embed": ("transformer.word_embeddings", "out"),
        "final_norm": ("transformer.ln_f", "out"),
        **_in_blocks("transformer.h", {
            "in": ("", "in"), "out": ("", "out"),
            "attn.qkv": ("self_attention.query_key_value", "out"),
            "attn.heads": ("self_attention.dense", "in"),
            "attn.out": ("self_attention.dense", "out"), "mlp.pre": ("mlp.act", "in"),
            "mlp.hidden": ("mlp.dense_4h_to_h", "in"), "mlp.out": ("mlp.dense_4h_to_h", "out"),
        }, blocks),
    }  # fmt: skip
    return TorchModel(
        Wrapped(model, "decoder"), parts, _fused(lambda x: x.split([WIDTH, 8, 8], -1))
    )


BERT_BLOCK = {
    "in": ("", "in"), "out": ("", "out"), "mid": ("attention.output", "out"),
    "attn.q": ("attention.self.query", "out"), "attn.k": ("attention.self.key", "out"),
    "attn.v": ("attention.self.value", "out"), "attn.heads": ("attention.output.dense", "in"),
    "attn.out": ("attention.output.dense", "out"), "mlp.pre": ("intermediate.dense", "out"),
    "mlp.hidden": ("output.dense", "in"), "mlp.out": ("output.dense", "out"),
}  # fmt: skip


def _bert_config(blocks: int, **options: Any) -> hf.BertConfig:
    return hf.BertConfig(
        hidden_size=WIDTH, num_hidden_layers=blocks, num_attention_heads=HEADS,
        vocab_size=VOCABULARY, max_position_embeddings=64, attn_implementation="eager",
        **{"intermediate_size": HIDDEN, **options},
    )  # fmt: skip


def _bert(blocks: int) -> TorchModel:
    model = hf.BertForMaskedLM(_bert_config(blocks))
    parts = {
        "embed": ("bert.embeddings", "out"),
        **_in_blocks("bert.encoder.layer", BERT_BLOCK, blocks),
    }
    return TorchModel(Wrapped(model, "encoder"), parts, _same)


def _bert_classifier(blocks: int) -> TorchModel:
    """A pooled head, and an MLP as wide as the model."""
    model = hf.BertForSequenceClassification(
        _bert_config(blocks, intermediate_size=WIDTH, num_labels=3, hidden_act="relu")
    )
    parts = {
        "embed": ("bert.embeddings", "out"),
        **_in_blocks("bert.encoder.layer", BERT_BLOCK, blocks),
    }

    def without_head(values: Values) -> Values:
        return {name: value for name, value in values.items() if name != "logits"}

    return TorchModel(Wrapped(model, "encoder"), parts, without_head)


def _bart(blocks: int) -> TorchModel:
    """Encoder and decoder, both post-norm."""
    model = hf.BartForConditionalGeneration(
        hf.BartConfig(
            d_model=WIDTH, encoder_layers=blocks, decoder_layers=2 * blocks - 1,
            encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
            encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
            vocab_size=VOCABULARY, max_position_embeddings=64, attn_implementation="eager",
        )
    )  # fmt: skip
    both = {"in": ("", "in"), "out": ("", "out")}
    attention = {
        "attn.q": ("self_attn.q_proj", "out"), "attn.k": ("self_attn.k_proj", "out"),
        "attn.v": ("self_attn.v_proj", "out"), "attn.heads": ("self_attn.out_proj", "in"),
        "attn.out": ("self_attn.out_proj", "out"),
    }  # fmt: skip
    mlp = {
        "mlp.pre": ("fc1", "out"), "mlp.hidden": ("fc2", "in"), "mlp.out": ("fc2", "out"),
    }  # fmt: skip
    cross = {
        name.replace("attn.", "cross."): (path.replace("self_attn", "encoder_attn"), side)
        for name, (path, side) in attention.items()
    }
    norms = {"mid": ("self_attn_layer_norm", "out")}
    decoder_norms = {
        "cross.in": ("self_attn_layer_norm", "out"), "mid": ("encoder_attn_layer_norm", "out"),
    }  # fmt: skip
    parts = {
        "encoder.embed": ("model.encoder.layernorm_embedding", "out"),
        "decoder.embed": ("model.decoder.layernorm_embedding", "out"),
        **_in_blocks("encoder. model.encoder.layers", both | attention | mlp | norms, blocks),
        **_in_blocks(
            "decoder. model.decoder.layers",
            both | attention | mlp | cross | decoder_norms,
            2 * blocks - 1,
        ),
    }
    return TorchModel(Wrapped(model, "encoder-decoder"), parts, _same)


def _t5(blocks: int) -> TorchModel:
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(
            d_model=WIDTH, d_kv=6, d_ff=HIDDEN, num_layers=blocks,
            num_decoder_layers=2 * blocks - 1,
            num_heads=HEADS, vocab_size=VOCABULARY, feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
        )
    )  # fmt: skip

    def attention(role: str, path: str) -> dict[str, Spec]:
        ends = {"q": ("q", "out"), "k": ("k", "out"), "v": ("v", "out"), "heads": ("o", "in"),
                "out": ("o", "out")}  # fmt: skip
        return {f"{role}.{name}": (f"{path}.{m}", side) for name, (m, side) in ends.items()}

    def mlp(layer: int) -> dict[str, Spec]:
        path = f"layer.{layer}.DenseReluDense"
        return {
            "in": ("", "in"), "out": ("", "out"), "mlp.pre": (f"{path}.act", "in"),
            "mlp.hidden": (f"{path}.wo", "in"), "mlp.out": (f"{path}.wo", "out"),
        }  # fmt: skip

    own = attention("attn", "layer.0.SelfAttention")
    crossed = attention("cross", "layer.1.EncDecAttention")
    parts = {
        "encoder.embed": ("encoder.block.0", "in"),
        "decoder.embed": ("decoder.block.0", "in"),
        "encoder.final_norm": ("encoder.final_layer_norm", "out"),
        "decoder.final_norm": ("decoder.final_layer_norm", "out"),
        **_in_blocks("encoder. encoder.block", own | mlp(1) | {"mid": ("layer.0", "out")}, blocks),
        **_in_blocks(
            "decoder. decoder.block",
            own | crossed | mlp(2) | {"cross.in": ("layer.0", "out"), "mid": ("layer.1", "out")},
            2 * blocks - 1,
        ),
    }  # fmt: skip
    return TorchModel(Wrapped(model, "encoder-decoder"), parts, _same)


MODELS: dict[str, Callable[[int], TorchModel]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "opt": _opt,
    "gpt_neox": _gpt_neox,
    "gptj": _gptj,
    "falcon": _falcon,
    "bert": _bert,
    "bert_classifier": _bert_classifier,
    "t5": _t5,
    "bart": _bart,
}


def make(name: str, blocks: int = 2) -> TorchModel:
    """A model with seeded weights, large enough that every part differs from the others."""
    torch.manual_seed(sum(map(ord, name)))
    made = MODELS[name](blocks)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.module.eval()
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters write much, to streams, loggers and as warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export(made: TorchModel, file: Path, *, dynamo: bool) -> Path:
    """Export with dynamic batch and length, by one exporter of torch or the other."""
    ids = torch.ones((2, 5), dtype=torch.int64)
    # One tensor twice would be taken for one input by the newer exporter.
    inputs = (ids, ids.clone())
    axes = {0: "batch", 1: "tokens"}
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["output"]}
    with _quiet(), torch.no_grad():
        if dynamo:
            torch.onnx.export(
                made.module, inputs, file, dynamo=True, dynamic_shapes=(axes, axes), **names
            )
        else:
            torch.onnx.export(
                made.module,
                inputs,
                file,
                dynamo=False,
                opset_version=17,
                dynamic_axes={"input_ids": axes, "attention_mask": axes, "output": axes},
                **names,
            )
    return file
