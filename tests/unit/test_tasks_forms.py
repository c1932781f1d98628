"""Reading and scoring tasks of choices, last words, formulas and BLiMP's folder."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.errors import TaskError
from onnxloc.tasks import Item, Task, list_tasks, load_task
from onnxloc.tasks.arithmetic import generate_arithmetic
from onnxloc.tasks.blimp import PARADIGMS
from onnxloc.tasks.formula import parse_formula
from onnxloc.tasks.spans import tokens_of_spans

pytestmark = pytest.mark.unit


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def by_character(text: str) -> np.ndarray:
    """A token for each character."""
    return np.array([[i, i + 1] for i in range(len(text))])


# Spans


def test_a_token_belongs_where_its_last_character_is() -> None:
    text = "The cat  sat."
    spans = ((0, 3), (3, 7), (7, 13))
    with_blanks = np.array([[0, 3], [3, 7], [7, 8], [8, 12], [12, 13]])
    trimmed = np.array([[0, 3], [4, 7], [8, 8], [9, 12], [12, 13]])
    for offsets in (with_blanks, trimmed):
        assert tokens_of_spans(text, offsets, spans).tolist() == [0, 1, 2, 2, 2]
    assert tokens_of_spans(text, np.array([[0, 7], [7, 13]]), spans).tolist() == [1, 2]
    assert tokens_of_spans(text, trimmed, ((9, 12),)).tolist() == [-1, -1, 0, 0, -1]


@given(st.text(alphabet="ab .é", min_size=1, max_size=20), st.data())
def test_spans_that_cover_a_text_take_every_token_once(text: str, data: st.DataObject) -> None:
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=3))})
    spans = tuple(pairwise(cuts))
    found = tokens_of_spans(text, by_character(text), spans)
    assert ((found >= 0) & (found < len(spans))).all()
    assert (np.diff(found) >= 0).all()


# Choice


QUESTION = {"question": "Two and two are ", "choices": ["four", "fourteen"], "answer": 0}


@pytest.mark.parametrize(
    ("form", "right"), [("choice", 1.0), ("choice-bytes", 1.0), ("choice-none", 0.0)]
)
def test_a_choice_is_normalised_by_its_length(tmp_path: Path, form: str, right: float) -> None:
    long_answer = {"question": "Say", "choices": ["abcd", "é"], "answer": "abcd"}
    task = load_task(f"{form}:{write(tmp_path / 'q.jsonl', long_answer)}")
    assert (task.kind, task.metric, task.chance) == ("choice", "accuracy", 0.5)
    texts = task.items[0].texts
    assert texts == ("Say abcd", "Say é")
    # Every token in the question counts for nothing; -1 a character for "abcd", -2.5 in all for é.
    logprobs = [np.array([np.nan] * 4 + [-1.0] * 4), np.array([np.nan] * 3 + [0.0, -2.5])]
    offsets = [
        np.array([[0, 1], [1, 2], [2, 3], [2, 3], [4, 5], [5, 6], [6, 7], [7, 8]]),
        by_character(texts[1]),
    ]
    # Tokens: -4/4 against -2.5/2; bytes: -4/4 against -2.5/2; whole: -4 against -2.5.
    assert task.score([logprobs], [offsets]).tolist() == [right]


def test_lengths_in_bytes_and_in_characters_differ() -> None:
    item = Item("a", "g", ("Q ab", "Q éé"), spans=(((1, 4),), ((1, 4),)), answer=1)
    logprobs = [np.array([0, 0, -3.0, 0.0]), np.array([0, 0, -4.0, -1.0])]
    offsets = [by_character(text) for text in item.texts]
    by_bytes, by_characters = (
        Task("t", "choice", (item,), "here", length).score([logprobs], [offsets]).tolist()
        for length in ("bytes", "characters")
    )
    assert (by_bytes, by_characters) == ([1.0], [0.0])


def test_ties_and_nan_are_wrong_choices() -> None:
    item = Item("a", "g", ("Q a", "Q b"), spans=(((1, 3),), ((1, 3),)))
    task = Task("t", "choice", (item,), "here")
    offsets = [[by_character(text) for text in item.texts]]
    for own, other in ((-1.0, -1.0), (np.nan, -1.0), (-1.0, np.nan)):
        logprobs = [[np.array([0, 0, own]), np.array([0, 0, other])]]
        assert task.score(logprobs, offsets).tolist() == [0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 2}, r"q.jsonl:1: answer must be the index"),
        ({"answer": True}, "answer must be"),
        ({"answer": "five"}, "answer must be"),
        ({"choices": ["four"]}, "two strings or more"),
        ({"choices": ["four", " four"]}, "two choices are the same"),
        ({"choices": ["four", ""]}, "not blank"),
        ({"question": " "}, "question is empty"),
        ({"question": 3}, "question must be a string"),
    ],
)
def test_malformed_choices_name_file_and_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "q.jsonl", QUESTION | changes)
    with pytest.raises(TaskError, match=message) as caught:
        load_task(f"choice:{path}")
    assert "q.jsonl:1" in str(caught.value)


# Cloze


def test_cloze_is_right_when_each_token_of_the_last_word_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"text": "The sun is hot"}, {"text": "It is a dog"})
    task, logprob = load_task(f"cloze:{path}"), load_task(f"cloze-logprob:{path}")
    offsets = [[by_character(item.texts[0])] for item in task.items]
    scores = [[np.where(np.arange(n) >= n - 3, -1.0, np.nan)] for n in (14, 11)]
    scores = [[np.append(row[0][:-4], [-0.5, -1, -1, -1])] for row in scores]
    won = [[np.arange(14) >= 10], [np.arange(11) >= 9]]
    assert task.score(scores, offsets, won).tolist() == [1.0, 0.0]
    assert task.metric == "accuracy"
    assert task.chance is None
    assert logprob.score(scores, offsets).tolist() == [-3.5, -3.5]
    assert [mask.sum() for mask in task.wanted([row[0] for row in offsets])] == [4, 4]


def test_cloze_reads_lines_and_refuses_single_words(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("the dog sleeps\n\nword\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"c.txt:3: a last word needs a text"):
        load_task(f"cloze:{path}")


def test_what_no_token_scores_is_an_error() -> None:
    item = Item("a", "g", ("ab c",), spans=(((2, 4),),))
    with pytest.raises(TaskError, match="no token of its own"):
        Task("t", "cloze", (item,), "here").wanted([np.array([[0, 2]])])


# Arithmetic


def test_arithmetic_is_right_and_its_choices_have_one_length() -> None:
    items = generate_arithmetic(seed=3, n=20)
    assert len(items) == 120
    for item in items:
        question, _, _ = item.texts[0].partition(" =")
        a, sign, b = question.split()
        answers = [int(text.rpartition(" ")[2]) for text in item.texts]
        assert answers[item.answer] == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert len(set(answers)) == 4
        assert len({len(str(answer)) for answer in answers}) == 1
    assert items == generate_arithmetic(seed=3, n=20)
    assert items != generate_arithmetic(seed=4, n=20)
    # Always to choose one place, or the greatest number, gains nothing.
    places = [item.answer for item in items]
    assert all(10 < places.count(place) < 50 for place in range(4))
    with pytest.raises(TaskError, match="ask for fewer"):
        generate_arithmetic(n=1000)


def test_arithmetic_is_a_named_task() -> None:
    task = load_task("arithmetic")
    assert (task.kind, task.length, task.chance) == ("choice", "none", 0.25)
    names = [name for name, _ in list_tasks()]
    assert {"arithmetic", "pairs", "blimp:PATH", "syntaxgym:PATH", "PATH"} <= set(names)
    with pytest.raises(TaskError, match="'chioce:'; did you mean 'choice'"):
        load_task("chioce:q")


# Formulas


REGIONS = {"a": (1, 2, 3), "b_x-1": (1, 2, 3)}
# Surprisals of regions 0 (the sentence) to 3 of both conditions.
VALUES = {0: (9.0, 1.0, 5.0, 3.0), 1: (6.0, 1.0, 2.0, 3.0)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(2;%a%) > (2;%b_x-1%)", True),
        ("((2;%a%)>(2;%b_x-1%))&((3;%a%)<(3;%b_x-1%))", False),
        ("((2;%a%)>(2;%b_x-1%))|((3;%a%)<(3;%b_x-1%))", True),
        ("(1;%a%) = (1;%b_x-1%)", True),
        ("(2;%a%) = (2;%b_x-1%)", False),
        ("(*;%a%) = (1;%a%) + (2;%a%) + (3;%a%)", True),
        ("(2;%a%) - (3;%a%) - (1;%a%) > 0.5", True),
        ("(2;%a%) - ((3;%a%) - (1;%a%)) > 2.5", True),
        ("(((2;%a%) - (3;%a%)) < 0) | (((2;%b_x-1%) - (3;%b_x-1%)) < 0)", True),
        ("-(2;%a%) < -4", True),
        ("((1;%a%) < 2) | ((1;%a%) < 2) & ((1;%a%) > 2)", True),
        (" ( ( (2 ; % a % ) ) > 4.9 ) ", True),
    ],
)
def test_formulas(text: str, expected: bool) -> None:
    formula = parse_formula(text, REGIONS, "here")
    # The conditions are numbered in the order in which the formula names them.
    order = [list(REGIONS).index(name) for name in formula.conditions]
    assert formula.holds(lambda text, region: VALUES[order[text]][region]) is expected


def test_a_comparison_with_nan_does_not_hold() -> None:
    for sign in "<>=":
        formula = parse_formula(f"(1;%a%) {sign} 0", REGIONS, "here")
        assert not formula.holds(lambda text, region: float("nan"))


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("(2;%a%) > (2;%c%)", 11, "no condition 'c'"),
        ("(2;%a%) > (4;%a%)", 11, "no region 4"),
        ("(2;%a%)", 8, "comparison"),
        ("(2;%a%) > ", 11, "ends too early"),
        ("(2;%a%) > 1 1", 13, "should end here"),
        ("((2;%a%) > 1", 13, "closing parenthesis"),
        ("(2;%a%) * 2 > 1", 9, "no part of a formula"),
        ("__import__('os') > 1", 1, "no part of a formula"),
        ("& > 1", 1, "should stand here"),
        ("", 1, "too early"),
        ("(" * 80 + "1" + ")" * 80 + " > 0", 52, "nested too deep"),
        ("1+" * 300 + "1 > 0", 201, "at most 200 parts"),
        (f"({'9' * 5000};%a%) > 0", 1, "no region"),
    ],
)
def test_formulas_that_do_not_parse_name_the_column(text: str, column: int, why: str) -> None:
    with pytest.raises(TaskError, match=why) as caught:
        parse_formula(text, REGIONS, "suite.json:4")
    assert f"suite.json:4, column {column}:" in str(caught.value)


@given(st.text(alphabet="(2;%a%)<>=&|+-* 1.", max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        formula = parse_formula(text, REGIONS, "here")
    except TaskError:
        return
    assert formula.holds(lambda text, region: 1.0) in (True, False)


# SyntaxGym


def suite(**changes: object) -> dict[str, object]:
    def condition(name: str, *contents: str) -> dict[str, object]:
        regions = [{"region_number": i, "content": c} for i, c in enumerate(contents, 1)]
        return {"condition_name": name, "regions": regions}

    base = {
        "meta": {"name": "gap", "metric": "sum"},
        "predictions": [
            {"type": "formula", "formula": "(3;%good%) < (3;%bad%)"},
            {"type": "formula", "formula": "(*;%good%) < (*;%bad%)"},
        ],
        "items": [
            {
                "item_number": 1,
                "conditions": [
                    condition("good", "The dog", "", "barks", "."),
                    condition("bad", "The dog", "that", "bark", "."),
                    condition("unused", "Not", "run", "at", "all"),
                ],
            }
        ],
    }
    return base | changes


def test_a_suite_is_scored_by_its_formulas(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite(), indent=1), encoding="utf-8")
    task = load_task(f"syntaxgym:{path}")
    assert (task.name, task.kind, len(task.items)) == ("syntaxgym:gap", "formula", 2)
    first, _ = task.items
    assert first.texts == ("The dog barks .", "The dog that bark .")
    assert first.spans[0] == ((0, 7), (7, 7), (7, 13), (13, 15))
    offsets = [np.array([[0, 3], [4, 7], [8, 13], [14, 15]])]
    offsets.append(np.array([[0, 3], [4, 7], [8, 12], [13, 17], [18, 19]]))
    good, bad = np.array([-9.0, -9, -1, -9]), np.array([-1.0, -1, -1, -2, -1])
    scores = task.score([[good, bad]] * 2, [offsets] * 2)
    assert scores.tolist() == [1.0, 0.0]
    wanted = task.wanted(offsets * 2)
    assert [mask.tolist() for mask in wanted[:2]] == [
        [False, False, True, False],
        [False, False, False, True, False],
    ]
    assert all(mask.all() for mask in wanted[2:])
    # What the first formula does not read may be missing.
    bare = [np.where(mask, row, np.nan) for mask, row in zip(wanted, (good, bad), strict=False)]
    assert task.score([bare, [good, bad]], [offsets] * 2).tolist() == [1.0, 0.0]


def test_surprisals_are_in_bits(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    formula = {"type": "formula", "formula": "(3;%good%) = 2"}
    path.write_text(json.dumps(suite(predictions=[formula])), encoding="utf-8")
    task = load_task(f"syntaxgym:{path}")
    offsets = [np.array([[0, 3], [4, 7], [8, 13], [14, 15]])]
    quarter = np.array([0, 0, np.log(0.25), 0])
    assert task.score([[quarter]], [offsets]).tolist() == [1.0]


def test_a_bad_formula_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    wrong = [{"type": "formula", "formula": "(3;%good%) < (3;%bda%)"}]
    path.write_text(json.dumps(suite(predictions=wrong), indent=1), encoding="utf-8")
    with pytest.raises(TaskError, match=r"suite.json:9: prediction 1 .*column 14.*'bad'"):
        load_task(f"syntaxgym:{path}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": []}, "'items' must be a list"),
        ({"predictions": [{"type": "python", "formula": "1"}]}, "type must be 'formula'"),
        ({"predictions": [{"type": "formula", "formula": "1 < 2"}]}, "names no region"),
        ({"meta": {"name": "x", "metric": "mean"}}, "sum"),
        ({"items": [{"conditions": [{"condition_name": "good"}]}]}, "'regions'"),
    ],
)
def test_malformed_suites(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write(tmp_path / "suite.json", suite(**changes))
    with pytest.raises(TaskError, match=message) as caught:
        load_task(f"syntaxgym:{path}")
    assert "suite.json" in str(caught.value)


def test_a_suite_that_is_no_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text('{"meta":\n oops}', encoding="utf-8")
    with pytest.raises(TaskError, match=r"suite.json:2: not JSON: .* at column 2"):
        load_task(f"syntaxgym:{path}")


# BLiMP


def blimp_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        pair = {"sentence_good": "He is.", "sentence_bad": "He are.", "UID": name}
        more = {"field": "own field", "linguistics_term": "s-selection", "pairID": "0"}
        write(folder / f"{name}.jsonl", pair | more)
    return folder


def test_the_published_table() -> None:
    assert len(PARADIGMS) == 67
    assert {field for field, _ in PARADIGMS.values()} == {
        "morphology",
        "syntax",
        "semantics",
        "syntax_semantics",
    }
    terms = [term for _, term in PARADIGMS.values()]
    # The number of paradigms of each phenomenon, from table 1 of the paper.
    assert {term: terms.count(term) for term in set(terms)} == {
        "anaphor_agreement": 2,
        "argument_structure": 9,
        "binding": 7,
        "control_raising": 5,
        "determiner_noun_agreement": 8,
        "ellipsis": 2,
        "filler_gap_dependency": 7,
        "irregular_forms": 2,
        "island_effects": 8,
        "npi_licensing": 7,
        "quantifiers": 4,
        "subject_verb_agreement": 6,
    }


def test_blimp_says_what_is_missing_and_what_is_added(tmp_path: Path) -> None:
    names = [name for name in PARADIGMS if name not in ("passive_1", "wh_island")]
    task = load_task(f"blimp:{blimp_folder(tmp_path / 'b', [*names, 'mine'])}")
    assert (task.name, len(task.items)) == ("blimp", 66)
    missing, added, odd = task.notes
    assert missing == "65 of BLiMP's 67 paradigms; missing: passive_1, wh_island"
    assert added == "no paradigms of BLiMP: mine"
    assert "transitive (1)" in odd
    by_group = {item.group: (item.field, item.term) for item in task.items}
    assert by_group["animate_subject_trans"] == ("syntax", "argument_structure")
    assert by_group["mine"] == ("own field", "s-selection")


def test_blimp_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is no folder"):
        load_task(f"blimp:{tmp_path / 'none'}")
    with pytest.raises(TaskError, match="none of BLiMP's 67"):
        load_task(f"blimp:{blimp_folder(tmp_path / 'b', ['mine'])}")
