"""The localizers that ship: what must hold of their texts, and how others are added."""

import ast
import csv
import re
import tomllib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from onnxloc.stimuli import (
    LOCALIZERS,
    ConditionSet,
    load_conditions,
    load_stimuli,
    make_arithmetic,
    make_math,
    make_memory,
    make_nonwords,
    make_profile,
    make_reasoning,
)
from onnxloc.stimuli.localizer_file import LocalizerFile

pytestmark = pytest.mark.unit

FOLDER = Path(make_nonwords.__file__).parent
PAIRED = ["code", "language", "language-2", "memory", "reasoning", "theory-of-mind"]
SIZES = {
    "code": 100,
    "language": 240,
    "language-2": 64,
    "math": 100,
    "memory": 150,
    "multiple-demand": 100,
    "reasoning": 80,
    "theory-of-mind": 40,
}
MADE = {
    make_arithmetic: "multiple-demand",
    make_math: "math",
    make_memory: "memory",
    make_nonwords: "language",
    make_profile: "profile",
    make_reasoning: "reasoning",
}


def rows_of(name):
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def both(name):
    """The rows of a paired localizer, pair by pair."""
    rows = rows_of(name)
    control = {row["pair"]: row for row in rows if row["condition"] == "control"}
    return [(row, control[row["pair"]]) for row in rows if row["condition"] == "positive"]


def words_of(texts):
    return Counter(word for text in texts for word in re.findall(r"\w+", text))


def close(first, second):
    """Whether two means are within 5 % of one another."""
    return abs(mean(first) - mean(second)) <= 0.05 * max(mean(first), mean(second))


@pytest.fixture(scope="module")
def profile():
    return load_conditions("profile")


@pytest.fixture(scope="module")
def english():
    return make_nonwords.English()


# All of them


def test_these_ship():
    assert list(LOCALIZERS) == sorted([*SIZES, "profile"])
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(LOCALIZERS)


@pytest.mark.parametrize("name", SIZES)
def test_a_localizer_is_whole(name):
    stimuli = load_stimuli(name)
    assert len(stimuli.positive) == len(stimuli.control) == SIZES[name]
    assert len(set(stimuli.positive + stimuli.control)) == 2 * SIZES[name]
    assert all(text == text.strip() for text in stimuli.positive + stimuli.control)
    assert stimuli.paired == (name in PAIRED)
    assert (stimuli.name, stimuli.pool) == (name, "last")
    assert {stimuli.positive_label, stimuli.control_label}.isdisjoint({"positive", "control"})


@pytest.mark.parametrize("name", [*SIZES, "profile"])
def test_a_localizer_says_where_it_comes_from(name):
    path = FOLDER / f"{name}.toml"
    file = LocalizerFile.read(path)
    assert set(tomllib.loads(path.read_text())) >= {
        "name", "version", "title", "description", "data", "max_tokens", "pool", "origin",
        "licence", "effect", "reference",
    }  # fmt: skip
    assert file.name == name
    assert file.licence == "Apache-2.0"
    maker = next((own for own in MADE if own.__name__ in file.made_with), None)
    assert file.seed == (maker.SEED if maker else 0)
    told = {int(number) for number in re.findall(r"\b\d+\b", file.description)}
    stimuli = ConditionSet.of(load_stimuli(name)) if file.is_localizer else load_conditions(name)
    assert {len(own.texts) for own in stimuli.conditions} <= told


# make_nonwords has its own test.
@pytest.mark.parametrize(
    "maker",
    [maker for maker in MADE if maker is not make_nonwords],
    ids=lambda maker: maker.__name__.rpartition(".")[2],
)
def test_the_data_are_what_the_seed_gives(maker, tmp_path, capsys):
    name = LocalizerFile.read(FOLDER / f"{MADE[maker]}.toml").data
    assert maker.main(["--check"]) == 0
    changed = tmp_path / name
    changed.write_text((FOLDER / name).read_text().replace("\n", "\n\n", 1))
    assert maker.main(["--check", "--file", str(changed)]) == 1
    assert maker.main(["--write", "--file", str(changed)]) == 0
    assert changed.read_bytes() == (FOLDER / name).read_bytes()
    capsys.readouterr()


def test_another_seed_gives_other_data():
    assert make_arithmetic.arithmetic_text(1) != make_arithmetic.arithmetic_text()
    assert make_reasoning.reasoning_text(1) != make_reasoning.reasoning_text()
    assert make_memory.memory_text(1) != make_memory.memory_text()
    assert make_math.statements(100, 1) != make_math.statements(100)


def test_a_maker_says_what_file_is_missing(tmp_path, capsys):
    assert make_math.main(["--check", "--file", str(tmp_path / "gone.csv")]) == 2
    assert "gone.csv" in capsys.readouterr().err


# One by one


def test_sums_are_right_and_hard_or_easy():
    stimuli = load_stimuli("multiple-demand")
    form = re.compile(r"Question: What is (\d+) \+ (\d+)\? Answer: (\d+)")
    seen = set()
    for texts, digits in ((stimuli.positive, {3}), (stimuli.control, {1, 2})):
        for text in texts:
            a, b, total = map(int, form.fullmatch(text).groups())
            assert a + b == total
            assert {len(str(a)), len(str(b))} <= digits
            assert frozenset((a, b)) not in seen
            seen.add(frozenset((a, b)))


def test_statements_of_math_are_true():
    stimuli = load_stimuli("math")
    assert not any(char.isdigit() for text in stimuli.control for char in text)
    for text in stimuli.positive:
        statement, _, solution = text.partition(", ")
        code = re.sub(r"(?<=\d)(?=x)", "*", statement)
        code = re.sub(r"(?<![<>=])=(?!=)", "==", code)
        values = [int(solution.partition("= ")[2])] if solution else [-3, 0, 5]
        for x in values if "x" in code else [0]:
            assert eval(code, {"__builtins__": {}}, {"x": x}) is True, text


def test_code_is_python_and_sentences_are_not():
    for code, sentence in both("code"):
        compile(ast.parse(code["text"]), "stimulus", "exec")
        assert re.fullmatch(r"[a-z]+('s)?( [a-z]+('s)?)*", sentence["text"]), sentence
        with pytest.raises(SyntaxError):
            ast.parse(sentence["text"])


def test_facts_use_the_same_words_in_both_conditions():
    stimuli = load_stimuli("memory")
    assert words_of(stimuli.positive) == words_of(stimuli.control)
    sentences = {relation.name: relation.sentence for relation in make_memory.RELATIONS}
    for true, false in both("memory"):
        name, _, subject = true["pair"].partition(": ")
        start = sentences[name].format(subject, "\n").partition("\n")[0]
        assert true["text"].startswith(start)
        assert false["text"].startswith(start)


def test_facts_are_true_once_and_false_facts_are_not_called_true():
    stimuli = load_stimuli("memory")
    for relation in make_memory.RELATIONS:
        true = {relation.sentence.format(*pair) for pair in relation.pairs}
        doubtful = {relation.sentence.format(*pair) for pair in relation.not_wrong}
        assert true <= set(stimuli.positive)
        assert doubtful.isdisjoint(stimuli.control)
        assert len({subject for subject, _ in relation.pairs}) == len(relation.pairs)


def test_stories_are_matched():
    pairs = both("theory-of-mind")
    beliefs, photographs = ([row[side]["text"] for row in pairs] for side in (0, 1))
    for belief, photograph in zip(beliefs, photographs, strict=True):
        ends = [len(re.findall(r"[.?](?= )", text)) for text in (belief, photograph)]
        assert ends == [5, 5]
        assert abs(len(belief.split()) - len(photograph.split())) <= 4
    assert close([len(text.split()) for text in beliefs], [len(t.split()) for t in photographs])
    for side in (0, 1):
        answers = Counter(row[side]["answer"] for row in pairs)
        assert answers == {"True": 20, "False": 20}
    ending = re.compile(r" Question: True or false\? [A-Z][^.]+\. Answer:$")
    assert all(ending.search(text) for text in beliefs + photographs)
    think = re.compile(r"(thinks|believes|expects) ")
    assert all(think.search(text.partition("Question:")[2]) for text in beliefs)
    assert not any(think.search(text) for text in photographs)


def test_word_problems_are_matched_and_their_answers_positive():
    for several, one in both("reasoning"):
        assert len(several["text"].split()) == len(one["text"].split())
        assert several["text"].count(". ") == one["text"].count(". ")
        assert int(several["answer"]) > 0 < int(one["answer"])
        assert people_in(several["text"]) == people_in(one["text"]) != set()


def people_in(text):
    return {name for name, _ in make_reasoning.PEOPLE} & set(text.replace(".", "").split())


# What each form of a story comes to, from the numbers in it.
SOLUTIONS = [
    (r"has (\d+) .* buys (\d+) bags with (\d+).*gives (\d+)", lambda a, b, c, d: a + b * c - d),
    (r"bakes (\d+) trays.*with (\d+).*sells (\d+).*and (\d+)", lambda a, b, c, d: a * b - c - d),
    (r"for (\d+) hours at (\d+).*drives (\d+).*is (\d+)", lambda a, b, c, d: d - a * b - c),
    (r"buys (\d+) notebooks for (\d+).*for (\d+).*with (\d+)", lambda a, b, c, d: d - a * b - c),
    (
        r"plants (\d+) rows.*with (\d+).*eat (\d+).*between (\d+)",
        lambda a, b, c, d: (a * b - c) / d,
    ),
    (r"with (\d+) shelves and (\d+).*borrow (\d+).*back (\d+)", lambda a, b, c, d: a * b - c + d),
    (r"is (\d+) years old\. \w+ sister is (\d+).*is (\d+) times", lambda a, b, c: (a + b) * c),
    (r"are (\d+) liters.*fills (\d+).*with (\d+).*adds (\d+)", lambda a, b, c, d: a - b * c + d),
    (r"are (\d+) tables.*with (\d+).*carries (\d+).*Then (\d+)", lambda a, b, c, d: a * b + c - d),
    (
        r"has (\d+) pages\. \w+ reads (\d+).*for (\d+).*reads (\d+)",
        lambda a, b, c, d: a - b * c - d,
    ),
    (r"has (\d+) (?!pages).*tin.*gives (\d+)", lambda a, b: a - b),
    (r"bakes (\d+) rolls.*sells (\d+)", lambda a, b: a - b),
    (r"leaves home.*drives (\d+).*is (\d+)", lambda a, b: b - a),
    (r"one notebook for (\d+).*with (\d+)", lambda a, b: b - a),
    (r"shares (\d+) large.*between (\d+)", lambda a, b: a / b),
    (r"with (\d+) books and two chairs.*borrow (\d+)", lambda a, b: a - b),
    (r"is (\d+) years old\..*walks.*is (\d+) times", lambda a, b: a * b),
    (r"are (\d+) liters.*painted.*adds (\d+)", lambda a, b: a + b),
    (r"are (\d+) chairs.*Then (\d+)", lambda a, b: a - b),
    (r"has (\d+) pages.*market.*reads (\d+)", lambda a, b: a - b),
]


def test_word_problems_have_the_right_answers():
    used = Counter()
    for row in rows_of("reasoning"):
        fitting = [
            (number, solve(*map(int, found.groups())))
            for number, (form, solve) in enumerate(SOLUTIONS)
            if (found := re.search(form, row["text"]))
        ]
        assert [answer for _, answer in fitting] == [int(row["answer"])], row
        used[fitting[0][0]] += 1
    assert used == dict.fromkeys(range(len(SOLUTIONS)), 8)


# The profile


def test_the_profile_has_its_conditions(profile):
    assert profile.names == make_profile.CONDITIONS
    assert [len(own.texts) for own in profile.conditions] == [64] * 6 + [66]
    assert profile["word-lists"].label == "word lists"
    texts = [text for own in profile.conditions for text in own.texts]
    assert len(set(texts)) == len(texts)
    others = {
        text
        for name in SIZES
        if name != "language-2"
        for own in load_conditions(name).conditions
        for text in own.texts
    }
    assert others.isdisjoint(texts)


def test_words_of_the_profile_are_twelve(profile):
    for name in ("sentences", "word-lists", "jabberwocky", "nonwords"):
        for text in profile[name].texts:
            assert re.fullmatch(r"[a-z]{2,}( [a-z]{2,}){11}", text), text
    language = {tuple(run) for text in load_stimuli("language").positive for run in fours(text)}
    sentences = Counter(run for text in profile["sentences"].texts for run in fours(text))
    assert language.isdisjoint(sentences)
    assert max(sentences.values()) == 1


def fours(text):
    words = text.split()
    return list(zip(words, words[1:], words[2:], words[3:], strict=False))


def test_word_lists_are_scrambled(profile):
    frames = [row["text"] for row in rows_of("profile-frames")]
    assert words_of(frames) == words_of(profile["word-lists"].texts)
    neighbours = {pair for text in frames for pair in pairwise(text.split())}
    for text in profile["word-lists"].texts:
        found = list(pairwise(text.split()))
        assert neighbours.isdisjoint(found)
        assert not any(first == second for first, second in found)


def test_jabberwocky_keeps_function_words_and_endings(profile):
    kept = make_profile.FUNCTION_WORDS
    frames = [row["text"] for row in rows_of("profile-frames")]
    assert kept <= set(words_of(frames))
    for frame, text in zip(frames, profile["jabberwocky"].texts, strict=True):
        for word, other in zip(frame.split(), text.split(), strict=True):
            assert (word == other) == (word in kept), (word, other)
            if word not in kept and word.endswith("ing") and len(word) > 5:
                assert other.endswith("ing")


def test_nonwords_are_new_and_no_words(profile, english):
    taken = set(words_of(load_stimuli("language").control))
    own = set(words_of(profile["nonwords"].texts))
    jabberwocky = set(words_of(profile["jabberwocky"].texts)) - make_profile.FUNCTION_WORDS
    assert taken.isdisjoint(own)
    assert taken.isdisjoint(jabberwocky)
    assert own.isdisjoint(jabberwocky)
    assert [word for word in own | jabberwocky if english.is_word(word)] == []
    unwanted = make_nonwords.UNWANTED
    assert [word for word in own | jabberwocky if any(part in word for part in unwanted)] == []
    for sentence, text in zip(profile["sentences"].texts, profile["nonwords"].texts, strict=True):
        assert len(text) == max(len(sentence), 59)


def test_texts_are_spelled_right(profile):
    from spylls.hunspell import Dictionary

    spelling = Dictionary.from_files("en_US")
    frames = [row["text"] for row in rows_of("profile-frames")]
    texts = [*profile["sentences"].texts, *frames, *load_stimuli("math").control]
    texts += load_stimuli("code").control
    for name in ("memory", "reasoning", "theory-of-mind"):
        texts += load_stimuli(name).positive + load_stimuli(name).control
    # Names and symbols of elements are capitalised.
    words = {word for word in words_of(texts) if word.islower()}
    assert sorted(word for word in words if not spelling.lookup(word)) == []


def test_arithmetic_and_code_of_the_profile(profile):
    for text in profile["arithmetic"].texts:
        assert eval(text.replace("=", "=="), {"__builtins__": {}}) is True
    for text in profile["code"].texts:
        compile(text, "stimulus", "exec")


def test_other_languages_are_even(profile):
    ids = Counter(row["id"].partition("-")[0] for row in rows_of("profile") if row["id"])
    assert ids == dict.fromkeys(
        ["spanish", "french", "german", "italian", "portuguese", "dutch"], 11
    )
    assert all(text == text.lower() for text in profile["other-languages"].texts)
