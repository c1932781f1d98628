"""Localizers of other people: TOML files, pairs, many conditions, entry points, the command."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from helpers.tiny_bundle import write_tiny_bundle

from onnxloc import registry
from onnxloc.cli import main
from onnxloc.errors import StimulusError
from onnxloc.stimuli import Condition, ConditionSet, StimulusSet, load_conditions, load_stimuli
from onnxloc.stimuli.localizers import LocalizerInfo, describe, localizers
from onnxloc.store import Run

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[2] / "docs" / "localizers.md"
TOML = 'name = "mine"\ndata = "mine.csv"\n'
MANY = TOML + 'conditions = ["low", "middle", "high"]\n'


def table(*rows, columns="condition,text"):
    return "\n".join([columns, *rows]) + "\n"


def texts(condition, count, stem="text"):
    return [f"{condition},{condition} {stem} {i}" for i in range(count)]


@pytest.fixture
def load(tmp_path):
    """Load a localizer from the text of a TOML file and of a CSV."""

    def load(toml, data, reader=load_stimuli):
        (tmp_path / "mine.toml").write_text(toml)
        (tmp_path / "mine.csv").write_text(data)
        return reader(tmp_path / "mine.toml")

    return load


# Conditions of other names


def test_the_toml_names_the_conditions(load):
    toml = TOML + 'positive = "hard"\ncontrol = "easy"\ncontrol_label = "simple"\n'
    stimuli = load(toml, table(*texts("easy", 3), *texts("hard", 3)))
    assert stimuli.positive == ("hard text 0", "hard text 1", "hard text 2")
    assert (stimuli.positive_label, stimuli.control_label) == ("hard", "simple")
    with pytest.raises(StimulusError, match=r"mine\.csv:2: .*'positive'; it must be hard or easy"):
        load(toml, table(*texts("positive", 3), *texts("easy", 3)))


def test_a_set_of_many_conditions(load):
    data = table(*texts("high", 3), *texts("low", 4), *texts("middle", 5))
    toml = MANY + '[labels]\nlow = "the lowest"\n'
    found = load(toml, data, load_conditions)
    assert found.names == ("low", "middle", "high")
    assert [len(own.texts) for own in found.conditions] == [4, 5, 3]
    assert (found["low"].label, found["high"].label, len(found)) == ("the lowest", "high", 12)
    assert found == load(toml, data, load_conditions)
    with pytest.raises(StimulusError, match=r"no condition 'hi'; did you mean 'high'\?"):
        found["hi"]
    with pytest.raises(StimulusError, match="is a set of 3 conditions and no localizer"):
        load(toml, data)
    contrast = found.contrast("high", "low")
    assert contrast.positive == found["high"].texts
    assert contrast.control_label == "the lowest"
    with pytest.raises(StimulusError, match="both conditions hold the same texts"):
        found.contrast("high", "high")


def test_two_of_many_conditions(load):
    data = table(*texts("high", 3), *texts("low", 3), *texts("middle", 5))
    toml = MANY + 'positive = "low"\ncontrol = "high"\n'
    assert load(toml, data).positive == ("low text 0", "low text 1", "low text 2")
    assert load(toml, data, load_conditions).names == ("low", "middle", "high")


def test_a_localizer_has_two_conditions():
    stimuli = load_stimuli("language")
    found = load_conditions("language")
    assert found == ConditionSet.of(stimuli)
    assert found.names == ("positive", "control")
    assert found["control"].label == "nonwords"
    assert found.hash == stimuli.hash


def test_conditions_of_a_bare_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(table(*texts("positive", 3), *texts("control", 4)))
    assert [len(own.texts) for own in load_conditions(path).conditions] == [3, 4]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('conditions = ["a"]', "two or more"),
        ('conditions = ["a", "a"]', "must be different names"),
        ('conditions = ["a", " "]', "must be different names"),
        ('conditions = "a"', "conditions must be a list of strings"),
        ("conditions = [1, 2]", "conditions must be a list of strings"),
        ('conditions = ["a", "b"]\npositive = "a"', "both positive and control, or neither"),
        (
            'conditions = ["high", "b"]\npositive = "hihg"\ncontrol = "b"',
            r"positive is 'hihg', which is no condition; did you mean 'high'\?",
        ),
        ('positive = "a"\ncontrol = "a"', "must be different names"),
        ('conditions = ["a", "b"]\npositive = "a"\ncontrol = "a"', "are the same condition"),
        ('[labels]\nother = "b"', "labels has 'other', which is no condition"),
        ("[labels]\npositive = 1", "labels must be a table of strings"),
        ('labels = "a"', "labels must be a table of strings"),
        ('pool = "first"', "pool is 'first'; it must be one of last, mean, sum, max"),
        ("paired = 1", "paired must be true or false"),
        ('seed = "1"', "seed must be a whole number"),
    ],
)
def test_bad_settings(load, more, message):
    with pytest.raises(StimulusError, match=rf"mine\.toml: .*{message}"):
        load(TOML + more, table(*texts("positive", 3), *texts("control", 3)))


def test_the_pool_of_a_localizer(load):
    stimuli = load(TOML + 'pool = "mean"', table(*texts("positive", 3), *texts("control", 3)))
    assert stimuli.pool == "mean"
    with pytest.raises(StimulusError, match="x: pool is 'none'"):
        StimulusSet(name="x", positive=("a", "b", "c"), control=("d", "e", "f"), pool="none")


# Conditions that cannot be compared


def test_unequal_conditions(load, tmp_path):
    data = table(*texts("positive", 5), *texts("control", 3))
    message = r"mine\.csv:5: there are 5 positive texts but only 3 control texts; .*unequal = true"
    with pytest.raises(StimulusError, match=message):
        load(TOML, data)
    assert len(load(TOML + "unequal = true", data).positive) == 5
    assert len(load_stimuli(tmp_path / "mine.csv").positive) == 5
    with pytest.raises(StimulusError, match=r"mine\.csv:5: there are 5 positive"):
        load(TOML + "unequal = true\npaired = true", data)


def test_identical_conditions(load):
    data = table(*(f"{own},text {i}" for own in ("positive", "control") for i in range(3)))
    with pytest.raises(StimulusError, match=r"mine\.csv:5: .*positive and control hold the same"):
        load(TOML, data)


def test_tiny_conditions(load):
    data = table(*texts("positive", 3), *texts("control", 2))
    with pytest.raises(StimulusError, match=r"mine\.csv:6: .*only 2 control texts; at least 3"):
        load(TOML, data)


def test_pairs_by_order(load):
    data = table(*texts("positive", 3), *texts("control", 3))
    assert not load(TOML, data).paired
    assert load(TOML + "paired = true", data).paired


PAIRS = [f"{own},p{i},{own} {i}" for own, order in (("positive", (0, 1, 2)), ("control", (2, 0, 1)))
         for i in order]  # fmt: skip


def test_pairs_by_label(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(table(*PAIRS, columns="condition,pair,text"))
    stimuli = load_stimuli(path)
    assert stimuli.paired
    assert stimuli.positive == ("positive 0", "positive 1", "positive 2")
    assert stimuli.control == ("control 0", "control 1", "control 2")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*PAIRS, "positive,,x"], r"mine\.csv:8: pair is empty"),
        ([*PAIRS, "positive,p1,x"], r"mine\.csv:8: .*'p1' has a second positive .*csv:3"),
        ([*PAIRS, "positive,p9,x"], r"mine\.csv:8: the pair 'p9' has no control text"),
        ([*PAIRS, "control,p9,x"], r"mine\.csv:8: the pair 'p9' has no positive text"),
    ],
)
def test_bad_pairs(load, rows, message):
    with pytest.raises(StimulusError, match=message):
        load(TOML, table(*rows, columns="condition,pair,text"))


def test_pairs_must_be_text(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"condition": "positive", "text": "a", "pair": 1}))
    with pytest.raises(StimulusError, match=r"mine\.jsonl:1: pair must be a string"):
        load_stimuli(path)


def test_a_paired_set_is_even():
    with pytest.raises(StimulusError, match="is paired, but has 4 positive and 3 control"):
        StimulusSet(name="x", positive=tuple("abcd"), control=tuple("efg"), paired=True)


def test_condition_sets_are_checked():
    def a_set(*names, count=3):
        return ConditionSet(
            name="x",
            conditions=tuple(
                Condition(name=own, label=own, texts=tuple(f"{own}{i}" for i in range(count)))
                for own in names
            ),
        )

    assert a_set("a", "b").names == ("a", "b")
    for bad, message in (
        (lambda: a_set("a"), "two conditions or more"),
        (lambda: a_set("a", "a"), "have one name"),
        (lambda: a_set("a", "b", count=2), "has only 2 a texts"),
    ):
        with pytest.raises(StimulusError, match=message):
            bad()


# The example of the page, entry points, the command


def block(language, word):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return next(text for text in blocks if word in text)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The files that docs/localizers.md tells the reader to write."""
    (tmp_path / "questions.csv").write_text(block("csv", "condition"))
    (tmp_path / "questions.toml").write_text(block("toml", "data ="))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_example(example, capsys):
    for source in ("questions.csv", "questions.toml"):
        stimuli = load_stimuli(source)
        assert stimuli.paired
        assert len(stimuli) == 8
        for question, statement in zip(stimuli.positive, stimuli.control, strict=True):
            same = [re.findall(r"\w+", text.lower()) for text in (question, statement)]
            assert sorted(same[0]) == sorted(same[1])
    write_tiny_bundle(example / "tiny")
    words = ["localize", "tiny", "--localizer", "questions.toml", "-o", "runs/questions"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "more to questions than to statements" in said.out
    summary = Run.open(example / "runs" / "questions").summary["localize"]
    assert (summary["localizer"], summary["localizer_version"]) == ("questions", "1")
    assert (summary["pool"], summary["n_positive"]) == ("last", 4)


def test_the_localizers_pool_holds_unless_another_is_asked_for(example, capsys):
    write_tiny_bundle(example / "tiny")
    text = (example / "questions.toml").read_text()
    (example / "questions.toml").write_text(text.replace('pool = "last"', 'pool = "mean"'))
    words = ["localize", "tiny", "--localizer", "questions.toml"]
    assert main([*words, "-o", "own"]) == main([*words, "--pool", "sum", "-o", "asked"]) == 0
    pools = [Run.open(example / own).summary["localize"]["pool"] for own in ("own", "asked")]
    assert pools == ["mean", "sum"]
    capsys.readouterr()


@pytest.fixture
def package(example, monkeypatch):
    """Another package with the page's entry point, one of many conditions, and a broken one."""
    lines = re.search(r'entry-points\."([\w.]+)"\]\n(\w+) = "(\w+):(\w+)"', PAGE.read_text())
    group, name, module, attribute = lines.groups()
    source = "from pathlib import Path\nfrom onnxloc.stimuli import Condition, ConditionSet\n"
    source += f'{attribute} = Path(__file__).with_name("questions.toml")\n'
    source += "SET = ConditionSet(name='s', conditions=tuple(Condition(name=n, label=n, "
    source += "texts=(n + '1', n + '2', n + '3')) for n in 'abc'))\n"
    (example / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(example)
    targets = {name: attribute, "many": "SET", "zz-broken": "GONE"}
    entries = [EntryPoint(own, f"{module}:{value}", group) for own, value in targets.items()]
    asked = []

    def entry_points(*, group):
        asked.append(group)
        return entries

    monkeypatch.setattr(registry, "entry_points", entry_points)
    yield asked
    assert set(asked) == {group}
    sys.modules.pop(module, None)


def test_an_entry_point(package):
    stimuli = load_stimuli("questions")
    assert (stimuli.name, stimuli.source, len(stimuli)) == ("questions", "questions", 8)
    assert load_conditions("many").names == ("a", "b", "c")
    with pytest.raises(StimulusError, match="many is a set of 3 conditions and no localizer"):
        load_stimuli("many")
    assert describe("questions").conditions == (("questions", 4), ("statements", 4))
    assert not describe("many").is_localizer
    *others, (name, error) = localizers()
    assert all(isinstance(own, LocalizerInfo) for own in others)
    assert (len(others), name) == (11, "zz-broken")
    assert "cannot be loaded" in str(error)


def test_the_command_lists(package, capsys):
    assert main(["localizers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert "language         Language network: sentences against nonwords (240+240 texts)" in lines
    assert "questions        Questions against statements (4+4 texts)" in lines
    assert "many             (no title) (3+3+3 texts)" in lines
    assert lines[-1].startswith("zz-broken        cannot be read: the localizer 'zz-broken' cannot")
    assert main(["localizers", "--json"]) == 0
    listed = {own["name"]: own for own in json.loads(capsys.readouterr().out)}
    assert listed["memory"]["conditions"] == [["true facts", 150], ["false facts", 150]]
    assert "cannot be loaded" in listed["zz-broken"]["error"]


def test_the_command_describes(capsys):
    assert main(["localizers", "profile"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("profile version 1: Held-out conditions")
    assert "holds: 64 sentences, 64 word lists, 64 jabberwocky, 64 nonwords" in said
    assert main(["localizers", "memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "Apache-2.0"
    assert main(["localizers", "memry"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "did you mean 'memory'?" in said.err
