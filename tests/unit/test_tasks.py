import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxloc.errors import TaskError
from onnxloc.registry import Registry
from onnxloc.tasks import Item, Task, TaskInputs, load, load_task, perplexity, readers, text_task
from onnxloc.tasks import pairs_lexicon as words
from onnxloc.tasks.pairs import generate_pairs
from onnxloc.tasks.pairs_templates import PHENOMENA

pytestmark = pytest.mark.unit

PAIRS_HASH = "28be45d9e1879ffeb462ccbad1d261d97705e3505c5179b11a33feea2ea937d6"


def pairs_task(*items: Item) -> Task:
    return Task("t", "pairs", items, "here")


def item(name: str, group: str = "g") -> Item:
    return Item(name, group, ("Good.", "Bad."))


# The value of a task


def test_score_of_pairs_by_hand() -> None:
    nan, inf = np.nan, np.inf
    cases = [
        ([-1.0, -2.0], [-1.0, -2.5], 1.0),
        ([-1.0, -2.5], [-3.0], 0.0),  # the sum counts, not the mean
        ([-1.0, -2.0], [-3.0], 0.0),  # a tie
        ([-1.0, nan], [-9.0], 0.0),
        ([-1.0], [nan], 0.0),
        ([-1.0], [-inf], 1.0),
        ([-inf], [-inf], 0.0),
    ]
    task = pairs_task(*(item(str(i)) for i in range(len(cases))))
    scores = task.score([[np.array(good), np.array(bad)] for good, bad, _ in cases])
    assert scores.dtype == np.float64
    assert scores.tolist() == [want for _, _, want in cases]
    assert (task.metric, task.chance) == ("accuracy", 0.5)


def test_score_and_perplexity_of_text_by_hand() -> None:
    task = text_task("text", ["One.", "Two.", "Three."], "here")
    scores = task.score([[np.array([-1.0, -3.0])], [np.array([-5.0])], [np.array([-1.0, np.nan])]])
    np.testing.assert_array_equal(scores, [-2.0, -5.0, np.nan])
    assert (task.metric, task.chance) == ("mean log-probability", None)
    assert perplexity(scores[:2], np.array([2, 1])) == pytest.approx(np.exp(3.0), rel=1e-15)
    assert np.isnan(perplexity(scores, np.array([2, 1, 2])))
    assert perplexity(np.array([-1e6]), np.array([1])) == np.inf


@given(st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=6), min_size=1, max_size=6))
def test_perplexity_is_that_of_all_tokens_together(rows: list[list[float]]) -> None:
    task = text_task("text", ["A line."] * len(rows), "here")
    scores = task.score([[np.array(row)] for row in rows])
    counts = np.array([len(row) for row in rows])
    want = np.exp(-np.mean(list(chain.from_iterable(rows))))
    assert perplexity(scores, counts) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    "logprobs",
    [[], [[np.zeros(2)]], [[np.zeros(2), np.zeros(0)]], [[np.zeros(2), np.zeros((1, 2))]]],
)
def test_score_refuses_what_does_not_fit(logprobs: list[list[np.ndarray]]) -> None:
    with pytest.raises(TaskError, match="task t"):
        pairs_task(item("a")).score(logprobs)


@pytest.mark.parametrize(("scores", "counts"), [([], []), ([-1.0], [0]), ([-1.0], [1, 1])])
def test_perplexity_refuses_what_does_not_fit(scores: list[float], counts: list[int]) -> None:
    with pytest.raises(TaskError, match="token count"):
        perplexity(np.array(scores), np.array(counts, dtype=np.int64))


@pytest.mark.parametrize(
    ("kind", "items", "message"),
    [
        ("odd", (item("a"),), "kind 'odd'"),
        ("pairs", (), "no items"),
        ("pairs", (item("a"), item("b"), item("a")), "'a' occurs 2 times"),
        ("text", (item("a"),), "needs 1 text"),
        ("pairs", (Item("a", "g", ("Good.", "")),), "none of them empty"),
    ],
)
def test_a_task_refuses_what_is_none(kind: str, items: tuple[Item, ...], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Task("t", kind, items, "here")  # type: ignore[arg-type]


def test_limited_keeps_the_first_of_each_group() -> None:
    task = pairs_task(item("a1", "a"), item("b1", "b"), item("a2", "a"), item("a3", "a"))
    assert [kept.id for kept in task.limited(2).items] == ["a1", "b1", "a2"]
    assert [kept.id for kept in task.limited(1).items] == ["a1", "b1"]
    assert task.limited(2).source == f"{task.source}, first 2 of each group"
    assert task.limited(9) is task
    with pytest.raises(TaskError, match="at least 1"):
        task.limited(0)


def test_hash_is_of_all_that_matters_in_order() -> None:
    first, second = item("a"), item("b")
    task = pairs_task(first, second)
    assert task.hash == Task("other", "pairs", (first, second), "there").hash
    others = [
        pairs_task(second, first),
        pairs_task(first),
        pairs_task(first, item("b", "h")),
        pairs_task(first, Item("b", "g", ("Bad.", "Good."))),
        pairs_task(first, Item("b", "g", ("Good.", "Bad."), "f")),
        text_task("text", ["Good.", "Bad."], "here"),
    ]
    assert len({task.hash, *(other.hash for other in others)}) == 1 + len(others)
    assert task.limited(1).hash == pairs_task(first).hash != task.hash


# Reading


def record(**changes: object) -> dict[str, object]:
    """A record with the published keys; a key set to None is left out."""
    base = {"sentence_good": "He is.", "sentence_bad": "He are.", "UID": "be", "field": "syntax"}
    return {key: value for key, value in (base | changes).items() if value is not None}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_blimp_file(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", record(pairID="0", linguistics_term="x"))
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(record(field=None, UID="two")) + "\r\n")
    task = load_task(str(path))
    assert (task.name, task.kind, task.source) == ("one", "pairs", str(path))
    assert task.items == (
        Item("one:1", "be", ("He is.", "He are."), "syntax", "x"),
        Item("one:3", "two", ("He is.", "He are."), ""),
    )


def test_blimp_folder(tmp_path: Path) -> None:
    folder = tmp_path / "blimp"
    folder.mkdir()
    write(folder / "b.jsonl", record(UID="b"))
    write(folder / "a.jsonl", record(UID="a"), record(UID="a"))
    (folder / "README.md").write_text("no pairs", encoding="utf-8")
    task = load_task(str(folder))
    assert task.name == "blimp"
    assert [(i.id, i.group) for i in task.items] == [("a:1", "a"), ("a:2", "a"), ("b:1", "b")]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
WORDS = TEXT.filter(str.strip)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, TEXT), min_size=1, max_size=5), st.booleans())
def test_blimp_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str, str]],
    escaped: bool,
) -> None:
    assume(all(good.strip() != bad.strip() for good, bad, _, _ in rows))
    path = tmp_path_factory.mktemp("blimp") / "pairs.jsonl"
    records = [
        {"sentence_good": good, "sentence_bad": bad, "UID": uid, "field": field, "more": [1]}
        for good, bad, uid, field in rows
    ]
    lines = [json.dumps(r, ensure_ascii=escaped) + "\n" for r in records]
    path.write_bytes("".join(lines).encode())
    assert load_task(str(path)).items == tuple(
        Item(f"pairs:{n}", uid, (good, bad), field)
        for n, (good, bad, uid, field) in enumerate(rows, start=1)
    )


GOOD_LINE = json.dumps(record()).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"not JSON: .* at column 2"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON that can be read"),
        (b"[1]", "one JSON object"),
        *(
            (json.dumps(record(**{key: None})).encode(), f"the key '{key}' is missing")
            for key in ("sentence_good", "sentence_bad", "UID")
        ),
        (json.dumps(record(sentence_good=" ")).encode(), "sentence_good is empty"),
        (json.dumps(record(UID="")).encode(), "UID is empty"),
        (json.dumps(record(sentence_bad=3)).encode(), "sentence_bad must be a string"),
        (json.dumps(record(field=[])).encode(), "field must be a string"),
        (json.dumps(record(sentence_bad="He is. ")).encode(), "are the same"),
        (json.dumps(record(UID="a\0b")).encode(), "UID holds a NUL"),
        (json.dumps(record(sentence_good="\ud800")).encode(), "half a surrogate pair"),
        (b"\xff", "not UTF-8"),
        (b"\0", "NUL"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bad_lines_are_named(tmp_path: Path, line: bytes, message: str, mark: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(mark + GOOD_LINE + b"\n" + line)
    with pytest.raises(TaskError, match=rf"^{re.escape(str(path))}:3: .*{message}") as caught:
        load_task(str(path))
    assert "\n" not in str(caught.value)


def test_bad_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(TaskError, match=r"holds no \.jsonl file"):
        load_task(str(folder))
    (folder / "blank.jsonl").write_text("\n \n")
    with pytest.raises(TaskError, match=r"blank\.jsonl holds no pairs"):
        load_task(str(folder))
    outside = write(tmp_path / "outside.jsonl", record())
    (folder / "blank.jsonl").unlink()
    (folder / "link.jsonl").symlink_to(outside)
    with pytest.raises(TaskError, match=r"link\.jsonl is a link"):
        load_task(str(folder))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(TaskError, match="is not a file"):
        load_task(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "pairs.txt").write_text("Words.")
    with pytest.raises(TaskError, match=r"no \.jsonl file .* text:"):
        load_task(str(tmp_path / "pairs.txt"))
    (folder / "link.jsonl").unlink()
    write(folder / "a.jsonl", record())
    write(folder / "b.jsonl", record())
    monkeypatch.setattr(readers, "MAX_BYTES", (folder / "a.jsonl").stat().st_size)
    assert len(load_task(str(folder / "a.jsonl")).items) == 1
    with pytest.raises(TaskError, match=r"b\.jsonl: a task may hold at most"):
        load_task(str(folder))


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes("\ufeffOne line.\r\n\n  Two\u2028lines. \n".encode())
    task = load_task(f"text:{path}")
    assert (task.name, task.kind, task.source) == ("text:poem", "text", str(path))
    assert task.items == (
        Item("text:poem:1", "text", ("One line.",)),
        Item("text:poem:3", "text", ("Two\u2028lines.",)),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", " holds no line"),
        (b" \n\t\n", " holds no line"),
        (b"a\n\xff", ":2: not UTF-8"),
        (b"a\n\nb\0", ":3: a NUL"),
    ],
)
def test_bad_text_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(TaskError, match=re.escape(str(path)) + message):
        load_task(f"text:{path}")


def test_sentences_of_the_caller() -> None:
    task = load_task("text", TaskInputs(("One.", "", "Two."), "set a"))
    assert (task.name, task.kind, task.source) == ("text", "text", "set a")
    assert [(i.id, i.texts) for i in task.items] == [("text:1", ("One.",)), ("text:3", ("Two.",))]
    with pytest.raises(TaskError, match="text:PATH"):
        load_task("text")
    with pytest.raises(TaskError, match="here:2: the line holds a NUL"):
        text_task("t", ["fine", "a\0b"], "here")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pears", "no task 'pears'; did you mean 'pairs'.*BLiMP"),
        ("test:x", "'test:'; did you mean 'text'"),
        ("text:", "needs the path"),
        ("text:/nowhere/at/all", "cannot read /nowhere/at/all"),
        ("text:.", "not a file"),
        ("gone.jsonl", "no task file or folder"),
        ("some/where", "no task file or folder"),
        ("", "is no task"),
        ("a\0b", "is no task"),
        ("x" * 5000, "cannot read"),
    ],
)
def test_unknown_specs(spec: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(spec)


def test_registered_tasks_must_give_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("task", "none", {"odd": "builtins:repr", "gone": "no_such_module:x"})
    monkeypatch.setattr(load, "TASKS", registry)
    with pytest.raises(TaskError, match="'odd' gave a str"):
        load_task("odd")
    with pytest.raises(TaskError, match="'gone' cannot be loaded"):
        load_task("gone")


def test_import_is_light() -> None:
    heavy = "{'pandas', 'scipy', 'onnxruntime', 'onnx', 'tokenizers', 'plotly'}"
    code = f"import sys, onnxloc.tasks; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The built-in pairs


@pytest.fixture(scope="module", params=[0, 1, 2])
def pairs(request: pytest.FixtureRequest) -> dict[str, list[tuple[str, str]]]:
    groups = defaultdict(list)
    for made in generate_pairs(seed=request.param):
        groups[made.group].append(made.texts)
    return groups


def test_pairs_are_the_same_everywhere() -> None:
    task = load_task("pairs")
    assert task.hash == PAIRS_HASH
    assert task.items == generate_pairs(0, 100) != generate_pairs(1, 100)
    assert task.limited(10).items == generate_pairs(0, 10)
    assert {i.group: i.field for i in task.items} == {p.name: p.field for p in PHENOMENA}


def test_counts_that_cannot_be_given() -> None:
    with pytest.raises(TaskError, match="at least 1"):
        generate_pairs(0, 0)
    with pytest.raises(TaskError, match="ask for fewer"):
        generate_pairs(0, 3000)


def test_pairs_are_many_distinct_and_well_formed(pairs: dict[str, list[tuple[str, str]]]) -> None:
    assert len(pairs) >= 12
    for group, texts in pairs.items():
        sentences = list(chain.from_iterable(texts))
        assert len(texts) == 100, group
        assert len(set(sentences)) == 200, group
        for sentence in sentences:
            assert re.fullmatch(r"[A-Z][a-z]*( ([a-z]+|I|[A-Z][a-z]+))+\.", sentence), sentence
    goods, bads = zip(*chain.from_iterable(pairs.values()), strict=True)
    assert not set(goods) & set(bads)


def test_pairs_are_minimal(pairs: dict[str, list[tuple[str, str]]]) -> None:
    for good, bad in chain.from_iterable(pairs.values()):
        left, right = good.lower()[:-1].split(), bad.lower()[:-1].split()
        assert len(left) == len(right)
        changed = sum(a != b for a, b in zip(left, right, strict=True))
        assert changed == 1 or Counter(left) == Counter(right), (good, bad)


# A small grammar, written apart from the templates: it knows the lexicon and the rules of each
# phenomenon, and must accept every good sentence and refuse every bad one.

NOUNS = words.PEOPLE + words.MALE + words.FEMALE + words.THINGS
NUMBER = {n.singular: "one" for n in NOUNS} | {n.plural: "many" for n in NOUNS}
DOING = words.TRANSITIVE + words.IRREGULAR
PRESENT_VERBS = words.ACTIVITIES + words.HABITS + words.SOCIAL
PRESENT = {v.third: "one" for v in PRESENT_VERBS} | {v.base: "many" for v in PRESENT_VERBS}
MUST = {v.past for v in words.TRANSITIVE if "must" in v.marks}
DID_TO = {v.past for v in DOING}
DID = {v.past for v in words.INTRANSITIVE}
ME = dict(words.PRONOUNS)
GENDER = {form: "herself" for n in words.FEMALE for form in (n.singular, n.plural)}
GENDER |= {form: "himself" for n in words.MALE for form in (n.singular, n.plural)}
GENDER |= dict.fromkeys(words.FEMALE_NAMES, "herself")
GENDER |= dict.fromkeys(words.MALE_NAMES, "himself")


def agrees(s: list[str]) -> bool:
    subjects: list[str] = []
    wanted = True
    for word in s:
        if word == "that":
            wanted = True
        elif wanted and word in NUMBER:
            subjects.append(NUMBER[word])
            wanted = False
        elif subjects and word in PRESENT and PRESENT[word] != subjects.pop():
            return False
    return not subjects


def determined(s: list[str]) -> bool:
    number = {"this": "one", "that": "one", "these": "many", "those": "many"}
    at = next(i for i, word in enumerate(s) if word in number)
    return number[s[at]] == next(NUMBER[word] for word in s[at + 1 :] if word in NUMBER)


def bound(s: list[str]) -> bool:
    subject = next(word for word in s if word in GENDER)
    own = "themselves" if NUMBER.get(subject) == "many" else GENDER[subject]
    return [word for word in s if word.endswith(("self", "selves"))] == [own]


def right_form(s: list[str]) -> bool:
    taken, taking = {v.participle for v in DOING}, {v.ing for v in DOING}
    forms = {"will": {v.base for v in DOING}, "has": taken, "have": taken}
    forms |= {"is": taking, "are": taking}
    at = next(i for i, word in enumerate(s) if word in forms)
    return s[at + 1] in forms[s[at]]


def complete(s: list[str]) -> bool:
    at = next(i for i, word in enumerate(s) if word in DID_TO | DID)
    return s[at] in DID_TO if s[at + 1] == "the" else s[at] in DID


def asks_for_its_gap(s: list[str]) -> bool:
    return (s[2] == "what") == (s[-1] in MUST) and s[2] in {"what", "that"}


def gap_outside_adjunct(s: list[str]) -> bool:
    at = next(i for i, word in enumerate(s) if word in {"before", "after", "when"})
    return s[at - 1] in DID_TO and s[-1] in DID


def cased(s: list[str]) -> bool:
    (at,) = (i for i, word in enumerate(s) if word in {*ME, *ME.values()})
    return s[at] in (ME if at == 0 else ME.values())


def quantified(s: list[str]) -> bool:
    at = next(i for i, word in enumerate(s) if word in {"many", "much"})
    return s[at + 1] in words.MASS if s[at] == "much" else NUMBER.get(s[at + 1]) == "many"


GRAMMAR: dict[str, Callable[[list[str]], bool]] = {
    "agreement_simple": agrees,
    "agreement_prepositional": agrees,
    "agreement_relative": agrees,
    "determiner_noun": determined,
    "determiner_adjective_noun": determined,
    "anaphor_agreement": bound,
    "anaphor_locality": bound,
    "npi_licensor": lambda s: "ever" in s and s[0] in {"no", "only"},
    "npi_scope": lambda s: "ever" in s and s[0] == "no",
    "adjunct_island": gap_outside_adjunct,
    "complex_np_island": lambda s: s[-1] in MUST,
    "filler_gap": asks_for_its_gap,
    "transitivity": complete,
    "passive": lambda s: s[s.index("by") - 1] in {v.participle for v in DOING},
    "irregular_past": lambda s: bool(DID_TO & set(s)),
    "auxiliary_form": right_form,
    "quantifier_there": lambda s: s[2] in {"a", "an", "no", "some", "few", "many", "several"},
    "quantifier_noun": quantified,
    "pronoun_case": cased,
}


def split(sentence: str) -> list[str]:
    first, *rest = sentence.removesuffix(".").split()
    is_name = first in words.FEMALE_NAMES + words.MALE_NAMES or first == "I"
    return [first if is_name else first.lower(), *rest]


def test_a_grammar_tells_good_from_bad(pairs: dict[str, list[tuple[str, str]]]) -> None:
    assert set(GRAMMAR) == set(pairs)
    for group, texts in pairs.items():
        for good, bad in texts:
            assert GRAMMAR[group](split(good)), (group, good)
            assert not GRAMMAR[group](split(bad)), (group, bad)


def test_variants_are_balanced(pairs: dict[str, list[tuple[str, str]]]) -> None:
    for group in ("agreement_simple", "agreement_prepositional", "agreement_relative"):
        heads = Counter(next(NUMBER[w] for w in split(good) if w in NUMBER)
                        for good, _ in pairs[group])  # fmt: skip
        assert heads == {"one": 50, "many": 50}
    assert Counter(split(good)[2] for good, _ in pairs["filler_gap"]) == {"what": 50, "that": 50}


def test_lexicon_is_consistent() -> None:
    assert len({n.singular for n in NOUNS}) > 60
    assert len(NUMBER) == 2 * len(set(NOUNS)) == 2 * len(NOUNS)
    verbs = PRESENT_VERBS + words.INTRANSITIVE + words.REFLEXIVE + DOING
    assert len({v.base for v in verbs}) > 40
    by_base = defaultdict(set)
    for verb in verbs:
        by_base[verb.base].add((verb.third, verb.past, verb.participle, verb.ing))
        assert verb.third.endswith("s")
        assert verb.ing.endswith("ing")
        assert verb.base not in {verb.third, verb.ing}
    assert all(len(forms) == 1 for forms in by_base.values())
    # A form that is both a noun and a verb could give a bad sentence a good reading.
    assert not set(NUMBER) & set(PRESENT)
    assert not set(NUMBER) & (DID_TO | DID | set(words.MASS))
    # A transitive verb must not stand among those that never take an object.
    assert not {v.base for v in words.INTRANSITIVE} & {v.base for v in DOING + words.SOCIAL}
    assert all(verb.objects for verb in DOING)
    assert {mark for verb in DOING for mark in verb.marks} == {"must", "one", "lasting"}
    assert all(verb.base not in {verb.past, verb.participle} for verb in DOING)
    assert all(verb.past != verb.participle for verb in words.IRREGULAR)
    assert all(v.after for v in words.ACTIVITIES + words.HABITS + words.REFLEXIVE)
