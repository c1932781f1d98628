"""Kept activations of the real model: what they are, what they cost, and what they say."""

import json
import subprocess
import sys

import numpy as np
import pytest

from onnxloc.activations import Activations
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import batches
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.studies.contrast import ContrastOptions, contrast
from onnxloc.studies.localize import LocalizeOptions, localize_into
from onnxloc.studies.reliability import ReliabilityOptions, reliability

pytestmark = pytest.mark.integration

# In a process of its own: permute, then tell the seconds and the peak of memory.
PERMUTE = """
import json, sys, time
from pathlib import Path
from onnxloc.studies.contrast import ContrastOptions, contrast
started = time.perf_counter()
contrast(sys.argv[1], ContrastOptions(permutations=1000))
seconds = time.perf_counter() - started
# Not the resource module: its peak is at first that of the process that started this one.
(line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
print(json.dumps({"seconds": seconds, "peak": int(line.split()[1]) / 1024}))
"""


@pytest.fixture(scope="module")
def language():
    return load_stimuli("language")


@pytest.fixture(scope="module")
def kept(model, language, tmp_path_factory):
    run = tmp_path_factory.mktemp("stored") / "run"
    options = LocalizeOptions(sites=("block.*.mlp.hidden",))
    return run, localize_into(run, model, language, options, RuntimeOptions(threads=2))


def test_what_is_kept_is_what_the_model_gave(model, language, kept):
    run, found = kept
    stored = Activations.open(run)
    assert len(stored) == 480
    assert sum(stored.sites.values()) == 46_080
    texts = [*language.positive, *language.control]
    assert stored.stimuli["text"].tolist() == texts
    site = model.sites.match(("block.13.mlp.hidden",))[0]
    session = model.compile(Plan(taps=(Tap(site.tensor, "last"),)), RuntimeOptions(threads=2))
    rows = [3, 77, 245, 479]
    sequences = model.encode([texts[row] for row in rows], bos=False, max_tokens=12)
    values = stored.read("block.13.mlp.hidden")
    for batch in batches(sequences, max_rows=1, pad=model.pad):
        (one,) = session.taps(batch).values()
        want = values[rows[batch.rows[0]]]
        np.testing.assert_allclose(one[0], want, atol=2e-4 * np.abs(values).max())
    again = contrast(run)
    np.testing.assert_allclose(again.contrast.t, found.contrast.t, rtol=1e-9)
    assert again.network == found.network


def test_a_thousand_permutations_of_46080_units_in_bounded_memory(kept, figure):
    done = subprocess.run(
        [sys.executable, "-c", PERMUTE, str(kept[0])], capture_output=True, text=True, check=True
    )
    got = json.loads(done.stdout)
    figure("1,000 permutations of 46,080 units, s", got["seconds"])
    figure("their peak of memory, MB", got["peak"])
    assert got["peak"] < 1000


def test_the_language_network_is_reliable_and_chance_is_not(language, model, figure,
                                                            tmp_path):  # fmt: skip
    options = LocalizeOptions()
    localize_into(tmp_path / "run", model, language, options, RuntimeOptions(threads=2))
    found = reliability(tmp_path / "run", ReliabilityOptions(splits=20))
    assert (found.k, found.n_units) == (172, 17_280)
    dice, shuffled = found.interval("dice"), found.interval("dice", shuffled=True)
    for what, interval in (("dice", dice), ("shuffled dice", shuffled), ("random", found.chance)):
        figure(f"reliability: {what}", interval.estimate)
    correlation = found.interval("correlation").estimate
    figure("reliability: rank correlation", correlation)
    figure("reliability: Spearman-Brown", found.interval("spearman_brown").estimate)
    held_out = found.interval("d_held_out")
    figure("d where chosen", found.interval("d_chosen").estimate)
    figure("d in the other half", held_out.estimate)
    # Every split of the true conditions agrees better than any of the shuffled ones.
    assert min(row.dice for row in found.splits) > max(row.dice for row in found.shuffled)
    assert dice.low > found.chance.high
    assert correlation > 0.5
    assert held_out.low > 0.5
    shuffled_d = found.interval("d_held_out", shuffled=True)
    assert shuffled_d.low < 0 < shuffled_d.high


def test_other_tests_agree_on_most_of_the_network(kept):
    run, found = kept
    for test in ("student", "mannwhitney"):
        other = contrast(run, ContrastOptions(test=test))
        assert other.network.dice(found.network) > 0.7
