"""Where the network of a tiny model lies, over all its operations."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_bundle import MODEL, snapshot, write_stimuli, write_tiny_bundle

from onnxloc.activations import Activations
from onnxloc.choose import Selection
from onnxloc.cli import main
from onnxloc.errors import NetworkError, OptionError, RunError
from onnxloc.network import Network
from onnxloc.report.where_page import render_where
from onnxloc.runtime.model import Model
from onnxloc.stimuli import load_stimuli
from onnxloc.store import UNITS_FILE
from onnxloc.studies.compared_run import ComparedRun
from onnxloc.studies.localize import LocalizeOptions, localize, localize_into
from onnxloc.studies.where import WhereOptions, where
from onnxloc.studies.where_units import OUTSIDE, places

pytestmark = pytest.mark.unit

FEW = WhereOptions(permutations=99, controls=4, folds=3, seed=1)
TEN = Selection(how="top", value=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("where")
    model = Model.open(write_tiny_bundle(folder / "tiny"))
    stimuli = load_stimuli(write_stimuli(folder / "stimuli.csv"))
    for name, sites in (
        ("ops", ("op:*",)),
        ("hidden", ("block.*.mlp.hidden",)),
        ("out", ("block.*.out",)),
    ):
        localize_into(folder / name, model, stimuli, LocalizeOptions(sites=sites, selection=TEN))
    localize(model, stimuli, LocalizeOptions(selection=TEN)).save(folder / "bare")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return where(folder / "ops", None, FEW)


def test_copies_are_those_that_never_differ(folder, found):
    stored = Activations.open(folder / "ops")
    columns = np.concatenate([np.abs(values) for _, values in stored], axis=1)
    table = pd.read_parquet(folder / "ops" / UNITS_FILE)
    has_t = table["t"].notna().to_numpy()
    distinct = np.unique(columns[:, has_t], axis=1).shape[1]
    # Sums of a condition can agree where no stimulus does: fewer, but hardly.
    assert found.about["n_distinct"] == pytest.approx(distinct, rel=0.01)
    assert found.about["n_distinct"] < 0.9 * has_t.sum()
    assert found.about["n_units"] == len(table)
    assert any("copies of others" in note for note in found.notes)


def test_counts_are_those_of_the_table_of_units(folder, found):
    table = pd.read_parquet(folder / "ops" / UNITS_FILE)
    table = table[table["t"].notna()]
    by_op = table.groupby("op_type", observed=True)["selected"].agg(["size", "sum"])
    own = found.by("op type").set_index("group")
    for op, row in by_op.iterrows():
        assert (own.loc[op, "units"], own.loc[op, "chosen"]) == (row["size"], row["sum"])
    for by in ("op type", "part", "block"):
        rows = found.by(by)
        assert rows["units"].sum() == len(table)
        assert rows["distinct"].sum() == found.about["n_distinct"]
        assert rows["distinct_chosen"].sum() == found.about["n_distinct_chosen"]
        assert rows["expected"].sum() == pytest.approx(found.about["n_distinct_chosen"])
        known = rows[rows["distinct"] > 0]
        np.testing.assert_allclose(known["ratio"] * known["expected"], known["distinct_chosen"])


def test_an_operation_without_a_name_is_placed_by_the_next_that_has_one(folder):
    run = ComparedRun.open(folder / "ops", "ops")
    own = places(run)
    names = list(own.network.sites)
    at = {name: (own.block[i], own.part[i]) for i, name in enumerate(names)}
    assert at["block.1.mlp.hidden"] == (1, "mlp.hidden")
    for i, name in enumerate(names):
        if not name.startswith("op:") or own.block[i] is None:
            continue
        later = next(j for j in range(i + 1, len(names)) if run.block[names[j]] is not None)
        assert own.block[i] == run.block[names[later]]
        said = names[later].split(".", 2)[2]
        mlp = said.startswith("mlp") or said == "out"
        assert own.part[i] == ("MLP" if mlp else "attention") + ", other operations"
    assert at["embed"] == (None, "embed")
    last = max(i for i, name in enumerate(names) if name == "block.2.out")
    assert {own.part[i] for i in range(last + 1, len(names)) if names[i].startswith("op:")} <= {
        OUTSIDE
    }
    assert own.guessed == sum(
        name.startswith("op:") and block is not None
        for name, block in zip(names, own.block, strict=True)
    )


def test_the_order_of_rows_does_not_matter(folder, found, tmp_path):
    shuffled = tmp_path / "ops"
    shuffled.mkdir()
    for file in (folder / "ops").iterdir():
        if file.is_file() and file.name != UNITS_FILE:
            (shuffled / file.name).write_bytes(file.read_bytes())
    table = pd.read_parquet(folder / "ops" / UNITS_FILE)
    table.sample(frac=1, random_state=3).to_parquet(shuffled / UNITS_FILE)
    (shuffled / "activations.json").unlink()
    again = where(shuffled, None, FEW)
    pd.testing.assert_frame_equal(again.groups, found.groups)


def test_a_run_of_both_kinds_predicts_itself(found):
    assert found.prediction["stimuli"] == 12
    assert len(found.prediction["r2_controls"]) == 4
    assert found.blocks["block"].tolist() == [0, 1, 2]


def test_one_run_predicts_another(folder):
    found = where(folder / "hidden", folder / "out", FEW)
    hidden, out = (Network.load(folder / name) for name in ("hidden", "out"))
    for column, network, role in (("predictor", hidden, "mlp.hidden"), ("target", out, "out")):
        shares = [network.mask(f"block.{b}.{role}").mean() for b in range(3)]
        np.testing.assert_allclose(found.blocks[column], shares)
    said = found.prediction
    assert said["r2"] <= 1
    assert said["p_controls"] in {i / 5 for i in range(1, 6)}
    assert said["run"] == str((folder / "out").resolve())
    again = where(folder / "hidden", folder / "out", FEW)
    assert again.prediction == said


def test_without_activations_only_blocks_are_compared(folder):
    found = where(folder / "hidden", folder / "bare", FEW)
    assert "r2" not in found.prediction
    assert "spearman" in found.prediction
    assert any("bare kept no activations" in note for note in found.notes)


def test_a_run_of_one_kind_is_not_asked_to_predict(folder):
    found = where(folder / "bare", None, FEW)
    assert not found.prediction
    assert found.by("block")["group"].tolist() == ["0", "1", "2"]
    assert not found.notes
    assert set(found.depth) == {"network", "searched", "p"}


def test_a_model_without_blocks_has_operations_alone(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "ops", run)
    table = pd.read_parquet(run / UNITS_FILE)
    table["block"] = pd.array([pd.NA] * len(table), dtype="Int32")
    table["role"] = "op"
    table.to_parquet(run / UNITS_FILE)
    summary = json.loads((run / "summary.json").read_text())
    summary["model"]["blocks"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    found = where(run, None, FEW)
    assert found.groups["by"].unique().tolist() == ["op type"]
    assert not found.depth
    assert not found.prediction
    page = render_where(found, "run")
    assert page.count('type="application/json"') == 1
    assert "In depth" not in page


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        where(folder / "nowhere")
    with pytest.raises(OptionError, match="not predicted from itself: name"):
        where(folder / "out", folder / "out")
    with pytest.raises(OptionError, match="some of the same sites"):
        where(folder / "out", folder / "ops")
    other = Model.open(write_tiny_bundle(tmp_path / "other", replace(MODEL, seed=9)))
    stimuli = load_stimuli(folder / "stimuli.csv")
    localize(other, stimuli, LocalizeOptions(selection=TEN)).save(tmp_path / "run")
    with pytest.raises(NetworkError, match="another model"):
        where(folder / "hidden", tmp_path / "run")
    none = LocalizeOptions(selection=Selection(how="fdr", value=1e-12))
    localize(other, stimuli, none).save(tmp_path / "empty")
    with pytest.raises(OptionError, match="lies nowhere"):
        where(tmp_path / "empty")
    table = pd.read_parquet(tmp_path / "run" / UNITS_FILE)
    table.drop(columns="mean_control").to_parquet(tmp_path / "run" / UNITS_FILE)
    with pytest.raises(RunError, match="lacks a column"):
        where(tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"permutations": -1}, "permutations"),
        ({"controls": 10**6}, "controls"),
        ({"folds": 1}, "folds"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(wrong, said):
    with pytest.raises(OptionError, match=said):
        WhereOptions(**wrong)


def test_the_command_writes_a_folder(folder, tmp_path, capsys):
    words = ["where", str(folder / "ops"), "--permutations", "99", "--controls", "2", "--folds",
             "3"]  # fmt: skip
    out = tmp_path / "out"
    assert main([*words, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "mean relative depth" in said
    assert "R² within conditions" in said
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "where.csv", "where.html", "where.json"
    }  # fmt: skip
    before = snapshot(out)
    assert main([*words, "-o", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert snapshot(out) == before
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["blocks"] == 3
    assert main(["where", str(folder / "nowhere"), "-o", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_the_page_escapes_and_tells(folder, found):
    page = render_where(found, "<i>name</i>", "onnxloc where 'a & b'")
    assert "&lt;i&gt;name&lt;/i&gt;" in page
    assert "<i>name</i>" not in page
    assert "a &amp; b" in page
    # By operation, part and block; both networks by block; the prediction.
    assert page.count('type="application/json"') == 5
    alone = render_where(where(folder / "bare", None, FEW), "bare")
    assert alone.count('type="application/json"') == 1
    assert "Does one network predict" not in alone
