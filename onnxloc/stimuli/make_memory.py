"""Make the true and false facts of the memory localizer.

``python -m onnxloc.stimuli.make_memory --check`` compares ``memory.csv`` with what the seed gives;
``--write`` replaces it.

A relation is a sentence with a subject and an object, such as a country and its capital. The false
sentences are the true ones with the objects of each relation dealt anew, so that none keeps its
own. Thus every word is used equally often in both conditions.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxloc.stimuli.generate import Draw, run, table_text

__all__ = ["RELATIONS", "SEED", "Relation", "main", "memory_text"]

SEED = 196_884
MEMORY_CSV = Path(__file__).with_name("memory.csv")


@dataclass(frozen=True)
class Relation:
    """A kind of fact.

    Attributes
    ----------
    name : str
        For the pairs' labels.
    sentence : str
        With ``{0}`` for the subject and ``{1}`` for the object.
    facts : str
        "subject = object", separated by semicolons.
    not_false : str
        Pairs in the same form that must not be dealt, as they might be called true.
    """

    name: str
    sentence: str
    facts: str
    not_false: str = ""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Subjects and objects of the true facts."""
        return _pairs(self.facts)

    @property
    def not_wrong(self) -> frozenset[tuple[str, str]]:
        """Subjects and objects that no false fact may have; no subject is its own object."""
        selves = ((left, left) for left, _ in self.pairs)
        return frozenset((*self.pairs, *selves, *_pairs(self.not_false)))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in filter(str.strip, text.split(";")):
        left, _, right = part.partition("=")
        found.append((" ".join(left.split()), " ".join(right.split())))
    return tuple(found)


RELATIONS = (
    Relation(
        "capital",
        "The capital of {0} is {1}.",
        """France = Paris; Italy = Rome; Spain = Madrid; Germany = Berlin; Japan = Tokyo;
        China = Beijing; Russia = Moscow; Egypt = Cairo; Greece = Athens; Cuba = Havana;
        Peru = Lima; Norway = Oslo; Austria = Vienna; Ireland = Dublin; Portugal = Lisbon;
        Poland = Warsaw; Hungary = Budapest; Sweden = Stockholm; Kenya = Nairobi;
        Canada = Ottawa; England = London; Iraq = Baghdad; Iran = Tehran; Thailand = Bangkok""",
    ),
    Relation(
        "language",
        "The main language of {0} is {1}.",
        """Brazil = Portuguese; France = French; Germany = German; Mexico = Spanish;
        Italy = Italian; Japan = Japanese; Russia = Russian; Greece = Greek; Turkey = Turkish;
        Egypt = Arabic; Australia = English; Poland = Polish""",
    ),
    Relation(
        "continent",
        "The country of {0} lies in {1}.",
        """Kenya = Africa; Nigeria = Africa; Ghana = Africa; India = Asia; Vietnam = Asia;
        Nepal = Asia; Sweden = Europe; Poland = Europe; Belgium = Europe;
        Bolivia = South America; Peru = South America; Paraguay = South America""",
    ),
    Relation(
        "opposite",
        "The opposite of {0} is {1}.",
        """hot = cold; up = down; big = small; fast = slow; open = closed; wet = dry;
        rich = poor; full = empty; early = late; loud = quiet; true = false; good = bad;
        left = right; happy = sad; strong = weak; day = night; inside = outside; alive = dead;
        thick = thin; love = hate""",
        """big = thin; thick = small; strong = small; big = weak; happy = bad; good = sad;
        happy = down; up = sad; up = bad; good = down; good = false; true = bad; good = poor;
        strong = poor; good = weak; early = slow; fast = late; rich = empty; full = poor;
        love = bad; good = hate; love = sad; happy = hate; happy = poor; rich = sad""",
    ),
    Relation(
        "element",
        "The chemical symbol for {0} is {1}.",
        """gold = Au; silver = Ag; iron = Fe; copper = Cu; lead = Pb; sodium = Na; oxygen = O;
        hydrogen = H; carbon = C; nitrogen = N; helium = He; potassium = K; calcium = Ca""",
    ),
    Relation(
        "month",
        "The month after {0} is {1}.",
        """January = February; February = March; March = April; April = May; May = June;
        June = July; July = August; August = September; September = October;
        October = November; November = December; December = January""",
    ),
    Relation(
        "weekday",
        "The day after {0} is {1}.",
        """Monday = Tuesday; Tuesday = Wednesday; Wednesday = Thursday; Thursday = Friday;
        Friday = Saturday; Saturday = Sunday; Sunday = Monday""",
    ),
    Relation(
        "young",
        "A young {0} is called a {1}.",
        """dog = puppy; cat = kitten; cow = calf; horse = foal; sheep = lamb; duck = duckling;
        lion = cub; swan = cygnet; kangaroo = joey; frog = tadpole; pig = piglet;
        goose = gosling""",
        "dog = cub; pig = cub",
    ),
    Relation(
        "color",
        "The usual color of {0} is {1}.",
        """grass = green; snow = white; coal = black; blood = red; a ripe lemon = yellow;
        a carrot = orange; the clear sky at noon = blue; chocolate = brown""",
        "chocolate = white; chocolate = black; grass = yellow; grass = brown; coal = brown",
    ),
    Relation(
        "sides",
        "The number of sides of a {0} is {1}.",
        "triangle = three; square = four; pentagon = five; hexagon = six",
    ),
    Relation(
        "legs",
        "The number of legs of a healthy {0} is {1}.",
        "horse = four; chicken = two; spider = eight; bee = six",
    ),
    Relation(
        "measure",
        "People use a {0} to measure {1}.",
        """thermometer = temperature; clock = time; ruler = length; scale = weight;
        speedometer = speed; barometer = air pressure""",
        "clock = speed; scale = length; scale = temperature",
    ),
    Relation(
        "sense",
        "People {0} with their {1}.",
        """see = eyes; hear = ears; smell = noses; breathe = lungs; walk = legs; chew = teeth;
        clap = hands""",
        "breathe = noses; see = hands; walk = hands",
    ),
    Relation(
        "material",
        "People make {0} from {1}.",
        """wine = grapes; cheese = milk; bread = flour; chocolate = cocoa; paper = wood;
        glass = sand; candles = wax; sweaters = wool; French fries = potatoes""",
        """bread = potatoes; bread = milk; chocolate = milk; wine = potatoes; candles = wood;
        paper = wax; wine = cocoa; cheese = potatoes; bread = cocoa; bread = wood;
        candles = sand; paper = wool; candles = milk; chocolate = wax; paper = potatoes""",
    ),
)


def _dealt(draw: Draw, relation: Relation) -> list[str]:
    """The objects in another order, in which every fact is false."""
    while True:
        objects = draw.shuffled([right for _, right in relation.pairs])
        dealt = zip((left for left, _ in relation.pairs), objects, strict=True)
        if relation.not_wrong.isdisjoint(dealt):
            return objects


def memory_text(seed: int = SEED) -> str:
    """The whole text of ``memory.csv``."""
    draw = Draw(seed)
    true, false = [], []
    for relation in RELATIONS:
        objects = _dealt(draw, relation)
        for (subject, right), wrong in zip(relation.pairs, objects, strict=True):
            pair = f"{relation.name}: {subject}"
            true.append(("positive", pair, relation.sentence.format(subject, right)))
            false.append(("control", pair, relation.sentence.format(subject, wrong)))
    return table_text(("condition", "pair", "text"), true + false)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write ``memory.csv``; 0 if all is well."""
    return run("onnxloc.stimuli.make_memory", MEMORY_CSV, SEED, lambda _: memory_text(), arguments)


if __name__ == "__main__":
    sys.exit(main())
