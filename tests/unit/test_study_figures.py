"""Figures and tables of studies in a notebook: the numbers of their frames, text escaped."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.tiny_bundle import CONTROL, POSITIVE, write_stimuli, write_tiny_bundle

from onnxloc import (
    LocalizeOptions,
    Model,
    ReliabilityOptions,
    RobustnessOptions,
    WhereOptions,
    compare,
    load_stimuli,
    localize_into,
    reliability,
    robustness,
    where,
)
from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.figures import profile_figure, ratio_figure
from onnxloc.studies.profile_result import Profile

pytestmark = pytest.mark.unit

TEN = Selection(how="units", value=10)
ATTACK = "<b>x"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model.open(write_tiny_bundle(tmp_path_factory.mktemp("figures") / "tiny"))


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    return load_stimuli(write_stimuli(tmp_path_factory.mktemp("texts") / "stimuli.csv"))


@pytest.fixture(scope="module")
def runs(model, stimuli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, magnitude in (("size", True), ("sign", False)):
        options = LocalizeOptions(selection=TEN, magnitude=magnitude)
        localize_into(folder / name, model, stimuli, options)
    return folder


def test_a_profile():
    conditions = pd.DataFrame(
        {
            "source": ["network"] * 2 + ["control-000"] * 2,
            "kind": ["network"] * 2 + ["control"] * 2,
            "label": [ATTACK, "nonwords"] * 2,
            "n": [4, 5, 4, 5],
            "mean": [1.0, -0.5, 0.1, 0.2],
            "low": [0.75, -0.625, 0.0, 0.0],
            "high": [1.5, -0.25, 0.2, 0.3],
            "controls_median": [0.1, 0.2, np.nan, np.nan],
            "p_controls": [0.5, 0.5, np.nan, np.nan],
        }
    )
    bars, points = profile_figure(conditions, "z").data
    assert list(bars.x) == ["&lt;b&gt;x", "nonwords"]
    assert list(bars.y) == [1.0, -0.5]
    assert list(bars.error_y.array) == [0.5, 0.25]
    assert list(bars.error_y.arrayminus) == [0.25, 0.125]
    assert list(points.y) == [0.1, 0.2]
    html = Profile._repr_html_(_Rows(conditions))
    assert "&lt;b&gt;x" in html
    assert "0.75" in html
    assert html.count("<tr>") == 3


class _Rows:
    """As much of a profile as its table takes."""

    def __init__(self, conditions):
        self.conditions = conditions

    def of(self):
        return self.conditions[self.conditions["source"] == "network"]


def test_where(runs):
    found = where(runs / "size", None, WhereOptions(permutations=10))
    kinds = list(dict.fromkeys(found.groups["by"]))
    for kind in kinds:
        (bars,) = found.plot(kind).data
        np.testing.assert_array_equal(bars.y, found.by(kind)["ratio"])
    assert list(found.plot().data[0].x) == list(found.by(kinds[0])["group"])
    with pytest.raises(OptionError, match="not by 'colour'"):
        found.plot("colour")
    assert found._repr_html_().count("<tr>") == 1 + len(found.groups)
    named = found.by(kinds[0]).assign(group=ATTACK)
    assert set(ratio_figure(named, kinds[0]).data[0].x) == {"&lt;b&gt;x"}


def test_a_comparison(runs):
    found = compare([runs / "size", runs / "sign"])
    lines = found.plot().data
    assert [line.name for line in lines] == ["size", "sign"]
    for line in lines:
        own = found.depth[found.depth["run"] == line.name]
        np.testing.assert_allclose(line.y, 100 * own["share_of_network"])
    assert f"{found.pairs['dice'][0]:,.4g}" in found._repr_html_()


def test_reliability(runs):
    found = reliability(runs / "size", ReliabilityOptions(splits=4))
    true, shuffled = found.plot().data
    assert list(true.x) == [split.dice for split in found.splits]
    assert list(shuffled.x) == [split.dice for split in found.shuffled]
    assert f"{found.interval('dice').estimate:,.4g}" in found._repr_html_()


def test_robustness(model, stimuli):
    options = RobustnessOptions(selection=TEN, effects=False)
    second = replace(stimuli, name=ATTACK, positive=POSITIVE[::-1][:4], control=CONTROL[:4])
    found = robustness(model, stimuli, options, second=second)
    (drawn,) = found.plot().data
    np.testing.assert_array_equal(drawn.z, found.dice)
    assert drawn.z[0][0] == 1
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + len(found.names)
    assert ATTACK not in html
    assert ATTACK not in "".join(drawn.x)
