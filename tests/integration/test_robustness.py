"""The network of the real model in many ways, and the whole procedure in small."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from onnxloc.report.reproduction_page import render_reproduction
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.studies.claims import judge
from onnxloc.studies.localize import LocalizeOptions, localize
from onnxloc.studies.reproduce import QUICK, reproduce
from onnxloc.studies.robustness import RobustnessOptions, robustness

pytestmark = pytest.mark.integration

RUNTIME = RuntimeOptions(threads=2)


@pytest.fixture(scope="module")
def few():
    stimuli = load_stimuli("language")
    return replace(stimuli, positive=stimuli.positive[:40], control=stimuli.control[:40])


def test_what_matters_and_what_does_not(model, few, figure):
    options = RobustnessOptions(effects=False)
    found = robustness(model, few, options, RUNTIME)
    alone = localize(model, few, LocalizeOptions(), RUNTIME)
    np.testing.assert_array_equal(found.variants[0].network.flat, alone.network.flat)
    dice = dict(zip(found.names, found.dice[0], strict=True))
    figure("Dice with and without BOS, 40 + 40 stimuli", dice["with BOS"])
    assert set(dice) == {
        "default", "with BOS", "whole texts", "mean of tokens", "signed", "Mann-Whitney",
        "one half", "other half",
    }  # fmt: skip
    # Ranks find nearly the same units; other poolings and signs do not.
    assert dice["Mann-Whitney"] > dice["with BOS"] > found.chance.high
    assert dice["mean of tokens"] < dice["one half"]
    assert dice["signed"] < dice["one half"]


def test_the_whole_procedure_in_small(model, few):
    options = replace(QUICK, percents=(1.0,), controls=1, splits=4)
    found = reproduce(model, options, RUNTIME, language=few)
    (pairs,) = found.measured.pairs
    assert (pairs.n_items, pairs.units) == (19, 172)
    assert pairs.intact > 0.6
    assert pairs.network < pairs.intact
    text = next(effect for effect in found.measured.effects if effect.task == "text")
    assert text.network_perplexity > 10 * text.intact_perplexity
    assert found.measured.language.n_significant > 0
    claims = judge(found.measured)
    page = render_reproduction(found, "onnxloc reproduce", "here", date(2026, 1, 2))
    assert all(claim.found[0] in page for claim in claims)
