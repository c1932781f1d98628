"""The localizers on the real model: matched in its tokens, and different networks."""

import re
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from onnxloc.stimuli import load_stimuli
from onnxloc.studies.localize import localize

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "localizers.md"
MATCHED = ["code", "math", "memory", "reasoning", "theory-of-mind"]


def tokens(model, texts):
    return [len(ids) for ids in model.encode(list(texts), bos=False)]


@pytest.mark.parametrize("name", MATCHED)
def test_conditions_are_matched_in_tokens(model, name):
    stimuli = load_stimuli(name)
    positive, control = tokens(model, stimuli.positive), tokens(model, stimuli.control)
    assert abs(mean(positive) - mean(control)) <= 0.05 * max(mean(positive), mean(control))
    if name == "code":
        assert max(abs(np.subtract(positive, control))) <= 2


def test_the_pages_table_of_tokens(model):
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d+) \| ([\d.]+), ([\d.]+) \|$",
                      PAGE.read_text(), re.MULTILINE)  # fmt: skip
    assert len(rows) == 8
    for name, count, *told in rows:
        stimuli = load_stimuli(name)
        assert len(stimuli.positive) == len(stimuli.control) == int(count)
        seen = [mean(tokens(model, texts)) for texts in (stimuli.positive, stimuli.control)]
        assert [f"{value:.1f}" for value in seen] == told


def test_two_sets_of_sentences_find_much_the_same_network_and_math_another(model, figure):
    networks = {}
    for name in ("language", "language-2", "math"):
        found = localize(model, load_stimuli(name)).network
        networks[name] = {(s, u) for s, units in found.units.items() for u in units.tolist()}
    size = len(networks["language"])

    def dice(name):
        return len(networks["language"] & networks[name]) / size

    figure("Dice of the networks of language and language-2", dice("language-2"))
    figure("Dice of the networks of language and math", dice("math"))
    # Two random networks of 1 % share 1 % of their units.
    assert dice("language-2") > 0.4
    assert dice("math") < 0.2
