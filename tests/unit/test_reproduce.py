"""The rules that judge the paper's claims, and the whole procedure on a tiny model."""

import json
import re
from dataclasses import replace
from datetime import date
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers.gguf_files import TinyModel
from helpers.tiny_bundle import write_tiny_bundle

from onnxloc.cli import main
from onnxloc.errors import OptionError
from onnxloc.report.reproduction_figures import figures
from onnxloc.report.reproduction_page import render_reproduction, write_reproduction
from onnxloc.report.svg import Canvas, Scale
from onnxloc.runtime.model import Model
from onnxloc.stats.resample import Interval
from onnxloc.stimuli import load_stimuli
from onnxloc.store import Run
from onnxloc.studies import reproduce as study
from onnxloc.studies.claims import judge
from onnxloc.studies.reproduce import ReproduceOptions, reproduce
from onnxloc.studies.reproduced import (
    Difference,
    GroupScores,
    KindScores,
    Located,
    Measured,
    Response,
    SizeEffect,
)

pytestmark = pytest.mark.unit

CONDITIONS = ("sentences", "word-lists", "jabberwocky", "nonwords")


def interval(estimate, low, high):
    return Interval(estimate, low, high, 0.95)


def located(name="language", **changed):
    return replace(
        Located(
            name=name, positive="sentences", control="nonwords", n_stimuli=40, n_units=1000, k=10,
            n_significant=200, blocks=(2, 3, 5, 0), reliability=interval(0.7, 0.6, 0.8),
            shuffled=interval(0.02, 0.0, 0.1), chance=interval(0.01, 0.0, 0.05),
            correlation=interval(0.9, 0.85, 0.95), dice_language=0.1, dice_language_chance=0.01,
        ),
        **changed,
    )  # fmt: skip


def kinds(*, at=0.78, as_harmful=0):
    return tuple(
        KindScores(
            kind=kind, scores=(at - 0.01, at, at + 0.01), as_harmful=as_harmful,
            p=(1 + as_harmful) / 4,
        )
        for kind in ("count", "site", "norm")
    )  # fmt: skip


def effect(size, **changed):
    return replace(
        SizeEffect(
            task="pairs", metric="accuracy", size=size, units=int(10 * size), n_items=100,
            intact=0.8, network=0.5, difference=-0.3, low=-0.4, high=-0.2, kinds=kinds(),
        ),
        **changed,
    )  # fmt: skip


def difference(a, b, low=0.2, p=0.001):
    return Difference(a=a, b=b, difference=low + 0.1, low=low, high=low + 0.2, p=p, p_controls=0.02)


@pytest.fixture
def agreeing():
    """Numbers with which every claim that one model can show agrees."""
    pairs = [(a, b) for i, a in enumerate(CONDITIONS) for b in CONDITIONS[i + 1 :]]
    return Measured(
        model="m", model_hash="0" * 64, language=located(),
        untrained=located(
            "untrained", n_significant=0, reliability=interval(0.02, 0.0, 0.1)
        ),
        others=(located("multiple-demand"), located("theory-of-mind", n_significant=0)),
        effects=(effect(0.25), effect(1.0)),
        groups=(
            GroupScores(
                group="agreement", n_items=5, intact=0.8, network={0.25: 0.7, 1.0: 0.5},
                controls={"site": 0.8, "norm": 0.7},
            ),
        ),
        responses=tuple(
            Response(
                condition=name, label=name, n=9, mean=0.1, low=0.0, high=0.2, controls_median=0.0,
                controls_low=-0.1, controls_high=0.1,
            )
            for name in CONDITIONS
        ),
        differences=tuple(difference(a, b) for a, b in pairs),
    )  # fmt: skip


def verdicts(measured):
    return [claim.verdict for claim in judge(measured)]


def test_numbers_that_agree(agreeing):
    assert verdicts(agreeing) == ["agrees"] * 4 + ["cannot be told"]
    others = judge(agreeing)[4].found
    assert others[0].startswith("multiple-demand: found.")
    assert others[1].startswith("theory-of-mind: not found.")
    assert judge(agreeing)[4].line == "multiple-demand: found; theory-of-mind: not found."


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"n_significant": 0}, "differs"),
        ({"reliability": interval(0.7, 0.09, 0.8)}, "differs"),
        ({"n_significant": 9}, "agrees in part"),
        ({"blocks": (10, 0, 0, 0)}, "agrees in part"),
    ],
)
def test_selective_units(agreeing, changed, verdict):
    assert verdicts(replace(agreeing, language=located(**changed)))[0] == verdict


def test_an_untrained_copy_that_repeats_itself_is_said(agreeing):
    text = "found without training"
    assert not any(text in line for line in judge(agreeing)[0].found)
    also = replace(agreeing, untrained=located("untrained"))
    assert any(text in line for line in judge(also)[0].found)


@pytest.mark.parametrize(
    ("changed", "breaks", "small"),
    [
        ({"high": 0.0}, "differs", "differs"),
        ({"kinds": kinds(as_harmful=1)}, "agrees in part", "agrees in part"),
        # The median loses 0.1 of 0.3.
        ({"kinds": kinds(at=0.7)}, "agrees in part", "agrees in part"),
        ({"kinds": kinds(at=0.73)}, "agrees", "agrees"),
    ],
)
def test_ablation(agreeing, changed, breaks, small):
    both = (effect(0.25, **changed), effect(1.0, **changed))
    assert verdicts(replace(agreeing, effects=both))[1:3] == [breaks, small]


def test_every_small_size_counts(agreeing):
    sizes = (effect(0.125, high=0.01), effect(0.25), effect(1.0))
    assert verdicts(replace(agreeing, effects=sizes))[1:3] == ["agrees", "agrees in part"]
    line = judge(agreeing)[1].line
    # 0.02 of 0.3, of every kind.
    assert line.endswith("lose 7 % of that in the median.")
    rest = (effect(0.25, without_massive=0.75), effect(1.0))
    small = judge(replace(agreeing, effects=rest))[2]
    assert "takes accuracy to 0.750." in small.found[0]


def test_one_kind_that_does_harm_is_enough_to_differ_in_part(agreeing):
    mixed = (*kinds()[:2], *kinds(as_harmful=1)[2:])
    assert verdicts(replace(agreeing, effects=(effect(1.0, kinds=mixed),)))[1:3] == [
        "agrees in part",
        "cannot be told",
    ]


def test_the_profile(agreeing):
    def of(**low):
        changed = tuple(
            difference(d.a, d.b, low.get(f"{d.a}_{d.b}".replace("-", "_"), 0.2))
            for d in agreeing.differences
        )
        return verdicts(replace(agreeing, differences=changed))[3]

    assert of(sentences_nonwords=-0.01) == "differs"
    assert of(jabberwocky_nonwords=-0.01) == "agrees in part"
    insignificant = tuple(replace(d, p=0.05) for d in agreeing.differences)
    assert verdicts(replace(agreeing, differences=insignificant))[3] == "differs"
    assert verdicts(replace(agreeing, differences=()))[3] == "cannot be told"


def test_figures_are_xml_and_hold_every_control(agreeing):
    drawn = figures(agreeing)
    assert set(drawn) == {"sizes", "phenomena", "layers", "profile"}
    trees = {name: ElementTree.fromstring(svg) for name, svg in drawn.items()}
    svg = "{http://www.w3.org/2000/svg}"
    # Two sizes, three kinds of three, and the legend's three.
    assert len(trees["sizes"].findall(f"{svg}circle")) == 2 * 3 * 3 + 3
    texts = [node.text for node in trees["phenomena"].findall(f"{svg}text")]
    assert "agreement" in texts


def test_a_canvas_escapes_and_a_scale_keeps_its_ends():
    canvas = Canvas(10, 10, "a <b> & c")
    canvas.text(0, 0, "<script>")
    root = ElementTree.fromstring(canvas.render())
    assert root[0].text == "a <b> & c"
    assert root[-1].text == "<script>"
    scale = Scale(0, 2, 100, 0)
    assert [scale(v) for v in (0, 1, 2, 5, -1)] == [100, 50, 0, 0, 100]


@pytest.mark.parametrize(
    "wrong",
    [{"percents": ()}, {"percents": (1.0, 0.5)}, {"percents": (0.0,)}, {"controls": 0},
     {"limit": -1}],
)  # fmt: skip
def test_bad_options_are_refused(wrong):
    with pytest.raises(OptionError):
        ReproduceOptions(**wrong)


TINY = ReproduceOptions(
    percents=(2.0, 8.0), controls=2, profile_controls=3, limit=1, sentences=3, splits=4
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    tiny = TinyModel(blocks=3, seed=7, metadata={"llama.context_length": 2048})
    return write_tiny_bundle(tmp_path_factory.mktemp("reproduce") / "tiny", tiny)


@pytest.fixture(scope="module")
def few():
    stimuli = load_stimuli("language")
    return replace(stimuli, positive=stimuli.positive[:12], control=stimuli.control[:12])


@pytest.fixture(scope="module")
def found(bundle, few):
    return reproduce(Model.open(bundle), TINY, language=few)


def test_what_is_measured_is_what_the_studies_found(found):
    measured = found.measured
    entries = found.ablation.summary["ablate"]["effects"]
    assert [e.size for e in measured.pairs] == [2.0, 8.0]
    for entry, own in zip(entries, measured.effects, strict=True):
        assert (own.task, own.size, own.network) == (entry["task"], entry["size"], entry["network"])
        by_kind = {kind.kind: len(kind.scores) for kind in own.kinds}
        assert by_kind == {
            "count": 2, "site": 2, "norm": 2, "least": 1, "shuffled": 2, "untrained": 1
        }  # fmt: skip
    largest = measured.pairs[-1]
    assert largest.units == measured.language.k == sum(measured.language.blocks)
    # Every phenomenon has one pair here, so their mean is the whole.
    for size, own in ((2.0, measured.pairs[0]), (8.0, largest)):
        assert np.mean([g.network[size] for g in measured.groups]) == pytest.approx(own.network)
    assert np.mean([g.intact for g in measured.groups]) == pytest.approx(largest.intact)
    assert [one.name for one in measured.others] == ["multiple-demand", "theory-of-mind"]
    one, other = measured.between("sentences", "code"), measured.between("code", "sentences")
    assert (one.difference, one.low) == (-other.difference, -other.high)


def test_the_folder(found, tmp_path):
    write_reproduction(tmp_path, found, "r", "onnxloc reproduce --quick")
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "effects.parquet", "manifest.json", "network.parquet", "profile.csv", "profile_tests.csv",
        "report.html", "reproduction.json", "reproduction.md", "summary.json",
        *(f"reproduction/{name}.svg" for name in ("sizes", "phenomena", "layers", "profile")),
    }  # fmt: skip
    text = (tmp_path / "reproduction.md").read_text()
    for link in re.findall(r"\]\((reproduction/[^)]+)\)", text):
        assert (tmp_path / link).is_file()
    # The paper, each claim and each phenomenon are there; what differs stands first.
    claims = judge(found.measured)
    order = [line.rpartition(": ")[2] for line in text.splitlines() if line.startswith("### ")]
    rank = ["differs", "agrees in part", "cannot be told", "agrees"]
    places = [rank.index(word) for word in order[: len(claims)]]
    assert places == sorted(places)
    for claim in claims:
        assert all(line in text for line in (claim.paper, claim.rule, *claim.found))
    assert all(f"| {group.group} |" in text for group in found.measured.groups)
    record = json.loads((tmp_path / "reproduction.json").read_text())
    assert [claim["verdict"] for claim in record["claims"]] == [claim.verdict for claim in claims]
    assert len(pd.read_csv(tmp_path / "profile.csv"))
    assert Run.open(tmp_path).summary["ablate"]["battery"]


def test_every_table_of_the_page_is_whole(found):
    text = render_reproduction(found, "onnxloc reproduce", "a machine", date(2026, 1, 2))
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 5
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1
    assert "a machine" in text


def test_the_command(bundle, few, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(study, "load_stimuli", lambda name: few)
    monkeypatch.setattr(study, "QUICK", TINY)
    out = tmp_path / "out"
    words = ["reproduce", "--quick", "--model", str(bundle), "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("claim")
    assert "Response profile" in said
    assert (out / "reproduction.md").is_file()
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err


def test_a_model_that_is_not_there_leaves_nothing(capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["reproduce", "--model", str(tmp_path / "none"), "-o", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
