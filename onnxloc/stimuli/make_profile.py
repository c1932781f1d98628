"""Make the conditions of the profile set that are drawn, beside those written by hand.

``python -m onnxloc.stimuli.make_profile --check`` compares ``profile.csv`` with what the seed
gives; ``--write`` replaces the drawn rows. Both need the English word lists of the packages
english-words and wordfreq (the extra ``test``). Users of the stimuli need neither.

Sentences, code and other languages are written by hand. Word lists and jabberwocky are made from
other sentences, those of ``profile-frames.csv``: word lists deal all their words anew; jabberwocky
keeps their function words and endings, and puts nonwords for the rest. Strings of nonwords have as
many words and letters as the sentences. No nonword of the language localizer is used.
"""

import csv
import sys
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path

from onnxloc.stimuli.generate import Draw, run, table_text
from onnxloc.stimuli.make_nonwords import LANGUAGE_CSV, English, NonwordMaker

__all__ = ["CONDITIONS", "SEED", "arithmetic", "jabberwocky", "main", "profile_text", "word_lists"]

SEED = 612_064
PROFILE_CSV = Path(__file__).with_name("profile.csv")
FRAMES_CSV = Path(__file__).with_name("profile-frames.csv")
COLUMNS = ("condition", "pair", "id", "text")
CONDITIONS = (
    "sentences",
    "word-lists",
    "jabberwocky",
    "nonwords",
    "arithmetic",
    "code",
    "other-languages",
)

# The words of the frames that jabberwocky keeps.
_KEPT = """
about across after all along although and anyone are as at be been before behind beside
between but can could did each every for from had hardly has have he her his if in into is it
its just last many most my near never nobody not of on one onto our out over she since so some
soon that the their them then there they this those through to towards two under until was we
were when where while who will with would you your
"""
FUNCTION_WORDS = frozenset(_KEPT.split())

# The endings that jabberwocky keeps, where at least three letters stand before them.
ENDINGS = ("ing", "ed", "ly", "s")


def word_lists(draw: Draw, sentences: Sequence[str]) -> list[str]:
    """All words of the sentences, dealt anew into strings of the same lengths in words.

    No two words stand side by side that did so in a sentence, and none beside itself.
    """
    apart = {pair for text in sentences for pair in pairwise(text.split())}
    words = draw.shuffled(word for text in sentences for word in text.split())

    def fits(index: int) -> bool:
        around = words[max(index - 1, 0) : index + 2]
        return not any(a == b or (a, b) in apart for a, b in pairwise(around))

    # A word that does not fit changes places with any other such that both fit then.
    while misfits := [index for index in range(len(words)) if not fits(index)]:
        here, there = misfits[0], draw.between(0, len(words) - 1)
        words[here], words[there] = words[there], words[here]
        if not (fits(here) and fits(there)):
            words[here], words[there] = words[there], words[here]
    rest = iter(words)
    return [" ".join(islice(rest, len(text.split()))) for text in sentences]


def jabberwocky(maker: NonwordMaker, sentences: Iterable[str]) -> list[str]:
    """The sentences with a nonword for each content word, and the same nonword for the same."""
    made: dict[str, str] = {}
    found = []
    for text in sentences:
        own = []
        for word in text.split():
            if word not in FUNCTION_WORDS and word not in made:
                stem, ending = _split(word)
                made[word] = maker.nonword(max(4, len(stem)), ending)
            own.append(made.get(word, word))
        found.append(" ".join(own))
    return found


def _split(word: str) -> tuple[str, str]:
    for ending in ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2 and not (ending == "s" and stem.endswith("s")):
            return stem, ending
    return word, ""


def nonwords(maker: NonwordMaker, sentences: Iterable[str]) -> list[str]:
    """A string of nonwords for each sentence, with as many words and letters.

    The language localizer has used up the nonwords of two letters and most of three. So none is
    shorter than four letters, and the longest of a string are shorter than the words instead.
    """
    found = []
    for text in sentences:
        lengths = [len(word) for word in text.split()]
        longer = [max(4, length) for length in lengths]
        while sum(longer) > max(sum(lengths), 4 * len(lengths)):
            longer[longer.index(max(longer))] -= 1
        found.append(" ".join(maker.nonword(length) for length in longer))
    return found


def arithmetic(draw: Draw, count: int) -> list[str]:
    """Sums and differences of numbers of three digits, by turns, with what they come to."""
    found: dict[str, None] = {}
    while len(found) < count:
        a, b = draw.between(100, 499), draw.between(100, 499)
        text = f"{a} + {b} = {a + b}" if len(found) % 2 == 0 else f"{a + b} - {a} = {b}"
        found.setdefault(text)
    return list(found)


def profile_text(path: Path = PROFILE_CSV, seed: int = SEED) -> str:
    """The whole text of ``profile.csv``, with the rows of the file at `path` written by hand."""
    rows = _records(path)
    frames = [row["text"] for row in _records(FRAMES_CSV)]
    written = {name: [row for row in rows if row["condition"] == name] for name in CONDITIONS}
    sentences = [row["text"] for row in written["sentences"]]
    taken = {word for row in _records(LANGUAGE_CSV) for word in row["text"].split()}
    maker, draw = NonwordMaker(seed, English(), avoid=taken), Draw(seed)
    made = {
        "word-lists": word_lists(draw, frames),
        "jabberwocky": jabberwocky(maker, frames),
        "nonwords": nonwords(maker, sentences),
        "arithmetic": arithmetic(draw, len(sentences)),
    }
    table = []
    for name in CONDITIONS:
        texts = made.get(name) or [row["text"] for row in written[name]]
        ids = [""] * len(texts) if name in made else [row["id"] for row in written[name]]
        paired = name in ("sentences", "nonwords")
        for number, (text, own) in enumerate(zip(texts, ids, strict=True), start=1):
            table.append((name, str(number) if paired else "", own, text))
    return table_text(COLUMNS, table)


def _records(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the drawn rows of ``profile.csv``; 0 if all is well."""
    return run("onnxloc.stimuli.make_profile", PROFILE_CSV, SEED, profile_text, arguments)


if __name__ == "__main__":
    sys.exit(main())
