"""The stimulus readers, and what must hold of the shipped sentences and nonwords."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.errors import OptionError, StimulusError
from onnxloc.registry import Registry
from onnxloc.stimuli import StimulusSet, load_stimuli, localizers, make_nonwords, tables

pytestmark = pytest.mark.unit

NAMES = """
amina anthony beatrice carlos chicago christmas daniel dolores elena english ferdinand friday
gustav hannah ibrahim ingrid kenji kyoto leonard lindgren lisbon marcus mondays monet naomi nora
olga omar parisian peru priya rosa ruth saturn shakespeare sophia stefan sundays teresa tuesday
venice vera victor walsh welsh zulu
"""
ROWS = [
    ("positive", "one text"),
    ("control", "eno txet"),
    ("positive", "another, with a comma"),
    ("control", "rehtona"),
    ("positive", "a third"),
    ("control", "driht"),
]


@pytest.fixture(scope="module")
def language():
    return load_stimuli("language")


@pytest.fixture(scope="module")
def english():
    return make_nonwords.English()


@pytest.fixture(scope="module")
def spelling():
    from spylls.hunspell import Dictionary

    return Dictionary.from_files("en_US")


def csv_of(rows, header=("condition", "text")):
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def jsonl_of(rows):
    return "".join(
        json.dumps({"condition": c, "text": t}, ensure_ascii=False) + "\n" for c, t in rows
    )


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def texts(rows, condition):
    return tuple(text for kind, text in rows if kind == condition)


# The shipped data


def test_language_is_described(language):
    assert (language.name, language.source, language.max_tokens) == ("language", "language", 12)
    assert (language.positive_label, language.control_label) == ("sentences", "nonwords")
    assert language.version
    assert language.title
    assert language.description


def test_language_has_240_texts_of_12_words_a_condition(language):
    assert len(language.positive) == len(language.control) == 240
    assert len(language) == 480
    for text in language.positive + language.control:
        words = text.split(" ")
        assert len(words) == 12, text
        assert all(re.fullmatch("[a-z]{2,}", word) for word in words), text


def test_language_texts_are_unique(language):
    assert len(set(language.positive + language.control)) == 480


def test_nonwords_match_words_in_length(language):
    for sentence, string in zip(language.positive, language.control, strict=True):
        assert [len(w) for w in sentence.split()] == [len(w) for w in string.split()], sentence


def test_sentences_are_varied(language):
    sentences = [text.split() for text in language.positive]
    assert len({word for words in sentences for word in words}) > 1500
    first = Counter(words[0] for words in sentences)
    assert first["the"] <= 0.05 * len(sentences)
    assert len(first) > 200
    pairs = Counter(tuple(words[:2]) for words in sentences)
    assert max(pairs.values()) == 1
    runs = Counter(tuple(words[i : i + 4]) for words in sentences for i in range(9))
    assert max(runs.values()) == 1, "two sentences share four words in a row"


def test_sentences_are_spelled_right(language, spelling):
    words = {word for text in language.positive for word in text.split()}
    names = set(NAMES.split())
    assert sorted(w for w in words if w not in names and not spelling.lookup(w)) == []
    assert words >= names, "NAMES lists only what is used"


def test_spelling_check_finds_errors(spelling):
    assert not any(spelling.lookup(word) for word in ("recieve", "neccessary", "arguement"))


def test_no_nonword_is_an_english_word(language, english, spelling):
    nonwords = {word for text in language.control for word in text.split()}
    assert sorted(word for word in nonwords if english.is_word(word)) == []
    assert sorted(word for word in nonwords if english.holds_word(word)) == []
    assert sorted(word for word in nonwords if spelling.lookup(word)) == []


def test_english_knows_words(english):
    words = "of the cat cats houses zebras quorum running selfie parisian az famp"
    assert [word for word in words.split() if not english.is_word(word)] == []
    assert english.holds_word("unlimit")
    assert not english.holds_word("gulpix")


def test_words_of_the_sentences_count_as_english(language, english):
    words = {word for text in language.positive for word in text.split()}
    assert sorted(word for word in words if not english.is_word(word)) == []


def test_nonwords_are_pronounceable(language):
    for word in {word for text in language.control for word in text.split()}:
        assert re.search("[aeiou]", word), word
        assert not re.search(r"[^aeiou]{5}|[aeiou]{4}|(.)\1\1", word), word
        assert not re.match("[^aeiou]{4}", word), word


def test_nonwords_repeat_only_where_too_few_are_short(language):
    counts = Counter(word for text in language.control for word in text.split())
    assert {len(word) for word, count in counts.items() if count > 1} == {2}
    short = [count for word, count in counts.items() if len(word) == 2]
    assert max(short) - min(short) <= 1, "dealt round-robin"


def test_nonwords_hold_no_coarse_letters(language):
    nonwords = {word for text in language.control for word in text.split()}
    assert not [w for w in nonwords for part in make_nonwords.UNWANTED if part in w]


def test_committed_data_is_what_the_seed_gives(english):
    sentences = make_nonwords.read_sentences()
    strings = make_nonwords.nonword_strings(sentences, english)
    text = make_nonwords.csv_text(sentences, strings)
    assert make_nonwords.LANGUAGE_CSV.read_bytes() == text.encode()


def test_another_seed_gives_other_nonwords(english):
    sentences = make_nonwords.read_sentences()[:5]
    strings = {tuple(make_nonwords.nonword_strings(sentences, english, seed=s)) for s in range(3)}
    assert len(strings) == 3


def test_single_letters_have_no_nonword(english):
    with pytest.raises(StimulusError, match="single letter"):
        make_nonwords.nonword_strings(["this is a sentence"], english)


def test_check_and_write(tmp_path, capsys):
    path = tmp_path / "language.csv"
    whole = make_nonwords.LANGUAGE_CSV.read_bytes()
    path.write_bytes(whole.replace(b"control,", b"control,x", 1))
    assert make_nonwords.main(["--check", "--file", str(path)]) == 1
    assert "--write" in capsys.readouterr().err
    assert make_nonwords.main(["--write", "--file", str(path)]) == 0
    assert path.read_bytes() == whole
    assert make_nonwords.main(["--check", "--file", str(path)]) == 0


def test_generator_says_which_package_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    assert make_nonwords.main(["--check"]) == 2
    message = capsys.readouterr().err
    assert "wordfreq is not installed" in message
    assert "onnxloc[test]" in message


# The stimulus set


def a_set(**changes):
    given_ = {"name": "x", "positive": ("a", "b", "c"), "control": ("d", "e", "f")}
    return StimulusSet(**{**given_, **changes})


def test_hash_is_of_conditions_and_texts_in_order():
    base = a_set()
    assert re.fullmatch("[0-9a-f]{64}", base.hash)
    assert base.hash == replace(base, name="y", max_tokens=5, source="z").hash
    others = [
        replace(base, positive=("b", "a", "c")),
        replace(base, positive=base.control, control=base.positive),
        replace(base, positive=("a", "b", "c", "d")),
        replace(base, positive=("a", "b", "c d")),
        replace(base, positive=("a", "b", "c", 'd"],["positive"')),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 6


def test_set_is_frozen():
    with pytest.raises(FrozenInstanceError):
        a_set().name = "y"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive": ()}, "x has no positive text"),
        ({"control": ()}, "x has no control text"),
        ({"control": ("a", "b")}, "x has only 2 control texts; at least 3"),
        ({"control": ("a", " \n", "b")}, "x has an empty control text"),
        ({"max_tokens": -1, "source": "file"}, "file: max_tokens is -1"),
    ],
)
def test_set_refuses(changes, message):
    with pytest.raises(StimulusError, match=message):
        a_set(**changes)


# Tables


@pytest.mark.parametrize(
    ("name", "content"), [("mine.csv", csv_of(ROWS)), ("mine.jsonl", jsonl_of(ROWS))]
)
def test_reads_a_table(tmp_path, name, content):
    path = write(tmp_path / name, content)
    stimuli = load_stimuli(path)
    assert stimuli.positive == texts(ROWS, "positive")
    assert stimuli.control == texts(ROWS, "control")
    assert (stimuli.name, stimuli.source, stimuli.max_tokens) == ("mine", str(path), 0)
    assert (stimuli.positive_label, stimuli.control_label) == ("positive", "control")
    assert load_stimuli(str(path)) == stimuli


def test_csv_and_jsonl_of_the_same_texts_have_one_hash(tmp_path):
    first = load_stimuli(write(tmp_path / "a.csv", csv_of(ROWS)))
    second = load_stimuli(write(tmp_path / "b.jsonl", jsonl_of(ROWS)))
    assert first.hash == second.hash


def test_extra_id_order_of_columns_blank_lines_and_bom(tmp_path):
    lines = ["\ufefftext,id,condition", ""]
    lines += [f'"{text}",{i},{condition}' for i, (condition, text) in enumerate(ROWS)] + ["", ""]
    path = write(tmp_path / "a.CSV", "\r\n".join(lines))
    assert load_stimuli(path).positive == texts(ROWS, "positive")
    lines = [json.dumps({"id": 1, "text": t, "condition": c}) for c, t in ROWS]
    path = write(tmp_path / "a.jsonl", "\ufeff" + "\r\n\r\n".join(lines))
    assert load_stimuli(path).control == texts(ROWS, "control")


# A text with something to read in it: no NUL, no lone surrogate, no byte-order mark up front.
some_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
).filter(str.strip)
some_rows = st.tuples(
    st.lists(some_text, min_size=3, max_size=6), st.lists(some_text, min_size=3, max_size=6)
).filter(lambda both: set(both[0]) != set(both[1]))


@given(some_rows, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv_round_trip(tmp_path_factory, both, end, mark):
    positive, control = both
    rows = [("positive", t) for t in positive] + [("control", t) for t in control]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("condition", "text"), *rows])
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write(path, "\ufeff" * mark + file.getvalue())
    stimuli = load_stimuli(path)
    assert (list(stimuli.positive), list(stimuli.control)) == (positive, control)


@given(some_rows, st.booleans())
def test_jsonl_round_trip(tmp_path_factory, both, escaped):
    positive, control = both
    rows = [pair for t, u in zip(positive, control, strict=False) for pair in ((1, t), (0, u))]
    rows += [(1, t) for t in positive[len(control) :]] + [(0, t) for t in control[len(positive) :]]
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    lines = [
        json.dumps({"condition": ("control", "positive")[c], "text": t}, ensure_ascii=escaped)
        for c, t in rows
    ]
    write(path, "\n".join(lines))
    stimuli = load_stimuli(path)
    assert (list(stimuli.positive), list(stimuli.control)) == (positive, control)


HEAD = "condition,text\npositive,a\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"bad\.csv is empty; its header must be condition,text"),
        ("\n\n", r"bad\.csv is empty"),
        ("condition,text\n", "has no positive text"),
        (HEAD + "positive,b\npositive,c\n", "has no control text"),
        (HEAD + "positive,b\npositive,c\ncontrol,d\n", r"bad\.csv:5: this is the last of only 1 c"),
        ("condition,txt\n", r"bad\.csv:1: no column 'text'"),
        ("text\n", r"bad\.csv:1: no column 'condition'"),
        ("condition;text\n", r"bad\.csv:1: no column 'condition'"),
        ("condition,text,text\n", r"bad\.csv:1: the column 'text' stands twice"),
        ("condition,text,note\n", r"bad\.csv:1: unknown column 'note'"),
        (HEAD + "neutral,b\n", r"bad\.csv:3: condition is 'neutral'"),
        (HEAD + "Positive,b\n", r"bad\.csv:3: condition is 'Positive'"),
        (HEAD + "control,\n", r"bad\.csv:3: the text is empty"),
        (HEAD + "\ncontrol, \t\n", r"bad\.csv:4: the text is empty"),
        (HEAD + "control,a,b\n", r"bad\.csv:3: 3 fields, but the header has 2"),
        (HEAD + "control\n", r"bad\.csv:3: 1 fields"),
        (HEAD + 'control,"two\nlines"\nx,c\n', r"bad\.csv:5: condition is 'x'"),
        (HEAD + 'control,"open\n\n', r"bad\.csv:3: bad CSV"),
        (HEAD + 'control,"a"b\n', r"bad\.csv:3: bad CSV"),
        (HEAD + "control," + "x" * 200_000 + "\n", r"bad\.csv:3: bad CSV: field larger"),
        (HEAD.encode() + b"control,caf\xe9\n", r"bad\.csv:3: not UTF-8"),
        (b"\xef\xbb\xbf" + HEAD.encode() + b"\xff", r"bad\.csv:3: not UTF-8"),
        (HEAD.encode("utf-16"), r"bad\.csv:1: not UTF-8"),
        (HEAD + "control,a\0b\n", r"bad\.csv:3: a NUL byte"),
        (HEAD.encode("utf-16-le"), r"bad\.csv:1: a NUL byte"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    with pytest.raises(StimulusError, match=message) as caught:
        load_stimuli(write(tmp_path / "bad.csv", content))
    assert "\n" not in str(caught.value)


GOOD = '{"condition": "positive", "text": "a"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no positive text"),
        (GOOD * 3, "has no control text"),
        (GOOD + "{", r"bad\.jsonl:2: bad JSON"),
        (GOOD + '{"condition": "control", "text": "a",}', r"bad\.jsonl:2: bad JSON"),
        (GOOD + "[" * 100_000, r"bad\.jsonl:2: bad JSON"),
        (GOOD + '["control", "a"]', r"bad\.jsonl:2: a line must be a JSON object"),
        (GOOD + "\nnull", r"bad\.jsonl:3: a line must be a JSON object"),
        (GOOD + "{}", r"bad\.jsonl:2: no column 'condition'"),
        (GOOD + '{"condition": "control"}', r"bad\.jsonl:2: no column 'text'"),
        (GOOD + GOOD.replace("}", ', "x": 1}'), r"bad\.jsonl:2: unknown column 'x'"),
        (GOOD + GOOD.replace("}", ', "text": "b"}'), r"bad\.jsonl:2: the column 'text' stands tw"),
        (GOOD.replace("positive", "neg"), r"bad\.jsonl:1: condition is 'neg'"),
        (GOOD.replace('"positive"', "[]"), r"bad\.jsonl:1: condition is '\[\]'"),
        (GOOD.replace('"a"', "7"), r"bad\.jsonl:1: text must be a string"),
        (GOOD.replace('"a"', "{}"), r"bad\.jsonl:1: text must be a string"),
        (GOOD.replace('"a"', '""'), r"bad\.jsonl:1: the text is empty"),
        (GOOD.replace('"a"', r'"a\u0000"'), r"bad\.jsonl:1: the text holds a NUL"),
        (GOOD.replace('"a"', r'"\ud83d"'), r"bad\.jsonl:1: the text holds a NUL or half of a"),
        (GOOD.encode() + b'{"\x80', r"bad\.jsonl:2: not UTF-8"),
        (GOOD + "\0", r"bad\.jsonl:2: a NUL byte"),
    ],
)
def test_bad_jsonl(tmp_path, content, message):
    with pytest.raises(StimulusError, match=message):
        load_stimuli(write(tmp_path / "bad.jsonl", content))


@pytest.mark.parametrize("name", ["big.csv", "big.jsonl", "big.toml"])
def test_too_large(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(tables.MAX_BYTES + 1)
    with pytest.raises(StimulusError, match="is larger than 64 MB"):
        load_stimuli(path)


def test_no_regular_file(tmp_path):
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    with pytest.raises(StimulusError, match="is not a regular file"):
        load_stimuli(path)


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.csv", csv_of(ROWS))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StimulusError, match=r"cannot read .*a\.csv: Permission denied"):
        load_stimuli(path)


def test_other_kind_of_file(tmp_path):
    with pytest.raises(StimulusError, match=r"are \.csv, \.jsonl or \.toml files, not '\.xlsx'"):
        load_stimuli(write(tmp_path / "a.xlsx", "x"))


def test_unknown_name():
    with pytest.raises(StimulusError, match=r"'langage'; did you mean 'language'\?"):
        load_stimuli("langage")


@pytest.mark.parametrize("name", ["missing.csv", "a\0b", "", "a" * 5000])
def test_no_such_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StimulusError):
        load_stimuli(name)


def test_a_name_goes_before_a_file(tmp_path, monkeypatch, language):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "language").mkdir()
    assert load_stimuli("language") == language
    with pytest.raises(StimulusError, match="holds no file langloc"):
        load_stimuli("./language")
    with pytest.raises(StimulusError, match="holds no file langloc"):
        load_stimuli(Path("language"))


# TOML files and the registry

TOML = 'name = "mine"\ndata = "mine.csv"\n'


def test_users_toml(tmp_path):
    write(tmp_path / "mine.csv", csv_of(ROWS))
    more = 'version = "2"\nmax_tokens = 7\npositive_label = "true"\ncontrol_label = "false"\n'
    path = write(tmp_path / "mine.toml", TOML + more)
    stimuli = load_stimuli(path)
    assert (stimuli.name, stimuli.version, stimuli.max_tokens) == ("mine", "2", 7)
    assert (stimuli.positive_label, stimuli.control_label) == ("true", "false")
    assert (stimuli.source, stimuli.positive) == (str(path), texts(ROWS, "positive"))


def test_toml_with_jsonl_in_a_folder_below(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "mine.jsonl", jsonl_of(ROWS))
    write(tmp_path / "mine.toml", 'name = "mine"\ndata = "data/mine.jsonl"')
    monkeypatch.chdir(tmp_path)
    stimuli = load_stimuli("mine.toml")
    assert (stimuli.max_tokens, stimuli.control) == (0, texts(ROWS, "control"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name = 1\nversion = = 2", "bad TOML.*line 2"),
        ("x = " + "[" * 100_000, "bad TOML"),
        ('name = "a"\nname = "b"', "bad TOML"),
        (TOML + "colour = 1", "unknown key 'colour'"),
        (TOML + "max_token = 1", r"unknown key 'max_token'; did you mean 'max_tokens'\?"),
        (TOML + 'max_tokens = "12"', "max_tokens must be a whole number"),
        (TOML + "max_tokens = true", "max_tokens must be a whole number"),
        (TOML + "max_tokens = 1.5", "max_tokens must be a whole number"),
        (TOML + "max_tokens = -1", "max_tokens is -1"),
        (TOML + "version = 2", "version must be a string"),
        ('data = "mine.csv"', "name is missing"),
        ('name = "mine"', "data is missing"),
        ('name = "mine"\ndata = ""', "data is missing"),
        ('name = "mine"\ndata = "../other.csv"', "data must be a file in the folder"),
        ('name = "mine"\ndata = "/etc/hostname"', "data must be a file in the folder"),
        ('name = "mine"\ndata = "link.csv"', "data must be a file in the folder"),
        ('name = "mine"\ndata = "a\\u0000.csv"', "data is no usable path"),
        ('name = "mine"\ndata = "mine.toml"', r"are \.csv, \.jsonl or \.toml"),
        ('name = "mine"\ndata = "gone.csv"', r"cannot read .*gone\.csv"),
        (b"name = '\xff'", r"mine\.toml:1: not UTF-8"),
    ],
)
def test_bad_toml(tmp_path, content, message):
    folder = tmp_path / "inside"
    folder.mkdir()
    write(tmp_path / "other.csv", csv_of(ROWS))
    write(folder / "mine.csv", csv_of(ROWS))
    (folder / "link.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(StimulusError, match=message):
        load_stimuli(write(folder / "mine.toml", content))


def test_absolute_data_is_refused_even_inside(tmp_path):
    data = write(tmp_path / "mine.csv", csv_of(ROWS))
    path = write(tmp_path / "mine.toml", f'name = "mine"\ndata = "{data}"')
    with pytest.raises(StimulusError, match="data must be a file in the folder"):
        load_stimuli(path)


def test_other_packages_localizers(tmp_path, monkeypatch):
    write(tmp_path / "mine.csv", csv_of(ROWS))
    write(tmp_path / "mine.toml", TOML)
    write(
        tmp_path / "stimuli_of_another_package.py",
        "from pathlib import Path\n"
        "from onnxloc.stimuli import StimulusSet\n"
        "FILE = Path(__file__).with_name('mine.toml')\n"
        "READY = StimulusSet(name='r', positive=('a', 'b', 'c'), control=('d', 'e', 'f'))\n"
        "WRONG = 7\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = "stimuli_of_another_package"
    names = {"file": "FILE", "ready": "READY", "wrong": "WRONG", "gone": "GONE"}
    entries = {name: f"{module}:{target}" for name, target in names.items()}
    monkeypatch.setattr(localizers, "LOCALIZERS", Registry("localizer", "none", entries))
    assert load_stimuli("file").positive == texts(ROWS, "positive")
    assert load_stimuli("file").source == "file"
    assert load_stimuli("ready").control == ("d", "e", "f")
    with pytest.raises(StimulusError, match="'wrong' is a int; its package must register"):
        load_stimuli("wrong")
    with pytest.raises(OptionError, match="'gone' cannot be loaded"):
        load_stimuli("gone")


# The published files

COLUMNS = tuple(f"stim{i}" for i in range(1, 15))


def published(kind, stem, count):
    return [(str(i), *(f"{stem}{i}W{j}" for j in range(12)), kind) for i in range(count)]


def test_published_folder(tmp_path):
    write(
        tmp_path / "langloc_fmri_run2_stim_set1.csv", csv_of(published("N", "SECOND", 2), COLUMNS)
    )
    rows = published("S", "First", 3) + published("N", "THIRD", 1)
    write(tmp_path / "langloc_fmri_run1_stim_set2.csv", "\ufeff" + csv_of(rows, COLUMNS))
    write(tmp_path / "langloc_fmri_run1_stim_set2.txt", "not read")
    write(tmp_path / "other.csv", "not read")
    stimuli = load_stimuli(tmp_path)
    assert len(stimuli.positive) == len(stimuli.control) == 3
    assert stimuli.positive[1] == " ".join(f"first1w{j}" for j in range(12))
    assert [text.split()[0] for text in stimuli.control] == ["third0w0", "second0w0", "second1w0"]
    assert (stimuli.max_tokens, stimuli.name) == (12, tmp_path.name)
    assert (stimuli.positive_label, stimuli.control_label) == ("sentences", "nonwords")


def test_published_text_is_stripped_and_lowered(tmp_path):
    row = ["1", " A", *["B"] * 10, "C. ", "S"]
    rows = [row, *published("S", "x", 2), *published("N", "y", 3)]
    write(tmp_path / "langloc_fmri_run1_stim_set1.csv", csv_of(rows, COLUMNS))
    assert load_stimuli(tmp_path).positive[0] == "a " + "b " * 10 + "c."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (csv_of([], COLUMNS[:-1]), r"set1\.csv:1: no column 'stim14'"),
        (csv_of([], (*COLUMNS, "stim15")), r"set1\.csv:1: unknown column 'stim15'"),
        (csv_of([], (*COLUMNS, "stim1")), r"set1\.csv:1: the column 'stim1' stands twice"),
        (csv_of([["1"] * 13], COLUMNS), r"set1\.csv:2: 13 fields, but the header has 14"),
        (csv_of(published("X", "a", 1), COLUMNS), r"set1\.csv:2: stim14 is 'X'; it must be S or N"),
        (csv_of([["1", *["a"] * 11, " ", "S"]], COLUMNS), r"set1\.csv:2: stim13 is empty"),
        (csv_of(published("S", "a", 3), COLUMNS), "has no control text"),
        ("", r"set1\.csv is empty"),
        (b"\xff", r"set1\.csv:1: not UTF-8"),
    ],
)
def test_bad_published_file(tmp_path, content, message):
    write(tmp_path / "langloc_fmri_run1_stim_set1.csv", content)
    with pytest.raises(StimulusError, match=message):
        load_stimuli(tmp_path)


def test_folder_without_published_files(tmp_path):
    with pytest.raises(StimulusError, match=r"holds no file langloc_fmri_run\*_stim_set\*\.csv"):
        load_stimuli(tmp_path)


def test_import_is_light():
    code = (
        "import sys, onnxloc.stimuli as s; s.load_stimuli('language');"
        "heavy = {'onnx', 'onnxruntime', 'pandas', 'scipy', 'numpy', 'wordfreq'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_sentences_stand_before_nonwords_in_the_file():
    with make_nonwords.LANGUAGE_CSV.open(encoding="utf-8", newline="") as file:
        conditions = [row["condition"] for row in csv.DictReader(file)]
    changes = [pair for pair in pairwise(conditions) if pair[0] != pair[1]]
    assert changes == [("positive", "control")]
