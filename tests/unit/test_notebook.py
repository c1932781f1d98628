"""How results show themselves in a notebook: tables and figures, with all text escaped."""

import math

import numpy as np
import pytest
from helpers.fake_runs import fake_run
from helpers.tiny_bundle import CONTROL, POSITIVE, write_tiny_bundle

from onnxloc import AblateOptions, Model, Run, StimulusSet, ablate, localize
from onnxloc.errors import OptionError
from onnxloc.figures import effect_figure, share_figure, t_figure
from onnxloc.network import Network
from onnxloc.notebook import MAX_ROWS, effects_html, facts_html, shown, table_html
from onnxloc.tasks import text_task

pytestmark = pytest.mark.unit

ATTACK = '"><script>alert(1)</script>'
SAFE = "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (True, "yes"), (17280, "17,280"), (0.123456, "0.1235"),
     ([1, 2.5], "1, 2.5"), ((), "–"), ("text", "text"), (np.float64(2), "2")],
)  # fmt: skip
def test_values(value, text):
    assert shown(value) == text


def test_tables_are_escaped_and_cut():
    assert facts_html(ATTACK, {ATTACK: ATTACK}).count(SAFE) == 3
    table = table_html((ATTACK,), [(ATTACK,)] * (MAX_ROWS + 3))
    assert table.count(SAFE) == 1 + MAX_ROWS
    assert "<script" not in table
    assert "and 3 more" in table


@pytest.mark.parametrize("effects", [None, [], "x", [3], {"a": 1}])
def test_what_is_no_list_of_effects_gives_no_table(effects):
    assert effects_html(effects) == ""


def test_a_run(tmp_path):
    run = Run.open(fake_run(tmp_path / "run", blocks=2, width=8, items=4, prefix=ATTACK))
    html = run._repr_html_()
    assert "<script" not in html
    for words in (f"{SAFE}made-up-135m", f"{SAFE}language", "localize, ablate", f"{SAFE}pairs"):
        assert words in html
    damaged = Run(run.folder, run.manifest, {"model": 3, "localize": [], "ablate": {"effects": 7}})
    assert "localize, ablate" in damaged._repr_html_()


def test_a_network():
    units = {f"<i>{i}": np.arange(i + 1) for i in range(3)}
    network = Network(units, {f"<i>{i}": 10 for i in range(4)}, "ab" * 32, {"how": "<top>"})
    html = network._repr_html_()
    assert "6 of 40 (15 %)" in html
    assert html.index("&lt;i&gt;2") < html.index("&lt;i&gt;0")
    assert "<i>" not in html
    bars = network.plot().data[0]
    assert list(bars.y) == [10.0, 20.0, 30.0, 0.0]
    assert list(bars.x) == [f"&lt;i&gt;{i}" for i in range(4)]


def test_a_histogram_counts_every_unit_once():
    t = np.array([-1.0, 0.0, 0.5, 2.0, 3.0, np.nan])
    chosen = np.array([False, False, False, True, True, False])
    outside, inside = t_figure(t, chosen).data
    assert (sum(outside.y), sum(inside.y)) == (3, 2)


def test_a_network_of_nothing_is_drawn():
    assert list(share_figure({}, {}).data[0].y) == []
    assert list(share_figure({"a": 4}, {}).data[0].y) == [0.0]


def test_every_control_is_a_point():
    entries = [
        {"task": "<b>", "metric": "accuracy", "size": size, "intact": 0.9, "network": 0.5,
         "controls": [0.8, None, 0.7]}
        for size in (0.5, 1.0)
    ]  # fmt: skip
    controls, network, intact = effect_figure(entries).data
    assert list(controls.x) == ["0.5 %"] * 3 + ["1 %"] * 3
    assert list(controls.y) == [0.8, None, 0.7] * 2
    assert (list(network.y), list(intact.y)) == ([0.5, 0.5], [0.9, 0.9])


def test_what_was_found_and_what_ablating_it_did(tmp_path):
    model = Model.open(write_tiny_bundle(tmp_path / "bundle"))
    stimuli = StimulusSet(name="set<1>", version="1", positive=POSITIVE, control=CONTROL)
    found = localize(model, stimuli)
    html = found._repr_html_()
    best = found.units().nlargest(1, "t").iloc[0]
    for words in ("set&lt;1&gt;", f"{found.network.size:,} of", best["site"], f"{best['t']:.4g}"):
        assert words in html
    outside, inside = found.plot().data
    assert sum(inside.y) == found.network.size
    assert sum(outside.y) + sum(inside.y) == np.isfinite(found.contrast.t).sum()
    task = text_task("lines", POSITIVE, "here")
    done = ablate(model, found.network, [task], AblateOptions(controls=2))
    effect = done.summary["ablate"]["effects"][0]
    assert "lines" in done._repr_html_()
    assert f"{effect['network']:,.4g}" in done._repr_html_()
    controls, network, _ = done.plot("lines").data
    assert list(controls.y) == effect["controls"]
    assert list(network.y) == [effect["network"]]
    with pytest.raises(OptionError, match="no task 'line'; did you mean 'lines'"):
        done.plot("line")
