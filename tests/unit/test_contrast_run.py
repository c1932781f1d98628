"""``localize --keep-activations``, then ``contrast`` and ``reliability`` without the model."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_bundle import CONTROL, POSITIVE, snapshot, write_work
from scipy import stats

from onnxloc.activations import Activations
from onnxloc.cli import main
from onnxloc.network import Network
from onnxloc.store import Run

pytestmark = pytest.mark.unit

TEXTS = [*POSITIVE, *CONTROL]
KEPT = {
    "activations.json", "activations.zarr", "manifest.json", "network.parquet", "stimuli.parquet",
    "summary.json", "units.parquet",
}  # fmt: skip
PLAIN = {"manifest.json", "network.parquet", "summary.json", "units.parquet"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with activations; the model is taken away, so that nothing can run it."""
    folder = write_work(tmp_path_factory.mktemp("work"))
    pairs = [f"{c},{i},{t}" for c, texts in (("positive", POSITIVE), ("control", CONTROL))
             for i, t in enumerate(texts)]  # fmt: skip
    (folder / "paired.csv").write_text("condition,pair,text\n" + "\n".join(pairs) + "\n")
    words = ["localize", str(folder / "tiny"), "--top", "5", "--keep-activations", "-o"]
    for name, stimuli in (("kept", "paired.csv"), ("free", "stimuli.csv")):
        assert main([*words, str(folder / name), "--localizer", str(folder / stimuli)]) == 0
    without = [word for word in words if word != "--keep-activations"]
    assert main([*without, str(folder / "plain"), "--localizer", str(folder / "paired.csv")]) == 0
    shutil.move(folder / "tiny", folder / "model")
    return folder


@pytest.fixture
def work(original, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(work, capsys):
    def call(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        assert (status, said.err) == (0, "")
        return said.out

    return call


@pytest.fixture
def fails(work, capsys):
    def fails(*words):
        before = snapshot(work)
        capsys.readouterr()
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        assert len(said.err.splitlines()) == 1
        assert snapshot(work) == before
        return said.err

    return fails


def units(run):
    return pd.read_parquet(f"{run}/units.parquet")


def stored(run="kept"):
    return np.abs(signed(run))


def signed(run="kept"):
    return np.concatenate([values for _, values in Activations.open(run)], axis=1, dtype=float)


def test_keeping_changes_nothing_else(work):
    assert {path.name for path in (work / "kept").iterdir()} == KEPT
    assert {path.name for path in (work / "plain").iterdir()} == PLAIN
    pd.testing.assert_frame_equal(units("kept"), units("plain"))
    assert Network.load("kept") == Network.load("plain")
    activations = Activations.open("kept")
    assert activations.stimuli["text"].tolist() == TEXTS
    assert activations.is_paired
    values = stored()
    np.testing.assert_allclose(units("kept")["mean_positive"], values[:6].mean(axis=0), rtol=1e-12)
    got = stats.ttest_ind(values[:6], values[6:], equal_var=False)
    np.testing.assert_allclose(units("kept")["t"], got.statistic, rtol=1e-9)


def test_the_size_is_said_first(work, capsys):
    words = ["localize", "model", "--localizer", "stimuli.csv", "--keep-activations", "-o", "new"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(
        "keeping activations: 12 stimuli x 192 units, 0.0 MB\n"
    )


def test_without_options_it_is_the_same_contrast(call):
    call("contrast", "kept", "--top", "5", "-o", "again")
    one, two = units("kept"), units("again")
    for column in one:
        if one[column].dtype == np.float64:
            np.testing.assert_allclose(one[column], two[column], rtol=1e-9, atol=1e-300)
        else:
            assert (one[column] == two[column]).all()
    assert Network.load("again") == Network.load("kept")


@pytest.mark.parametrize("test", ["student", "paired", "mannwhitney"])
def test_other_tests(call, test):
    call("contrast", "kept", "--test", test, "-o", "other")
    values = stored()
    a, b = values[:6], values[6:]
    want = {
        "student": lambda: stats.ttest_ind(a, b).pvalue,
        "paired": lambda: stats.ttest_rel(a, b).pvalue,
        "mannwhitney": lambda: stats.mannwhitneyu(a, b, method="asymptotic").pvalue,
    }[test]()
    np.testing.assert_allclose(units("other")["p"], want, rtol=1e-9)
    summary = Run.open("other").summary["localize"]
    assert (summary["test"], summary["permutations"]) == (test, 0)


def test_localize_with_a_test_and_permutations_is_contrast_of_what_it_kept(work, call):
    words = ["--test", "mannwhitney", "--permutations", "50", "--seed", "3", "--units", "4"]
    call("localize", "model", "--localizer", "paired.csv", "--keep-activations", *words, "-o", "a")
    call("contrast", "kept", *words, "-o", "b")
    pd.testing.assert_frame_equal(units("a"), units("b"))
    assert list(units("a").columns)[8:13] == ["df", "p", "q", "p_fwe", "d"]


def test_signed(call):
    call("contrast", "kept", "--signed", "-o", "signed")
    values = signed()
    got = stats.ttest_ind(values[:6], values[6:], equal_var=False).statistic
    np.testing.assert_allclose(units("signed")["t"], got, rtol=1e-9)
    assert Run.open("signed").summary["localize"]["magnitude"] is False


def test_family_wise(call, work):
    said = call("contrast", "kept", "--permutations", "99", "--fwe", "0.2", "-o", "fwe")
    table = units("fwe")
    assert (table["p_fwe"] >= table["p"] * 0.5).all()
    assert table["p_fwe"].between(0.01, 1).all()
    assert (table["selected"] == ((table["p_fwe"] <= 0.2) & (table["t"] > 0))).all()
    summary = Run.open("fwe").summary["localize"]
    count = int(((table["p_fwe"] <= 0.05) & (table["t"] > 0)).sum())
    assert summary["n_significant_fwe"] == count
    assert f"{count:,} do so at a family-wise error rate of 5 % (99 permutations)" in said
    call("contrast", "kept", "--permutations", "99", "--fwe", "0.2", "-o", "same")
    pd.testing.assert_frame_equal(table, units("same"))
    # A run like any other: it can be reported.
    call("report", "fwe")
    assert (work / "fwe" / "report.html").is_file()


def test_the_record(call, work):
    call("contrast", "kept", "--test", "paired", "-o", "out")
    run = Run.open("out")
    assert [step.step for step in run.manifest.steps] == ["localize", "contrast"]
    step = run.manifest.steps[1]
    assert step.command == "onnxloc contrast kept --test paired -o out"
    assert step.parameters["run"] == str(work / "kept")
    assert (
        step.hashes["source_activations"]
        == Run.open("kept").manifest.steps[0].hashes["activations"]
    )
    assert run.localizer == Run.open("kept").localizer
    assert {path.name for path in (work / "out").iterdir()} == PLAIN


def test_conditions_of_ones_own(call, work):
    lines = [f"{i},{'long' if i % 2 else 'short'}" for i in (3, 0, 7, 2, 5, 8, 9, 10)]
    (work / "items.csv").write_text("row,length\n" + "\n".join(lines) + "\n")
    words = ["--column", "length", "--positive", "long", "--control", "short"]
    call("contrast", "kept", "--items", "items.csv", *words, "-o", "out")
    values = stored()
    got = stats.ttest_ind(values[[3, 5, 7, 9]], values[[0, 2, 8, 10]], equal_var=False)
    np.testing.assert_allclose(units("out")["t"], got.statistic, rtol=1e-9)
    summary = Run.open("out").summary["localize"]
    assert (summary["positive_label"], summary["control_label"]) == ("long", "short")
    assert (summary["n_positive"], summary["n_control"]) == (4, 4)


@pytest.mark.parametrize("ranks", [False, True])
def test_a_correlation(call, work, ranks):
    numbers = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    lines = [f'"{text}",{number}' for text, number in zip(TEXTS[1:11], numbers, strict=True)]
    (work / "items.csv").write_text("text,n\n" + "\n".join(lines) + f'\n"{TEXTS[0]}",\n')
    words = ["--items", "items.csv", "--correlate", "n", *(["--ranks"] if ranks else [])]
    said = call("contrast", "kept", *words, "--units", "3", "-o", "out")
    values, table = stored()[1:11], units("out")
    function = stats.spearmanr if ranks else stats.pearsonr
    for unit in range(0, 192, 17):
        want = function(values[:, unit], numbers)
        assert table["r"][unit] == pytest.approx(want.statistic, rel=1e-9)
        assert table["p"][unit] == pytest.approx(want.pvalue, rel=1e-9)
    assert set(table.index[table["selected"]]) == set(table["r"].nlargest(3).index)
    assert Network.load("out").size == 3
    assert Run.open("out").summary["correlate"]["n_stimuli"] == 10
    assert ("Spearman's" if ranks else "Pearson's") + " correlation with n over 10 stimuli" in said


def test_reliability(call):
    said = call("reliability", "kept", "--splits", "20")
    assert said.startswith("networks of 9 of 192 units, from halves of 6 + 6 stimuli; 20 splits")
    assert "Dice of two random networks of that size: 0.047" in said
    found = json.loads(call("reliability", "kept", "--splits", "20", "--json"))
    assert (found["k"], found["n_units"], found["paired"]) == (9, 192, True)
    assert len(found["splits"]) == len(found["shuffled"]) == 20
    dice = [row["dice"] for row in found["splits"]]
    assert found["median"]["dice"]["estimate"] == pytest.approx(np.median(dice))
    assert json.loads(call("reliability", "kept", "--splits", "20", "--json")) == found
    other = json.loads(call("reliability", "kept", "--splits", "20", "--json", "--seed", "1"))
    assert other["splits"] != found["splits"]
    assert json.loads(call("reliability", "free", "--json", "--units", "3"))["k"] == 3


def test_reliability_does_not_depend_on_how_much_is_held_at_once(call, monkeypatch):
    whole = json.loads(call("reliability", "kept", "--splits", "7", "--json"))
    monkeypatch.setattr("onnxloc.studies.reliability.HELD_VALUES", 192 * 6 * 2)
    parts = json.loads(call("reliability", "kept", "--splits", "7", "--json"))
    for one, two in zip(whole["splits"], parts["splits"], strict=True):
        # Products of other sizes round in another order.
        assert one == pytest.approx(two, rel=1e-9)


BAD = [
    (["contrast", "plain", "-o", "out"], "--keep-activations"),
    (["contrast", "nowhere", "-o", "out"], "no run folder"),
    (["contrast", "kept", "-o", "free"], "exists"),
    (["contrast", "free", "--test", "paired", "-o", "out"], "not paired"),
    (["contrast", "kept", "--fwe", "0.05", "-o", "out"], "--permutations"),
    (["contrast", "kept", "--permutations", "1000000", "-o", "out"], "100,000"),
    (["contrast", "kept", "--top", "1", "--fwe", "0.1", "-o", "out"], "--top and --fwe"),
    (["contrast", "kept", "--positive", "a", "-o", "out"], "--positive needs --items"),
    (["contrast", "kept", "--correlate", "n", "-o", "out"], "--correlate needs --items"),
    (["contrast", "kept", "--items", "i.csv", "--ranks", "-o", "out"], "--ranks needs"),
    (["contrast", "kept", "--items", "i.csv", "--correlate", "n", "--test", "welch", "-o", "out"],
     "does not go with --test"),
    (["contrast", "kept", "--items", "i.csv", "-o", "out"], "no column 'condition'"),
    (["contrast", "kept", "--items", "i.csv", "--column", "wrd", "-o", "out"],
     "did you mean 'word'"),
    (["contrast", "kept", "--items", "i.csv", "--column", "n", "--positive", "9", "-o", "out"],
     "no stimulus has '9'"),
    (["contrast", "kept", "--items", "i.csv", "--column", "n", "--positive", "1", "--control", "2",
      "-o", "out"], "positive condition has 1 stimuli"),
    (["contrast", "kept", "--items", "i.csv", "--correlate", "word", "-o", "out"],
     "i.csv:2: word is 'a', not a number"),
    (["contrast", "kept", "--items", "i.csv", "--correlate", "same", "-o", "out"], "all equal"),
    (["contrast", "kept", "--items", "none.csv", "-o", "out"], "none.csv"),
    (["contrast", "kept", "--items", "far.csv", "-o", "out"], "far.csv:3: the run has no stimulus"),
    (["contrast", "kept", "--items", "twice.csv", "-o", "out"], "twice.csv:3: the stimulus stands"),
    (["contrast", "kept", "--items", "bare.csv", "-o", "out"], "header names row or text"),
    (["contrast", "kept", "--items", "short.csv", "-o", "out"], "short.csv:2: 1 cells"),
    (["reliability", "plain"], "--keep-activations"),
    (["reliability", "kept", "--splits", "10001"], "10,000"),
    (["reliability", "kept", "--units", "500"], "500"),
    (["reliability", "kept", "--top", "1", "--units", "5"], "--top and --units"),
    (["localize", "model", "--localizer", "stimuli.csv", "--permutations", "9", "-o", "out"],
     "--keep-activations"),
    (["localize", "model", "--localizer", "stimuli.csv", "--test", "mannwhitney", "-o", "out"],
     "--keep-activations"),
    (["localize", "model", "--localizer", "stimuli.csv", "--test", "paired", "--keep-activations",
      "-o", "out"], "not paired"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(fails, work, words, said):
    (work / "i.csv").write_text("row,n,word,same\n0,1,a,1\n1,2,b,1\n2,3,c,1\n")
    (work / "far.csv").write_text("row,condition\n0,positive\n12,control\n")
    (work / "twice.csv").write_text("row,condition\n0,positive\n0,control\n")
    (work / "bare.csv").write_text("condition\npositive\n")
    (work / "short.csv").write_text("row,condition\n0\n")
    assert said in fails(*words)


def test_damage_is_found_wherever_activations_are_read(fails, work):
    chunk = work / "kept" / "activations.zarr" / "00001" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 4
    chunk.write_bytes(data)
    for words in (["contrast", "kept", "-o", "out"], ["reliability", "kept"]):
        assert "the activations of 'block.1.out' in kept are damaged" in fails(*words)


def test_a_full_disk_leaves_nothing(work, capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr("onnxloc.activation_writer.shutil.disk_usage", lambda _: usage)
    before = snapshot(work)
    words = ["localize", "model", "--localizer", "stimuli.csv", "--keep-activations", "-o", "out"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "keeping activations needs" in said
    assert len(said.splitlines()) == 1
    assert snapshot(work) == before
