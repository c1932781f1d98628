"""The network of the real model is the one that the paper's procedure finds in torch."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import torch_reference
from scipy.stats import ttest_ind

from onnxloc.graph.plan import Plan, Tap
from onnxloc.network import Network
from onnxloc.runtime.batches import batches
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.store import Run
from onnxloc.studies.localize import LocalizeOptions, localize

pytestmark = pytest.mark.integration

# In a process of its own: localize so many texts of each condition, then tell how far the memory
# rose above the loaded session, or save the run.
LOCALIZE = """
import json, sys
from dataclasses import replace
from pathlib import Path
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.studies import localize as study

bundle, count, run = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stimuli = load_stimuli("language")
stimuli = replace(
    stimuli, positive=(stimuli.positive * 4)[:count], control=(stimuli.control * 4)[:count]
)

def memory(key):
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if key in x]
    return int(line.split()[1]) / 1024

before, inner = [], study.response_moments

def measured(*args, **settings):
    Path("/proc/self/clear_refs").write_text("5")
    before.append(memory("VmRSS"))
    return inner(*args, **settings)

study.response_moments = measured
found = study.localize(Model.open(bundle), stimuli, None, RuntimeOptions(threads=2))
print(json.dumps({"rise": memory("VmHWM") - before[0]}))
if run:
    found.save(Path(run))
"""


def in_own_process(bundle_path, count, run=""):
    command = [sys.executable, "-c", LOCALIZE, bundle_path, count, run]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def part(stimuli, count):
    """The first texts of each condition."""
    return replace(stimuli, positive=stimuli.positive[:count], control=stimuli.control[:count])


@pytest.fixture(scope="module")
def language():
    return load_stimuli("language")


@pytest.fixture(scope="module")
def small(language):
    return part(language, 40)


def encoded(model, stimuli, *, bos):
    return model.encode([*stimuli.positive, *stimuli.control], bos=bos, max_tokens=12)


@pytest.fixture(scope="module")
def responses(model, language, torch_model):
    """What the paper's code records: every text alone, all blocks, in torch."""
    sequences = encoded(model, language, bos=False)
    assert {len(sequence) for sequence in sequences} == {12}
    return torch_reference.responses(torch_model, sequences)


@pytest.fixture(scope="module")
def default(model, language):
    return localize(model, language)


@pytest.fixture(scope="module")
def default_small(model, small):
    return localize(model, small)


def compare(found, values, stimuli, figure, name, *, magnitude=True):
    t, chosen = torch_reference.choose(
        values, len(stimuli.positive), percent=1.0, magnitude=magnitude
    )
    overlap = torch_reference.dice(found.network.flat, chosen)
    difference = np.abs(found.contrast.t - t).max()
    figure(f"network, {name}: Dice with the torch reference", overlap)
    figure(f"network, {name}: t-values, max abs difference", difference)
    assert found.network.size == chosen.size == 172
    assert overlap >= 0.99
    assert difference <= 1e-3
    assert np.isfinite(found.contrast.t).all()


def test_the_network_is_that_of_the_papers_code(default, responses, language, figure):
    compare(default, responses["last"], language, figure, "default options")
    assert default.summary["localize"]["n_units"] == 30 * 576
    assert default.summary["localize"]["bos"] is False


@pytest.mark.parametrize(
    "options",
    [
        LocalizeOptions(magnitude=False),
        LocalizeOptions(pool="mean", batch_size=7),
    ],
    ids=["signed", "mean"],
)
def test_so_it_is_with_other_options(options, model, responses, language, figure):
    found = localize(model, language, options)
    pool = options.pool or language.pool
    name = f"{pool}, {'magnitude' if options.magnitude else 'signed'}"
    compare(found, responses[pool], language, figure, name, magnitude=options.magnitude)


def test_so_it_is_with_a_bos_token(model, torch_model, small, figure):
    found = localize(model, small, LocalizeOptions(bos=True))
    sequences = encoded(model, small, bos=True)
    assert {len(sequence) for sequence in sequences} == {12}
    assert {sequence[0] for sequence in sequences} == {model.bundle.info.bos_token_id}
    values = torch_reference.responses(torch_model, sequences)["last"]
    compare(found, values, small, figure, "with BOS, 80 texts")
    assert found.step.parameters["bos"] is True


def test_texts_of_different_lengths(model, torch_model, small, figure):
    """Without a cut, sentences and nonwords differ in length and batches are padded."""
    found = localize(model, small, LocalizeOptions(max_tokens=0))
    sequences = model.encode([*small.positive, *small.control], bos=False)
    assert len({len(sequence) for sequence in sequences}) > 5
    values = torch_reference.responses(torch_model, sequences)["last"]
    compare(found, values, small, figure, "uncut, 80 texts")


def test_activations_are_those_of_torch(model, language, responses, torch_model, figure):
    """The pooled activations themselves, for every text."""
    sites = model.sites.match(["block.*.out"])
    sequences = encoded(model, language, bos=False)
    pooled = {pool: np.empty((len(sequences), 30 * 576)) for pool in responses}
    taps = {pool: tuple(Tap(site.tensor, pool) for site in sites) for pool in responses}
    session = model.compile(Plan(taps=sum(taps.values(), ())), RuntimeOptions())
    for batch in batches(sequences, max_rows=32, pad=model.pad):
        values = session.taps(batch)
        for pool, chosen in taps.items():
            pooled[pool][batch.rows] = np.concatenate([values[tap] for tap in chosen], axis=1)
    last = np.abs(pooled["last"] - responses["last"]).max()
    mean = np.abs(pooled["mean"] - responses["mean"]).max() / np.abs(responses["mean"]).max()
    figure("block outputs, last token of 480 texts: max abs difference from torch", last)
    figure("block outputs, mean of 480 texts: max difference / largest value", mean)
    # Both sides round; the bound on one of them is tested below.
    assert last <= 4e-3
    # The mean takes in the first token, whose values reach 24,000.
    assert mean <= 5e-5

    precise = copy.deepcopy(torch_model).double()
    some = range(0, len(sequences), 10)
    theirs = torch_reference.responses(precise, [sequences[row] for row in some])["last"]
    error = np.abs(pooled["last"][some] - theirs).max()
    figure("block outputs, last token of 48 texts: max abs error", error)
    figure("  torch in float32 has", np.abs(responses["last"][some] - theirs).max())
    assert error <= 2e-3


def test_every_op(model, small, figure):
    stimuli = part(small, 20)
    found = localize(model, stimuli, LocalizeOptions(sites=("op:*",)))
    assert len(found.sites) == sum(site.units > 0 for site in model.sites) > 1000
    contrast = found.contrast
    assert np.isfinite(contrast.mean_positive).all()
    assert np.isfinite(contrast.mean_control).all()
    # What follows from the position alone is the same for all texts and has no t.
    undefined = {
        found.sites[i].scope
        for i in np.flatnonzero(
            [
                np.isnan(contrast.t[start:stop]).any()
                for start, stop in zip(found.offsets, found.offsets[1:], strict=False)
            ]
        )
    }
    assert undefined == {"/model/rotary_emb"}
    assert not np.isnan(contrast.t[found.network.flat]).any()
    figure("op:*: sites", len(found.sites))
    figure("op:*: units", contrast.t.size)

    # The streamed statistics against scipy on the stored activations.
    names = ("block.0.attn.q", "block.5.attn.heads", "block.10.mlp.hidden", "block.29.out")
    taps = tuple(Tap(model.sites.find(name).tensor) for name in names)
    session = model.compile(Plan(taps=taps), RuntimeOptions())
    sequences = encoded(model, stimuli, bos=False)
    stored = {tap: np.empty((40, model.sites.find(tap.site).units)) for tap in taps}
    for batch in batches(sequences, max_rows=40, pad=model.pad):
        for tap, values in session.taps(batch).items():
            stored[tap][batch.rows] = np.abs(values.astype(np.float64))
    starts = dict(zip((site.tensor for site in found.sites), found.offsets, strict=False))
    for tap, values in stored.items():
        units = slice(starts[tap.site], starts[tap.site] + values.shape[1])
        positive, control = values[:20], values[20:]
        np.testing.assert_allclose(
            contrast.mean_positive[units], positive.mean(axis=0), rtol=1e-3, atol=1e-4
        )
        expected = ttest_ind(positive, control, axis=0, equal_var=False)
        worst = np.abs(contrast.t[units] - expected.statistic).max()
        figure(f"op:*: t-values of {model.sites.find(tap.site).name}, difference", worst)
        assert worst <= 1e-2


def test_streamed_statistics_are_those_of_scipy(model, default_small, small):
    """The same session, batch by batch: to the precision of float64."""
    sites = model.sites.match(["block.*.out"])
    session = model.compile(Plan(taps=tuple(Tap(site.tensor) for site in sites)), RuntimeOptions())
    sequences = encoded(model, small, bos=False)
    stored = np.empty((len(sequences), 30 * 576))
    for batch in batches(sequences, max_rows=LocalizeOptions().batch_size, pad=model.pad):
        stored[batch.rows] = np.concatenate(list(session.taps(batch).values()), axis=1)
    stored = np.abs(stored)
    expected = ttest_ind(stored[:40], stored[40:], axis=0, equal_var=False)
    contrast = default_small.contrast
    np.testing.assert_allclose(contrast.t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(contrast.p, expected.pvalue, rtol=1e-8)
    np.testing.assert_allclose(contrast.df, expected.df, rtol=1e-9)
    np.testing.assert_allclose(contrast.mean_positive, stored[:40].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(contrast.mean_control, stored[40:].mean(axis=0), rtol=1e-12)


def test_the_run_folder_is_complete(default_small, small, model, tmp_path):
    default_small.save(tmp_path / "run")
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {"manifest.json", "summary.json", "units.parquet", "network.parquet"}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    run = Run.open(tmp_path / "run")
    assert Network.load(tmp_path / "run") == default_small.network
    (step,) = run.manifest.steps
    assert step.hashes["model"] == model.graph.hash
    assert step.hashes["stimuli"] == small.hash
    assert step.parameters["sites"] == ["block.*.out"]
    assert set(step.seconds) == {"load", "run"}
    assert run.summary["localize"]["n_selected"] == 172
    units = run.table("units.parquet")
    assert list(units.columns) == [
        "site", "unit", "role", "block", "op_type", "mean_positive", "mean_control",
        "t", "df", "p", "q", "d", "g", "selected",
    ]  # fmt: skip
    assert np.array_equal(units["t"], default_small.contrast.t)
    assert np.array_equal(np.flatnonzero(units["selected"]), default_small.network.flat)
    assert units["t"][units["selected"]].min() >= units["t"][~units["selected"]].max()


def test_a_second_run_finds_the_identical_network(
    default_small, small, model, bundle_path, tmp_path
):
    again = localize(model, small)
    assert again.network == default_small.network
    assert np.array_equal(again.contrast.t, default_small.contrast.t)
    in_own_process(bundle_path, 40, tmp_path / "run")
    run = tmp_path / "run"
    assert Network.load(run) == default_small.network
    assert Run.open(run).manifest.steps[0].hashes == default_small.step.hashes


def test_batches_and_threads_do_not_change_the_network(default_small, small, model, figure):
    other = localize(model, small, LocalizeOptions(batch_size=5), RuntimeOptions(threads=1))
    overlap = other.network.dice(default_small.network)
    figure("network, other batch size and threads: Dice", overlap)
    assert overlap >= 0.99


def test_memory_does_not_grow_with_the_number_of_texts(bundle_path, figure):
    # The allocators of onnxruntime and numpy need some batches to reach their level.
    few, many = (in_own_process(bundle_path, count)["rise"] for count in (240, 720))
    figure("memory above the loaded session, 480 texts, MB", few)
    figure("memory above the loaded session, 1440 texts, MB", many)
    assert many - few < 30
    assert many <= 150
