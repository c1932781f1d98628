"""The language network of SmolLM2 on conditions that did not find it, and where it lies."""

import pytest

from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.studies.localize import LocalizeOptions, localize_into
from onnxloc.studies.profile import ProfileOptions, profile
from onnxloc.studies.where import WhereOptions, where

pytestmark = pytest.mark.integration

SITES = ("block.*.out", "block.*.mlp.hidden")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile") / "both"
    localize_into(folder, model, load_stimuli("language"), LocalizeOptions(sites=SITES))
    return folder


@pytest.fixture(scope="module")
def found(model, run):
    return profile(model, run, options=ProfileOptions(controls=40), runtime=RuntimeOptions())


def test_the_network_responds_most_to_sentences_and_least_to_nonwords(found):
    own = found.of().set_index("condition")
    assert not found.halves
    assert not found.notes
    assert own["mean"].idxmax() == "sentences"
    assert own["mean"].idxmin() == "nonwords"
    # Texts that the localizer never saw: the order of the conditions is that of the brain's
    # language network.
    order = ["sentences", "word-lists", "jabberwocky", "nonwords"]
    assert own.loc[order, "mean"].is_monotonic_decreasing
    tests = found.tests_of().set_index(["a", "b"])
    gap = tests.loc[("sentences", "nonwords")]
    assert gap["low"] > 0
    assert gap["p_holm"] < 1e-6
    assert gap["p_permutation_holm"] < 0.01


def test_random_networks_do_not(found):
    gap = found.tests.set_index(["source", "a", "b"])["difference"].xs(
        ("sentences", "nonwords"), level=("a", "b")
    )
    controls = gap[gap.index.str.startswith("control-")]
    assert len(controls) == 40
    assert gap["network"] > 3 * controls.abs().max()
    # Nor do whole blocks.
    blocks = gap[[f"block-{block}" for block in range(30)]]
    assert gap["network"] > 2 * blocks.abs().max()


def test_hidden_units_tell_where_the_outputs_network_lies(run):
    found = where(run, None, WhereOptions(controls=10))
    assert found.depth["network"] > 0.6
    assert found.depth["p"] < 0.01
    said = found.prediction
    assert said["blocks"] == 30
    assert said["spearman"] > 0.6
    assert said["r2"] > max(said["r2_controls"])
    assert found.about["n_distinct"] == found.about["n_units"] == 30 * (576 + 1536)
