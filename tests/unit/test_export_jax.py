"""JAX functions of every form become bundles, and what cannot is refused with a reason."""

import json

import numpy as np
import onnx
import pytest
from helpers import jax_models
from helpers.tiny_bundle import snapshot
from onnxloc_exporters import jax_, jax_trace
from onnxloc_exporters.jax_ import JaxExporter
from onnxloc_exporters.jax_trace import SCOPE

from onnxloc.bundle import Bundle
from onnxloc.cli import main
from onnxloc.errors import ExportError, RuntimeMissingError
from onnxloc.graph.load import load_graph
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import make_session, run_session

pytestmark = pytest.mark.unit


def export(folder, function, **options):
    return JaxExporter(**options).export(f"helpers.jax_models:{function}", folder)


def proto(folder):
    return onnx.load(folder / "model.onnx", load_external_data=False)


def run(folder, feeds):
    """All outputs by name."""
    graph = load_graph(Bundle.open(folder))
    session = make_session(graph.proto, graph.folder, RuntimeOptions())
    names = [value.name for value in graph.proto.graph.output]
    return dict(zip(names, run_session(session, names, feeds), strict=True))


def kinds(folder):
    return [node.op_type for node in proto(folder).graph.node]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("plain", {"layer.0.kernel", "layer.0.bias", "layer.1.kernel"}),
        (
            "linen",
            {"params.first.kernel", "params.first.bias", "params.second.kernel"},
        ),
        ("linen_apply", {"params.first.kernel", "params.second.bias"}),
        ("flax_nnx", {"first.kernel", "first.bias", "second.kernel", "second.bias"}),
        ("flax_nnx_as_params", {"first.kernel", "second.bias"}),
        ("equinox", {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}),
        ("equinox_alone", {"weight"}),
    ],
)
def test_parameters_are_named_initializers_beside_the_graph(function, names, tmp_path):
    folder = export(tmp_path / "out", function)
    graph = proto(folder).graph
    assert names <= {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        if tensor.name in names:
            assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert not names & {value.name for value in graph.input}
    info = Bundle.open(folder).info
    assert info.framework == info.exporter == "jax"
    assert info.versions["jax2onnx"] == "0.17.1"
    assert info.parity.within
    assert {case.rows for case in info.parity.cases} == {1, 2, 3}


def test_scopes_names_and_outputs(tmp_path):
    folder = export(tmp_path / "out", "plain")
    model = proto(folder)
    assert [value.name for value in model.graph.input] == ["x", "scale"]
    assert [value.name for value in model.graph.output] == ["hidden", "out"]
    scopes = {
        node.op_type: entry.value
        for node in model.graph.node
        for entry in node.metadata_props
        if entry.key == SCOPE
    }
    # The scope outside reaches what is compiled inside it; the second product stands outside.
    assert scopes["Tanh"] == "hidden"
    assert {site.scope for site in Model.open(folder).sites} == {"hidden", ""}
    apply, params, (x, scale) = jax_models.plain()
    scale = np.array(scale)
    ours, theirs = run(folder, {"x": x[:1], "scale": scale}), apply(params, x[:1], scale)
    for name in ("hidden", "out"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)


def test_watching_leaves_jax2onnx_as_it_was(tmp_path, monkeypatch):
    from jax2onnx.converter import lowering_dispatch as dispatch

    name = "lower_equation_with_plugin"
    original = getattr(dispatch, name)
    with pytest.raises(ExportError):
        export(tmp_path / "out", "reverse_scan")
    assert getattr(dispatch, name) is original
    # A later jax2onnx may go another way; then there are no scopes.
    monkeypatch.delattr(dispatch, name)
    with jax_trace.watched(jax_trace.Lowering()):
        assert not hasattr(dispatch, name)


def test_what_nothing_reads_is_left_out(tmp_path):
    folder = export(tmp_path / "out", "closed_over")
    graph = proto(folder).graph
    names = {tensor.name: tensor for tensor in graph.initializer}
    assert "embed" in names
    assert "unused" not in names
    # A large array that the function closes over is a weight too.
    large = [t for t in names.values() if tuple(t.dims) == (400, jax_models.WIDTH)]
    assert all(t.data_location == onnx.TensorProto.EXTERNAL for t in large)
    assert (folder / "model.onnx").stat().st_size < 20_000
    read = {name for node in graph.node for name in node.input}
    assert set(names) <= read
    assert "Expand" not in kinds(folder)


def test_the_hash_is_of_the_computation_and_the_parameters(tmp_path):
    def hashed(name, function, *arguments):
        folder = export(tmp_path / name, function, arguments=arguments)
        return Bundle.open(folder).info.source_sha256

    assert hashed("a", "flax_nnx") == hashed("b", "flax_nnx") != hashed("c", "flax_nnx_as_params")
    # An array that the function closes over counts too.
    assert (
        hashed("d", "closed_over", "1")
        == hashed("e", "closed_over")
        != hashed("f", "closed_over", "2")
    )


def test_scans(tmp_path):
    kept = export(tmp_path / "kept", "scan")
    unrolled = export(tmp_path / "unrolled", "scan", scans="unroll")
    assert "Loop" in kinds(kept)
    assert "Loop" not in kinds(unrolled)
    assert kinds(unrolled).count("Tanh") == jax_models.LAYERS
    apply, params, _ = jax_models.scan()
    for folder in (kept, unrolled):
        x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        (found,) = run(folder, {"x": x}).values()
        np.testing.assert_allclose(found, apply(params, x), atol=1e-6)
    tanh = [site for site in Model.open(unrolled).sites if site.op_type == "Tanh"]
    assert {site.scope for site in tanh} == {"step"}


def test_attention_is_one_operator_from_opset_23_on(tmp_path):
    low, high = (
        export(tmp_path / str(opset), "flax_attention", opset=opset, dynamic=("x=0,1",))
        for opset in (22, 23)
    )
    assert "Softmax" in kinds(low)
    assert "Attention" in kinds(high)
    assert "Softmax" not in kinds(high)
    assert Bundle.open(high).info.opset == 23


def test_the_axes_that_vary(tmp_path):
    shapes = {}
    for name, dynamic in (("default", ()), ("none", ("input_ids=",)), ("one", ("input_ids=1",))):
        folder = export(tmp_path / name, "closed_over", dynamic=dynamic)
        (value,) = proto(folder).graph.input
        dims = value.type.tensor_type.shape.dim
        shapes[name] = [dim.dim_param or dim.dim_value for dim in dims]
    assert shapes == {"default": ["batch", "tokens"], "none": [2, 5], "one": [2, "tokens"]}


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        ("missing", {}, "has no function 'missing'"),
        ("plian", {}, "did you mean 'plain'?"),
        ("not_a_triple", {}, "(apply, params, example inputs), not a tuple of 2"),
        ("not_callable", {}, "apply must be callable, not a int"),
        ("no_params", {}, "no arrays in the parameters"),
        ("no_inputs", {}, "there are no example inputs"),
        ("text_as_input", {}, "'x' must be an array of numbers, not a str"),
        ("number_as_inputs", {}, "a dictionary or a sequence of arrays, not a int"),
        ("name_twice", {}, "'embed' is an input and a parameter"),
        ("wrong_examples", {}, "fails on the example inputs (x float32[2, 3]) (jax_models.py:"),
        ("fails", {}, "failed: KeyError: 'weights'"),
        ("no_output", {}, "apply returns no array"),
        ("arange", {}, "arange in 'places = jnp.arange(input_ids.shape[1])' (jax_models.py:"),
        ("arange", {}, "use jax.lax.iota(jnp.int32, size)"),
        ("python_loop", {}, "range in 'for i in range(input_ids.shape[1]):' (jax_models.py:"),
        ("python_if", {}, "use jnp.where or jax.lax.cond in place of if"),
        ("callback", {}, "the JAX primitive 'pure_callback' (jax_models.py:"),
        ("reverse_scan", {}, "cannot write the JAX primitive 'scan'"),
        ("reverse_scan", {}, "try --scans unroll"),
        ("fixed_length", {}, "say with --dynamic which axes vary"),
        ("plain", {"dynamic": ("y=0",)}, "there is no input 'y'"),
        ("plain", {"dynamic": ("x=a",)}, "axes are numbers with commas between"),
        ("plain", {"dynamic": ("x=2",)}, "x has 2 axes"),
        ("half", {}, "the parameter w is float16"),
        ("plain", {"opset": 17}, "opset must be 18 to 24, not 17"),
        ("plain", {"scans": "roll"}, "scans must be keep or unroll"),
        ("plain", {"max_tokens": 0}, "max_tokens must be at least 1"),
        ("plain", {"bos": True}, "the tokenizer names none"),
        ("closed_over", {"arguments": ("many",)}, "failed: ValueError"),
    ],
)
def test_what_is_refused(function, options, words, tmp_path):
    with pytest.raises(ExportError) as caught:
        export(tmp_path / "out", function, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_scan_can_be_unrolled(tmp_path):
    folder = export(tmp_path / "out", "reverse_scan", scans="unroll")
    assert Bundle.open(folder).info.parity.within


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere:plain", "there is no module 'nowhere'"),
        ("helpers.nowhere:plain", "there is no module 'helpers.nowhere'"),
        ("helpers.jax_models", "is not of the form module:function"),
        ("a b:c", "is not of the form module:function"),
    ],
)
def test_sources_that_are_none(source, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        JaxExporter().export(source, tmp_path / "out")


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(jax_, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'onnxloc\[jax\]'"):
        export(tmp_path / "out", "plain")


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch, capsys):
    run = jax_.JaxProgram.run
    monkeypatch.setattr(jax_.JaxProgram, "run", lambda self, inputs: run(self, inputs) * 1.01)
    with pytest.raises(ExportError, match="over the tolerance"):
        export(tmp_path / "out", "flax_nnx")
    assert list(tmp_path.iterdir()) == []
    folder = export(tmp_path / "out", "flax_nnx", allow_mismatch=True)
    assert not Bundle.open(folder).info.parity.within


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp, numpy as np\n"
        "def net(width):\n"
        "    w = jnp.ones((3, int(width)))\n"
        "    x = np.ones((2, 3), 'float32')\n"
        "    return lambda p, x: jnp.tanh(x @ p['w']), {'w': w}, {'x': x}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["export", "jax", "mine:net", "--arg", "4", "--name", "net", "-o", "out"]) == 0
    said = capsys.readouterr().out
    assert "parity: output against jax" in said
    assert "wrote out" in said
    record = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert (record["name"], record["source"]) == ("net", "mine:net 4")
    before = snapshot(tmp_path)
    assert main(["export", "jax", "mine:net", "--arg", "four", "-o", "other"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {k: v for k, v in snapshot(tmp_path).items() if "__pycache__" not in k} == {
        k: v for k, v in before.items() if "__pycache__" not in k
    }
