"""Llama and GPT-2 in JAX compute what torch computes, and their bundles what JAX computes."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from helpers.gguf_files import TinyModel
from onnxloc_exporters.gguf_ import GGUFExporter
from onnxloc_exporters.jax_ import JaxExporter
from onnxloc_exporters.jax_program import read_program
from onnxloc_exporters.user_function import call_function
from safetensors.torch import load_file, save_file

from onnxloc.errors import ExportError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

VOCABULARY = 50
LLAMA = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "vocab_size": VOCABULARY,
    "max_position_embeddings": 64, "attn_implementation": "eager",
}  # fmt: skip
GPT2 = {
    "n_layer": 2, "n_embd": 24, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64,
    "attn_implementation": "eager",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
VARIANTS = {
    "llama": (hf.LlamaConfig(**LLAMA, tie_word_embeddings=False, rope_scaling=LLAMA3), "llama"),
    "llama, tied": (
        hf.LlamaConfig(
            **LLAMA, tie_word_embeddings=True, rope_scaling={"rope_type": "linear", "factor": 2.0}
        ),
        "llama",
    ),
    "gpt2": (hf.GPT2Config(**GPT2), "gpt2"),
    "gpt2, untied": (
        hf.GPT2Config(**GPT2, tie_word_embeddings=False, n_inner=40, activation_function="gelu"),
        "gpt2",
    ),
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint, and the torch model that it was saved from."""

    folder: Path
    model: torch.nn.Module
    name: str

    def logits(self, ids, mask):
        with torch.no_grad():
            return self.model(
                input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
            ).logits.numpy()


def save(config, folder, name):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(std=0.3)
    model.save_pretrained(folder)
    return Saved(folder, model, name)


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    config, name = VARIANTS[request.param]
    return save(config, tmp_path_factory.mktemp("checkpoint"), name)


def source(name, nnx):
    return f"onnxloc_models.jax.{name}{'_nnx' if nnx else ''}:from_folder"


def batch_of(rows=3, tokens=40):
    """Random tokens, in rows of every length down to 1."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (rows, tokens))
    lengths = np.linspace(tokens, 1, rows).round().astype(np.int64)
    return Batch(np.arange(rows), ids, lengths)


@pytest.mark.parametrize("nnx", [False, True], ids=["plain", "nnx"])
def test_logits_are_those_of_torch(saved, nnx):
    name = source(saved.name, nnx)
    program = read_program(call_function(name, str(saved.folder)), name)
    batch = batch_of()
    mask = batch.mask.astype(np.int64)
    ours = program.run({"input_ids": batch.ids, "attention_mask": mask})
    theirs = saved.logits(batch.ids, mask)
    assert np.abs(theirs[batch.mask]).max() > 0.5
    assert np.abs(ours - theirs)[batch.mask].max() <= 1e-4
    assert ours.dtype == np.float32


PARTS = ("in", "attn.q", "attn.k", "attn.v", "attn.probs", "attn.heads", "attn.out", "mid",
         "mlp.pre", "mlp.hidden", "mlp.out", "out")  # fmt: skip


@pytest.mark.parametrize("nnx", [False, True], ids=["plain", "nnx"])
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_bundles_compute_the_same_and_have_an_anatomy(variant, nnx, tmp_path):
    config, name = VARIANTS[variant]
    saved = save(config, tmp_path / "checkpoint", name)
    exporter = JaxExporter(arguments=(str(saved.folder),))
    model = Model.open(exporter.export(source(saved.name, nnx), tmp_path / "bundle"))
    info = model.bundle.info
    assert info.parity.max_abs <= 1e-4
    assert any(case.padded for case in info.parity.cases)
    assert (info.max_tokens, info.architecture) == (64, saved.name)
    names = {name for site in model.sites for name in site.names if not name.startswith("op:")}
    expected = {f"block.{i}.{part}" for i in (0, 1) for part in PARTS}
    assert names == expected | {"embed", "final_norm", "logits"}
    scopes = {model.sites.match([f"block.{i}.mlp.hidden"])[0].scope for i in (0, 1)}
    assert scopes == {"block.0/mlp", "block.1/mlp"}
    tensors = {tensor.name for tensor in model.graph.proto.graph.initializer}
    assert "block.1.mlp.down.kernel" in tensors
    session = model.compile(Plan(outputs=("logits",)), RuntimeOptions())
    for rows, tokens in ((1, 1), (1, 7), (3, 40), (5, 12)):
        batch = batch_of(rows, tokens)
        found = session.outputs(batch)["logits"]
        expected = saved.logits(batch.ids, batch.mask.astype(np.int64))
        assert np.abs(found - expected)[batch.mask].max() <= 1e-4


# --- GGUF --------------------------------------------------------------------------------------


def canonical(model):
    return {
        name: site.units
        for site in model.sites
        for name in site.names
        if not name.startswith("op:")
    }


@pytest.mark.parametrize(
    ("tiny", "nnx"),
    [
        (TinyModel(metadata={"llama.context_length": 64}), False),
        (TinyModel(architecture="qwen2", bias=True, tied=False, pre="qwen2",
                   metadata={"qwen2.context_length": 64}), True),
    ],
    ids=["llama", "qwen2"],
)  # fmt: skip
def test_a_gguf_gives_the_same_sites_and_values(tiny, nnx, tmp_path):
    file = tiny.write(tmp_path / "tiny.gguf")
    theirs = Model.open(GGUFExporter().export(file, tmp_path / "gguf", name="tiny"))
    function = f"onnxloc_models.jax.llama{'_nnx' if nnx else ''}:from_gguf"
    exporter = JaxExporter(function=function, bos=True)
    ours = Model.open(exporter.export(file, tmp_path / "jax", name="tiny"))
    assert canonical(ours) == canonical(theirs)
    assert ours.bundle.info.add_bos
    for key in ("name", "bos_token_id", "eos_token_id", "max_tokens", "license"):
        assert getattr(ours.bundle.info, key) == getattr(theirs.bundle.info, key)
    text = "the quick brown fox, 1998"
    sequences = ours.encode([text, text[:9]], bos=False)
    assert sequences == theirs.encode([text, text[:9]], bos=False)
    batch = Batch.of(sequences, [0, 1], pad=0)
    outputs = []
    for model in (ours, theirs):
        taps = tuple(Tap(site.tensor, "mean") for site in model.sites.match(["block.*.out"]))
        values = model.compile(Plan(taps=taps), RuntimeOptions()).taps(batch)
        outputs.append(np.stack([values[tap] for tap in taps]))
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_a_tokenizer_that_is_named(tmp_path):
    file = TinyModel(metadata={"llama.context_length": 64}).write(tmp_path / "tiny.gguf")
    function = "onnxloc_models.jax.llama:from_gguf"
    made = GGUFExporter().export(file, tmp_path / "made")
    # A tokenizer by itself says nothing of BOS or of lengths.
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes((made / "tokenizer.json").read_bytes())
    other = JaxExporter(function=function, tokenizer=tokenizer, max_tokens=9)
    folder = other.export(file, tmp_path / "other")
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    info = Model.open(folder).bundle.info
    assert (info.max_tokens, info.add_bos, info.bos_token_id) == (9, False, None)
    with pytest.raises(ExportError, match="cannot read"):
        JaxExporter(function=function, tokenizer=tmp_path / "none").export(file, tmp_path / "out")


# --- checkpoints that cannot be read -----------------------------------------------------------


@pytest.fixture
def llama(tmp_path):
    return save(VARIANTS["llama"][0], tmp_path / "checkpoint", "llama").folder


def change(folder, **settings):
    file = folder / "config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "drop"}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma', which is not known here"),
        ({"model_type": "drop"}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_size": "drop"}, "hidden_size must be a size, not None"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a size"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"num_key_value_heads": 3}, "these do not fit"),
        ({"intermediate_size": 31}, "mlp.gate_proj.weight has the shape (32, 24), not (31, 24)"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be positive"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "the rope scaling 'yarn' is not known"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor must be positive, not None"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "must be over low_freq_factor"),
        ({"rope_scaling": 3}, "rope_scaling must hold an object"),
    ],
)
def test_configurations_that_are_refused(settings, words, llama):
    change(llama, **settings)
    with pytest.raises(ExportError) as caught:
        call_function("onnxloc_models.jax.llama:from_folder", str(llama))
    assert words in str(caught.value)


def test_gpt2_that_is_refused(tmp_path):
    folder = save(VARIANTS["gpt2"][0], tmp_path, "gpt2").folder
    for settings, words in (
        ({"n_head": 5}, "5 heads do not fit"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ):
        change(folder, n_head=4, activation_function="gelu_new")
        change(folder, **settings)
        with pytest.raises(ExportError, match=words):
            call_function("onnxloc_models.jax.gpt2:from_folder", str(folder))


def test_files_that_cannot_be_read(llama):
    weights = llama / "model.safetensors"
    tensors = load_file(weights)

    def refused(words):
        with pytest.raises(ExportError, match=words):
            call_function("onnxloc_models.jax.llama:from_folder", str(llama))

    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, weights)
    refused("model.norm.weight holds values that are not finite")
    weights.write_bytes(b"\x80\x02" * 40)
    refused("is corrupt")
    weights.unlink()
    refused("pickled .bin files are not opened")
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    refused("no safetensors file in that folder")
    index.write_text(json.dumps({"weight_map": ["a"]}))
    refused("weight_map must give each tensor's file")
    (llama / "config.json").write_text("[")
    refused("is not JSON")
    (llama / "config.json").unlink()
    refused("cannot read .*config.json")


def test_shards_and_bfloat16(llama):
    call = "onnxloc_models.jax.llama:from_folder"
    _, whole, _ = call_function(call, str(llama))
    tensors = {k: v.to(torch.bfloat16) for k, v in load_file(llama / "model.safetensors").items()}
    names = sorted(tensors)
    (llama / "model.safetensors").unlink()
    where = {}
    for number, part in enumerate((names[:5], names[5:])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, llama / file)
        where |= dict.fromkeys(part, file)
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    _, parted, _ = call_function(call, str(llama))
    assert parted["norm"]["scale"].dtype == np.float32
    np.testing.assert_allclose(parted["norm"]["scale"], whole["norm"]["scale"], rtol=1e-2)
