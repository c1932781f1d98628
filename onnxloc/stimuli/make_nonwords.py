"""Make the nonwords of the language localizer, and write them beside its sentences.

``python -m onnxloc.stimuli.make_nonwords --check`` compares the committed control rows of
``language.csv`` with what the seed gives; ``--write`` replaces them. Both need the English word
lists of the packages english-words and wordfreq (the extra ``test``). Users of the stimuli need
neither.

Every sentence gets one string of nonwords, each as long in letters as the word it stands for. A
nonword is a chain of syllables (onset, nucleus, coda) from inventories that are usual in English
spelling. Nonwords of three letters and more are used once only. There are too few of two letters
for that: they are dealt round-robin.
"""

import argparse
import csv
import importlib
import io
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from onnxloc.errors import OnnxlocError, StimulusError

__all__ = [
    "SEED",
    "English",
    "NonwordMaker",
    "csv_text",
    "main",
    "nonword_strings",
    "read_sentences",
]

SEED = 240_012
LANGUAGE_CSV = Path(__file__).with_name("language.csv")


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VOWELS = tuple("aeiou")
DIGRAPHS = _split("ai ea ee oa oi oo ou")
# A letter that stands twice is drawn twice as often.
ONSETS = tuple("bbbbddddffgghhjkkllllmmmmnnnnppprrrrsssstttttvvwyz")
ONSET_CLUSTERS = _split(
    "bl br ch cl cr dr fl fr gl gr pl pr qu sh sk sl sm sn sp st sw th tr tw shr spl spr str thr"
)
INNER_CODAS = tuple("lmnrs")
CODAS = tuple("bbddfggkklllmmmnnnnppprrrrsstttttxz")
CODA_CLUSTERS = _split(
    "ch ck ct ff ft lb ld lf lk lm lp ls lt mp nd nk ns nt pt rb rd rg rk rm rn rp rsh rt sh sk"
    " sp ss st th lch nch nth"
)

# Rare English words that the packages lack.
RARE_WORDS = frozenset(
    _split(
        "az ef eg ev gu ib ig je ku ru uv ux vo zu ack ald amu ane bef bez bul cli clo cre cru "
        "ded dif doz ech ene erk ert esu ezo fem fes fiz gox gro gub hab hed hom ick iff ilo jad "
        "jor kab kas kif kir lir lix lor lub lud moz mut naf nek nol nox nus oba obo olp oni opa "
        "osi oxo pel pid pil pli plu poz rez rif riz saz sel sez sif tef tem tet tob ufa ult uma "
        "uns urb urp usu uti vax vel vig vil vor wef wos yag yob yod yos yuk zas zek zex ziz zod "
        "zos zuz barp crub famp feeb gled glit lirk quep quor tipt touk vesp zels halke louns "
        "mebos subet susso fugled sabins"
    )
)

# Letter sequences that the inventories allow and English spelling does not.
UNUSUAL = _split("ce ci iw uw wu woo wou yi yee oaw eew oow aiw hh jj kk ww shsh thth")

# Letter sequences that remind of a coarse or hurtful word, in whatever nonword they stand.
UNWANTED = _split(
    "anus arse ass bich bitch boob bum clit coc cok crap cum cun dago damn dic dik dyke fag fap"
    " fart fat fuc fuk fux gai gay gook hoar hoe homo hor jap jew jiz kik koc kok kum kun lez muf"
    " nazi neg nig nud nut paki pee peni pis poo porn pub puk puss rape rect semen sex shat shit"
    " slag slut smut snat spas spic suc suk sux tard tit tran turd twa twot urin vag vulv wank wee"
    " whor wog wop"
)


class English:
    """What English readers know as words.

    A string is a word if Webster's second edition or the GNU Collaborative International
    Dictionary has it (package english-words), or if it is found in running English text (package
    wordfreq). In text nearly every string of two or three letters turns up as an abbreviation, so
    these count from a frequency of 5 and of 0.8 in a million words; longer ones always do.

    Raises
    ------
    StimulusError
        If one of the two packages is not installed.
    """

    def __init__(self) -> None:
        try:
            dictionaries = importlib.import_module("english_words")
            frequencies = importlib.import_module("wordfreq")
        except ImportError as error:
            raise StimulusError(
                f"{error.name} is not installed; get the word lists: pip install 'onnxloc[test]'"
            ) from error
        listed = dictionaries.get_english_words_set(["web2", "gcide"], lower=True, alpha=True)
        self._listed: frozenset[str] = frozenset(listed) | RARE_WORDS
        self._in_text: dict[str, float] = frequencies.get_frequency_dict("en", wordlist="large")

    def is_word(self, string: str) -> bool:
        """Whether the whole string is a word."""
        least = {2: 5e-6, 3: 0.8e-6}.get(len(string), 0.0)
        return string in self._listed or self._in_text.get(string, -1.0) >= least

    def holds_word(self, string: str) -> bool:
        """Whether some four letters or more of the string are a common word (10 in a million)."""
        return any(
            self._in_text.get(string[i:j], 0.0) >= 1e-5
            for i in range(len(string) - 3)
            for j in range(i + 4, len(string) + 1)
        )


def _spelling_ok(string: str) -> bool:
    """Whether a chain of syllables keeps to English spelling and to good manners."""
    return "y" not in string[1:] and not any(part in string for part in UNUSUAL + UNWANTED)


def _short(length: int) -> list[str]:
    """All nonword candidates of two or three letters, sorted."""
    shapes: list[Iterable[tuple[str, ...]]]
    if length == 2:
        shapes = [product(VOWELS, (*CODAS, "v")), product(ONSETS, VOWELS)]
    else:
        shapes = [
            product(ONSETS, VOWELS, CODAS),
            product([c for c in ONSET_CLUSTERS if len(c) == 2 and c != "qu"], VOWELS),
            product(VOWELS, [c for c in CODA_CLUSTERS if len(c) == 2]),
            product(VOWELS, CODAS, VOWELS),
        ]
    return sorted({"".join(parts) for shape in shapes for parts in shape})


class NonwordMaker:
    """Draws nonwords of given lengths, none that it is told to avoid.

    Of `random.Random` only the method `random` is used: its stream is the same in all versions.
    """

    def __init__(self, seed: int, english: English, avoid: Iterable[str] = ()) -> None:
        self._rng = random.Random(seed)
        self._english = english
        self._avoid = frozenset(avoid)
        self._used: set[str] = set(self._avoid)
        self._bags: dict[int, Iterator[str]] = {}

    def _choice(self, items: Sequence[str]) -> str:
        return items[int(self._rng.random() * len(items))]

    def _either(self, share: float, often: Sequence[str], seldom: Sequence[str]) -> str:
        return self._choice(often if self._rng.random() < share else seldom)

    def _chain(self, syllables: int) -> str:
        parts: list[str] = []
        for i in range(syllables):
            if i > 0 or self._rng.random() < 0.85:
                parts.append(self._either(0.75, ONSETS, ONSET_CLUSTERS))
            parts.append(self._either(0.85, VOWELS, DIGRAPHS))
            if i == syllables - 1:
                if self._rng.random() < 0.85:
                    parts.append(self._either(0.6, CODAS, CODA_CLUSTERS))
            elif self._rng.random() < 0.35:
                parts.append(self._choice(INNER_CODAS))
        return "".join(parts)

    def _fits(self, string: str, ending: str = "") -> bool:
        whole = string + ending
        unwanted = any(part in whole for part in UNWANTED)
        return (
            _spelling_ok(string)
            and not unwanted
            and not self._english.is_word(whole)
            and not self._english.holds_word(whole)
        )

    def _deal(self, length: int) -> Iterator[str]:
        fit = [s for s in _short(length) if self._fits(s) and s not in self._avoid]
        while fit:
            yield from sorted(fit, key=lambda _: self._rng.random())

    def nonword(self, length: int, ending: str = "") -> str:
        """Draw a nonword of `length` letters, and put an ending such as "ing" behind it.

        Raises
        ------
        StimulusError
            If every nonword of two or three letters is to be avoided.
        """
        if length < 4 and not ending:
            bag = self._bags.setdefault(length, self._deal(length))
            found = next(bag, None)
            if found is None:
                raise StimulusError(f"no nonword of {length} letters is left; ask for longer ones")
            return found
        while True:
            # About three letters a syllable, give or take one syllable.
            syllables = max(1, round(length / 3 + self._rng.random() - 0.5))
            stem = self._chain(syllables)
            whole = stem + ending
            if len(stem) == length and whole not in self._used and self._fits(stem, ending):
                self._used.add(whole)
                return whole


def nonword_strings(sentences: Iterable[str], english: English, *, seed: int = SEED) -> list[str]:
    """Make one string of nonwords for each sentence, matched word by word in letters.

    Parameters
    ----------
    sentences : iterable of str
        Lower-cased words joined by spaces; no word of a single letter, as every letter is itself
        a word of English.
    english : English
        Says which strings must not be used.
    seed : int
        Seed of the draw.

    Raises
    ------
    StimulusError
        If a sentence has a word of a single letter.
    """
    maker = NonwordMaker(seed, english)
    strings = []
    for sentence in sentences:
        words = sentence.split()
        if any(len(word) < 2 for word in words):
            raise StimulusError(f"no nonword has a single letter; reword the sentence {sentence!r}")
        strings.append(" ".join(maker.nonword(len(word)) for word in words))
    return strings


def read_sentences(path: Path = LANGUAGE_CSV) -> list[str]:
    """Read the positive rows of a stimulus file, in order."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file) if row["condition"] == "positive"]


def csv_text(sentences: Iterable[str], strings: Iterable[str]) -> str:
    """Return the whole text of ``language.csv``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["condition", "text"])
    writer.writerows(["positive", text] for text in sentences)
    writer.writerows(["control", text] for text in strings)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the control rows of ``language.csv``; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m onnxloc.stimuli.make_nonwords")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare the file with the seed's")
    what.add_argument("--write", action="store_true", help="replace the control rows")
    parser.add_argument("--file", type=Path, default=LANGUAGE_CSV, help="another stimulus file")
    options = parser.parse_args(arguments)
    path: Path = options.file
    try:
        sentences = read_sentences(path)
        text = csv_text(sentences, nonword_strings(sentences, English()))
    except OnnxlocError as error:
        print(error, file=sys.stderr)
        return 2
    if options.write:
        path.write_text(text, encoding="utf-8", newline="")
        print(f"wrote {path}")
        return 0
    if path.read_bytes() != text.encode():
        print(f"{path} is not what seed {SEED} gives; run with --write", file=sys.stderr)
        return 1
    print(f"{path} is what seed {SEED} gives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
