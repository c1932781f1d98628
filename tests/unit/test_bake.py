import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import weight_graphs as graphs
from onnx import TensorProto

from onnxloc.errors import AnatomyError, ModelError, NetworkError, OptionError, RunError
from onnxloc.graph.bake import FixedEdit, bake
from onnxloc.graph.plan import Edit, Plan
from onnxloc.network import Network
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.bake import BakeOptions, bake_network
from onnxloc.studies.means import mean_activations

pytestmark = pytest.mark.unit

TEXTS = ["the dog sees a cat", "a cat sleeps", "the cat and the dog sleeps"]
SITES = ("hidden", "stream", "normed")


@pytest.fixture
def model(tmp_path):
    return Model.open(graphs.save_decoder(tmp_path / "source"))


def network(model, units):
    sites = {f"op:{name}": model.sites.find(name).units for name in units}
    chosen = {f"op:{name}": np.array(which) for name, which in units.items()}
    return Network(chosen, sites, model.graph.hash, {"how": "top"})


def plain(folder, feeds):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def fed(model, edits, ids):
    """The logits of a session that is fed the same edit."""
    plan = Plan(edits=tuple(Edit(tensor) for tensor in edits), outputs=("logits",))
    operands = {t: (e.mask[None, None], e.values[None, None]) for t, e in edits.items()}
    batch = Batch.of(ids.tolist(), range(len(ids)), pad=0)
    return model.compile(plan, RuntimeOptions()).outputs(batch, operands)["logits"]


@pytest.mark.parametrize("site", SITES)
def test_a_baked_edit_equals_the_same_edit_fed(tmp_path, model, site):
    rng = np.random.default_rng(0)
    n = model.sites.find(site).units
    edit = FixedEdit(rng.random(n) < 0.5, rng.standard_normal(n).astype(np.float32))
    proto = bake(model.graph, model.sites, {site: edit})
    ids = rng.integers(0, graphs.VOCABULARY, (3, 9))
    session = ort.InferenceSession(
        onnx.load_model_from_string(proto.SerializeToString()).SerializeToString(),
        _weights_of(model),
        providers=["CPUExecutionProvider"],
    )
    (got,) = session.run(None, {"input_ids": ids})
    np.testing.assert_allclose(got, fed(model, {site: edit}, ids), rtol=1e-6, atol=1e-6)
    intact = fed(model, {site: FixedEdit(np.zeros(n, bool), edit.values)}, ids)
    assert np.abs(got - intact).max() > 1e-2


def _weights_of(model):
    options = ort.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{model.graph.folder}/"
    )
    return options


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_a_baked_bundle_is_an_ordinary_model(tmp_path, model, replacement):
    units = {"hidden": [0, 3, 40], "stream": [5]}
    before = {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in model.bundle.folder.iterdir()}
    out = tmp_path / "baked"
    baked = bake_network(
        model, network(model, units), out, BakeOptions(replacement=replacement), texts=TEXTS
    )
    assert (baked.units, baked.sites) == (4, 2)
    onnx.checker.check_model(out / "model.onnx", full_check=True)
    original = onnx.load(model.bundle.model_path, load_external_data=False)
    written = onnx.load(out / "model.onnx", load_external_data=False)
    assert list(written.graph.input) == list(original.graph.input)
    assert list(written.graph.output) == list(original.graph.output)
    assert (out / "model.onnx.data").is_file()
    # A file of its own: a change of one model must not reach the other.
    assert (out / "model.onnx.data").stat().st_nlink == 1
    after = {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in model.bundle.folder.iterdir()}
    assert before == after

    sites = [model.sites.find(name) for name in units]
    means = mean_activations(
        model, sites, model.encode_scored(TEXTS), RuntimeOptions(), batch_size=2
    )
    edits = {}
    for site in sites:
        mask = np.zeros(site.units, bool)
        mask[units[site.tensor]] = True
        values = means[site.tensor].ravel() if replacement == "mean" else np.zeros(site.units)
        edits[site.tensor] = FixedEdit(mask, values.astype(np.float32))
    ids = np.random.default_rng(1).integers(0, graphs.VOCABULARY, (2, 7))
    (got,) = plain(out, {"input_ids": ids})
    np.testing.assert_allclose(got, fed(model, edits, ids), rtol=1e-6, atol=1e-6)
    (intact,) = plain(model.bundle.folder, {"input_ids": ids})
    assert np.abs(got - intact).max() > 1e-2

    again = Model.open(out)
    assert again.graph.hash != model.graph.hash
    assert again.bundle.info.exporter == "bake"
    assert again.bundle.info.source_sha256 == model.graph.hash
    assert again.bundle.tokenizer.encode("the dog").ids == [1, 2]
    np.testing.assert_allclose(fed(again, {}, ids), got, rtol=1e-6, atol=1e-6)


def test_means_are_those_of_every_token_behind_the_prefix(model):
    site = model.sites.find("hidden")
    sequences = model.encode_scored(TEXTS)
    found = mean_activations(model, [site], sequences, RuntimeOptions(), batch_size=2)["hidden"]
    proto = onnx.load(model.bundle.model_path)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("hidden"))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [
        session.run(["hidden"], {"input_ids": np.array([ids])})[0][0][1:].astype(np.float64)
        for ids in sequences
    ]
    assert found.shape == (1, 1, site.units)
    np.testing.assert_allclose(found[0, 0], np.concatenate(rows).mean(axis=0), atol=1e-5)


def test_baking_twice_keeps_both_edits(tmp_path, model):
    first = bake_network(model, network(model, {"hidden": [0, 1]}), tmp_path / "first")
    middle = Model.open(tmp_path / "first")
    second = bake_network(middle, network(middle, {"hidden": [2]}), tmp_path / "second")
    assert (first.units, second.units) == (2, 1)
    both = np.zeros(2 * graphs.WIDTH, bool)
    both[:3] = True
    ids = np.arange(12).reshape(2, 6)
    edit = FixedEdit(both, np.zeros(both.size, np.float32))
    (got,) = plain(tmp_path / "second", {"input_ids": ids})
    np.testing.assert_allclose(got, fed(model, {"hidden": edit}, ids), rtol=1e-6, atol=1e-6)
    onnx.checker.check_model(tmp_path / "second/model.onnx", full_check=True)
    props = onnx.load(tmp_path / "second/model.onnx", load_external_data=False).metadata_props
    assert [(p.key, p.value) for p in props] == [("onnxloc.baked", "1 units set to zero")]


def test_an_edited_output_and_a_captured_site_are_edited(tmp_path):
    """A site that is an output of the model and is read from within a branch, of type float64."""
    kind = TensorProto.DOUBLE
    then = onnx.helper.make_graph(
        [graphs.node("Neg", ["h"], "then_out")],
        "t",
        [],
        [graphs.value("then_out", kind, "n", 2, 3)],
    )
    other = onnx.helper.make_graph(
        [graphs.node("Abs", ["h"], "else_out")],
        "e",
        [],
        [graphs.value("else_out", kind, "n", 2, 3)],
    )
    proto = graphs.model(
        [
            graphs.node("Mul", ["x", "two"], "h"),
            onnx.helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
        ],
        [graphs.value("x", kind, "n", 2, 3), graphs.value("flag", TensorProto.BOOL)],
        [graphs.value("h", kind, "n", 2, 3), graphs.value("y", kind, "n", 2, 3)],
        {"two": np.array(2.0)},
    )
    model = Model.open(graphs.save(proto, tmp_path / "source"))
    assert model.sites.find("h").units == 6
    bake_network(model, network(model, {"h": [1, 5]}), tmp_path / "baked")
    x = np.arange(1.0, 13).reshape(2, 2, 3)
    h, y = plain(tmp_path / "baked", {"x": x, "flag": np.array(True)})
    want = 2 * x.reshape(2, 6)
    want[:, [1, 5]] = 0
    np.testing.assert_array_equal(h.reshape(2, 6), want)
    np.testing.assert_array_equal(y, -h)
    onnx.checker.check_model(tmp_path / "baked/model.onnx", full_check=True)


def test_an_input_with_a_default_value_stays_an_input(tmp_path):
    proto = graphs.model(
        [graphs.node("Mul", ["x", "gain"], "h"), graphs.node("Neg", ["h"], "y")],
        [graphs.value("x", graphs.F, "n", 3), graphs.value("gain", graphs.F)],
        [graphs.value("y", graphs.F, "n", 3)],
        {"gain": np.array(2, np.float32)},
    )
    model = Model.open(graphs.save(proto, tmp_path / "source"))
    bake_network(model, network(model, {"h": [0]}), tmp_path / "baked")
    x = np.ones((1, 3), np.float32)
    (y,) = plain(tmp_path / "baked", {"x": x})
    np.testing.assert_array_equal(y, [[0, -2, -2]])
    (y,) = plain(tmp_path / "baked", {"x": x, "gain": np.array(3, np.float32)})
    np.testing.assert_array_equal(y, [[0, -3, -3]])


def test_infinities_are_replaced_too(tmp_path):
    proto = graphs.model(
        [graphs.node("Log", ["x"], "h"), graphs.node("Neg", ["h"], "y")],
        [graphs.value("x", graphs.F, "n", 3)],
        [graphs.value("y", graphs.F, "n", 3)],
        {},
    )
    model = Model.open(graphs.save(proto, tmp_path / "source"))
    bake_network(model, network(model, {"h": [1]}), tmp_path / "baked")
    (y,) = plain(tmp_path / "baked", {"x": np.array([[0, 0, 1]], np.float32)})
    np.testing.assert_array_equal(y, [[np.inf, 0, 0]])


def test_what_cannot_be_baked(tmp_path, model):
    n = model.sites.find("hidden").units
    mask = np.ones(n, bool)
    with pytest.raises(ModelError, match="lacks"):
        bake(model.graph, model.sites, {"hidden": FixedEdit(mask, np.full(n, np.nan))})
    with pytest.raises(ModelError, match="lacks"):
        bake(model.graph, model.sites, {"hidden": FixedEdit(mask, np.full(n, 1e300))})
    with pytest.raises(ModelError, match="not for its"):
        bake(model.graph, model.sites, {"hidden": FixedEdit(mask[1:], np.zeros(n - 1))})
    with pytest.raises(AnatomyError, match="nothing"):
        bake(model.graph, model.sites, {"nothing": FixedEdit(mask, np.zeros(n))})
    with pytest.raises(ModelError, match="no units"):
        bake(model.graph, model.sites, {"range_row": FixedEdit(np.ones(1, bool), np.zeros(1))})

    good = network(model, {"hidden": [0]})
    out = tmp_path / "out"
    with pytest.raises(OptionError, match="the network has no units"):
        bake_network(model, network(model, {"hidden": []}), out)
    with pytest.raises(OptionError, match="means need texts"):
        bake_network(model, good, out, BakeOptions(replacement="mean"))
    with pytest.raises(RunError, match="holds the model itself"):
        bake_network(model, good, model.bundle.folder, force=True)
    other = Network({"op:hidden": [0]}, {"op:hidden": 7}, "f" * 64, {})
    with pytest.raises(NetworkError, match="is of model ffffffffffff"):
        bake_network(model, other, out)
    with pytest.raises(NetworkError, match=f"has {n} units in this model, 7 in the network"):
        bake_network(model, other, out, force_model=True)
    with pytest.raises(OptionError, match="there is no edit 'one'"):
        BakeOptions(replacement="one")
    assert not out.exists()
