"""The profile of a network of a tiny model, and of plain arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_bundle import (
    CONTROL,
    MODEL,
    POSITIVE,
    snapshot,
    write_stimuli,
    write_tiny_bundle,
)

from onnxloc.choose import Selection
from onnxloc.cli import main
from onnxloc.errors import NetworkError, OptionError, StimulusError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.network import Network
from onnxloc.report.profile_page import render_profile
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_conditions, load_stimuli
from onnxloc.studies.contrast import contrast
from onnxloc.studies.localize import LocalizeOptions, localize, localize_into
from onnxloc.studies.profile import ProfileOptions, profile

pytestmark = pytest.mark.unit

TEXTS = {
    "sleep": ("the pig sleeps", "the cow sleeps now", "the ant sleeps", "an owl sleeps"),
    "sums": ("1 + 1", "20 - 3 = 17", "5 * 5", "8 / 2 = 4", "9 + 90"),
    "<b>shout</b>": ("HEY YOU", "STOP THAT", "LOOK OUT", "WAKE UP"),
}
FEW = ProfileOptions(controls=6, resamples=50, permutations=99, splits=4, seed=5)


def write_conditions(folder, texts):
    lines = ["condition,text", *(f'{c},"{t}"' for c, own in texts.items() for t in own)]
    (folder / "conditions.csv").write_text("\n".join(lines) + "\n")
    names = ", ".join(json.dumps(name) for name in texts)
    path = folder / "conditions.toml"
    path.write_text(f'name = "three"\ndata = "conditions.csv"\nconditions = [{names}]\n')
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    write_tiny_bundle(folder / "tiny")
    write_stimuli(folder / "stimuli.csv")
    write_conditions(folder, TEXTS)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Model.open(folder / "tiny")


@pytest.fixture(scope="module")
def run(folder, model):
    options = LocalizeOptions(selection=Selection(how="units", value=12), pool="mean")
    localize_into(folder / "run", model, load_stimuli(folder / "stimuli.csv"), options)
    return folder / "run"


@pytest.fixture(scope="module")
def found(model, run, folder):
    return profile(model, run, folder / "conditions.toml", FEW)


def activations(model, network, texts, pool):
    """|Activation| of every site, read without the study: ``[texts, units]`` by site."""
    sites = [model.sites.find(name) for name in network.sites]
    session = model.compile(
        Plan(taps=tuple(Tap(site.tensor, pool) for site in sites)), RuntimeOptions()
    )
    sequences = model.encode(texts, bos=model.bundle.info.add_bos)
    (batch,) = batches(sequences, max_rows=len(texts), pad=model.pad)
    taps = session.taps(batch)
    return {
        site.name: np.abs(values)[np.argsort(batch.rows)].astype(float)
        for site, values in zip(sites, taps.values(), strict=True)
    }


def test_a_response_is_the_mean_of_standardised_units(model, found):
    texts = [text for own in TEXTS.values() for text in own]
    assert found.items["text"].tolist() == texts
    read = activations(model, found.network, texts, "mean")
    z = {site: (v - v.mean(axis=0)) / v.std(axis=0) for site, v in read.items()}

    def mean(units):
        return np.concatenate([z[site][:, own] for site, own in units.items()], axis=1).mean(axis=1)

    assert found.network.size == 12
    np.testing.assert_allclose(found.items["network"], mean(found.network.units), atol=1e-5)
    for block in range(3):
        site = f"block.{block}.out"
        np.testing.assert_allclose(found.items[f"block-{block}"], z[site].mean(axis=1), atol=1e-5)
        own = found.network.units.get(site, ())
        if len(own):
            expected = z[site][:, own].mean(axis=1)
            np.testing.assert_allclose(found.items[f"block-{block}-network"], expected, atol=1e-5)


def test_raw_responses_keep_their_scale(model, run, folder, found):
    raw = profile(model, run, folder / "conditions.toml", replace(FEW, response="raw"))
    read = activations(model, found.network, raw.items["text"].tolist(), "mean")
    units = [read[site][:, own] for site, own in found.network.units.items()]
    expected = np.concatenate(units, axis=1).mean(axis=1)
    np.testing.assert_allclose(raw.items["network"], expected, rtol=1e-4)
    assert (raw.items["network"] > 0).all()


def test_texts_are_read_as_the_run_read_them(found):
    own = found.options
    assert (own.pool, own.max_tokens, own.bos, own.magnitude) == ("mean", 0, False, True)


def test_the_tables_say_what_the_items_say(found):
    own = found.of()
    assert own["condition"].tolist() == list(TEXTS)
    assert own["n"].tolist() == [4, 5, 4]
    by = found.items.groupby("condition", sort=False)
    np.testing.assert_allclose(own["mean"], by["network"].mean())
    assert (own["low"] <= own["mean"]).all()
    assert (own["mean"] <= own["high"]).all()
    means = by[[f"control-{i:03d}" for i in range(6)]].mean()
    np.testing.assert_allclose(own["controls_median"], means.median(axis=1))
    tests = found.tests_of()
    assert list(zip(tests["a"], tests["b"], strict=True)) == [
        ("sleep", "sums"), ("sleep", "<b>shout</b>"), ("sums", "<b>shout</b>")
    ]  # fmt: skip
    np.testing.assert_allclose(
        tests["difference"], [own["mean"][i] - own["mean"][j] for i, j in ((0, 1), (0, 2), (1, 2))]
    )
    assert (tests["p_holm"] >= tests["p"]).all()
    assert (tests["p_permutation"] >= 1 / 100).all()
    # p among six random networks: a multiple of a seventh.
    np.testing.assert_allclose(own["p_controls"] * 7, np.round(own["p_controls"] * 7))
    assert {s.kind for s in found.sources} == {"network", "control", "block", "network in block"}
    assert len(found.tests) == 3 * len(found.sources)


def test_random_networks_match_and_lie_outside(model, run, folder, found):
    again = profile(model, run, folder / "conditions.toml", FEW)
    np.testing.assert_array_equal(again.items["control-003"], found.items["control-003"])
    other = profile(model, run, folder / "conditions.toml", replace(FEW, seed=6))
    assert (other.items["control-003"] != found.items["control-003"]).any()
    np.testing.assert_array_equal(other.items["network"], found.items["network"])
    for match in ("count", "norm"):
        more = profile(model, run, folder / "conditions.toml", replace(FEW, match=match))
        assert (more.items["control-003"] != found.items["control-003"]).any()
    none = profile(model, run, folder / "conditions.toml", replace(FEW, controls=0))
    assert none.of()["p_controls"].isna().all()


def test_the_localizers_own_texts_are_measured_with_units_of_the_other_half(model, run, folder):
    found = profile(model, run, folder / "stimuli.csv", FEW)
    assert found.halves
    assert found.items["in_localizer"].all()
    assert found.items["text"].tolist() == [*POSITIVE, *CONTROL]
    whole = profile(model, Network.load(run), folder / "stimuli.csv", replace(FEW, pool="mean"))
    assert not whole.halves
    assert "not known" in whole.notes[0]
    gap, whole_gap = (one.tests_of()["difference"][0] for one in (found, whole))
    # Measured where they were chosen, units look more selective than they are.
    assert gap < whole_gap


def test_only_shown_texts_are_held_out(model, run, folder, tmp_path):
    mixed = {"old": POSITIVE[:4], "new": TEXTS["sums"]}
    found = profile(model, run, write_conditions(tmp_path, mixed), FEW)
    assert found.halves
    assert found.items["in_localizer"].tolist() == [True] * 4 + [False] * 5
    assert np.isfinite(found.items["network"]).all()


def test_texts_that_are_cut_to_those_of_the_localizer_are_held_out(model, folder, tmp_path):
    options = LocalizeOptions(selection=Selection(how="units", value=12), max_tokens=4)
    cut = localize(model, load_stimuli(folder / "stimuli.csv"), options)
    cut.save(tmp_path / "cut")
    longer = {"old": [f"{text} all day long" for text in POSITIVE], "new": TEXTS["sums"]}
    found = profile(model, tmp_path / "cut", write_conditions(tmp_path, longer), FEW)
    assert found.items["in_localizer"].tolist() == [True] * 6 + [False] * 5


def test_stimuli_that_are_gone_are_noted(model, folder, tmp_path):
    source = write_stimuli(tmp_path / "own.csv")
    localize(
        model,
        load_stimuli(source),
        LocalizeOptions(selection=Selection(how="units", value=5)),
    ).save(tmp_path / "run")
    for text in (None, "condition,text\n" + "positive,a\ncontrol,b\n" * 3):
        source.unlink(missing_ok=True)
        if text:
            source.write_text(text)
        found = profile(model, tmp_path / "run", folder / "conditions.toml", FEW)
        assert "gone or have changed" in found.notes[0]


def test_what_is_refused(model, run, folder, tmp_path):
    stimuli = load_stimuli(folder / "stimuli.csv")
    drawn = LocalizeOptions(selection=Selection(how="units", value=5, within=(0, 50)))
    localize(model, stimuli, drawn).save(tmp_path / "drawn")
    with pytest.raises(OptionError, match=r"range of percentiles; profile other texts"):
        profile(model, tmp_path / "drawn", folder / "stimuli.csv", FEW)
    profile(model, tmp_path / "drawn", folder / "conditions.toml", FEW)

    localize_into(
        tmp_path / "kept",
        model,
        stimuli,
        LocalizeOptions(permutations=9, selection=Selection(how="units", value=5)),
    )
    contrast(tmp_path / "kept").save(tmp_path / "contrast")
    with pytest.raises(OptionError, match="another comparison"):
        profile(model, tmp_path / "contrast", folder / "stimuli.csv", FEW)

    other = Model.open(write_tiny_bundle(tmp_path / "other", replace(MODEL, seed=9)))
    with pytest.raises(NetworkError, match="not of this model"):
        profile(other, run, folder / "conditions.toml", FEW)
    assert profile(other, run, folder / "conditions.toml", FEW, force_model=True).network.size == 12

    network = Network.load(run)
    every = {site: np.arange(width) for site, width in network.sites.items()}
    whole = Network(every, network.sites, network.model_hash, {})
    with pytest.raises(NetworkError, match="--match count"):
        profile(model, whole, folder / "conditions.toml", FEW)
    alone = profile(model, whole, folder / "conditions.toml", replace(FEW, controls=0))
    np.testing.assert_allclose(
        alone.items["network"], alone.items[[f"block-{b}" for b in range(3)]].mean(axis=1)
    )
    empty = Network({}, network.sites, network.model_hash, {})
    with pytest.raises(OptionError, match="no units"):
        profile(model, empty, folder / "conditions.toml", FEW)
    with pytest.raises(StimulusError, match="there is no"):
        profile(model, run, folder / "nowhere.csv", FEW)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"response": "t"}, "response is one of z, raw"),
        ({"match": "depth"}, "match is one of"),
        ({"pool": "none"}, "pools by last"),
        ({"controls": -1}, "number of controls"),
        ({"splits": 0}, "number of splits"),
        ({"permutations": 0}, "number of permutations"),
        ({"resamples": 10**6}, "number of resamples"),
        ({"max_tokens": -1}, "0 \\(no cut\\)"),
        ({"batch_size": 0}, "batch size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(wrong, said):
    with pytest.raises(OptionError, match=said):
        ProfileOptions(**wrong)


def test_the_command_writes_a_folder(run, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = ["profile", "tiny", "--network", "run", "--stimuli", "conditions.toml", "--controls",
             "5", "--permutations", "99"]  # fmt: skip
    out = tmp_path / "out"
    assert main([*words, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "mean response (z) of 12 units" in said
    assert "sleep – sums" in said
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "profile.html", "profile.json", "profile.csv", "profile.parquet",
        "tests.csv",
    }  # fmt: skip
    before = snapshot(out)
    assert main([*words, "-o", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert snapshot(out) == before
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["halves"] is False
    assert [row["condition"] for row in printed["conditions"] if row["kind"] == "network"] == [
        *TEXTS
    ]
    assert main([*words, "--force"]) == 2
    assert "name one with -o" in capsys.readouterr().err
    assert main(["profile", "tiny", "--network", "nowhere", "-o", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_the_page_escapes_and_tells(found):
    page = render_profile(found, "<i>name</i>")
    assert "&lt;i&gt;name&lt;/i&gt;" in page
    assert "<i>name</i>" not in page
    assert "<b>shout</b>" not in page
    assert "No text of the localizer is among these texts." in page
    assert page.count('type="application/json"') == 3
    assert found.of("block-1")["block"].tolist() == [1, 1, 1]
    with pytest.raises(OptionError, match="no source"):
        found.of("block-7")


def test_a_network_of_some_of_the_shown_conditions(model, tmp_path):
    options = LocalizeOptions(selection=Selection(how="units", value=9))
    localize(model, load_stimuli("language-2"), options).save(tmp_path / "run")
    few = replace(FEW, controls=1, splits=2)
    found = profile(model, tmp_path / "run", load_conditions("profile"), few)
    assert found.halves
    shared = found.items.groupby("condition", sort=False)["in_localizer"].all()
    assert shared[shared].index.tolist() == ["sentences", "nonwords"]
    assert not found.items["in_localizer"][found.items["condition"] == "word-lists"].any()
    assert found.of()["n"].tolist() == [64] * 6 + [66]
