import base64
import hashlib
import importlib.util
import json
import math
import re
import sys
from dataclasses import dataclass, field, replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.errors import RunError
from onnxloc.report import render, write_report
from onnxloc.report.effect_charts import effect_chart, effect_table
from onnxloc.report.finding import effect_finding, floor_of_p, localizer_finding
from onnxloc.report.folder import Comparison, Effect, Localized, Perplexity, read_run
from onnxloc.report.heat_chart import MAX_COLUMNS, heat_charts
from onnxloc.report.unit_charts import histogram_chart, top_table
from onnxloc.report.words import integer, number, percent, probability, score, signed

pytestmark = pytest.mark.unit

_spec = importlib.util.spec_from_file_location(
    "fake_runs", Path(__file__).parents[1] / "helpers" / "fake_runs.py"
)
assert _spec is not None
assert _spec.loader is not None
fake_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_runs)
fake_run, rewrite_summary = fake_runs.fake_run, fake_runs.rewrite_summary

SMALL = {"blocks": 4, "width": 32, "items": 8, "percent": 5.0, "sizes": (5.0,)}
VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """The elements of a page, and the text of each script and style."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    raw: list[tuple[str, dict[str, str | None], str]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)
    misnested: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            tag, attrs, before = self.raw[-1]
            self.raw[-1] = (tag, attrs, before + data)
        else:
            self.text += data

    @property
    def figures(self):
        return [
            json.loads(text)
            for tag, attrs, text in self.raw
            if attrs.get("type") == "application/json"
        ]

    @property
    def scripts(self):
        return [text for tag, attrs, text in self.raw if tag == "script" and not attrs]

    def attributes(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def parse(html):
    page = Page()
    page.feed(html)
    page.close()
    return page


def array(value):
    """A plotly array: a list, or base64 with its type and shape."""
    if isinstance(value, list):
        return np.array(value, dtype=float)
    flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    shape = [int(n) for n in str(value.get("shape", len(flat))).split(",")]
    return flat.reshape(shape)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "run"
    return fake_run(folder, **SMALL | {"roles": ("out", "mlp.hidden"), "ops": 2})


@pytest.fixture(scope="module")
def page(full):
    return parse(render(full))


# Words


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (number, 0.0, "0"),
        (number, 12.345, "12.3"),
        (number, -12.345, "−12.3"),
        (number, 17280.0, "17,280"),
        (number, 2e7, "2.00 × 10⁷"),
        (number, 3.14e-12, "3.14 × 10⁻¹²"),
        (number, None, "–"),
        (number, math.nan, "–"),
        (number, math.inf, "–"),
        (percent, 1.0, "1\u202f%"),
        (percent, 0.125, "0.125\u202f%"),
        (percent, 100.0, "100\u202f%"),
        (score, 0.5, "0.500"),
        (score, -5.9144, "−5.914"),
        (signed, 0.25, "+0.250"),
        (signed, -0.25, "−0.250"),
        (probability, 0.0, "< 10⁻³⁰⁰"),
        (probability, 1 / 11, "0.091"),
        (integer, 17280, "17,280"),
        (integer, None, "–"),
    ],
)
def test_numbers_as_people_read_them(function, value, text):
    assert function(value) == text


# Findings


def effect(network=0.52, controls=(0.79, 0.8, 0.78, 0.81), intact=0.81, ci=0.03, **more):
    rank = sum(value <= network for value in controls)
    mean = sum(controls) / len(controls) if controls else math.nan
    gaps = {"vs_intact": network - intact, "vs_controls": network - mean}
    versus = {
        name: Comparison(difference=gap, low=gap - ci, high=gap + ci, d=gap)
        for name, gap in gaps.items()
    }
    given = {
        "task": "pairs",
        "kind": "pairs",
        "size": 1.0,
        "n_items": 1200,
        "chance": 0.5,
        "n_network_units": 172,
        "rank": rank,
        "p_empirical": (rank + 1) / (len(controls) + 1),
    }
    values = {"intact": intact, "network": network, "controls": tuple(controls)}
    return Effect(**given | values | versus | more)


LOCALIZED = Localized(
    localizer="language",
    n_sites=30,
    n_units=17280,
    n_selected=172,
    positive_label="sentences",
    control_label="nonwords",
    smallest_t=12.3,
    n_undefined=0,
    n_significant=6000,
    selection={"how": "top", "value": 1.0},
)


def test_a_specific_effect_is_said_with_its_numbers():
    found = effect_finding(effect(), "zero", "site", LOCALIZED)
    assert found.tone == "open", "four controls allow no p of 0.05"
    assert found.verdict == "The network does more harm than every one of four random controls"
    assert found.text == (
        "Zeroing the 172 most selective units (1\u202f% of 17,280) takes accuracy from 0.810 to "
        "0.520. That is near chance (0.50). Four random controls of the same size, matched by "
        "site, give 0.780 to 0.810; by score the network ranks lowest of 5 (p = 0.20)."
    )
    assert found.warnings == ()


@pytest.mark.parametrize(("n_controls", "tone"), [(18, "open"), (19, "yes"), (99, "yes")])
def test_the_network_is_special_only_with_a_small_p(n_controls, tone):
    found = effect_finding(effect(controls=(0.79, *[0.8] * (n_controls - 1))), "zero", "site")
    assert found.tone == tone
    assert found.verdict.startswith("The network does more harm than every one of ")
    assert bool(floor_of_p(n_controls)) == (tone == "open")


def test_the_opposite_is_said_as_plainly():
    found = effect_finding(effect(network=0.7, controls=(0.6, 0.65, 0.69)), "zero", "count")
    assert found.tone == "no"
    assert found.verdict == (
        "No more harm than random controls: three of three random controls do as much or more"
    )
    assert "ranks highest of 4 (p = 1.0)" in found.text
    assert "matched in number only" in found.text
    assert found.warnings[0] == (
        "Three of three random controls are as harmful as the network or more, so this run does "
        "not show that the effect is special to the network."
    )
    assert "The random controls scatter widely (0.090" in found.warnings[1]


def test_some_controls_as_harmful_is_a_warning():
    found = effect_finding(effect(controls=(0.5, 0.79, 0.8, 0.8)), "mean", "site")
    assert found.tone == "open"
    assert found.verdict.startswith("Harmful, but one of four random controls does as much harm")
    assert found.text.startswith("Setting the network's 172 units to their mean (1\u202f%)")
    assert len(found.warnings) == 2
    assert "One of four random controls is as harmful" in found.warnings[0]
    assert "scatter widely (0.300" in found.warnings[1]


def test_no_reliable_difference_is_said():
    found = effect_finding(effect(network=0.8, ci=0.03), "zero", "site")
    assert found.tone == "open"
    assert found.verdict == "No reliable difference shown"
    assert (
        "changes accuracy from 0.810 to 0.800, which these 1,200 items cannot tell from no change "
        "(the 95\u202f% interval of the difference in score holds zero)"
    ) in found.text


def test_a_large_change_on_few_items_is_not_called_none():
    found = effect_finding(effect(0.632, intact=0.842, ci=0.3, n_items=19), "zero", "site")
    assert "from 0.842 to 0.632, which these 19 items cannot tell from no change" in found.text
    assert "about where it was" not in found.text
    alone = effect_finding(effect(0.632, (), 0.842, 1.0, n_items=1), "zero", None)
    assert "which this one item cannot tell" in alone.text
    same = effect_finding(effect(0.81, n_items=19), "zero", "site")
    assert "leaves accuracy at 0.810 on these 19 items" in same.text


def test_a_gain_is_said():
    found = effect_finding(effect(network=0.95), "zero", "site")
    assert found.verdict == "Ablating the network raises the score"
    assert found.tone == "no"


def test_lowest_but_not_reliably_below_the_mean_stays_open():
    found = effect_finding(effect(network=0.7, controls=(0.71, 0.72), ci=0.05), "zero", "site")
    assert found.tone == "open"
    assert "not reliably below" in found.verdict


def test_without_controls_nothing_is_claimed():
    found = effect_finding(effect(controls=()), "zero", None)
    assert found.tone == "open"
    assert "nothing says that this is special" in found.warnings[0]


def test_perplexity_and_wide_scatter_of_text():
    perplexity = Perplexity(intact=370.0, network=2e7, controls=(424.0, 6206.0))
    found = effect_finding(
        effect(
            kind="text",
            chance=None,
            intact=-math.log(370),
            network=-math.log(2e7),
            controls=(-math.log(424), -math.log(6206)),
            perplexity=perplexity,
        ),
        "zero",
        "site",
    )
    assert "takes perplexity from 370 to 2.00 × 10⁷" in found.text
    assert "give 424 to 6,206" in found.text
    assert "a factor of 15 in perplexity" in found.warnings[0]


def test_a_random_draw_is_not_called_most_selective():
    drawn = replace(LOCALIZED, selection={"how": "top", "value": 1.0, "within": "80-90"})
    assert "172 chosen units" in effect_finding(effect(), "zero", "site", drawn).text


@pytest.mark.parametrize(
    ("within", "words", "choice", "threshold"),
    [
        (None, "172 most selective units", "The units with the largest t;", True),
        ("100-100", "172 most selective units", "The units with the largest t;", True),
        ("0-0", "172 least selective units", "The units with the smallest t;", False),
        ("80-90", "172 chosen units", "Units drawn at random", False),
    ],
)
def test_a_range_is_named_for_what_it_takes(tmp_path, within, words, choice, threshold):
    ranged = replace(LOCALIZED, selection={"how": "top", "value": 1.0, "within": within})
    assert words in effect_finding(effect(), "zero", "site", ranged).text
    run = fake_run(tmp_path / "run", **SMALL | {"steps": ("localize",)})
    rewrite_summary(run, lambda s: s["localize"]["selection"].update(within=within))
    page = parse(render(run))
    assert choice in page.text
    assert any("threshold" in t.get("name", "") for f in page.figures for t in f["data"]) == (
        threshold
    )


def test_a_control_without_a_score_is_not_left_out_in_silence():
    many = [0.79] * 20
    whole = effect_finding(effect(controls=tuple(many)), "zero", "site")
    assert whole.tone == "yes"
    broken = replace(effect(controls=tuple(many)), controls=(None, *many[1:]))
    for p in (None, 0.01):
        found = effect_finding(replace(broken, p_empirical=p), "zero", "site")
        assert found.tone == "open"
        assert found.verdict.endswith("every one of 19 random controls with a score")
        assert "lowest of 20, one more without a score left out, so there is no p." in found.text
        assert "(p =" not in found.text
        assert found.warnings == (
            "1 random control of 20 gave no number and is left out, so no p is given.",
        )
    table = effect_table([replace(broken, p_empirical=0.01)])
    rows = {row[0].text: row[1].text for row in table.rows}
    assert rows["Empirical p"] == "–"
    assert rows["Random controls at or below the network"] == "0 of 19, 1 without a score"
    label = effect_chart([broken]).json
    assert "random controls (19 of 20 have a score)" in label
    none = effect_finding(replace(broken, controls=(None, None)), "zero", "site")
    assert none.tone == "open"
    assert none.warnings[0].startswith("No random control gave a score")


def test_an_undefined_p_is_not_made_up():
    found = effect_finding(replace(effect(controls=(0.8,) * 30), p_empirical=None), "zero", "site")
    assert found.tone == "open"
    assert "lowest of 31; its p is not defined." in found.text
    assert "(p =" not in found.text


@pytest.mark.parametrize("lost", ["intact", "network", "control"])
def test_an_infinite_perplexity_does_not_vanish(lost):
    values = {"intact": 370.0, "network": 2e7, "controls": (424.0, 6206.0)}
    values |= {"controls": (424.0, None)} if lost == "control" else {lost: None}
    endless = effect(
        kind="text",
        metric="log-probability",
        chance=None,
        intact=-5.9,
        network=-800.0,
        controls=(-6.0, -750.0),
        perplexity=Perplexity(**values),
    )
    found = effect_finding(endless, "zero", "site")
    assert "takes log-probability from −5.900 to −800.000" in found.text
    assert "give −750.000 to −6.000" in found.text
    drawn = json.loads(effect_chart([endless]).json)
    assert drawn["layout"]["xaxis"].get("type") != "log"
    points = [t["x"] for t in drawn["data"] if t["name"] == "random controls (2)"]
    assert sorted(array(points[0])) == [-750.0, -6.0]


def test_undefined_scores_are_said():
    found = effect_finding(replace(effect(), network=None), "zero", "site")
    assert found.verdict == "The effect is not defined"


def test_localizer_findings():
    found = localizer_finding(LOCALIZED)
    assert found.verdict == "172 units (0.995\u202f%) make up the network"
    assert "6,000 units (34.7\u202f%) respond more to sentences than to nonwords" in found.text
    empty = replace(LOCALIZED, n_selected=0, smallest_t=None, n_undefined=4)
    assert localizer_finding(empty).tone == "no"
    assert "4 units of 17,280" in localizer_finding(empty).warnings[0]
    weak = localizer_finding(replace(LOCALIZED, n_significant=100, smallest_t=-0.5))
    assert len(weak.warnings) == 2
    assert weak.warnings[1] == (
        "At least 72 units of the network do not respond reliably more to sentences."
    )
    one = localizer_finding(replace(LOCALIZED, n_significant=171))
    assert one.warnings == (
        "At least 1 unit of the network does not respond reliably more to sentences.",
    )


def test_the_floor_of_p():
    assert "With 10 random controls the empirical p cannot fall below 0.091" in floor_of_p(10)
    assert floor_of_p(19) == ""
    assert floor_of_p(0) == ""


rates = st.floats(0, 1)


@given(rates, rates, st.lists(rates, max_size=30), st.floats(0, 0.2))
def test_findings_never_claim_more_than_the_numbers(network, intact, controls, ci):
    found = effect_finding(effect(network, tuple(controls), intact, ci), "zero", "site", LOCALIZED)
    specific = len(controls) >= 19 and network < min(controls) and network + ci < intact
    if found.tone == "yes":
        assert specific
    for text in (found.verdict, found.text, *found.warnings):
        assert "nan" not in text
        assert "None" not in text


# The page


def test_the_page_is_well_formed_and_needs_no_network(page):
    assert page.misnested == []
    assert page.open == []
    assert not page.attributes("link")
    assert not page.attributes("img")
    assert not page.attributes("iframe")
    for _, attrs in page.elements:
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    for tag, _, text in page.raw:
        if tag == "style":
            assert "url(" not in text
            assert "@import" not in text
    policy = next(
        attrs["content"]
        for attrs in page.attributes("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    scripts = page.scripts
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_figures_have_alternatives_and_tables_have_captions(page):
    plots = [a for _, a in page.elements if a.get("class") == "plot"]
    assert len(plots) >= 8
    for attrs in plots:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 40
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table")
    assert tags.count("main") == tags.count("h1") == tags.count("header") == 1
    assert all("scope" in attrs for attrs in page.attributes("th"))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for attrs in page.attributes("a")]
    assert set(links) <= set(ids)
    assert all(attrs["for"] in ids for attrs in page.attributes("label") if "for" in attrs)


def test_sections_come_in_order(page):
    ids = [attrs["id"] for attrs in page.attributes("section") if "id" in attrs]
    assert ids == [
        "findings",
        "where",
        "heat",
        "histogram",
        "units",
        "effects",
        "methods",
        "again",
    ]


def test_the_manifest_is_shown(page):
    for text in ("onnxloc localize 'smollm2-135m' --top 1", "1.31.1", "8.21", "cd" * 32):
        assert text in page.text


def methods(run, **changes):
    """The methods of a run, by name, with changes to its localize record."""
    rewrite_summary(run, lambda s: s["localize"].update(changes))
    html = render(run).split('<dl class="methods">')[1].split("</dl>")[0]
    found = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", html)
    return {name: unescape(text) for name, text in found}


def test_methods_say_what_was_done(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)
    said = methods(run)
    assert "stands behind a prefix token (the model's BOS token, else its EOS" in said["Scores"]
    assert said["Scores"].endswith("the sentences that chose the units.")
    assert "d_z: the mean difference over its standard deviation" in said["Comparison"]
    assert "share templates, so the intervals understate" in said["Comparison"]
    assert said["Controls"].startswith("10 control networks of units drawn at random")
    rewrite_summary(run, lambda s: s["ablate"]["effects"].pop())
    assert "chose the units" not in methods(run)["Scores"]
    rewrite_summary(run, lambda s: s["ablate"].update({"with": "mean"}))
    assert (
        "mean over the scored tokens of the tasks' texts in the intact model"
        in (methods(run)["Ablation"])
    )


@pytest.mark.parametrize(
    ("pool", "magnitude", "words"),
    [
        ("last", True, "the magnitude of its activation at the last token."),
        ("mean", True, "the magnitude of its mean over the tokens."),
        ("sum", False, "its sum over the tokens, with its sign."),
        ("max", True, "the magnitude of its maximum over the tokens."),
        ("other", True, "the magnitude of its pooled activation."),
    ],
)
def test_the_magnitude_is_that_of_the_pooled_value(tmp_path, pool, magnitude, words):
    run = fake_run(tmp_path / "run", **SMALL)
    said = methods(run, pool=pool, magnitude=magnitude)["Activations"]
    assert said == f"Each text gives one number for each unit: {words}"
    assert f"Each text gives one number for a unit: {words}" in parse(render(run)).text


def test_the_page_calls_controls_controls(page):
    attributes = [value for _, attrs in page.elements for value in attrs.values() if value]
    words = " ".join((page.text, json.dumps(page.figures), *attributes)).lower()
    assert "random controls" in words
    assert not re.search(r"random(<br>|\s)+(control\s+)?sets?\b", words)


def test_every_control_is_a_point(full, page):
    effects = json.loads((full / "summary.json").read_text())["ablate"]["effects"]
    drawn = [
        sorted(array(trace["x"]))
        for figure in page.figures
        for trace in figure["data"]
        if trace.get("name") == "random controls (10)"
    ]
    pairs, text = effects
    assert drawn == [
        pytest.approx(sorted(pairs["controls"])),
        pytest.approx(sorted(text["perplexity"]["controls"])),
    ]
    grouped = [
        array(trace["x"])
        for figure in page.figures
        for trace in figure["data"]
        if trace.get("name") == "random controls"
    ]
    assert [len(values) for values in grouped] == [40, 40]


def test_perplexity_is_drawn_on_a_log_axis(page):
    scales = [
        figure["layout"]["xaxis"].get("type")
        for figure in page.figures
        if "Perplexity" in figure["layout"].get("xaxis", {}).get("title", {}).get("text", "")
    ]
    assert scales == ["log"]


def test_colours_are_variables_of_the_page(page):
    style = next(text for tag, _, text in page.raw if tag == "style")
    used = set(re.findall(r'"var\((--[a-z0-9-]+)\)"', json.dumps(page.figures)))
    assert used
    for name in used:
        assert style.count(f"{name}:") == 2, f"{name} in light and in dark"


def test_hostile_names_stay_text(tmp_path):
    attack = '</script><script>alert(1)</script><b a="%{x}">{{7*7}}<!--'
    run = fake_run(tmp_path / "run", **SMALL | {"prefix": attack, "roles": ("out", "mid")})
    html = render(run)
    hostile = parse(html)
    assert hostile.misnested == []
    assert len(hostile.scripts) == 2
    assert not hostile.attributes("b")
    assert "alert(1)</script>" not in html
    assert attack in hostile.text
    # Plotly reads a part of HTML in labels, so names reach it escaped.
    assert "<b a" not in json.dumps([figure["data"] for figure in hostile.figures])
    assert "<script" not in json.dumps(hostile.figures)
    # The JSON itself holds no character that HTML could read as a tag.
    data = [text for _, attrs, text in hostile.raw if attrs.get("type") == "application/json"]
    assert data
    assert not any("<" in text or ">" in text or "&" in text for text in data)


# The charts' numbers


def test_heat_map_rows_are_the_sorted_t_of_each_block(full):
    run = read_run(full)
    charts, note = heat_charts(run.units, run.summary.localize)
    assert [chart.name for chart in charts] == ["out", "mlp.hidden"]
    assert note == ""
    trace = json.loads(charts[0].json)["data"][0]
    z = array(trace["z"])
    table = pd.read_parquet(full / "units.parquet")
    for block in range(4):
        t = table.loc[(table["block"] == block) & (table["role"] == "out"), "t"].dropna()
        wanted = np.sort(t.to_numpy())[::-1]
        np.testing.assert_allclose(z[block, : len(t)], wanted, rtol=1e-6)
    assert trace["zmid"] == 0
    assert trace["zmin"] == -trace["zmax"]


def test_wide_rows_are_shown_by_quantiles(tmp_path):
    run = read_run(fake_run(tmp_path / "run", blocks=2, width=5000, steps=("localize",)))
    (made,), note = heat_charts(run.units, run.summary.localize)
    assert f"{MAX_COLUMNS} quantiles" in note
    z = array(json.loads(made.json)["data"][0]["z"])
    assert z.shape == (2, MAX_COLUMNS)
    t = run.units.t[run.units.site == 1]
    t = t[~np.isnan(t)]
    assert z[1, 0] == pytest.approx(t.max())
    assert z[1, -1] == pytest.approx(t.min())
    assert (np.diff(z, axis=1) <= 0).all()


def test_histogram_counts_every_unit_and_splits_at_the_threshold(full):
    run = read_run(full)
    made = histogram_chart(run.units, run.summary.localize)
    bars = json.loads(made.json)["data"][:2]
    outside, inside = (array(trace["y"]) for trace in bars)
    assert outside.sum() + inside.sum() == (~np.isnan(run.units.t)).sum()
    assert inside.sum() == run.units.selected.sum()
    assert not ((outside > 0) & (inside > 0)).any()


def test_top_units_are_sorted_with_ties_in_file_order(full):
    run = read_run(full)
    t = np.round(run.units.t)
    table = top_table(replace(run.units, t=t), run.summary.localize)
    n = int((~np.isnan(t)).sum())
    assert len(table.rows) == n
    wanted = np.argsort(np.where(np.isnan(t), np.inf, -t), kind="stable")[:n]
    assert [row[1].text for row in table.rows] == [
        run.units.sites[run.units.site[i]] for i in wanted
    ]
    assert [row[2].value for row in table.rows] == run.units.unit[wanted].tolist()


def test_location_shares(full, page):
    table = pd.read_parquet(full / "units.parquet")
    first = page.figures[0]["data"]
    blocks = table.groupby("block")["selected"].mean() * 100
    other = table.loc[table["block"].isna(), "selected"].mean() * 100
    assert array(first[0]["y"]) == pytest.approx([*blocks, other])
    assert array(first[1]["y"]) == pytest.approx([table["selected"].mean() * 100] * 2)


# Runs of other shapes


def test_several_sizes_give_a_curve_and_a_choice(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL | {"sizes": (1.25, 2.5, 5.0), "tasks": ("pairs",)})
    several = parse(render(run))
    network = [
        trace
        for figure in several.figures
        for trace in figure["data"]
        if trace.get("name") == "network" and trace["mode"] == "lines+markers"
    ]
    assert array(network[0]["x"]).tolist() == [1.25, 2.5, 5.0]
    # Sizes are chosen for the groups and for the differences from intact.
    assert len(several.attributes("option")) == 3 + 3
    assert "5\u202f% of 128" in several.text


def test_parts_that_were_not_run_are_left_out(tmp_path):
    located = parse(render(fake_run(tmp_path / "a", **SMALL | {"steps": ("localize",)})))
    assert "effects" not in [a.get("id") for a in located.attributes("section")]
    alone = {"steps": ("ablate",), "n_controls": 0}
    ablated = parse(render(fake_run(tmp_path / "b", **SMALL | alone)))
    ids = [a.get("id") for a in ablated.attributes("section")]
    assert "effects" in ids
    assert "heat" not in ids
    assert "No random control was run" in ablated.text


def test_a_model_without_blocks_is_shown_by_site(tmp_path):
    run = fake_run(tmp_path / "run", blocks=0, width=64, ops=3, roles=(), steps=("localize",))
    plain = parse(render(run))
    ids = [a.get("id") for a in plain.attributes("section")]
    assert "where" in ids
    assert "heat" not in ids
    assert "op:/node_1" in plain.text


def test_nulls_everywhere_do_not_stop_the_page(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)

    def change(summary):
        summary["localize"]["smallest_t"] = None
        first, second = summary["ablate"]["effects"]
        first |= dict.fromkeys(("intact", "network", "rank", "p_empirical", "vs_intact"))
        first["controls"][0] = None
        first["groups"][0] |= {"intact": None, "controls": [None] * 10, "control_mean": None}
        second["perplexity"] |= {"network": None, "controls": [None] * 10}
        second["vs_controls"] = dict.fromkeys(("difference", "low", "high", "d"))

    rewrite_summary(run, change)
    page = parse(render(run))
    assert "The effect is not defined" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.replace("anaphora", "")


def test_many_groups_and_controls_stay_a_small_page(tmp_path):
    run = fake_run(
        tmp_path / "run",
        **SMALL
        | {
            "groups": tuple(f"a_paradigm_with_a_long_name_{i}" for i in range(67)),
            "sizes": (0.7, 1.25, 2.5, 5.0),
            "n_controls": 100,
            "items": 2,
        },
    )
    html = render(run)
    assert len(html.encode()) < 6_000_000
    assert "3 smaller sizes left out" in html


def test_a_large_run_stays_a_small_page(tmp_path):
    run = fake_run(
        tmp_path / "run",
        blocks=40,
        width=640,
        roles=("out", "mid", "attn.out", "mlp.out", "mlp.hidden", "attn.q"),
        steps=("localize",),
    )
    assert len(render(run).encode()) < 6_000_000


# Files


def test_the_page_is_written_whole(full):
    before = {path.name for path in full.iterdir()}
    target = write_report(full)
    assert target == full / "report.html"
    assert target.read_text(encoding="utf-8") == render(full)
    assert {path.name for path in full.iterdir()} == before | {"report.html"}


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "run", **SMALL)
    (run / "report.html").write_text("old")
    before = sorted(path.name for path in run.iterdir())

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_text() == "old"
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_link_is_replaced_and_not_followed(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)
    (tmp_path / "outside").write_text("mine")
    (run / "report.html").symlink_to(tmp_path / "outside")
    write_report(run)
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (run / "report.html").is_symlink()


def drop(name):
    return lambda run: (run / name).unlink()


def text(name, content):
    return lambda run: (run / name).write_text(content)


def summary(change):
    return lambda run: rewrite_summary(run, change)


def units(change):
    def damage(run):
        change(pd.read_parquet(run / "units.parquet")).to_parquet(run / "units.parquet")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("manifest.json"), "manifest.json"),
        (drop("summary.json"), "summary.json"),
        (drop("units.parquet"), "units.parquet is missing"),
        (text("manifest.json", "{"), "manifest.json"),
        (text("manifest.json", "[" * 100_000), "manifest.json"),
        (text("manifest.json", '{"format": 1}'), "name is missing"),
        (text("summary.json", "[]"), "JSON object"),
        (text("units.parquet", "PAR1 no"), "units.parquet cannot be read"),
        (summary(lambda s: s.update(format=2)), "format 2"),
        (summary(lambda s: s.pop("model")), "model is missing"),
        (summary(lambda s: s["model"].update(name=3)), "model.name has the wrong type"),
        (summary(lambda s: s["localize"].update(n_units="9")), "n_units has the wrong type"),
        (summary(lambda s: s["localize"].update(n_units=9)), "has 128 units"),
        (summary(lambda s: s["localize"].update(magnitude=1)), "magnitude has the wrong type"),
        (
            summary(lambda s: s["ablate"]["effects"][1].update(controls=[True])),
            r"effects\[1\].controls\[0\] has the wrong type",
        ),
        (summary(lambda s: s["ablate"]["effects"][0].update(size=0)), "percentage"),
        (summary(lambda s: s["ablate"]["effects"][0].update(size=10**400)), "too large"),
        (units(lambda table: table.drop(columns="t")), "no column 't'"),
        (units(lambda table: table.assign(t="x")), "cannot be read"),
        (units(lambda table: table.assign(site=None)), "empty cells"),
        (units(lambda table: table.head(0)), "holds no units"),
    ],
)
def test_a_damaged_run_is_one_clear_line(tmp_path, damage, message):
    run = fake_run(tmp_path / "run", **SMALL)
    damage(run)
    with pytest.raises(RunError, match=message) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_what_is_no_run_folder(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        render(tmp_path / "nothing")
    with pytest.raises(RunError, match="not a run folder"):
        render(tmp_path)


def test_importing_the_report_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys, onnxloc.report.page\n"
        "print(sorted({'plotly', 'pandas', 'pyarrow', 'scipy', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
