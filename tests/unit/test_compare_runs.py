"""``onnxloc compare``: runs of tiny models side by side."""

import csv
import json
import re
import shutil
from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_bundle import (
    CONTROL,
    MODEL,
    POSITIVE,
    snapshot,
    write_stimuli,
    write_tiny_bundle,
)
from scipy import stats

from onnxloc import CompareOptions, compare
from onnxloc.activations import Activations
from onnxloc.cli import main
from onnxloc.errors import OnnxlocError, OptionError, RunError
from onnxloc.stats.similarity import cka_signature, debiased_signature, rsa_signature
from onnxloc.store import finite

pytestmark = pytest.mark.unit

FILES = {"compare.csv", "compare.html", "compare.json", "compare.parquet", "manifest.json"}
FEW = CompareOptions(permutations=19)
# A folder's name that is markup.
RUDE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one model through two graphs, of other weights, of another depth, and odd ones."""
    folder = tmp_path_factory.mktemp("compare")
    write_tiny_bundle(folder / "one")
    write_tiny_bundle(folder / "past", with_past=True)
    write_tiny_bundle(folder / "other", replace(MODEL, seed=8))
    write_tiny_bundle(folder / "deep", replace(MODEL, blocks=5))
    write_stimuli(folder / "texts.csv")
    write_stimuli(folder / "turned.csv", POSITIVE[::-1], CONTROL)
    for run, model, *more in (
        ("one", "one"),
        ("past", "past"),
        ("other", "other"),
        ("deep", "deep"),
        (RUDE, "other"),
        ("mean", "one", "--pool", "mean", "--units", "7"),
        ("turned", "one", "--localizer", "turned.csv"),
        ("ops", "one", "--sites", "op:*", "--sites", "block.0.out"),
        ("hidden", "one", "--sites", "block.*.mlp.hidden", "--sites", "block.*.out"),
    ):
        words = ["localize", str(folder / model), "--top", "5", "--keep-activations"]
        if "--units" in more:
            words = [word for word in words if word not in ("--top", "5")]
        words += ["--localizer", str(folder / "texts.csv"), "-o", str(folder / "runs" / run)]
        more = [str(folder / word) if word.endswith(".csv") else word for word in more]
        assert main([*words, *more]) == 0
    words = ["localize", str(folder / "other"), "--top", "5", "-o", str(folder / "runs" / "plain")]
    assert main([*words, "--localizer", str(folder / "texts.csv")]) == 0
    words = ["contrast", str(folder / "runs" / "one"), "--test", "mannwhitney", "--top", "5"]
    assert main([*words, "-o", str(folder / "runs" / "ranks")]) == 0
    return folder / "runs"


@pytest.fixture
def work(runs, monkeypatch):
    monkeypatch.chdir(runs)
    return runs


@pytest.fixture
def fails(work, capsys):
    def fails(*words):
        before = snapshot(work)
        capsys.readouterr()
        status = main(["compare", *words])
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        assert len(said.err.splitlines()) == 1
        assert snapshot(work) == before
        return said.err

    return fails


def only(table):
    (row,) = table.to_dict("records")
    return row


def test_one_model_through_two_graphs(work):
    found = compare(["one", "past"], FEW)
    hashes = found.runs["model_hash"].tolist()
    assert hashes[0] != hashes[1]
    pair = only(found.pairs)
    assert pair["sites"] == 3
    assert pair["pearson"] == pytest.approx(1, abs=1e-6)
    assert pair["largest_t_difference"] < 1e-3
    assert (pair["dice"], pair["depth_distance"], pair["depth_p"]) == (1, 0, 1)
    for name in ("cka_same_site", "cka_debiased_same_site", "rsa_same_site"):
        assert pair[name] == pytest.approx(1, abs=1e-4)
    assert pair["best_depth_spearman"] == pytest.approx(1)
    assert (found.best["site_a"] == found.best["site_b"]).all()
    assert (found.best["p_best"] == 0.05).all()
    assert found.notes == ()


def test_values_are_those_of_the_tables(work):
    found = compare(["one", "other"], FEW)
    one, other = (pd.read_parquet(f"{run}/units.parquet") for run in ("one", "other"))
    pair = only(found.pairs)
    assert pair["pearson"] == pytest.approx(stats.pearsonr(one["t"], other["t"])[0], rel=1e-12)
    assert pair["spearman"] == pytest.approx(stats.spearmanr(one["t"], other["t"])[0], rel=1e-12)
    gap = (one["t"] - other["t"]).abs()
    worst = one.loc[gap.idxmax()]
    assert pair["largest_t_difference"] == gap.max()
    assert (pair["largest_site"], pair["largest_unit"]) == (worst["site"], worst["unit"])
    k, n = int(one["selected"].sum()), len(one)
    shared = int((one["selected"] & other["selected"]).sum())
    assert pair["shared"] == shared
    assert pair["dice"] == shared / k
    assert pair["dice_chance"] == pytest.approx(k / n)
    assert pair["dice_p"] == pytest.approx(stats.hypergeom.sf(shared - 1, n, k, k))
    assert found.sites["site"].tolist() == ["block.0.out", "block.1.out", "block.2.out"]
    for row in found.sites.to_dict("records"):
        here = one["site"] == row["site"]
        want = stats.pearsonr(one["t"][here], other["t"][here])[0]
        assert row["pearson"] == pytest.approx(want, rel=1e-12)
    assert found.sites["shared"].sum() == shared
    points = found.scatter
    assert len(points) == n
    assert stats.pearsonr(points["t_a"], points["t_b"])[0] == pytest.approx(pair["pearson"])
    depth = found.depth[found.depth["run"] == "one"]
    assert depth["chosen"].tolist() == one.groupby("block")["selected"].sum().tolist()
    assert depth["depth_to"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_models_of_different_depth(work):
    found = compare(["one", "deep"], FEW)
    pair = only(found.pairs)
    assert pair["sites"] == 0
    assert pd.isna(pair["pearson"])
    assert 0 < pair["depth_distance"] < 1
    assert 0.05 <= pair["depth_p"] <= 1
    assert "not compared unit by unit: the models have 3 blocks and 5 blocks" in found.notes[0]
    cells = found.representations
    assert len(cells) == 15
    stored = [Activations.open(run) for run in ("one", "deep")]
    for cell in cells.to_dict("records"):
        x, y = stored[0].read(cell["site_a"]), stored[1].read(cell["site_b"])
        for name, signature in (
            ("cka", cka_signature),
            ("cka_debiased", debiased_signature),
            ("rsa", rsa_signature),
        ):
            assert cell[name] == pytest.approx(float(signature(x) @ signature(y)), abs=1e-9)
        assert 0.05 <= cell["p_cka"] <= 1
    best = found.best.iloc[0]
    row = cells[cells["site_a"] == best["site_a"]]
    assert best["cka_debiased"] == row["cka_debiased"].max()
    assert best["depth_a"] == pytest.approx(1 / 6)


def test_other_settings_are_flagged(work):
    found = compare(["one", "mean", "turned", "ranks"], FEW)
    notes = "\n".join(found.notes)
    assert "one and mean differ in pool: last and mean" in notes
    assert "one and mean chose their networks by different rules" in notes
    assert "one and turned are of different stimuli" in notes
    assert "one and turned are not of the same stimuli in the same order" in notes
    assert "one and ranks differ in test: welch and mannwhitney" in notes
    assert "ranks has no stored activations" in notes
    pairs = found.pairs.set_index(["a", "b"])
    # The order of the stimuli does not matter to t.
    assert pairs.loc[("one", "turned"), "pearson"] == pytest.approx(1)
    assert np.isnan(pairs.loc[("one", "turned"), "cka_debiased_best"])
    assert pairs.loc[("one", "mean"), "cka_debiased_best"] > 0
    assert 0.5 < pairs.loc[("one", "ranks"), "spearman"] < 1


def test_runs_of_different_sites(work):
    found = compare(["one", "hidden"], FEW)
    pair = only(found.pairs)
    assert (pair["sites"], pair["units"]) == (3, sum(found.sites["units"]))
    assert pair["pearson"] == pytest.approx(1)
    assert "3 sites were searched in one run only" in found.notes[0]
    # The default is the blocks' outputs, in both.
    assert len(found.representations) == 9
    chosen = replace(FEW, sites=("block.*.mlp.hidden",))
    both = compare(["hidden", "ops"], replace(FEW, sites=("block.0.out",)))
    assert len(both.representations) == 1
    with pytest.raises(OnnxlocError, match="one: no site matches"):
        compare(["one", "hidden"], chosen)


def test_too_much_to_hold(work, fails, monkeypatch):
    monkeypatch.setattr("onnxloc.studies.representations.MAX_VALUES", 200)
    found = compare(["one", "past"], FEW)
    assert "one are not compared: 3 sites with 12 stimuli take too much memory" in found.notes[0]
    assert only(found.pairs)["dice"] == 1
    assert "name at most 2 with --sites" in fails("one", "past", "--representations")
    few = compare(["one", "past"], replace(FEW, sites=("block.0.out", "block.2.out")))
    assert len(few.representations) == 4


def test_runs_of_one_name(work, tmp_path):
    shutil.copytree(work / "one", tmp_path / "one")
    found = compare(["past", tmp_path / "one", work / "one"], CompareOptions(permutations=0))
    labels = ["past", str(tmp_path / "one"), str(work / "one")]
    assert found.runs["run"].tolist() == labels
    assert found.pairs["b"].tolist() == [labels[1], labels[2], labels[2]]


def test_a_summary_that_says_odd_things(work, tmp_path):
    shutil.copytree(work / "one", tmp_path / "one")
    file = tmp_path / "one" / "summary.json"
    summary = json.loads(file.read_text())
    summary["localize"]["pool"] = [1, {}]
    file.write_text(json.dumps(summary))
    found = compare([work / "past", tmp_path / "one"], FEW)
    assert "differ in pool: last and [1, {}]" in found.notes[0]
    json.dumps(finite(found.as_dict()), allow_nan=False)
    summary["model"]["blocks"] = 10**9
    file.write_text(json.dumps(summary))
    with pytest.raises(RunError, match="blocks that the model has not"):
        compare([work / "past", tmp_path / "one"], FEW)


def test_seeds(work):
    def p(seed):
        found = compare(["one", "deep"], CompareOptions(permutations=199, seed=seed))
        return [*found.pairs["depth_p"], *found.representations["p_rsa"]]

    assert p(0) == p(0) != p(1)
    found = compare(["one", "deep"], CompareOptions(permutations=0))
    assert found.representations["p_rsa"].isna().all()
    assert found.pairs["depth_p"].isna().all()


def test_without_activations(work, fails):
    found = compare(["one", "plain"], FEW)
    assert "plain has no stored activations" in found.notes[0]
    assert "--keep-activations" in found.notes[0]
    assert found.representations.empty
    assert not np.isnan(only(found.pairs)["pearson"])
    assert "--keep-activations" in fails("one", "plain", "--representations")
    assert "--keep-activations" in fails("one", "plain", "--sites", "block.0.out")
    assert "same stimuli" in fails("one", "turned", "--representations")
    quiet = compare(["one", "plain"], replace(FEW, representations=False))
    assert quiet.notes == ()


def test_bad_calls(work, fails, tmp_path):
    assert "two runs or more" in fails("one")
    assert "two runs or more" in fails()
    assert "given twice" in fails("one", "./one")
    assert "there is no run folder" in fails("one", "nowhere")
    assert "leave out --no-representations" in fails(
        "one", "past", "--sites", "block.0.out", "--no-representations"
    )
    assert "name one with -o" in fails("one", "past", "--force")
    assert "exists" in fails("one", "past", "-o", "one")
    assert "x>=0" in fails("one", "past", "--permutations", "-1")
    with pytest.raises(OptionError, match="permutations lies between"):
        CompareOptions(permutations=10**9)
    with pytest.raises(TypeError, match="unexpected keyword"):
        CompareOptions(permutation=3)


def test_damaged_runs(work, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("manifest.json", "summary.json", "network.parquet"):
            (folder / file).write_bytes((work / "one" / file).read_bytes())
        table = pd.read_parquet(work / "one" / "units.parquet")
        change(table).to_parquet(folder / "units.parquet")
        return folder

    for name, change, said in (
        ("t", lambda x: x.drop(columns="t"), "lacks a column"),
        ("rows", lambda x: x.iloc[1:], "other sites or units"),
        ("unit", lambda x: x.assign(unit=0), "not counted from 0"),
        ("text", lambda x: x.assign(t="much"), "is damaged"),
        ("block", lambda x: x.assign(block=99), "blocks that the model has not"),
    ):
        with pytest.raises(RunError, match=said):
            compare([work / "one", broken(name, change)], FEW)
    ablated = broken("ablated", lambda x: x)
    manifest = json.loads((ablated / "manifest.json").read_text())
    manifest["steps"][0]["step"] = "ablate"
    (ablated / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="no run of localize or contrast"):
        compare([work / "one", ablated], FEW)


def test_the_folder_that_is_written(work, capsys, tmp_path):
    words = ["compare", "one", "past", "deep", RUDE, "--permutations", "19"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for part in ("unit by unit", "depth of the networks", "representations", "one – past", "note"):
        assert part in said.out
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    table = pd.read_parquet(tmp_path / "out" / "compare.parquet")
    # Three pairs of one depth, three of different depths.
    assert len(table) == 3 * 9 + 3 * 15
    assert table["pearson"].notna().sum() == 9
    rows = list(csv.DictReader(StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert [row["b"] for row in rows] == ["past", "deep", RUDE, "deep", RUDE, RUDE]
    assert float(rows[0]["dice"]) == 1
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert printed["pairs"][1]["pearson"] is None
    assert main([*words[:3], "-o", str(tmp_path / "out"), "--force"]) == 0
    assert len(pd.read_csv(tmp_path / "out" / "compare.csv")) == 1


def test_the_page(work, tmp_path):
    words = ["compare", "one", RUDE, "past", "deep", "--permutations", "9"]
    assert main([*words, "-o", str(tmp_path / "o")]) == 0
    page = (tmp_path / "o" / "compare.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in own
    assert "&lt;img src=x" in own
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    charts = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    # Dice, three scatters, depth, and three maps for each of six pairs.
    assert len(charts) == 23
    for text in charts:
        figure = json.loads(text)
        assert figure["data"]
    assert own.count("<li>") == 3
    assert "shuffled 9 times" in own


def test_a_page_with_little_to_show(work, tmp_path):
    assert main(["compare", "plain", "deep", "--permutations", "0", "-o", str(tmp_path / "o")]) == 0
    page = (tmp_path / "o" / "compare.html").read_text()
    assert 'id="depth"' in page
    assert 'id="units"' not in page
    assert 'id="representations"' not in page
