"""Make the word problems of the reasoning localizer.

``python -m onnxloc.stimuli.make_reasoning --check`` compares ``reasoning.csv`` with what the seed
gives; ``--write`` replaces it.

Each of ten stories has a form that takes two steps or more and a form that takes one, in as many
sentences and words: where the one gives a number that matters, the other tells something that does
not. Both forms of a pair are about the same person.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxloc.stimuli.generate import Draw, run, table_text

__all__ = ["SEED", "STORIES", "Story", "main", "reasoning_text"]

SEED = 271_828
EACH = 8
REASONING_CSV = Path(__file__).with_name("reasoning.csv")

_WOMEN = "Ada Bella Carmen Dina Eva Freya Gina Hilda Iris Jana"
_MEN = "Adam Boris Carl David Erik Frank Gabor Henrik Ivan Jon"
# A name, and "he" or "she".
PEOPLE = (
    *((name, "she") for name in _WOMEN.split()),
    *((name, "he") for name in _MEN.split()),
)
THINGS = ("marbles", "stickers", "buttons", "shells", "beads", "stamps", "coins", "cards")


@dataclass(frozen=True)
class Story:
    """Two forms of a word problem.

    Attributes
    ----------
    several, one : str
        The problem in several steps, and in one. ``{name}``, ``{He}``, ``{he}``, ``{His}``,
        ``{things}`` and the names of numbers are filled in.
    numbers : callable
        Draws the numbers: `several` and `one` are the answers.
    """

    several: str
    one: str
    numbers: Callable[[Draw], dict[str, int]]


def _gift(draw: Draw) -> dict[str, int]:
    a, b, c = draw.between(8, 30), draw.between(2, 6), draw.between(3, 9)
    d = draw.between(2, 7)
    return {"a": a, "b": b, "c": c, "d": d, "several": a + b * c - d, "one": a - d}


def _bakery(draw: Draw) -> dict[str, int]:
    a, b = draw.between(3, 8), draw.between(9, 14)
    c, d = draw.between(3, 12), draw.between(4, 12)
    e = a * b
    return {"a": a, "b": b, "c": c, "d": d, "e": e, "several": e - c - d, "one": e - c}


def _drive(draw: Draw) -> dict[str, int]:
    a, b, c = 5 * draw.between(6, 14), draw.between(2, 4), draw.between(5, 25)
    d = a * b + c + draw.between(10, 60)
    return {"a": a, "b": b, "c": c, "d": d, "several": d - a * b - c, "one": d - c}


def _change(draw: Draw) -> dict[str, int]:
    a, b, c = draw.between(2, 5), draw.between(3, 6), draw.between(2, 4)
    d = 40
    return {"a": a, "b": b, "c": c, "d": d, "several": d - a * b - c, "one": d - b}


def _cabbages(draw: Draw) -> dict[str, int]:
    d, q = draw.between(2, 6), draw.between(5, 9)
    b = draw.between(6, 9)
    a = (d * q) // b + 1
    # Rabbits eat what cannot be shared.
    c = a * b - d * q
    if c < 2:
        a, c = a + 1, c + b
    return {"a": a, "b": b, "c": c, "d": d, "e": d * q, "several": q, "one": q}


def _library(draw: Draw) -> dict[str, int]:
    a, b = draw.between(4, 9), 5 * draw.between(3, 8)
    c, d = draw.between(6, 19), draw.between(2, 5)
    e = a * b
    return {"a": a, "b": b, "c": c, "d": d, "e": e, "several": e - c + d, "one": e - c}


def _mother(draw: Draw) -> dict[str, int]:
    a, b, c = draw.between(6, 9), draw.between(2, 4), draw.between(3, 4)
    # Older than {name} by enough years to be the mother of both.
    c = 4 if (a + b) * c < 30 else c
    return {"a": a, "b": b, "c": c, "several": (a + b) * c, "one": a * 4}


def _tank(draw: Draw) -> dict[str, int]:
    a, b, c = 5 * draw.between(14, 24), draw.between(2, 5), draw.between(5, 9)
    d = draw.between(6, 30)
    return {"a": a, "b": b, "c": c, "d": d, "several": a - b * c + d, "one": a + d}


def _chairs(draw: Draw) -> dict[str, int]:
    a, b, c = draw.between(5, 8), draw.between(3, 5), draw.between(3, 6)
    e = a * b
    d = e - draw.between(2, 9)
    return {"a": a, "b": b, "c": c, "d": d, "e": e, "several": e + c - d, "one": e - d}


def _book(draw: Draw) -> dict[str, int]:
    b, c, d = draw.between(9, 20), draw.between(3, 6), draw.between(15, 40)
    a = b * c + d + draw.between(10, 70)
    return {"a": a, "b": b, "c": c, "d": d, "several": a - b * c - d, "one": a - d}


STORIES = (
    Story(
        "{name} has {a} {things}. {He} buys {b} bags with {c} {things} in each. Then {he} gives "
        "{d} {things} to a friend. How many {things} does {name} have now?",
        "{name} has {a} {things}. {He} keeps them all in one old biscuit tin. Then {he} gives "
        "{d} {things} to a friend. How many {things} does {name} have now?",
        _gift,
    ),
    Story(
        "{name} bakes {a} trays of rolls with {b} rolls on each tray. {He} sells {c} rolls in the "
        "morning and {d} rolls in the afternoon. How many rolls are left in the evening?",
        "{name} bakes {e} rolls in a small oven behind the village shop. {He} sells {c} rolls in "
        "the morning and listens to the radio afterwards. How many rolls are left in the evening?",
        _bakery,
    ),
    Story(
        "{name} drives for {b} hours at {a} kilometers an hour. Then {he} drives {c} kilometers "
        "more on a narrow road. The whole route is {d} kilometers long. How many kilometers are "
        "still to go?",
        "{name} leaves home by car on a cold windy morning. First {he} drives {c} kilometers "
        "north on a narrow road. The whole route is {d} kilometers long. How many kilometers are "
        "still to go?",
        _drive,
    ),
    Story(
        "{name} buys {a} notebooks for {b} dollars each and a pen for {c} dollars. {He} pays with "
        "{d} dollars. How many dollars does {he} get back?",
        "{name} buys one notebook for {b} dollars on the way back home from school. {He} pays with "
        "{d} dollars. How many dollars does {he} get back?",
        _change,
    ),
    Story(
        "{name} plants {a} rows of cabbages with {b} in each row. Rabbits eat {c} of the cabbages. "
        "{name} shares the others equally between {d} neighbors. How many cabbages does each "
        "neighbor get?",
        "{name} plants cabbages every spring in the field near town. Rabbits live under the old "
        "hedge. {name} shares {e} large cabbages equally between {d} neighbors. How many cabbages "
        "does each neighbor get?",
        _cabbages,
    ),
    Story(
        "{name} runs a small library with {a} shelves and {b} books on each shelf. On Monday "
        "readers borrow {c} books. On Tuesday they bring back {d} books. How many books are in the "
        "library now?",
        "{name} runs a small library with {e} books and two chairs by the window. On Monday "
        "readers borrow {c} books. On Tuesday nobody visits the quiet library. How many books are "
        "in the library now?",
        _library,
    ),
    Story(
        "{name} is {a} years old. {His} sister is {b} years older than {name}. Their mother is {c} "
        "times as old as the sister. How old is their mother?",
        "{name} is {a} years old. {His} sister likes long walks by the sea. Their mother is 4 "
        "times as old as {name} is. How old is their mother?",
        _mother,
    ),
    Story(
        "There are {a} liters of water in an open tank. {name} fills {b} buckets from it with {c} "
        "liters each. Then rain adds {d} liters. How many liters are in the tank now?",
        "There are {a} liters of water in an open tank. {name} has painted it dark green on the "
        "outside only. Then rain adds {d} liters. How many liters are in the tank now?",
        _tank,
    ),
    Story(
        "There are {a} tables in the classroom with {b} chairs at each. {name} carries {c} more "
        "chairs into the room. Then {d} children sit down, each on a chair. How many chairs stay "
        "empty?",
        "There are {e} chairs in the classroom with the tall green door. {name} opens the window "
        "to cool the room. Then {d} children sit down, each on a chair. How many chairs stay "
        "empty?",
        _chairs,
    ),
    Story(
        "A book has {a} pages. {name} reads {b} pages a day for {c} days. At the weekend {he} "
        "reads {d} pages in bed. How many pages are left to read?",
        "A book has {a} pages. {name} bought it at the market in the spring. At the weekend {he} "
        "reads {d} pages in bed. How many pages are left to read?",
        _book,
    ),
)


def _problem(form: str, words: dict[str, object]) -> str:
    return f"Question: {form.format_map(words)} Answer:"


def reasoning_text(seed: int = SEED) -> str:
    """The whole text of ``reasoning.csv``."""
    draw = Draw(seed)
    positive: list[tuple[str, ...]] = []
    control: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for story in STORIES:
        people = draw.shuffled(PEOPLE)
        made = 0
        while made < EACH:
            name, he = people[made]
            numbers = story.numbers(draw)
            words: dict[str, object] = {
                **numbers,
                "name": name,
                "he": he,
                "He": he.capitalize(),
                "His": "His" if he == "he" else "Her",
                "things": THINGS[made],
            }
            several, one = _problem(story.several, words), _problem(story.one, words)
            if several in seen or one in seen:
                continue
            seen |= {several, one}
            made += 1
            pair = str(len(positive) + 1)
            positive.append(("positive", pair, several, str(numbers["several"])))
            control.append(("control", pair, one, str(numbers["one"])))
    return table_text(("condition", "pair", "text", "answer"), positive + control)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write ``reasoning.csv``; 0 if all is well."""
    module = "onnxloc.stimuli.make_reasoning"
    return run(module, REASONING_CSV, SEED, lambda _: reasoning_text(), arguments)


if __name__ == "__main__":
    sys.exit(main())
