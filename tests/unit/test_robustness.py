"""The network of a tiny model in many ways, and what is said of it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.gguf_files import TinyModel
from helpers.tiny_bundle import MODEL, snapshot, write_stimuli, write_tiny_bundle

from onnxloc.choose import Selection
from onnxloc.cli import main
from onnxloc.errors import AnatomyError, OnnxlocError, OptionError
from onnxloc.network import Network
from onnxloc.report.robustness_page import render_robustness
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.studies.ablate import AblateOptions, ablate
from onnxloc.studies.localize import LocalizeOptions, localize, localize_into
from onnxloc.studies.robustness import RobustnessOptions, robustness
from onnxloc.studies.stored import Rows
from onnxloc.studies.variants import Reader, ways

pytestmark = pytest.mark.unit

FIVE = Selection(how="units", value=5)
FEW = RobustnessOptions(selection=FIVE, limit=1, sentences=3, controls=2, seed=3)
MORE = ("cow", "pig", "ant", "owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    write_tiny_bundle(folder / "tiny")
    write_tiny_bundle(folder / "other", replace(MODEL, seed=8))
    write_tiny_bundle(folder / "deep", TinyModel(blocks=4, seed=7))
    write_stimuli(folder / "stimuli.csv")
    write_stimuli(
        folder / "second.csv",
        [f"a {noun} eats" for noun in MORE],
        [f"{i}-{i + 2}" for i in range(4)],
    )
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Model.open(folder / "tiny")


@pytest.fixture(scope="module")
def stimuli(folder):
    return load_stimuli(folder / "stimuli.csv")


@pytest.fixture(scope="module")
def found(folder, model, stimuli):
    return robustness(
        model,
        stimuli,
        FEW,
        second=load_stimuli(folder / "second.csv"),
        copy=Model.open(folder / "other"),
        command="onnxloc robustness <b>",
    )


def variant(found, name):
    return found.variants[found.names.index(name)]


def test_every_way_is_what_localize_finds_with_those_options(found, model, folder, stimuli):
    assert found.names == (
        "default", "with BOS", "cut at 12", "mean of tokens", "signed", "Mann-Whitney",
        "one half", "other half", "second", "copy: tiny",
    )  # fmt: skip
    for name, changed in (
        ("default", {}),
        ("with BOS", {"bos": True}),
        ("cut at 12", {"max_tokens": 12}),
        ("mean of tokens", {"pool": "mean"}),
        ("signed", {"magnitude": False}),
    ):
        alone = localize(model, stimuli, LocalizeOptions(selection=FIVE, **changed))
        own = variant(found, name)
        np.testing.assert_allclose(own.t, alone.contrast.t, rtol=1e-3, atol=1e-4)
        assert own.network.units.keys() == alone.network.units.keys()
        np.testing.assert_array_equal(own.network.flat, alone.network.flat)
    ranked = localize_into(
        folder / "ranked", model, stimuli, LocalizeOptions(selection=FIVE, test="mannwhitney")
    )
    np.testing.assert_allclose(variant(found, "Mann-Whitney").t, ranked.contrast.t, atol=1e-9)
    other = localize(Model.open(folder / "other"), stimuli, LocalizeOptions(selection=FIVE))
    np.testing.assert_array_equal(variant(found, "copy: tiny").network.flat, other.network.flat)
    second = localize(model, load_stimuli(folder / "second.csv"), LocalizeOptions(selection=FIVE))
    np.testing.assert_array_equal(variant(found, "second").network.flat, second.network.flat)


def test_halves_are_disjoint_and_make_the_whole(model, stimuli, monkeypatch):
    seen = []
    inner = Reader._rows

    def watched(self, way, activations):
        rows = inner(self, way, activations)
        seen.append((way.name, rows))
        return rows

    monkeypatch.setattr(Reader, "_rows", watched)
    tried = [way for way in ways(model, stimuli)[0] if way.half is not None]
    reader = Reader({"model": (model, RuntimeOptions())}, ("block.*.out",), 4, 1)
    list(reader.contrasts(tried))
    (_, one), (_, other) = seen
    assert isinstance(one, Rows)
    assert sorted([*one.all, *other.all]) == list(range(len(stimuli)))
    assert (one.positive.size, one.control.size) == (3, 3)


def test_ways_that_show_the_same_share_their_passes(model, stimuli, monkeypatch):
    passes = []
    inner = Reader._read
    monkeypatch.setattr(
        Reader, "_read", lambda self, group, at: passes.append(len(group)) or inner(self, group, at)
    )
    robustness(model, stimuli, replace(FEW, effects=False))
    # Default, mean, signed, ranks and both halves; BOS; cut.
    assert passes == [6, 1, 1]


def test_matrices_are_symmetric_and_the_networks_equally_large(found):
    n = len(found.variants)
    assert {v.network.size for v in found.variants} == {5}
    for matrix in (found.dice, found.correlation):
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(np.diag(matrix), 1.0)
    assert len(found.pairs) == n * (n - 1) // 2
    row = found.pairs[(found.pairs["a"] == "default") & (found.pairs["b"] == "signed")].iloc[0]
    a, b = (set(variant(found, name).network.flat.tolist()) for name in ("default", "signed"))
    assert row["dice"] == len(a & b) / 5
    assert row["chance"] == pytest.approx(found.chance.estimate) == 5 / found.n_units


def test_the_effects_are_those_of_ablate(found, model):
    own = variant(found, "signed").network
    tasks = [result.task for result in found.scores]
    alone = ablate(model, own, tasks, AblateOptions(controls=0))
    for mine, theirs in zip(found.scores, alone.results, strict=True):
        names = [condition.name for condition in mine.conditions]
        assert names == ["intact", *found.names, "control-00", "control-01"]
        for name, row in (("intact", 0), ("signed", 1)):
            np.testing.assert_allclose(
                mine.scores[names.index(name)], theirs.scores[row], rtol=1e-4, atol=1e-4
            )
    entry = next(e for e in found.effects if e["condition"] == "signed" and e["task"] == "text")
    assert entry["low"] <= entry["difference"] <= entry["high"]
    assert entry["perplexity"] == pytest.approx(
        alone.summary["ablate"]["effects"][1]["perplexity"]["network"], rel=1e-3
    )


def test_a_model_without_bos_and_few_stimuli_are_noted(model, stimuli):
    info = replace(model.bundle.info, bos_token_id=None)
    bare = replace(model, bundle=replace(model.bundle, info=info))
    few = replace(stimuli, positive=stimuli.positive[:5])
    tried, notes = ways(bare, few)
    assert {"with BOS", "one half"}.isdisjoint(way.name for way in tried)
    assert len(notes) == 2
    with_bos = replace(bare, bundle=replace(bare.bundle, info=replace(info, add_bos=True)))
    assert "no BOS" in [way.name for way in ways(with_bos, stimuli)[0]]
    mean = replace(stimuli, pool="mean", max_tokens=6)
    assert {"last token", "whole texts"} <= {way.name for way in ways(model, mean)[0]}
    assert ways(model, stimuli, reference=True)[0][-1].place == "reference"


def test_a_copy_of_another_shape_is_refused(folder, model, stimuli):
    deep = Model.open(folder / "deep")
    with pytest.raises(OptionError, match="other sites or units"):
        robustness(model, stimuli, replace(FEW, effects=False), copy=deep)


@pytest.mark.parametrize(
    "wrong", [{"selection": Selection(how="fdr", value=0.05)}, {"limit": -1}, {"batch_size": 0}]
)
def test_bad_options_are_refused(wrong):
    with pytest.raises(OptionError):
        RobustnessOptions(**wrong)


def test_the_page_escapes_and_names_every_variant(found):
    page = render_robustness(found, "<img src=x>")
    assert "<img src=x>" not in page
    assert "robustness &lt;b&gt;" in page
    for name in found.names:
        assert name in page


def test_the_command_writes_a_whole_folder(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    words = ["robustness", "tiny", "--localizer", "stimuli.csv", "--second", "second.csv",
             "--units", "5", "--limit", "1", "--sentences", "3", "--controls", "1"]  # fmt: skip
    assert main([*words, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Dice of two random ones" in said
    assert {"with BOS", "second", "control-00"} <= {line[:10].strip() for line in said.splitlines()}
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "networks", "robustness.csv", "robustness.html", "robustness.json"
    }  # fmt: skip
    record = json.loads((out / "robustness.json").read_text())
    assert len(pd.read_csv(out / "robustness.csv")) == 9 * 8 // 2
    for i, row in enumerate(record["variants"]):
        network = Network.load(out / "networks" / f"{i:02d}.parquet")
        assert (network.size, network.how["variant"]) == (5, row["name"])
    # What it wrote, it may replace.
    assert main([*words, "--no-effects", "-o", str(out), "--force"]) == 0
    assert json.loads((out / "robustness.json").read_text())["effects"] == []
    capsys.readouterr()
    assert main([*words, "--no-effects", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dice"] == record["dice"]


@pytest.mark.parametrize(
    "words",
    [
        ["--localizer", "nothing.csv"],
        ["--localizer", "stimuli.csv", "--copy", "deep"],
        ["--localizer", "stimuli.csv", "--units", "100000"],
        ["--localizer", "stimuli.csv", "--top", "0"],
        ["--localizer", "stimuli.csv", "--second", "nowhere"],
        ["--localizer", "stimuli.csv", "--sites", "nothing.*"],
    ],
)
def test_bad_input_gives_a_line_and_leaves_nothing(words, folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    assert main(["robustness", "tiny", *words, "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("onnxloc: error: ")
    assert said.err.count("\n") == 1
    assert snapshot(folder) == before
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_logits_is_told_how_to_go_on(model, stimuli, monkeypatch):
    def none(self):
        raise AnatomyError("it has no logits")

    monkeypatch.setattr(Model, "logits", property(none))
    with pytest.raises(OptionError, match="--no-effects"):
        robustness(model, stimuli, FEW)
    assert robustness(model, stimuli, replace(FEW, effects=False)).effects == ()


@pytest.mark.parametrize("name", ["signed", "intact", "control-01"])
def test_a_second_localizer_with_a_name_that_is_taken_is_refused(name, model, stimuli):
    with pytest.raises(OnnxlocError, match="rename"):
        robustness(model, stimuli, FEW, second=replace(stimuli, name=name))
