import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_bundle import (
    CONTROL,
    MODEL,
    POSITIVE,
    snapshot,
    write_pairs,
    write_stimuli,
    write_tiny_bundle,
    write_work,
)

from onnxloc.cli import COMMANDS, main
from onnxloc.folder import sha256_file
from onnxloc.network import Network
from onnxloc.runtime.model import Model
from onnxloc.store import Run

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
OUT = [f"block.{i}.out" for i in range(3)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(original, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def call(work, capsys):
    """Run a command that must go well; what it prints is returned, and nothing is on stderr."""

    def call(*words):
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        assert (status, said.err) == (0, "")
        return said.out

    return call


@pytest.fixture
def localize(call):
    """Localize into a new run, from the tiny stimuli if no other are named."""
    count = iter(range(100))

    def localize(*words):
        out = Path(f"run{next(count)}")
        stimuli = () if "--localizer" in words else ("--localizer", "stimuli.csv")
        call("localize", "tiny", *stimuli, *words, "-o", out)
        return Run.open(out)

    return localize


@pytest.fixture
def ablate(call):
    count = iter(range(100))

    def ablate(network, *words):
        out = Path(f"ablation{next(count)}")
        tasks = () if "--task" in words else ("--task", "pairs.jsonl", "--task", "text:lines.txt")
        call("ablate", "tiny", "--network", network, *tasks, *words, "-o", out)
        return Run.open(out)

    return ablate


def units(run):
    return run.table("units.parquet")


def effects(run):
    return run.table("effects.parquet")


def start(*words, **settings):
    command = [sys.executable, "-m", "onnxloc", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def documented(file):
    """The names in backticks in the paragraph of docs/formats.md that is about a file."""
    text = DOCS.read_text(encoding="utf-8")
    paragraph = re.search(rf"^`{re.escape(file)}`.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", paragraph[0])[1:]


def test_the_folder_of_a_localize_run(work, call):
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "-o", "runs/mine"]
    said = call(*words)
    folder = work / "runs" / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "network.parquet", "summary.json", "units.parquet"
    }  # fmt: skip
    table = pd.read_parquet(folder / "units.parquet")
    assert list(table.columns) == documented("units.parquet")
    assert list(table.columns) == [
        "site", "unit", "role", "block", "op_type", "mean_positive", "mean_control", "t", "df",
        "p", "q", "d", "g", "selected",
    ]  # fmt: skip
    assert list(table["site"]) == [site for site in OUT for _ in range(64)]
    assert list(table["unit"]) == list(range(64)) * 3
    assert list(table["block"]) == [i for i in range(3) for _ in range(64)]
    assert set(table["role"]) == {"out"}
    assert set(table["op_type"]) == {"Add"}
    # 5 % of 192 units is 9.6.
    assert table["selected"].sum() == 9
    assert set(table.nlargest(9, "t").index) == set(table.index[table["selected"]])
    assert np.array_equal(
        np.sign(table["t"]), np.sign(table["mean_positive"] - table["mean_control"])
    )
    assert ((table["q"] >= table["p"]) & table["p"].between(0, 1)).all()

    network = Network.load(folder)
    chosen = table[table["selected"]]
    assert [(s, u) for s, us in network.units.items() for u in us] == list(
        zip(chosen["site"], chosen["unit"], strict=True)
    )
    assert list(pd.read_parquet(folder / "network.parquet").columns) == ["site", "unit"]
    assert network.sites == dict.fromkeys(OUT, 64)
    assert network.how == {"how": "top", "value": 5.0}

    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {"format", "model", "localize"}
    assert summary["model"] == {
        "name": "tiny", "hash": network.model_hash, "framework": "gguf", "blocks": 3
    }  # fmt: skip
    found = summary["localize"]
    assert (found["n_sites"], found["n_units"], found["n_selected"]) == (3, 192, 9)
    assert (found["n_positive"], found["n_control"]) == (len(POSITIVE), len(CONTROL))
    assert found["smallest_t"] == chosen["t"].min()
    assert found["n_significant"] == ((table["q"] <= 0.05) & (table["t"] > 0)).sum()
    assert [row["selected"] for row in found["by_site"]] == [
        int((chosen["site"] == site).sum()) for site in OUT
    ]

    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {"name", "steps", "created", "onnxloc", "format"}
    assert (manifest["name"], manifest["onnxloc"]) == ("mine", version("onnxloc"))
    (step,) = manifest["steps"]
    assert step["command"] == "onnxloc " + " ".join(words)
    assert step["parameters"] == {
        "model": "tiny", "localizer": str(work / "stimuli.csv"), "sites": ["block.*.out"],
        "pool": "last", "max_tokens": 0, "bos": False, "magnitude": True, "test": "welch",
        "permutations": 0, "how": "top", "value": 5.0,
        "batch_size": 32, "seed": 0, "precision": "fp32",
    }  # fmt: skip
    assert step["hashes"]["model"] == network.model_hash
    assert set(step["hashes"]) == {"model", "plan", "stimuli"}
    assert {"python", "onnxloc", "onnxruntime", "numpy"} <= set(step["versions"])
    assert set(step["seconds"]) == {"load", "run"}
    assert (step["provider"], step["threads"]) == ("CPUExecutionProvider", 0)

    assert "9 of 192 units (4.69 %) chosen" in said
    assert f"smallest t among them: {found['smallest_t']:.2f}" in said
    assert said.endswith("wrote runs/mine\n")


def test_two_runs_differ_in_their_times_alone(localize):
    one, two = localize("--top", "5"), localize("--top", "5")
    for name in ("units.parquet", "network.parquet", "summary.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    first, second = one.manifest.steps[0], two.manifest.steps[0]
    assert (first.parameters, first.hashes) == (second.parameters, second.hashes)


def test_stimuli_of_every_form_give_the_same(work, localize):
    write_stimuli(work / "stimuli.jsonl")
    (work / "set.toml").write_text('name = "mine"\ndata = "stimuli.csv"\npositive_label = "S"\n')
    csv, jsonl, toml = (
        localize("--localizer", name) for name in ("stimuli.csv", "stimuli.jsonl", "set.toml")
    )
    for other in (jsonl, toml):
        pd.testing.assert_frame_equal(units(csv), units(other))
    assert toml.summary["localize"]["localizer"] == "mine"
    assert toml.summary["localize"]["positive_label"] == "S"


def test_the_folder_of_published_files(work, localize):
    folder = work / "published"
    folder.mkdir()
    header = ",".join(f"stim{i}" for i in range(1, 15))
    for part in (1, 2):
        rows = [
            f"{i},{','.join(f'{word}{(i * j) % 7}' for j in range(12))},{kind}"
            for i in range(4)
            for word, kind in (("The", "S"), ("BLIF", "N"))
        ]
        file = folder / f"langloc_fmri_run{part}_stim_set1.csv"
        file.write_text("\n".join([header, *rows]) + "\n")
    run = localize("--localizer", "published", "--units", "3")
    found = run.summary["localize"]
    assert (found["n_positive"], found["n_control"], found["max_tokens"]) == (8, 8, 12)
    assert run.localizer == str(folder.resolve())
    lower = [" ".join(f"the{(i * j) % 7}" for j in range(12)) for i in range(4)] * 2
    upper = [" ".join(f"blif{(i * j) % 7}" for j in range(12)) for i in range(4)] * 2
    write_stimuli(work / "same.csv", lower, upper)
    same = localize("--localizer", "same.csv", "--max-tokens", "12", "--units", "3")
    np.testing.assert_allclose(units(run)["t"], units(same)["t"], rtol=1e-6)


def test_the_localizer_by_name(localize):
    found = localize("--localizer", "language").summary["localize"]
    assert (found["n_positive"], found["n_control"], found["max_tokens"]) == (240, 240, 12)
    assert (found["localizer"], found["n_undefined"]) == ("language", 0)


def test_sites(localize):
    run = localize(
        "--sites", "block.0.*", "--sites", "block.?.mlp.hidden", "--sites", "block.0.out"
    )
    names = list(dict.fromkeys(units(run)["site"]))
    assert names == [
        # The embedding is block.0.in too.
        "embed", "block.0.mid", "block.0.mlp.hidden", "block.0.out", "block.1.mlp.hidden",
        "block.2.mlp.hidden",
    ]  # fmt: skip
    deep = set(units(localize("--sites", "block.0.**"))["site"])
    assert {"block.0.attn.heads", "block.0.mlp.pre", "block.0.out"} <= deep
    assert "block.0.attn.probs" not in deep


def test_every_operation(localize):
    every = localize("--sites", "op:*")
    assert every.summary["localize"]["n_sites"] > 100
    table = units(every)
    same = table[table["site"].isin(OUT)].reset_index(drop=True)
    alone = units(localize())
    assert list(same["site"]) == list(alone["site"])
    np.testing.assert_allclose(same["mean_positive"], alone["mean_positive"], rtol=1e-4, atol=1e-6)


def test_pools_differ(localize):
    runs = {pool: localize("--pool", pool) for pool in ("last", "mean", "sum", "max")}
    for pool, run in runs.items():
        assert run.summary["localize"]["pool"] == run.manifest.steps[0].parameters["pool"] == pool
    ts = np.stack([units(run)["t"] for run in runs.values()])
    for i in range(4):
        for j in range(i):
            assert np.abs(ts[i] - ts[j]).max() > 0.1
    # Each text of one token: then all pools are the same.
    one = [units(localize("--pool", pool, "--max-tokens", "1"))["t"] for pool in runs]
    for t in one[1:]:
        np.testing.assert_allclose(t, one[0], rtol=1e-5)


def test_max_tokens(localize):
    runs = {n: localize("--max-tokens", n) for n in (0, 2, 3, 60)}
    assert [run.summary["localize"]["max_tokens"] for run in runs.values()] == list(runs)
    t = {n: units(run)["t"] for n, run in runs.items()}
    assert t[0].equals(t[60])
    for a, b in ((0, 2), (0, 3), (2, 3)):
        assert np.abs(t[a] - t[b]).max() > 0.1


def test_bos(localize):
    default, without, with_bos = localize(), localize("--no-bos"), localize("--bos")
    assert [run.summary["localize"]["bos"] for run in (default, without, with_bos)] == [
        False, False, True
    ]  # fmt: skip
    assert units(default).equals(units(without))
    assert np.abs(units(default)["t"] - units(with_bos)["t"]).max() > 0.1
    # The BOS token counts among the tokens.
    cut, none = localize("--bos", "--max-tokens", "3"), localize("--max-tokens", "3")
    assert np.abs(units(cut)["t"] - units(none)["t"]).max() > 0.1


def test_magnitude_and_signed(localize):
    default, magnitude, signed = localize(), localize("--magnitude"), localize("--signed")
    assert units(default).equals(units(magnitude))
    assert (units(magnitude)["mean_positive"] >= 0).all()
    assert (units(signed)["mean_positive"] < 0).any()
    assert np.abs(units(magnitude)["t"] - units(signed)["t"]).max() > 0.1
    assert signed.summary["localize"]["magnitude"] is False


@pytest.mark.parametrize(
    ("words", "count"),
    [(["--top", "99.5"], 191), (["--top", "29"], 55), (["--units", "7"], 7), ([], 1)],
)
def test_the_top_is_chosen(localize, words, count):
    table = units(localize(*words))
    assert table["selected"].sum() == count
    assert table["t"][table["selected"]].min() >= table["t"][~table["selected"]].max()


def test_fdr(localize):
    chosen = {q: units(localize("--fdr", q)) for q in (0.05, 0.9)}
    for q, table in chosen.items():
        assert table["selected"].equals((table["q"] <= q) & (table["t"] > 0))
    assert 0 < chosen[0.05]["selected"].sum() < chosen[0.9]["selected"].sum()


def test_range(localize):
    runs = [localize("--units", "10", "--range", "20-60", "--seed", seed) for seed in (0, 0, 1)]
    chosen = [set(np.flatnonzero(units(run)["selected"])) for run in runs]
    assert chosen[0] == chosen[1] != chosen[2]
    t = units(runs[0])["t"]
    low, high = np.percentile(t, [20, 60])
    for one in chosen:
        assert len(one) == 10
        assert t[sorted(one)].between(low, high).all()
    least = units(localize("--units", "10", "--range", "0-0"))
    assert set(least.nsmallest(10, "t").index) == set(least.index[least["selected"]])
    assert runs[2].manifest.steps[0].parameters["within"] == "20-60"
    assert Network.load(runs[2].folder).how["seed"] == 1


def test_batch_size_and_threads_change_no_result(localize):
    default = units(localize())
    for words in (["--batch-size", "1"], ["--batch-size", "5"], ["--threads", "1"]):
        run = localize(*words)
        for column in ("mean_positive", "mean_control"):
            np.testing.assert_allclose(units(run)[column], default[column], rtol=0, atol=1e-6)
        assert units(run)["selected"].equals(default["selected"])
    assert run.manifest.steps[0].threads == 1


def test_force_replaces_a_run(work, call, localize):
    run = localize()
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "--units", "4", "-o", run.folder]
    call(*words, "--force")
    assert Network.load(run.folder).size == 4
    assert not [path.name for path in work.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("place", ["tiny/model.onnx", "bare"])
def test_models_of_other_forms(work, call, localize, place):
    run = localize()
    shutil.copytree("tiny", "bare")
    (work / "bare" / "bundle.json").unlink()
    call("localize", place, "--localizer", "stimuli.csv", "-o", "other")
    pd.testing.assert_frame_equal(units(run), units(Run.open("other")))


@pytest.fixture
def network(localize):
    """A run whose network of 19 units lies in several sites, unevenly."""
    run = localize("--top", "10")
    assert len(Network.load(run.folder).units) > 1
    return run


def test_the_folder_of_an_ablation(work, call, network):
    words = ["ablate", "tiny", "--network", network.folder, "--task", "pairs.jsonl", "--task",
             "text", "--controls", "3", "-o", "ablation"]  # fmt: skip
    said = call(*words)
    folder = work / "ablation"
    assert {path.name for path in folder.iterdir()} == {
        "effects.parquet", "manifest.json", "network.parquet", "summary.json", "units.parquet"
    }  # fmt: skip
    assert Network.load(folder) == Network.load(network.folder)
    assert (folder / "units.parquet").read_bytes() == (
        network.folder / "units.parquet"
    ).read_bytes()

    table = pd.read_parquet(folder / "effects.parquet")
    assert list(table.columns) == ["task", "group", "item", "condition", "kind", "size", "score"]
    assert set(table.columns) <= set(documented("effects.parquet"))
    conditions = ["intact", "network", "control-00", "control-01", "control-02"]
    assert set(table["condition"]) == set(conditions)
    assert not table.duplicated(["task", "item", "condition", "size"]).any()
    assert len(table) == 5 * (6 + len(POSITIVE))
    assert set(table["task"]) == {"pairs", "text"}
    assert set(table["group"][table["task"] == "pairs"]) == {"agreement", "anaphora"}
    assert set(table["score"][table["task"] == "pairs"]) <= {0.0, 1.0}
    assert (table["score"][table["task"] == "text"] < 0).all()
    assert set(table["size"][table["condition"] == "intact"]) == {0.0}
    (size,) = set(table["size"][table["condition"] != "intact"])
    assert size == pytest.approx(100 * 19 / 192)

    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {"format", "model", "localize", "ablate"}
    assert summary["localize"] == network.summary["localize"]
    assert {key: summary["ablate"][key] for key in ("with", "match", "n_controls")} == {
        "with": "zero", "match": "site", "n_controls": 3
    }  # fmt: skip
    means = table.groupby(["task", "condition"], observed=True)["score"].mean()
    pairs, text = summary["ablate"]["effects"]
    for entry, name in ((pairs, "pairs"), (text, "text")):
        assert entry["task"] == name
        assert entry["n_network_units"] == 19
        for condition in ("intact", "network"):
            assert entry[condition] == pytest.approx(means[name, condition])
        controls = [means[name, condition] for condition in conditions[2:]]
        assert entry["controls"] == pytest.approx(controls)
        assert entry["control_mean"] == pytest.approx(np.mean(controls))
        assert (entry["control_min"], entry["control_max"]) == pytest.approx(
            (min(controls), max(controls))
        )
        worse = sum(control <= entry["network"] for control in entry["controls"])
        assert entry["p_empirical"] == pytest.approx((1 + worse) / 4)
        low, high = entry["vs_intact"]["low"], entry["vs_intact"]["high"]
        assert low <= entry["vs_intact"]["difference"] <= high
        assert entry["vs_intact"]["difference"] == pytest.approx(entry["network"] - entry["intact"])
        assert {"difference", "low", "high", "d"} == set(entry["vs_controls"])
    assert (pairs["chance"], pairs["perplexity"]) == (0.5, None)
    assert [group["group"] for group in pairs["groups"]] == ["agreement", "anaphora"]
    assert text["perplexity"]["intact"] > 1

    manifest = json.loads((folder / "manifest.json").read_text())
    first, second = manifest["steps"]
    assert (first["step"], second["step"]) == ("localize", "ablate")
    assert second["command"] == "onnxloc " + " ".join(map(str, words))
    assert second["parameters"]["tasks"] == ["pairs.jsonl", "the localizer stimuli"]
    assert set(second["hashes"]) == {"model", "plan", "task pairs", "task text"}

    head, one, two, wrote = said.splitlines()
    assert head.split()[:6] == ["task", "score", "units", "items", "intact", "network"]
    assert one.split()[:2] == ["pairs", "accuracy"]
    assert two.split()[:2] == ["text", "perplexity"]
    assert wrote == "wrote ablation"


def test_a_network_file_does_what_its_run_does(network, ablate):
    run = ablate(network.folder, "--controls", "2")
    file = ablate(network.folder / "network.parquet", "--controls", "2")
    pd.testing.assert_frame_equal(effects(run), effects(file))
    assert not (file.folder / "units.parquet").exists()
    assert "localize" not in file.summary
    assert [step.step for step in file.manifest.steps] == ["ablate"]


def test_two_ablations_differ_in_their_times_alone(network, ablate):
    one, two = (ablate(network.folder, "--controls", "2") for _ in range(2))
    for name in ("effects.parquet", "network.parquet", "summary.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_tasks(work, network, ablate):
    folder = work / "blimp"
    folder.mkdir()
    write_pairs(folder / "one.jsonl", ["npi"])
    write_pairs(folder / "two.jsonl", ["islands"])
    words = ["--task", "blimp", "--task", "text:lines.txt", "--task", "pairs", "--limit", "1"]
    table = effects(ablate(network.folder, *words, "--controls", "1"))
    items = table[table["condition"] == "intact"].groupby("task", observed=True)["item"].count()
    # --limit keeps one item of each group: two paradigms, one file of text, 19 phenomena.
    assert dict(items) == {"blimp": 2, "text:lines": 1, "pairs": 19}
    limited = effects(ablate(network.folder, "--limit", "2", "--controls", "0"))
    assert (limited.groupby(["task", "group", "condition"], observed=True).size() == 2).all()


def test_the_text_task_takes_the_localizers_sentences(work, network, ablate):
    write_stimuli(work / "other.csv", ["a dog", "a fox", "a sun", "a hen"])
    own = ablate(network.folder, "--task", "text", "--controls", "0")
    other = ablate(network.folder, "--task", "text", "--localizer", "other.csv", "--controls", "0")
    assert own.summary["ablate"]["effects"][0]["n_items"] == len(POSITIVE)
    assert other.summary["ablate"]["effects"][0]["n_items"] == 4
    assert other.manifest.steps[-1].parameters["tasks"] == ["the localizer other"]


def scores(run, condition, task="text:lines"):
    table = effects(run)
    chosen = table[(table["task"] == task) & (table["condition"] == condition)]
    return chosen["score"].to_numpy()


def test_zero_and_mean_differ(network, ablate):
    zero, mean = (
        ablate(network.folder, "--with", how, "--controls", "1") for how in ("zero", "mean")
    )
    assert np.array_equal(scores(zero, "intact"), scores(mean, "intact"))
    for condition in ("network", "control-00"):
        assert np.abs(scores(zero, condition) - scores(mean, condition)).max() > 1e-3
    assert mean.summary["ablate"]["with"] == "mean"


def test_controls_and_their_seed(network, ablate):
    three, two, other = (
        ablate(network.folder, "--controls", n, "--seed", seed)
        for n, seed in ((3, 0), (2, 0), (3, 1))
    )
    for condition in ("control-00", "control-01"):
        np.testing.assert_allclose(scores(three, condition), scores(two, condition), atol=1e-5)
        assert np.abs(scores(three, condition) - scores(other, condition)).max() > 1e-3
    assert np.abs(scores(three, "control-00") - scores(three, "control-01")).max() > 1e-3
    none = ablate(network.folder, "--controls", "0")
    assert set(effects(none)["condition"]) == {"intact", "network"}
    assert none.summary["ablate"]["effects"][0]["p_empirical"] is None


def test_match(work, ablate):
    model = Model.open("tiny").graph.hash
    for name, units in (("half", np.arange(32)), ("rest", np.arange(32, 64))):
        network = Network({OUT[0]: units}, dict.fromkeys(OUT, 64), model, {"how": "top"})
        network.save(work / f"{name}.parquet")
    by_site = ablate("half.parquet", "--match", "site", "--controls", "1")
    by_count = ablate("half.parquet", "--match", "count", "--controls", "1")
    want = scores(ablate("rest.parquet", "--controls", "0"), "network")
    # Matched by site, 32 of the 32 units that are left can only be those.
    np.testing.assert_allclose(scores(by_site, "control-00"), want, atol=1e-5)
    assert np.abs(scores(by_count, "control-00") - want).max() > 1e-2
    assert by_count.summary["ablate"]["match"] == "count"


def test_percent(network, localize, ablate):
    run = ablate(network.folder, "--percent", "2,10,5", "--controls", "2")
    assert set(effects(run)["size"]) == {0.0, 2.0, 5.0, 10.0}
    entries = run.summary["ablate"]["effects"]
    sizes = [(e["size"], e["n_network_units"]) for e in entries if e["task"] == "pairs"]
    assert sizes == [(2.0, 3), (10.0, 19), (5.0, 9)]
    table = effects(run)
    assert (table.groupby(["task", "condition", "size"], observed=True).size()["pairs"] == 6).all()
    five = ablate(localize("--top", "5").folder, "--controls", "0")
    text = table[(table["task"] == "text:lines") & (table["condition"] == "network")]
    np.testing.assert_allclose(
        text["score"][text["size"] == 5.0], scores(five, "network"), atol=1e-5
    )
    assert Network.load(run.folder).size == 19


def test_batch_size_changes_no_score(network, ablate):
    default, one = (ablate(network.folder, *w) for w in ([], ["--batch-size", "7"]))
    a, b = effects(default), effects(one)
    assert a.drop(columns="score").equals(b.drop(columns="score"))
    # Log-probabilities are float32 of about 14: 1e-5 of them is what float32 can hold.
    np.testing.assert_allclose(a["score"], b["score"], rtol=1e-6, atol=1e-6)


def test_a_network_of_another_model_can_be_forced(work, network, call):
    other = write_tiny_bundle(work / "other", replace(MODEL, seed=8))
    words = ["ablate", other, "--network", network.folder, "--task", "text:lines.txt"]
    call(*words, "--controls", "1", "--force-model", "-o", "forced")
    assert set(effects(Run.open("forced"))["condition"]) == {"intact", "network", "control-00"}


def test_report(work, network, ablate, call):
    for run in (network.folder, ablate(network.folder).folder):
        before = snapshot(run)
        assert call("report", run) == f"wrote {run / 'report.html'}\n"
        page = (run / "report.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>")
        assert "block.0.out" in page
        assert not re.search(r'<(script|link|img)[^>]*(src|href)="https?:', page)
        assert {name: data for name, data in snapshot(run).items() if name in before} == before
        call("report", run)
        assert set(snapshot(run)) == {*before, "report.html"}


def test_inspect(call):
    said, raw = call("inspect", "tiny"), json.loads(call("inspect", "tiny", "--json"))
    assert raw["totals"] == {
        "sites": 172, "sites with units": 159, "units": 7826, "blocks": 3,
        "units in block outputs": 192,
    }  # fmt: skip
    assert set(raw["sites"][0]) == {
        "site", "names", "block", "role", "op_type", "dtype", "axes", "shape", "units", "scope"
    }  # fmt: skip
    by_name = {site["site"]: site for site in raw["sites"]}
    assert by_name["block.1.mlp.hidden"]["units"] == 96
    assert by_name["block.1.attn.probs"]["units"] == 0
    assert by_name["block.2.out"]["axes"] == ["batch", "token", "feature"]
    assert by_name["block.2.out"]["scope"].startswith("/model/layers.2")
    lines = said.splitlines()
    assert lines[0].split() == ["tiny", "llama", "float32", "opset", "21"]
    assert raw["model"]["hash"] in lines[1]
    assert lines[2] == "parity: not measured"
    listed = [line.split() for line in lines[5 : 5 + len(raw["sites"])]]
    assert [words[0] for words in listed] == list(by_name)
    assert [words[-1] for words in listed] == [
        str(site["units"]) if site["units"] else "-" for site in raw["sites"]
    ]
    for name, value in raw["totals"].items():
        assert f"\n{name}: {value:,}\n" in said


def test_inspect_sites(call):
    every = json.loads(call("inspect", "tiny", "--sites", "op:*", "--json"))
    assert len(every["sites"]) == every["totals"]["sites"] == 172
    few = call("inspect", "tiny", "--sites", "block.*.out", "--sites", "logits")
    assert re.findall(r"^(block\.\S+|logits)", few, re.MULTILINE) == [*OUT, "logits"]


def test_export_gguf(work, call):
    MODEL.write(work / "m.gguf")
    assert call("export", "gguf", "m.gguf", "-o", "new") == f"wrote {Path('new')}\n"
    assert json.loads((work / "new" / "bundle.json").read_text())["name"] == "m"
    assert sha256_file(work / "new" / "model.onnx.data") == sha256_file(
        work / "tiny" / "model.onnx.data"
    )
    words = ["--dtype", "float16", "--name", "half", "--with-past"]
    call("export", "gguf", "m.gguf", *words, "-o", "half")
    assert "half  llama  float16" in call("inspect", "half")
    inputs = (work / "half" / "model.onnx").read_bytes()
    assert b"past_key_values" in inputs


@pytest.fixture
def recipe(work):
    source = MODEL.write(work / "source.gguf")
    text = f'source = "file:{source}"\nsha256 = "{sha256_file(source)}"\n'
    text += f'size = {source.stat().st_size}\nexporter = "gguf"\n'
    path = work / "small.toml"
    path.write_text(text)
    return path


def test_fetch(work, tmp_path, call, recipe):
    assert "smollm2-135m" in call("fetch").split()
    home = tmp_path / "home" / "bundles" / "small"
    assert call("fetch", recipe) == f"{recipe} is at {home}\n"
    made = (home / "model.onnx").stat().st_mtime_ns
    call("fetch", recipe)
    assert (home / "model.onnx").stat().st_mtime_ns == made
    call("fetch", recipe, "--force")
    assert (home / "model.onnx").stat().st_mtime_ns > made
    assert call("fetch", recipe, "-o", "here") == f"{recipe} is at here\n"
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert (work / "here" / name).read_bytes() == (home / name).read_bytes()


def test_a_fetched_model_goes_by_its_name(work, call, recipe, tmp_path):
    call("fetch", recipe, "-o", tmp_path / "home" / "bundles" / "smollm2-135m")
    assert call("inspect", "smollm2-135m").startswith("small  llama")


def test_demo(work, call, recipe, monkeypatch):
    monkeypatch.setattr("onnxloc.studies.demo.RECIPE", str(recipe))
    said = call("demo", "-o", "demo", "--limit", "1", "--threads", "1")
    assert {path.name for path in (work / "demo").iterdir()} == {
        "effects.parquet", "manifest.json", "network.parquet", "report.html", "summary.json",
        "units.parquet",
    }  # fmt: skip
    run = Run.open("demo")
    assert [step.step for step in run.manifest.steps] == ["localize", "ablate"]
    assert {step.command for step in run.manifest.steps} == {
        "onnxloc demo -o demo --limit 1 --threads 1"
    }
    assert {step.threads for step in run.manifest.steps} == {1}
    pairs, text = run.summary["ablate"]["effects"]
    assert (pairs["n_items"], text["n_items"], len(pairs["controls"])) == (19, 240, 10)
    lines = said.splitlines()
    assert lines[0].startswith("1 of 192 units")
    assert [line.split()[0] for line in lines[4:7]] == ["task", "pairs", "text"]
    assert lines[-1] == f"report: {Path('demo/report.html')}"


@pytest.mark.parametrize("name", [*COMMANDS, "export gguf", "export optimum", "export torch"])
def test_help_has_examples(capsys, name):
    assert main([*name.split(), "--help"]) == 0
    said = capsys.readouterr()
    assert re.search(rf"Examples?:\n +onnxloc {name}\b", said.out)
    assert main([*name.split(), "-h"]) == 0
    assert (capsys.readouterr().out, said.err) == (said.out, "")


def test_the_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text.split()[0])}", said, re.MULTILINE)
    for words in ([], ["export"]):
        assert main(words) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("Usage: onnxloc")


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnxloc {version('onnxloc')}\n"


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_debug_shows_the_traceback(work, capsys, place):
    words = ["report", "tiny"]
    words.insert(place, "--debug")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert "RunError" in err
    assert err.splitlines()[-1].startswith("onnxloc: error: tiny is not a run folder")


def test_the_process_itself(work):
    said = start("--version")
    assert (said.returncode, said.stdout) == (0, f"onnxloc {version('onnxloc')}\n")
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "-o", "run"]
    said = start(*words)
    # No bar where standard error is no terminal, and not a word of any library.
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads((work / "run" / "manifest.json").read_text())["steps"][0]["command"] == (
        "onnxloc " + " ".join(words)
    )
    said = start("ablate", "tiny", "--network", "run", "--task", "pairs.jsonl", "-o", "ablation")
    assert (said.returncode, said.stderr) == (0, "")
    again = start(*words)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        "onnxloc: error: run exists; choose another output path, or --force to replace it\n"
    )


def test_a_reader_that_goes_away_is_no_error(work):
    command = [sys.executable, "-m", "onnxloc", "inspect", "tiny", "--sites", "op:*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_a_bar_on_a_terminal(work):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "onnxloc", "localize", "tiny", "--localizer", "stimuli.csv"]
    with subprocess.Popen(
        [*command, "-o", "run"], stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        # Reading from a terminal whose other end is closed is an error on Linux.
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass
        assert process.wait() == 0
    os.close(ours)
    # What is done, how much there is, and the time left.
    assert re.search(rb"localizing: +\d+%.* \d+/12 \[[\d:]+<", shown)
