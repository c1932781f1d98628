"""Localizing in models that take no text, and in models of text that are shown raw arrays."""

import json
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny_graphs as tiny
from onnx import TensorProto as T
from scipy.stats import ttest_ind

from onnxloc.choose import Selection
from onnxloc.cli import main
from onnxloc.errors import ModelError, OptionError, StimulusError
from onnxloc.graph.load import InputSpec
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.sites import Axis, unit_indices
from onnxloc.network import Network
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.feeds import array_batch, check_arrays
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import StimulusSet
from onnxloc.stimuli.arrays import load_arrays
from onnxloc.store import Run
from onnxloc.studies.localize import LocalizeOptions, localize

pytestmark = pytest.mark.unit

FEW = Selection(how="units", value=3)
EVERY = LocalizeOptions(sites=("op:*",), batch_size=5, selection=FEW)


def export(net, example, path, name, axes):
    """Export with the exporter whose nodes bear the names of the modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net, (example,), path, input_names=[name], output_names=["out"], opset_version=17,
            dynamic_axes=axes and {name: axes, "out": {0: "n"}}, dynamo=False,
        )  # fmt: skip
    return path


class Vision(torch.nn.Module):
    """A small convolutional network with a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.last = torch.nn.Linear(4, 5)

    def forward(self, image):
        x = torch.relu(self.first(image))
        x = x + torch.relu(self.second(x))
        return self.last(x.mean(dim=(2, 3)))


def faces_and_things(count=9, size=8, seed=0):
    """Images of two discs for eyes and a bar for a mouth, and the same parts shuffled about."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (2 * count, 3, size, size)).astype(np.float32)
    face = np.zeros((size, size), np.float32)
    face[2, [2, 5]] = 2
    face[5, 2:6] = 2
    for i in range(2 * count):
        part = face if i % 2 == 0 else rng.permutation(face.ravel()).reshape(size, size)
        images[i] += part
    return images, np.array(["faces", "things"] * count)


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(0)
    return Vision().eval()


@pytest.fixture(scope="module")
def exported(vision, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    for rows in (None, 4):
        axes = None if rows else {0: "n", 2: "h", 3: "w"}
        export(vision, torch.zeros(rows or 2, 3, 8, 8), folder / f"{rows}.onnx", "image", axes)
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    path = tmp_path_factory.mktemp("stimuli") / "faces.npz"
    images, condition = faces_and_things()
    np.savez(path, image=images, condition=condition)
    return path


@torch.no_grad()
def hooked(vision, images):
    """Outputs of both convolutions, their sum after the nonlinearity, and the scores, in torch."""
    seen = {}
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, name=name: seen.update({name: out}))
        for name, layer in (("first", vision.first), ("second", vision.second))
    ]
    seen["scores"] = vision(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    seen["sum"] = torch.relu(seen["first"]) + torch.relu(seen["second"])
    return {name: value.flatten(1).numpy() for name, value in seen.items()}


@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("magnitude", [True, False])
def test_faces_against_things_is_what_torch_and_scipy_say(vision, exported, shown, rows, magnitude):
    """The graph with four rows at a time takes 18 images in parts."""
    model = Model.open(exported / f"{rows}.onnx")
    options = LocalizeOptions(sites=("op:*",), batch_size=5, magnitude=magnitude)
    found = localize(model, load_arrays(shown, "faces"), options)
    units = found.units().groupby("site", sort=False, observed=True)
    tables = {site.op_type + site.scope: units.get_group(site.name) for site in found.sites}
    images, condition = faces_and_things()
    expected = hooked(vision, images)
    for where, name in (
        ("Conv/first", "first"),
        ("Conv/second", "second"),
        ("Add", "sum"),
        ("Gemm/last", "scores"),
    ):
        values = np.abs(expected[name]) if magnitude else expected[name]
        own = tables[where]
        assert len(own) == values.shape[1]
        test = ttest_ind(
            values[condition == "faces"], values[condition == "things"], axis=0, equal_var=False
        )
        np.testing.assert_allclose(own["t"], test.statistic, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            own["mean_positive"], values[condition == "faces"].mean(axis=0), atol=1e-5
        )
    summary = found.summary["localize"]
    assert (summary["positive_label"], summary["control_label"]) == ("faces", "things")
    assert (summary["n_positive"], summary["n_control"]) == (9, 9)
    assert (summary["pool"], summary["max_tokens"], summary["bos"]) == (None, None, None)


def test_the_units_of_a_feature_map(exported, shown):
    model = Model.open(exported / "None.onnx")
    sites = model.shown(load_arrays(shown, "faces").head(3)).sites
    conv = next(site for site in sites if site.op_type == "Conv")
    assert conv.axes == (Axis.BATCH, Axis.FEATURE, Axis.FEATURE, Axis.FEATURE)
    assert conv.shape == (None, 4, 8, 8)
    assert conv.units == 4 * 8 * 8
    # Channel, row, column.
    assert unit_indices(conv, [0, 1, 8, 64, 255]).tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [3, 7, 7],
    ]  # fmt: skip
    # Without stimuli the height and width are not known.
    assert next(site for site in model.sites if site.op_type == "Conv").units == 0


def test_every_row_of_arrays_can_have_its_own_edit(vision, exported, shown):
    stimuli = load_arrays(shown, "faces")
    expected = vision(torch.from_numpy(faces_and_things()[0][:5])).detach().numpy()
    for rows in (None, 4):
        model = Model.open(exported / f"{rows}.onnx").shown(stimuli.head(3))
        conv = next(site for site in model.sites if "second" in site.scope)
        session = model.compile(
            Plan(edits=(Edit(conv.tensor),), outputs=("out",)), RuntimeOptions()
        )
        places, arrays = next(stimuli.batches(5))
        mask = np.zeros((5, 1, conv.units), bool)
        mask[2:] = True
        zero = np.zeros((1, 1, conv.units), np.float32)
        batch = array_batch(model.graph.inputs, places, arrays)
        found = session.outputs(batch, {conv.tensor: (mask, zero)})["out"]
        np.testing.assert_allclose(found[:2], expected[:2], atol=1e-5)
        assert np.abs(found[2:] - expected[2:]).max(axis=1).min() > 1e-3


def test_the_command_line(exported, shown, tmp_path, capsys):
    words = ["localize", str(exported / "None.onnx"), "--stimuli", str(shown)]
    assert main([*words, "--positive", "faces", "--top", "2", "-o", str(tmp_path / "run")]) == 0
    assert "more to faces than to things" in capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    assert run.manifest.steps[0].parameters["sites"] == ["op:*"]
    assert run.manifest.steps[0].parameters["localizer"] == str(shown)
    assert Network.load(tmp_path / "run").size == run.summary["localize"]["n_selected"] > 0
    assert main(["report", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for extra, message in (
        ([], "say which is positive with --positive"),
        (["--positive", "faces", "--pool", "mean"], "--pool is for models of text"),
        (["--positive", "faces", "--max-tokens", "3"], "--max-tokens and --bos are for texts"),
        (["--positive", "faces", "--no-bos"], "--max-tokens and --bos are for texts"),
        (["--positive", "faces", "--sites", "block.*.out"], None),
    ):
        status = main([*words, *extra, "-o", str(tmp_path / "other")])
        error = capsys.readouterr().err
        if message is None:
            # The default by another way.
            assert status == 0
        else:
            assert status == 2
            assert message in error
            assert not (tmp_path / "other").exists()
    assert main([*words[:2], "--positive", "x", "-o", str(tmp_path / "third")]) == 2
    assert "--positive is for .npz files" in capsys.readouterr().err


def save(path, **arrays):
    count = len(next(iter(arrays.values())))
    np.savez(path, **arrays, condition=np.arange(count) % 2)
    return load_arrays(path)


def test_sound(tmp_path):
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(1, 3, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv1d(3, 2, 3)
    ).eval()
    path = export(net, torch.zeros(2, 1, 50), tmp_path / "m.onnx", "wave", {0: "n", 2: "samples"})
    waves = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    waves[1::2] *= 3
    found = localize(Model.open(path), save(tmp_path / "s.npz", wave=waves), EVERY)
    values = net(torch.from_numpy(waves)).detach().abs().flatten(1).numpy()
    expected = ttest_ind(values[1::2], values[::2], axis=0, equal_var=False).statistic
    np.testing.assert_allclose(found.contrast.t[-values.shape[1] :], expected, rtol=1e-3)


def table_model():
    """Two inputs, one of numbers and one of categories, and a rate that holds for all rows."""
    g = tiny.Builder(5)
    g.op("Gather", [g.weight("names", 6, 4), "category"], "looked_up")
    g.op("MatMul", ["numbers", g.weight("w", 3, 4)], "product")
    g.op("Mul", ["product", "rate"], "scaled")
    g.op("Add", ["scaled", "looked_up"], "sum")
    g.op("Tanh", ["sum"], "out")
    inputs = [
        tiny.value("numbers", ["n", 3], T.FLOAT),
        tiny.value("category", ["n"], T.INT64),
        tiny.value("rate", [], T.FLOAT),
    ]
    return g.model(inputs, ["out"])


def test_a_table_with_missing_numbers(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((10, 3)).astype(np.float32)
    arrays = {"numbers": numbers, "category": np.arange(10) % 6, "rate": np.array(0.5, np.float32)}
    model = Model.open(tiny.write(tmp_path, table_model()))
    found = localize(model, save(tmp_path / "a.npz", **arrays), EVERY)
    (out,) = tiny.run(table_model(), arrays, ["out"])
    values = np.abs(out)
    expected = ttest_ind(values[1::2], values[::2], axis=0, equal_var=False).statistic
    np.testing.assert_allclose(found.contrast.t[-4:], expected, rtol=1e-4)
    assert found.summary["localize"]["n_undefined"] == 0

    numbers[3, 1] = np.nan
    again = localize(model, save(tmp_path / "b.npz", **arrays), EVERY)
    # What the number reaches has no t, and is counted.
    assert again.summary["localize"]["n_undefined"] == 4 * 4
    assert not np.isnan(again.contrast.t[again.network.flat]).any()


NPZ = {"image": (np.dtype("f4"), (8, 3, 8, 8))}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"input 'image' has no array; add one, float \[stimuli, 3, any, any\]"),
        ({"imag": NPZ["image"]}, r"no input 'imag'; did you mean 'image'"),
        ({**NPZ, "extra": NPZ["image"]}, r"no input 'extra' \(its inputs: image\)"),
        ({"image": (np.dtype("f8"), (8, 3, 8, 8))}, "'image' is float64; save it as float32"),
        ({"image": (np.dtype(">f4"), (8, 3, 8, 8))}, "'image' is >f4; save it as float32"),
        ({"image": (np.dtype("u1"), (8, 3, 8, 8))}, "'image' is uint8; save it as float32"),
        ({"image": (np.dtype("f4"), (8, 1, 8, 8))}, r"the shape \[8, 1, 8, 8\]; it must be"),
        ({"image": (np.dtype("f4"), (8, 3, 8))}, r"the shape \[8, 3, 8\]; it must be"),
        ({"image": (np.dtype("f4"), ())}, r"the shape \[\]; it must be"),
    ],
)
def test_arrays_that_do_not_fit(exported, arrays, message):
    specs = Model.open(exported / "None.onnx").graph.inputs
    check_arrays(specs, NPZ)
    with pytest.raises(StimulusError, match=message):
        check_arrays(specs, arrays)


def test_a_text_input_is_no_array():
    with pytest.raises(StimulusError, match="is no tensor of numbers"):
        check_arrays([InputSpec("s", T.STRING, ("n",))], {"s": (np.dtype("f4"), (8,))})


TEXTS = [[1, 2, 3, 4], [5, 6], [7, 8, 9], [3, 1], [2], [4, 4, 4, 1], [9, 3, 5], [6, 1, 2]]


@pytest.mark.parametrize("pool", ["last", "mean", "sum", "max"])
@pytest.mark.parametrize("given", [("input_ids", "attention_mask"), ("input_ids",)])
def test_a_model_of_text_shown_ids(tmp_path, pool, given):
    """Right-padded ids with a mask are what the same texts are; without a mask all is text."""
    ids = np.zeros((8, 4), np.int64)
    mask = np.zeros((8, 4), np.int64)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask}
    stimuli = save(tmp_path / "ids.npz", **{name: arrays[name] for name in given})
    model = Model.open(tiny.write(tmp_path, tiny.decoder()))
    options = LocalizeOptions(pool=pool, selection=FEW, batch_size=3)
    found = localize(model, stimuli, options)
    assert found.summary["localize"]["pool"] == pool
    assert {site.role for site in found.sites} == {"out"}
    session = model.compile(Plan(taps=tuple(Tap(s.tensor, pool) for s in found.sites)),
                            RuntimeOptions())  # fmt: skip
    full = np.full(8, 4) if len(given) == 1 else mask.sum(axis=1)
    values = np.abs(np.concatenate(list(session.taps(Batch(np.arange(8), ids, full)).values()), 1))
    expected = ttest_ind(values[1::2], values[::2], axis=0, equal_var=False).statistic
    np.testing.assert_allclose(found.contrast.t, expected, rtol=1e-3)


def test_padding_on_the_left_is_refused(tmp_path):
    model = Model.open(tiny.write(tmp_path, tiny.decoder()))
    ids, mask = np.ones((8, 3), np.int64), np.ones((8, 3), np.int64)
    for wrong in ([0, 1, 1], [1, 0, 1], [0, 0, 0], [2, 1, 0]):
        mask[5] = wrong
        stimuli = save(tmp_path / "ids.npz", input_ids=ids, attention_mask=mask)
        with pytest.raises(StimulusError, match=r"row 5 of 'attention_mask' .* pad texts on the"):
            localize(model, stimuli, LocalizeOptions(selection=FEW))


def test_texts_for_a_model_of_images_and_tokens_where_there_are_none(exported, tmp_path):
    model = Model.open(exported / "None.onnx")
    texts = tuple(f"text {i}" for i in range(3))
    with pytest.raises(ModelError):
        localize(model, StimulusSet(name="x", positive=texts, control=(*texts[::-1], "y")), EVERY)
    # Sites found on made-up inputs take an open axis for tokens.
    g = tiny.Builder(1)
    g.op("MatMul", ["frames", g.weight("w", 2, 3)], "y")
    frames = Model.open(
        tiny.write(tmp_path, g.model([tiny.value("frames", ["n", "t", 2], T.FLOAT)], ["y"]))
    )
    session = frames.compile(Plan(taps=(Tap("y"),)), RuntimeOptions())
    batch = ArrayBatch(np.arange(2), {"frames": np.ones((2, 4, 2), np.float32)})
    with pytest.raises(ModelError, match="has no tokens to pool over"):
        session.taps(batch)


def test_options_for_texts_are_refused_for_arrays(exported, shown):
    model, stimuli = Model.open(exported / "None.onnx"), load_arrays(shown, "faces")
    for options in (LocalizeOptions(max_tokens=0), LocalizeOptions(bos=False)):
        with pytest.raises(OptionError, match="are for texts, not for arrays"):
            localize(model, stimuli, options)


def test_the_same_file_gives_the_same_run(exported, shown, tmp_path):
    model = Model.open(exported / "None.onnx")
    runs = []
    for name in "ab":
        localize(model, load_arrays(shown, "faces"), EVERY).save(tmp_path / name)
        runs.append(json.loads((tmp_path / name / "manifest.json").read_text())["steps"][0])
    assert runs[0]["hashes"] == runs[1]["hashes"]
    assert Network.load(tmp_path / "a") == Network.load(tmp_path / "b")
