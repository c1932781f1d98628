import struct

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType as Kind
from helpers.gguf_files import TinyModel, tiny_vocabulary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxloc_exporters import gguf_ as module
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc.bundle import Bundle
from onnxloc.errors import ExportError, OnnxlocError, RunError
from onnxloc.folder import sha256_file

pytestmark = pytest.mark.unit

IDS = np.array([[5, 9, 300, 17, 42, 80, 3], [7, 7, 201, 0, 0, 0, 0]])
MASK = np.array([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])
POSITIONS = np.broadcast_to(np.arange(7), IDS.shape).copy()


def run(folder, ids=IDS, mask=MASK, positions=POSITIONS):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return session.run(["logits"], feeds)[0]


def export(model, tmp_path, **options):
    return GGUFExporter(**options).export(model.write(tmp_path / "m.gguf"), tmp_path / "bundle")


def only_the_source(folder):
    return [path.name for path in folder.iterdir()] == ["m.gguf"]


MODELS = {
    "tied": TinyModel(),
    "untied": TinyModel(tied=False),
    "one key head": TinyModel(kv_heads=1),
    "no groups": TinyModel(kv_heads=4),
    "wide heads": TinyModel(head_width=32),
    "q4_1": TinyModel(kind=Kind.Q4_1),
    "q8_0": TinyModel(kind=Kind.Q8_0),
    "bf16": TinyModel(kind=Kind.BF16),
    "biases": TinyModel(bias=True),
    "qwen2": TinyModel(architecture="qwen2", bias=True, pre="qwen2", rope_base=1e6),
    "linear rope": TinyModel(rope_factor=4.0),
    "rope factors": TinyModel(rope_factors=(1.0, 1.0, 2.0, 2.5, 4.0, 8.0, 8.0, 8.0)),
    "unscaled rope": TinyModel(
        metadata={"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 8.0}
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_logits_are_the_models(model, tmp_path):
    want = model.logits(IDS, MASK, POSITIONS)
    got = run(export(model, tmp_path))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    "change",
    [{"rope_factor": 2.0}, {"rope_base": 500.0}, {"kv_heads": 4}, {"seed": 1}, {"tied": False}],
)
def test_the_reference_tells_models_apart(change):
    want = TinyModel().logits(IDS, MASK, POSITIONS)
    other = TinyModel(**change).logits(IDS, MASK, POSITIONS)
    assert np.abs(want - other).max() > 2e-2 * np.abs(want).max()


def test_float16(tmp_path):
    model = TinyModel()
    folder = export(model, tmp_path, dtype="float16")
    want = model.logits(IDS, MASK, POSITIONS)
    np.testing.assert_allclose(run(folder), want, rtol=0, atol=2e-2 * np.abs(want).max())
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    kinds = {tensor.data_type for tensor in graph.initializer if tensor.external_data}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert Bundle.open(folder).info.dtype == "float16"


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    big = np.full(64, 70000, np.float32)
    with pytest.raises(ExportError, match=r"output_norm.* overflows float16"):
        export(TinyModel(tensors={"output_norm.weight": big}), tmp_path, dtype="float16")
    assert only_the_source(tmp_path)


def test_rows_do_not_touch_each_other(tmp_path):
    folder = export(TinyModel(), tmp_path)
    both = run(folder)
    np.testing.assert_allclose(run(folder, IDS[:1], MASK[:1], POSITIONS[:1])[0], both[0], atol=1e-5)
    short = slice(1, 2), slice(0, 3)
    alone = run(folder, IDS[short], MASK[short], POSITIONS[short])
    np.testing.assert_allclose(alone[0], both[1, :3], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_left_padding_and_rows_without_a_token(dtype, tmp_path):
    folder = export(TinyModel(), tmp_path, dtype=dtype)
    right = run(folder)[1, :3]
    ids, mask = np.roll(IDS, 4, 1), np.roll(MASK, 4, 1)
    mask[0] = 0
    positions = np.maximum(POSITIONS - 4, 0)
    left = run(folder, ids, mask, positions)
    assert np.isfinite(left).all()
    np.testing.assert_allclose(left[1, 4:], right, atol=1e-4 if dtype == "float32" else 0.2)


def test_the_graph_is_plain_and_light(tmp_path):
    folder = export(TinyModel(), tmp_path)
    path = folder / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"Attention", "RMSNormalization", "RotaryEmbedding"} & {
        node.op_type for node in model.graph.node
    }
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    assert list(weights["model.layers.1.mlp.down_proj.weight"].dims) == [96, 64]
    assert sum(not tensor.external_data for tensor in model.graph.initializer) < 20
    for tensor in weights.values():
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "model.onnx.data"
        assert int(entries["offset"]) % 4096 == 0
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    outputs = {name for node in model.graph.node for name in node.output} - {"logits"}
    assert outputs <= set(shapes)
    assert not any("unk" in str(size) for shape in shapes.values() for size in shape)
    assert shapes["/model/layers.1/Add_1_output_0"] == ["batch", "sequence", 64]
    assert shapes["/model/layers.0/self_attn/Softmax_output_0"] == [
        "batch",
        4,
        "sequence",
        "sequence",
    ]
    assert shapes["/model/layers.1/mlp/down_proj/MatMul_output_0"] == ["batch", "sequence", 64]


def test_the_norms_fuse(tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    folder = export(TinyModel(), tmp_path)
    ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    assert sum("LayerNormalization" in node.op_type for node in nodes) == 5


def test_the_bundle_says_what_the_file_says(tmp_path):
    model = TinyModel(metadata={"tokenizer.ggml.padding_token_id": 0})
    source = model.write(tmp_path / "m.gguf")
    GGUFExporter().export(source, tmp_path / "bundle", name="tiny")
    info = Bundle.open(tmp_path / "bundle").info
    assert (info.name, info.framework, info.exporter) == ("tiny", "gguf", "gguf")
    assert (info.source, info.source_sha256) == ("m.gguf", sha256_file(source))
    assert (info.architecture, info.dtype, info.license) == ("llama", "float32", "apache-2.0")
    assert (info.opset, info.max_tokens, info.add_bos) == (21, 64, False)
    assert (info.bos_token_id, info.eos_token_id, info.pad_token_id) == (1, 0, 0)
    assert info.versions["exporter"] == GGUFExporter.version
    assert set(info.files) == {"model.onnx", "model.onnx.data", "tokenizer.json"}
    assert (
        info.files["model.onnx.data"].size == (tmp_path / "bundle/model.onnx.data").stat().st_size
    )


def test_two_exports_are_the_same(tmp_path):
    source = TinyModel().write(tmp_path / "m.gguf")
    first = GGUFExporter().export(source, tmp_path / "a", name="x")
    second = GGUFExporter().export(source, tmp_path / "b", name="x")
    assert Bundle.open(first).info.files == Bundle.open(second).info.files


def one(*shape):
    return np.ones(shape, np.float32)


REFUSED = {
    "architecture": (TinyModel(architecture="falcon"), "architecture 'falcon' is not known"),
    "experts": (TinyModel(metadata={"llama.expert_count": 8}), "mixtures of experts"),
    "unknown key": (
        TinyModel(metadata={"llama.logit_scale": 2.0}),
        "llama.logit_scale is not known",
    ),
    "lacking key": (TinyModel(metadata={"llama.block_count": None}), "lacks llama.block_count"),
    "wrong kind": (
        TinyModel(metadata={"llama.block_count": "2"}),
        "must be a whole number, not '2'",
    ),
    "zero": (TinyModel(metadata={"llama.embedding_length": 0}), "must not be 0"),
    "too few blocks": (TinyModel(metadata={"llama.block_count": 1}), "blk.1.* is not known"),
    "too many blocks": (TinyModel(metadata={"llama.block_count": 2**31}), "blk.2.* is missing"),
    "heads": (TinyModel(metadata={"llama.attention.head_count_kv": 3}), "do not fit"),
    "partial rope": (
        TinyModel(metadata={"llama.rope.dimension_count": 8}),
        "must be the head width",
    ),
    "values": (TinyModel(metadata={"llama.attention.value_length": 8}), "must be the head width"),
    "yarn": (TinyModel(metadata={"llama.rope.scaling.type": "yarn"}), "rope scaling 'yarn'"),
    "epsilon": (
        TinyModel(metadata={"llama.attention.layer_norm_rms_epsilon": 2.0}),
        "epsilon of the norms",
    ),
    "nan epsilon": (
        TinyModel(metadata={"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        "must be a number, not nan",
    ),
    "vocab_size": (TinyModel(metadata={"llama.vocab_size": 12}), "does not fit"),
    "parts": (TinyModel(metadata={"split.count": 3}), "one of several parts"),
    "lacking tensor": (
        TinyModel(tensors={"blk.1.ffn_up.weight": None}),
        "blk.1.ffn_up.weight is missing",
    ),
    "lacking embedding": (
        TinyModel(tensors={"token_embd.weight": None}),
        "token_embd.weight is missing",
    ),
    "unknown tensor": (TinyModel(tensors={"blk.0.attn_sub_norm.weight": one(64)}), "attn_sub_norm"),
    "shape": (TinyModel(tensors={"blk.0.ffn_up.weight": one(64, 96)}), "has the shape"),
    "one bias": (TinyModel(tensors={"blk.0.attn_q.bias": one(64)}), "blk.0.attn_k.bias is missing"),
    "nan": (TinyModel(tensors={"output_norm.weight": one(64) * np.nan}), "not finite"),
    "infinity": (TinyModel(tensors={"output_norm.weight": one(64) * -np.inf}), "not finite"),
    "type": (
        TinyModel(tensors={"output_norm.weight": np.ones(64, np.int32)}),
        "output_norm.weight has the type I32",
    ),
    "rope factors": (TinyModel(rope_factors=(1.0, 2.0)), "rope_freqs.weight must have the shape"),
    "zero rope factors": (TinyModel(rope_factors=(0.0,) * 8), "not positive"),
    "token count": (
        TinyModel(tensors={"token_embd.weight": one(9, 64)}),
        "do not fit an embedding of 9",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused(model, message, tmp_path):
    with pytest.raises(ExportError, match=message) as caught:
        export(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert only_the_source(tmp_path)


def test_files_that_are_not_gguf(tmp_path):
    for name, content, message in (
        ("empty.gguf", b"", "is not a GGUF file"),
        ("text.gguf", b"hello world", "is not a GGUF file"),
        ("magic.gguf", b"GGUF", "is corrupt"),
        ("old.gguf", struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "is corrupt"),
        ("nothing.gguf", struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "lacks general.architecture"),
        ("counts.gguf", struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 2**63), "is corrupt"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ExportError, match=message):
            GGUFExporter().export(tmp_path / name, tmp_path / "out")
    for missing in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ExportError, match="cannot read"):
            GGUFExporter().export(missing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_length_that_lies_is_found_at_once(tmp_path):
    path = TinyModel().write(tmp_path / "m.gguf")
    whole = path.read_bytes()
    key = b"tokenizer.ggml.token_type"
    at = whole.index(key) + len(key) + 8
    path.write_bytes(whole[:at] + struct.pack("<Q", 2**62) + whole[at + 8 :])
    with pytest.raises(ExportError, match="is corrupt: it ends early"):
        GGUFExporter().export(path, tmp_path / "out")


def test_tensors_that_overlap(tmp_path):
    path = TinyModel().write(tmp_path / "m.gguf")
    whole = path.read_bytes()
    at = whole.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    with pytest.raises(ExportError, match="overlaps"):
        GGUFExporter().export(path, tmp_path / "out")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    return TinyModel(blocks=1).write(tmp_path_factory.mktemp("gguf") / "m.gguf").read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_cut_short_leaves_nothing(data, whole_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "m.gguf"
    # The last bytes may be padding; every weight is gone before them.
    path.write_bytes(whole_file[: data.draw(st.integers(0, len(whole_file) - 64))])
    with pytest.raises(ExportError) as caught:
        GGUFExporter().export(path, folder / "out")
    assert "\n" not in str(caught.value)
    assert only_the_source(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_header_gives_a_clear_error_or_a_sound_graph(data, whole_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip")
    path = folder / "m.gguf"
    changed = bytearray(whole_file)
    end = whole_file.index(b"output_norm.weight") + 40
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, end))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        GGUFExporter().export(path, folder / "out")
    except OnnxlocError as error:
        message = str(error)
    else:
        assert np.isfinite(run(folder / "out")).all()
        return
    assert message
    assert "\n" not in message
    assert only_the_source(folder)


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def stop(self, key):
        calls.append(key)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return read(self, key)

    read = module._Weights.read
    monkeypatch.setattr(module._Weights, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        export(TinyModel(), tmp_path)
    assert only_the_source(tmp_path)


def test_a_bundle_is_replaced_only_by_force(tmp_path):
    source = TinyModel().write(tmp_path / "m.gguf")
    GGUFExporter().export(source, tmp_path / "out", name="old")
    with pytest.raises(RunError, match="--force"):
        GGUFExporter().export(source, tmp_path / "out", name="new")
    assert Bundle.open(tmp_path / "out").info.name == "old"
    GGUFExporter().export(source, tmp_path / "out", name="new", force=True)
    assert Bundle.open(tmp_path / "out").info.name == "new"


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ExportError, match="'int8'"):
        GGUFExporter(dtype="int8")


def test_the_tiny_vocabulary_is_whole():
    words = tiny_vocabulary()
    assert len(set(words.tokens)) == len(words.tokens) == len(words.types) > 350
