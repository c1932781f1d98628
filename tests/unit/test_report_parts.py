"""Parts of the page that only some runs have, and what each condition does to the score."""

import json
import math
import re
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.fake_runs import fake_run, rewrite_summary
from helpers.tiny_bundle import write_work

from onnxloc.cli import main
from onnxloc.errors import RunError
from onnxloc.network import Network
from onnxloc.report import add_profile, render
from onnxloc.report.difference_chart import difference_chart
from onnxloc.report.folder import Compared, Comparison, Effect, KindEffect, WithoutMassive, read_run
from onnxloc.report.group_charts import group_table
from onnxloc.report.kinds import KIND_NAMES, WITHOUT
from onnxloc.report.reliability_part import reliability_part
from onnxloc.stats.reliability import Agreement
from onnxloc.studies.reliability import Reliability

pytestmark = pytest.mark.unit

SMALL = {"blocks": 2, "width": 16, "items": 4, "percent": 10.0, "sizes": (10.0,), "n_controls": 3}
ATTACK = '</script><script>alert(1)</script><b a="%{x}">'


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run", **SMALL)


def effect(**more):
    given = {
        "task": "pairs", "kind": "pairs", "size": 1.0, "n_items": 20, "intact": 0.9, "network": 0.5,
        "controls": (0.85, 0.8),
        "vs_intact": Comparison(difference=-0.4, low=-0.5, high=-0.3, d=-2),
    }  # fmt: skip
    return Effect(**given | more)


def drawn(made):
    """Position of each point of the chart, by what hovering says, with its interval's ends."""
    found = {}
    for trace in json.loads(made.json)["data"]:
        if "hovertext" not in trace:
            continue
        bars = trace["error_x"]
        for i, text in enumerate(trace["hovertext"]):
            x = trace["x"][i]
            found[text.split(":")[0]] = (
                trace["y"][i], x - bars["arrayminus"][i], x, x + bars["array"][i],
            )  # fmt: skip
    return found


# Differences


def test_every_condition_has_its_interval():
    compared = tuple(
        Compared(of=name, against="intact", difference=d, low=d - 0.1, high=d + 0.05, d=-1.0)
        for name, d in (("network", -0.4), ("control-00", -0.05), ("control-01", -0.1),
                        ("least-00", 0.0), ("without-massive", -0.2))
    )  # fmt: skip
    against = Compared(of="network", against="control-00", difference=-0.35, low=-0.5, high=-0.2)
    kinds = (
        KindEffect(kind="site", names=("control-00", "control-01"), scores=(0.85, 0.8)),
        KindEffect(kind="least", names=("least-00",), scores=(0.9,)),
    )
    made = difference_chart(
        effect(
            kinds=kinds, comparisons=(*compared, against), without_massive=WithoutMassive(score=0.7)
        )
    )
    points = drawn(made)
    assert list(points) == ["network", WITHOUT, "control-01", "control-00", "least-00"]
    # A gap stands between kinds.
    assert [row for row, *_ in points.values()] == pytest.approx([0, 1.8, 3.6, 4.6, 6.4])
    assert points["network"][1:] == pytest.approx((-0.5, -0.4, -0.35))
    assert points["control-01"][1:] == pytest.approx((-0.2, -0.1, -0.05))
    ticks = json.loads(made.json)["layout"]["yaxis"]
    assert ticks["tickvals"] == pytest.approx([0, 1.8, 4.1, 6.4])
    assert [text.replace("<br>", " ") for text in ticks["ticktext"]] == [
        "network", WITHOUT, KIND_NAMES["site"], KIND_NAMES["least"],
    ]  # fmt: skip
    rows = [[cell.text for cell in row] for row in made.table.rows]
    assert rows[0] == ["network", "network", "intact", "−0.400", "−0.500", "−0.350", "−1.0"]
    assert rows[-1][:4] == ["network", "network", "control-00", "−0.350"]
    assert made.table.sortable


def test_older_runs_show_their_controls_as_points():
    points = drawn(difference_chart(effect()))
    assert points["network"][1:] == pytest.approx((-0.5, -0.4, -0.3))
    assert points["control-01"][1:] == pytest.approx((-0.1, -0.1, -0.1))
    assert len(points) == 3


def test_what_has_no_score_is_left_out():
    points = drawn(difference_chart(effect(controls=(None, 0.8))))
    assert list(points) == ["network", "control-01"]
    nothing = effect(intact=None, vs_intact=Comparison())
    assert difference_chart(nothing) is None


def test_names_reach_the_chart_escaped():
    kinds = (KindEffect(kind="<i>x", names=("<b>y",), scores=(0.8,)),)
    text = json.dumps(json.loads(difference_chart(effect(kinds=kinds)).json))
    assert "<b>y" not in text
    assert "<i>x" not in text
    assert "&lt;b&gt;y" in text


def test_many_conditions_stay_within_bounds():
    made = difference_chart(effect(controls=tuple(np.linspace(0.1, 0.9, 500))))
    assert made.height < 2300
    assert len(drawn(made)) == 501


def test_fields_and_phenomena_have_tables(run):
    def change(summary):
        first = summary["ablate"]["effects"][0]
        first["fields"] = [{**first["groups"][0], "group": "syntax"}]
        first["phenomena"] = [{**first["groups"][1], "group": ATTACK}]

    rewrite_summary(run, change)
    html = render(run)
    assert "Task pairs by field" in html
    assert "Task pairs by phenomenon" in html
    assert ATTACK not in html
    own = read_run(run).summary.ablate.effects[0]
    table = group_table(own, own.fields, "field")
    assert table.rows[0][0].text == "syntax"
    assert not table.sortable


# Reliability


def reliability():
    def split(dice):
        return Agreement(
            dice=dice, correlation=0.5, d_chosen=1.0, d_held_out=0.8, difference_chosen=2.0,
            difference_held_out=1.5,
        )  # fmt: skip

    return Reliability(
        k=10, n_units=1000, n_positive=40, n_control=40, paired=False, seed=0,
        splits=tuple(map(split, (0.6, 0.7, 0.8))), shuffled=tuple(map(split, (0.0, 0.1, math.nan))),
    )  # fmt: skip


def test_a_run_without_it_has_no_such_part(run):
    assert reliability_part(run, read_run(run)) is None
    assert 'id="reliability"' not in render(run)


def test_reliability_that_was_saved_is_shown(run):
    reliability().save(run)
    html = render(run)
    assert html.index('<section id="effects"') < html.index('<section id="reliability"')
    assert '<a href="#reliability">Reliability</a>' in html
    part = reliability_part(run, read_run(run))
    assert "split into random halves 3 times" in part.text[0]
    real, shuffled, chance = json.loads(part.charts[0].json)["data"]
    assert real["x"] == [0.6, 0.7, 0.8]
    assert shuffled["x"] == [0.0, 0.1, None]
    assert chance["x"] == [pytest.approx(0.01, abs=0.005)] * 2
    rows = {row[0].text: row[1].text for row in part.tables[0].rows}
    assert rows["Dice of the networks of both halves"].startswith("0.700 (0.6")


def test_the_command_saves_it_where_the_report_finds_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(write_work(tmp_path))
    one = ["--threads", "1"]
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "--keep-activations", "-o", "run"]
    assert main([*words, *one]) == 0
    assert main(["reliability", "run", "--splits", "3"]) == 0
    assert not (tmp_path / "run" / "reliability.json").exists()
    assert main(["reliability", "run", "--splits", "3", "--save"]) == 0
    assert main(["report", "run"]) == 0
    capsys.readouterr()
    assert "into random halves 3 times" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "JSON object"), ("{}", "k is missing"),
     ('{"k": "9"}', "k has the wrong type")],
)  # fmt: skip
def test_a_damaged_reliability_is_one_line(run, text, message):
    (run / "reliability.json").write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        render(run)
    assert "\n" not in str(caught.value)


# Profile


def network_of(run):
    own = Network({"block.0.out": [1, 2, 3]}, {"block.0.out": 16, "block.1.out": 16}, "ab" * 32, {})
    own.save(run / "network.parquet")
    return own


def profile(**changes):
    rows = [
        {"source": source, "kind": source.split("-")[0], "condition": condition, "label": label,
         "n": 5, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "controls_median": None}
        for source, scale in (("network", 1.0), ("control-000", 0.1), ("control-001", 0.2))
        for condition, label, mean in (("a", f"{ATTACK} sentences", scale), ("b", "lists", -scale))
    ]  # fmt: skip
    return {
        "format": 1, "options": {"response": "z", "controls": 2}, "stimuli": {"name": "profile"},
        "network": {"size": 3, "n_units": 32, "model_hash": "ab" * 32}, "halves": True,
        "notes": ["Look twice."], "conditions": rows,
    } | changes  # fmt: skip


def write_profile(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "profile.json").write_text(json.dumps(profile(**changes)))
    return folder


def test_a_profile_becomes_a_part_of_the_page(run, tmp_path, capsys):
    network_of(run)
    folder = write_profile(tmp_path / "profile")
    assert main(["report", str(run), "--profile", str(folder)]) == 0
    capsys.readouterr()
    html = (run / "report.html").read_text(encoding="utf-8")
    assert '<a href="#profile">Profile</a>' in html
    assert "<li>Look twice.</li>" in html
    assert "alert(1)</script>" not in html
    section = html.split('<section id="profile"')[1].split("</section>")[0]
    figure = json.loads(re.search(r"<script type=[^>]*>(.*?)</script>", section, re.S)[1])
    bars, points = figure["data"][:2]
    assert bars["y"] == [1.0, -1.0]
    assert points["y"] == [0.1, -0.1, 0.2, -0.2]
    assert f"{ATTACK} sentences" in unescape(section)


def test_a_profile_of_another_network_is_refused(run, tmp_path, capsys):
    network_of(run)
    other = {"size": 4, "n_units": 32, "model_hash": "ab" * 32}
    folder = write_profile(tmp_path / "profile", network=other)
    with pytest.raises(RunError, match="is of another network"):
        add_profile(run, folder)
    assert main(["report", str(run), "--profile", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (run / "profile.json").exists()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"format": 2}, "format 2"), ({"conditions": []}, "no response of the network"),
     ({"conditions": [3]}, r"rows\[0\] must be a JSON object"), ({"options": 1}, "options"),
     ({"conditions": profile()["conditions"][2:]}, "no response of the network"),
     ({"conditions": profile()["conditions"][:1] * 2}, "two of one condition"),
     ({"conditions": [{**profile()["conditions"][0], "mean": None}]}, "without a response"),
     ({"conditions": profile()["conditions"][1:3] + profile()["conditions"][2:]},
      "conditions without a response of the network")],
)  # fmt: skip
def test_a_damaged_profile_is_one_line(run, tmp_path, changes, message):
    network_of(run)
    folder = write_profile(tmp_path / "profile", **changes)
    with pytest.raises(RunError, match=message) as caught:
        add_profile(run, folder)
    assert "\n" not in str(caught.value)
    assert not (run / "profile.json").exists()


def test_a_table_whose_text_is_no_text_is_refused(run):
    file = run / "units.parquet"
    table = pq.read_table(file)
    data = b"block.\x80.out" * table.num_rows
    offsets = np.arange(table.num_rows + 1, dtype=np.int32) * (len(data) // table.num_rows)
    sites = pa.Array.from_buffers(
        pa.string(), table.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    at = table.column_names.index("site")
    pq.write_table(table.set_column(at, "site", sites), file)
    with pytest.raises(RunError, match="cannot be read"):
        read_run(run)
