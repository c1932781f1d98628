import hashlib
import os
import random

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import weight_graphs as graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxloc.bundle import Bundle
from onnxloc.errors import ModelError, OnnxlocError, OptionError, RunError
from onnxloc.graph.external import external_span
from onnxloc.graph.flow import Flow
from onnxloc.graph.load import load_graph
from onnxloc.graph.weight_roles import find_weights, looks_fixed
from onnxloc.graph.weights import UntrainOptions, untrain

pytestmark = pytest.mark.unit

DECODER_WEIGHTS = {"embed", "positions", "up", "down"}
WEIGHTS = {
    graphs.decoder: DECODER_WEIGHTS,
    graphs.conv_model: {"kernel", "w", "r"},
    graphs.if_model: {"w", "w2", "shared"},
    graphs.loop_model: {"stacked", "layers"},
    graphs.function_model: {"w", "v", "column"},
    graphs.quantised_model: {"w", "blocks", "integers"},
    graphs.packed_model: {"w"},
}


def run(folder, target, *, force=False, **options):
    bundle = Bundle.open(folder)
    return untrain(bundle, load_graph(bundle), target, UntrainOptions(**options), force=force)


def feeds(proto):
    rng = np.random.default_rng(0)
    given_feeds = {}
    for spec in proto.graph.input:
        dims = [d.dim_value or 4 for d in spec.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type)
        given_feeds[spec.name] = np.asarray(rng.standard_normal(dims) * 3).astype(kind)
    return given_feeds


def outputs(folder, given_feeds):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, given_feeds)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def bits(array):
    """Values as whole numbers, so that any type can be sorted and compared."""
    return array.reshape(-1).view(f"u{array.itemsize}")


# --- which tensors


@pytest.mark.parametrize("external", [False, True], ids=["embedded", "external"])
@pytest.mark.parametrize("build", WEIGHTS, ids=lambda build: build.__name__)
def test_weights_are_shuffled_and_nothing_else_changes(tmp_path, build, external):
    proto = build()
    source = graphs.save(proto, tmp_path / "source", external=external)
    before = graphs.constants(source)
    digests = {f.name: hashlib.sha256(f.read_bytes()).digest() for f in source.iterdir()}
    made = run(source, tmp_path / "new", seed=3)
    after = graphs.constants(tmp_path / "new")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == WEIGHTS[build]
    assert {name.rpartition(":")[2] for name in made.changed} == WEIGHTS[build]
    for name, values in after.items():
        assert (values.shape, values.dtype) == (before[name].shape, before[name].dtype)
        np.testing.assert_array_equal(np.sort(bits(values)), np.sort(bits(before[name])))
    assert made.values == sum(before[name].size for name in changed)
    assert digests == {f.name: hashlib.sha256(f.read_bytes()).digest() for f in source.iterdir()}
    given_feeds = feeds(proto)
    old, new = outputs(source, given_feeds), outputs(tmp_path / "new", given_feeds)
    assert all(a.shape == b.shape and not np.allclose(a, b) for a, b in zip(old, new, strict=True))


def test_fixed_tables_where_weights_stand_are_told_by_their_values(tmp_path):
    made = run(graphs.save(graphs.decoder(), tmp_path / "a"), tmp_path / "b")
    candidates = {one.name for one in find_weights(Flow(graphs.decoder()))}
    assert candidates - DECODER_WEIGHTS == {"cos", "sinusoids", "mask", "swap"}
    assert set(made.kept) == {"cos", "sinusoids", "mask", "swap", "added"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("table", [np.cos, np.sin, np.positive])
def test_tables_of_angles_are_fixed_in_every_type(dtype, table):
    values = table(graphs.angles(300, 16)).astype(dtype)
    assert looks_fixed(values)
    assert looks_fixed(values.reshape(1, 300, 1, 16))
    values[1] = 0  # the row of a padding token
    assert looks_fixed(values)
    noise = np.random.default_rng(0).standard_normal(values.shape)
    assert not looks_fixed((values + 0.2 * np.abs(values).max() * noise).astype(dtype))


def test_fourier_bases_and_mel_filters_are_fixed():
    n = np.arange(64)
    for window in (np.ones(64), np.hanning(65)[:64], np.hamming(64)):
        basis = window * np.cos(2 * np.pi * np.outer(np.arange(33), n) / 64)
        assert looks_fixed(basis.astype(np.float32))
        assert looks_fixed(basis.astype(np.float32).T.reshape(64, 1, 33))
        assert looks_fixed(basis.astype(np.float16)[:, None])
    peaks = np.linspace(0, 63, 12)
    # A table of two embeddings, quantised, has a few zeros.
    pair = np.arange(64, dtype=np.int8).reshape(2, 32) % 20
    assert not looks_fixed(pair)
    mel = np.maximum(0, 1 - np.abs(n[:, None] - peaks) / 5.7)
    assert looks_fixed(mel.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.sampled_from([(8, 8), (64, 3), (3, 64), (2, 2, 9), (500, 40)]))
@settings(max_examples=30, deadline=None)
def test_random_matrices_are_not_fixed(seed, shape):
    values = np.random.default_rng(seed).standard_normal(shape)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        assert not looks_fixed(values.astype(dtype))
        # Neighbouring positions of a learned table are alike, but no sinusoids.
        assert not looks_fixed((values * 0.2).cumsum(axis=0).astype(dtype))
    assert not looks_fixed(np.clip(values * 40, -127, 127).astype(np.int8))


def test_single_columns_and_frequencies_are_told_apart_by_what_is_summed():
    def product(left, right, shapes):
        arrays = {name: graphs.normal(1, *shape) for name, shape in shapes.items()}
        return graphs.model(
            [graphs.node("MatMul", [left, right], "out")],
            [graphs.value("x", graphs.F, "a", "b")],
            [graphs.value("out", graphs.F)],
            arrays,
        )

    assert find_weights(Flow(product("x", "w", {"w": (8, 1)})))
    assert find_weights(Flow(product("w", "x", {"w": (1, 8)})))
    assert not find_weights(Flow(product("x", "w", {"w": (1, 8)})))
    assert not find_weights(Flow(product("w", "x", {"w": (8, 1)})))
    assert not find_weights(Flow(product("x", "w", {"w": (8,)})))


def test_a_constant_is_no_weight_for_being_joined_to_activations():
    # The token that a vision model puts in front of its patches enters a product as activation.
    proto = graphs.model(
        [
            graphs.node("Concat", ["token", "x"], "joined", axis=0),
            graphs.node("MatMul", ["joined", "w"], "out"),
        ],
        [graphs.value("x", graphs.F, "n", 4)],
        [graphs.value("out", graphs.F, "m", 4)],
        {"token": graphs.normal(1, 2, 4), "w": graphs.normal(2, 4, 4)},
    )
    assert [one.name for one in find_weights(Flow(proto))] == ["w"]


def test_a_sparse_weight_keeps_its_zeros(tmp_path):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], "out")],
        [graphs.value("x", graphs.F, "n", 4)],
        [graphs.value("out", graphs.F, "n", 4)],
        {},
    )
    places = np.array([1, 4, 6, 11, 13])
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(graphs.normal(1, 5), "w"),
            numpy_helper.from_array(places, "w_places"),
            [4, 4],
        )
    )
    source = graphs.save(proto, tmp_path / "source")
    assert run(source, tmp_path / "new").changed == ("w",)
    (sparse,) = onnx.load(tmp_path / "new/model.onnx").graph.sparse_initializer
    np.testing.assert_array_equal(numpy_helper.to_array(sparse.indices), places)
    after = numpy_helper.to_array(sparse.values)
    assert not np.array_equal(after, graphs.normal(1, 5))
    np.testing.assert_array_equal(np.sort(after), np.sort(graphs.normal(1, 5)))


# --- which values


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    source = graphs.save_decoder(tmp_path / "source")
    for how in ("shuffle", "gaussian"):
        seen = {}
        for label, seed in (("a", 1), ("b", 1), ("c", 2)):
            run(source, tmp_path / how / label, how=how, seed=seed)
            seen[label] = graphs.constants(tmp_path / how / label)
        for name in DECODER_WEIGHTS:
            np.testing.assert_array_equal(seen["a"][name], seen["b"][name])
            assert (seen["a"][name] != seen["c"][name]).mean() > 0.9
    hashes = {
        load_graph(Bundle.open(folder)).hash
        for folder in (source, *tmp_path.glob("shuffle/*"), *tmp_path.glob("gaussian/*"))
    }
    assert len(hashes) == 5


def test_tensors_of_one_shape_are_shuffled_apart(tmp_path):
    source = graphs.save(graphs.loop_model(), tmp_path / "source")
    run(source, tmp_path / "new")
    before, after = graphs.constants(source), graphs.constants(tmp_path / "new")

    def order(name):
        return np.argsort(before[name].ravel())[np.argsort(np.argsort(after[name].ravel()))]

    assert not np.array_equal(order("stacked"), order("layers"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gaussian_weights_have_their_tensors_moments(tmp_path, dtype):
    rng = np.random.default_rng(0)
    values = (3 + 0.5 * rng.exponential(size=(200, 200))).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], "out")],
        [graphs.value("x", kind, "n", 200)],
        [graphs.value("out", kind, "n", 200)],
        {"w": values},
    )
    run(graphs.save(proto, tmp_path / "source", external=True), tmp_path / "new", how="gaussian")
    after = graphs.constants(tmp_path / "new")["w"].astype(np.float64)
    exact = values.astype(np.float64)
    # Five standard errors of the mean and of the standard deviation.
    assert abs(after.mean() - exact.mean()) < 5 * exact.std() / 200
    assert abs(after.std() - exact.std()) < 5 * exact.std() / (200 * np.sqrt(2))
    standard = (after - after.mean()) / after.std()
    assert abs((standard**3).mean()) < 0.1
    assert abs((standard**4).mean() - 3) < 0.2


def test_gaussian_halves_do_not_overflow(tmp_path):
    values = np.where(np.arange(4096).reshape(64, 64) % 2, 60000, -60000).astype(np.float16)
    values[0, 0] = 1
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], "out")],
        [graphs.value("x", TensorProto.FLOAT16, "n", 64)],
        [graphs.value("out", TensorProto.FLOAT16, "n", 64)],
        {"w": values},
    )
    run(graphs.save(proto, tmp_path / "source"), tmp_path / "new", how="gaussian")
    assert np.isfinite(graphs.constants(tmp_path / "new")["w"]).all()


def test_bfloat16_is_drawn_too(tmp_path):
    values = graphs.normal(0, 64, 64).astype(ml_dtypes.bfloat16)
    proto = graphs.model(
        [graphs.node("Cast", ["w"], "f", to=graphs.F), graphs.node("MatMul", ["x", "f"], "out")],
        [graphs.value("x", graphs.F, "n", 64)],
        [graphs.value("out", graphs.F, "n", 64)],
        {"w": values},
    )
    run(graphs.save(proto, tmp_path / "source"), tmp_path / "new", how="gaussian")
    after = graphs.constants(tmp_path / "new")["w"]
    assert after.dtype == values.dtype
    assert len(np.intersect1d(bits(after), bits(values))) < values.size
    assert abs(after.astype(np.float64).std() - 1) < 0.1


def test_quantised_and_infinite_weights_are_not_drawn(tmp_path):
    source = graphs.save(graphs.quantised_model(), tmp_path / "q")
    with pytest.raises(OptionError, match=r"weights w are quantised \(int8\).*--how shuffle"):
        run(source, tmp_path / "new", how="gaussian")
    proto = graphs.conv_model()
    proto.graph.node[0].attribute[0].t.CopyFrom(
        numpy_helper.from_array(np.full((4, 3, 5), [[[1, 2, np.inf, 4, 5]]], np.float32))
    )
    source = graphs.save(proto, tmp_path / "inf")
    with pytest.raises(ModelError, match="weights kernel hold values that are not finite"):
        run(source, tmp_path / "new", how="gaussian")
    assert names(tmp_path) == ["inf", "q"]


# --- how they are stored


def test_tied_tensors_stay_tied(tmp_path):
    proto = graphs.model(
        [
            graphs.node("MatMul", ["x", "a"], "y"),
            graphs.node("MatMul", ["y", "b"], "out"),
        ],
        [graphs.value("x", graphs.F, "n", 8)],
        [graphs.value("out", graphs.F, "n", 8)],
        {"a": graphs.normal(1, 8, 8), "b": graphs.normal(2, 8, 8)},
    )
    source = graphs.save(proto, tmp_path / "source", external=True)
    stored = onnx.load(source / "model.onnx", load_external_data=False)
    first, second = stored.graph.initializer
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    (source / "model.onnx").write_bytes(stored.SerializeToString())
    made = run(source, tmp_path / "new")
    assert made.changed == ("a",)
    after = graphs.constants(tmp_path / "new")
    np.testing.assert_array_equal(after["a"], after["b"])
    assert not np.array_equal(after["a"], graphs.normal(1, 8, 8))
    written = onnx.load(tmp_path / "new/model.onnx", load_external_data=False)
    assert len({external_span(tensor) for tensor in written.graph.initializer}) == 1


def test_large_embedded_weights_become_external(tmp_path):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], "out")],
        [graphs.value("x", graphs.F, "n", 256)],
        [graphs.value("out", graphs.F, "n", 256)],
        {"w": graphs.normal(1, 256, 256)},
    )
    run(graphs.save(proto, tmp_path / "source"), tmp_path / "new")
    assert (tmp_path / "new/model.onnx").stat().st_size < 2000
    assert (tmp_path / "new/model.onnx.data").stat().st_size == 4 * 256 * 256


def test_values_in_typed_fields_are_read(tmp_path):
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], "out")],
        [graphs.value("x", TensorProto.FLOAT16, "n", 4)],
        [graphs.value("out", TensorProto.FLOAT16, "n", 4)],
        {},
    )
    values = graphs.normal(1, 4, 4).astype(np.float16)
    proto.graph.initializer.append(
        helper.make_tensor("w", TensorProto.FLOAT16, (4, 4), values.ravel().tolist())
    )
    assert not proto.graph.initializer[0].HasField("raw_data")
    run(graphs.save(proto, tmp_path / "source"), tmp_path / "new")
    after = graphs.constants(tmp_path / "new")["w"]
    assert not np.array_equal(after, values)
    np.testing.assert_array_equal(np.sort(bits(after)), np.sort(bits(values)))


def test_the_bundle_says_what_it_is(tmp_path):
    source = graphs.save_decoder(tmp_path / "source")
    original = load_graph(Bundle.open(source)).hash
    run(source, tmp_path / "new", seed=7)
    bundle = Bundle.open(tmp_path / "new")
    assert bundle.info.name == "tiny-shuffle-7"
    assert bundle.info.exporter == "untrain"
    assert bundle.info.source == "tiny, weights re-initialised: shuffle, seed 7"
    assert bundle.info.source_sha256 == original
    assert (bundle.info.bos_token_id, bundle.info.max_tokens) == (0, graphs.LENGTH)
    assert bundle.tokenizer.encode("the dog").ids == [1, 2]
    assert load_graph(bundle).hash != original
    props = onnx.load(tmp_path / "new/model.onnx", load_external_data=False).metadata_props
    assert {p.key: p.value for p in props} == {"onnxloc.untrained": "shuffle, seed 7"}


# --- what cannot be done


def test_bad_models_and_options_leave_nothing(tmp_path):
    with pytest.raises(OptionError, match="shuffle or gaussian"):
        UntrainOptions(how="zero")
    with pytest.raises(OptionError, match="seed"):
        UntrainOptions(seed=-1)
    plain = graphs.model(
        [graphs.node("Add", ["x", "b"], "out")],
        [graphs.value("x", graphs.F, "n", 4)],
        [graphs.value("out", graphs.F, "n", 4)],
        {"b": graphs.normal(1, 4)},
    )
    with pytest.raises(ModelError, match="has no weights to re-initialise"):
        run(graphs.save(plain, tmp_path / "plain"), tmp_path / "new")
    source = graphs.save_decoder(tmp_path / "source")
    with pytest.raises(RunError, match="holds the model itself"):
        run(source, source, force=True)
    with pytest.raises(RunError, match="holds the model itself"):
        run(source, tmp_path, force=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    with pytest.raises(RunError, match="exists"):
        run(source, tmp_path / "taken")
    assert names(tmp_path) == ["plain", "source", "taken"]


@pytest.mark.parametrize("damage", ["short", "dims", "length"])
def test_damaged_external_data_is_refused(tmp_path, damage):
    source = graphs.save(graphs.decoder(), tmp_path / "source", external=True)
    bundle = Bundle.open(source)
    graph = load_graph(bundle)
    if damage == "short":
        # Cut after the check, as a full disk or another process might.
        os.truncate(source / "weights.bin", 100)
    else:
        stored = onnx.load(source / "model.onnx", load_external_data=False)
        tensor = next(t for t in stored.graph.initializer if t.name == "up")
        if damage == "dims":
            tensor.dims[0] = 2**40
        else:
            next(e for e in tensor.external_data if e.key == "length").value = "8"
        (source / "model.onnx").write_bytes(stored.SerializeToString())
    with pytest.raises(ModelError, match=r"up|weights\.bin"):
        untrain(bundle, graph, tmp_path / "new")
    assert names(tmp_path) == ["source"]


def test_mutated_files_are_refused_or_handled(tmp_path):
    """A damaged file gives an error of onnxloc's own, or a whole bundle, and nothing else."""
    rng = random.Random(0)
    sources = [
        graphs.save(build(), tmp_path / build.__name__, external=external)
        for external, build in zip([True, False] * 4, WEIGHTS, strict=False)
    ]
    intact = {source: (source / "model.onnx").read_bytes() for source in sources}
    results = []
    for _ in range(150):
        source = rng.choice(sources)
        mutated = bytearray(intact[source])
        for _ in range(rng.choice([1, 1, 2, 5])):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        (source / "model.onnx").write_bytes(mutated)
        try:
            run(source, tmp_path / "out", force=True, how=rng.choice(["shuffle", "gaussian"]))
            results.append("written")
        except OnnxlocError as error:
            results.append(type(error).__name__)
    assert {"written", "ModelError"} <= set(results)
    assert names(tmp_path) == sorted(["out", *(source.name for source in sources)])


def test_memory_is_that_of_one_tensor(tmp_path):
    """Sixteen tensors of 4 MB are never in memory together."""
    import tracemalloc

    size, count = 1024, 16
    weights = [f"w{i}" for i in range(count)]
    nodes = [
        graphs.node("MatMul", ["x" if i == 0 else f"y{i - 1}", name], f"y{i}")
        for i, name in enumerate(weights)
    ]
    proto = graphs.model(
        nodes,
        [graphs.value("x", graphs.F, "n", size)],
        [graphs.value(f"y{count - 1}", graphs.F, "n", size)],
        {name: graphs.normal(i, size, size) for i, name in enumerate(weights)},
    )
    bundle = Bundle.open(graphs.save(proto, tmp_path / "source", external=True))
    del proto
    graph = load_graph(bundle)
    for how in ("shuffle", "gaussian"):
        tracemalloc.start()
        untrain(bundle, graph, tmp_path / how, UntrainOptions(how=how))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # One tensor, and float64 pieces of it; all together would be 64 MB.
        assert peak < 40e6
