"""Tiny seeded models of torch, through torch.onnx.export, as bundles."""

import ast
import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers.torch_models import make
from onnxloc_exporters.torch_ import TorchExporter

from onnxloc.bundle import Bundle
from onnxloc.cli import main
from onnxloc.errors import ExportError, RuntimeMissingError
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit

FUNCTIONS = """
import torch

class Text(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = torch.nn.Embedding(50, width)
        self.out = torch.nn.Linear(width, 50)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        mask = attention_mask[..., None].to(x.dtype)
        return self.out(x + (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True))

def text(width="16"):
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 6))
    return Text(int(width)), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

def image():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    return net, torch.randn(2, 1, 6, 6)

def nothing():
    return None

def in_float32():
    class InFloat32(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x.float())
    return InFloat32(4, 4), torch.randn(2, 4)

def no_tensors():
    return torch.nn.ReLU(), {"input": 3}

def single_row():
    return torch.nn.ReLU(), torch.randn(1, 4)

def branches():
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    return Branches(), torch.randn(2, 4)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and on a busy machine lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Llama of one block as a Hugging Face folder, and the model."""
    folder = tmp_path_factory.mktemp("source") / "tiny-llama"
    made = make("llama", blocks=1)
    made.module.model.save_pretrained(folder, safe_serialization=True)
    return folder, made


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    return TorchExporter().export(checkpoint[0], tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "user_models.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    # Each test has its own file of that name.
    monkeypatch.delitem(__import__("sys").modules, "user_models", raising=False)
    return tmp_path


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_any_batch_and_length(bundle, checkpoint, rows, tokens):
    draw = np.random.default_rng(rows * tokens)
    ids = draw.integers(0, 101, (rows, tokens))
    lengths = draw.integers(1, tokens + 1, rows)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    session = ort.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    positions = np.broadcast_to(np.arange(tokens), ids.shape)
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    (ours,) = session.run(["logits"], feeds)
    with torch.no_grad():
        theirs = (
            checkpoint[1]
            .module.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            .logits.numpy()
        )
    real = mask.astype(bool)
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_the_bundle_is_plain(bundle):
    assert {file.name for file in bundle.iterdir()} == {
        "bundle.json", "model.onnx", "model.onnx.data",
    }  # fmt: skip
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
    assert any(name.endswith("model.embed_tokens.weight") for name in names)
    metadata = [entry for node in model.graph.node for entry in node.metadata_props]
    assert {entry.key for entry in metadata} == {"pkg.torch.onnx.name_scopes"}
    scopes = {scope for entry in metadata for scope in ast.literal_eval(entry.value)[:-1]}
    assert "model.layers.0.mlp" in scopes
    assert not any(scope.startswith("model.model") for scope in scopes)


def test_anatomy(bundle, checkpoint):
    model = Model.open(bundle)
    names = {name for site in model.sites for name in site.names}
    assert set(checkpoint[1].parts) | {"logits", "block.0.attn.probs"} <= names


def test_what_the_bundle_says(bundle):
    info = Bundle.open(bundle).info
    assert (info.framework, info.exporter, info.source) == ("torch", "torch", "tiny-llama")
    assert (info.architecture, info.dtype, info.max_tokens) == ("llama", "float32", 64)
    assert len(info.source_sha256) == 64
    assert info.versions["torch"] == torch.__version__
    assert info.parity is not None
    assert info.parity.max_rel <= 1e-5
    assert {(case.rows, case.tokens) for case in info.parity.cases} == {
        (1, 1), (1, 5), (3, 5), (3, 40), (16, 12),
    }  # fmt: skip
    assert {case.padded for case in info.parity.cases} == {True, False}


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "FLOAT16"), ("bfloat16", "BFLOAT16")])
def test_half_precision(functions, dtype, stored):
    folder = TorchExporter(dtype=dtype).export("user_models:text", functions / "half")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    kinds = {t.data_type for t in model.graph.initializer if t.external_data}
    assert kinds == {onnx.TensorProto.DataType.Value(stored)}
    parity = Bundle.open(folder).info.parity
    assert parity is not None
    # Against weights that were not rounded it would be 1e-3 and more.
    assert parity.max_rel <= (1e-5 if dtype == "bfloat16" else 2e-3)
    assert {site.units for site in Model.open(folder).sites} >= {16, 50}


def changed(checkpoint, folder, **config):
    shutil.copytree(checkpoint[0], folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def index(folder, entry):
    (folder / "model.safetensors").unlink()
    text = json.dumps({"weight_map": {"a": entry}})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "config.json").write_text("{"), "cannot read .*config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "transformers cannot load"),
        (lambda f: index(f, "../model.safetensors"), "is not a file beside it"),
        (lambda f: index(f, "gone.safetensors"), r"lacks gone\.safetensors"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot read"),
    ],
)
def test_damaged_checkpoints(checkpoint, tmp_path, damage, said):
    folder = changed(checkpoint, tmp_path / "source")
    damage(folder)
    with pytest.raises(ExportError, match=said):
        TorchExporter().export(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["NoSuchModel"]}, "the architecture 'NoSuchModel'"),
        ({"architectures": None}, "the architecture None"),
        ({"quantization_config": {"quant_method": "x"}}, "quantised weights"),
        (
            {"num_hidden_layers": 2},
            r"lacks 9 weights of LlamaForCausalLM, such as model\.layers\.1",
        ),
        ({"hidden_size": "wide"}, "transformers cannot load"),
    ],
)
def test_configurations_that_do_not_fit(checkpoint, tmp_path, config, said):
    with pytest.raises(ExportError, match=said):
        TorchExporter().export(changed(checkpoint, tmp_path / "source", **config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_of_a_checkpoint_is_not_run(checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path / "source", auto_map={"AutoModelForCausalLM": "evil.M"},
                     model_type="mystery", architectures=["M"])  # fmt: skip
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ExportError):
        TorchExporter().export(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("onnxloc_exporters.torch_.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'onnxloc\[torch\]'"):
        TorchExporter().export("x", tmp_path / "out")


def test_functions_of_the_user(functions, capsys):
    assert main(["export", "torch", "user_models:text", "--arg", "32", "-o", "text"]) == 0
    said = capsys.readouterr().out
    assert "16 × 6" in said
    assert "within the tolerance of 0.001" in said
    model = Model.open("text")
    assert {site.units for site in model.sites} >= {32, 50}
    assert any(case.padded for case in model.bundle.info.parity.cases)
    assert main(["inspect", "text"]) == 0
    assert "parity: output against torch" in capsys.readouterr().out
    assert main(["export", "torch", "user_models:image", "-o", "image"]) == 0
    assert {case.rows for case in Bundle.open("image").info.parity.cases} == {1, 2, 3, 16}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["user_models:nothing"], "must return a torch.nn.Module and its example inputs"),
        (["user_models:no_tensors"], "must be tensors"),
        (["user_models:single_row"], "needs 2 or more"),
        (["user_models:branches"], "torch cannot export the model"),
        (["user_models:in_float32", "--dtype", "float16"], "the module itself fails"),
        (["user_models:imag"], "did you mean 'image'"),
        (["user_models:image", "--dynamic", "picture=0"], "there is no input 'picture'"),
        (["user_models:image", "--dynamic", "input=0,9"], "input has 4 axes"),
        (["user_models:image", "--dynamic", "input=x"], "not of the form"),
        (["user_models:image", "--tokenizer", "none.json"], "cannot read none.json"),
        (["."], "has no config.json"),
    ],
)
def test_what_cannot_be_exported(functions, capsys, words, said):
    before = sorted(path.name for path in functions.iterdir())
    assert main(["export", "torch", *words, "-o", "out"]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in functions.iterdir() if p.name != "__pycache__") == before
