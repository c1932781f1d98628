"""The phenomena of the built-in minimal pairs, one function each.

A function draws words and gives a good and a bad sentence that differ in as little as the
phenomenon allows. The words that may fill a place are chosen so that the good sentence is
grammatical and the bad one has no grammatical reading; where that needs care, a comment says why.
Sentences come without the capital and the full stop. `turn` counts the pairs made so far:
variants (singular and plural, say) take turns, so that they are balanced in any number of pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from onnxloc.tasks import pairs_lexicon as words
from onnxloc.tasks.pairs_lexicon import Noun, Verb

__all__ = ["PHENOMENA", "Draw", "Phenomenon"]

T = TypeVar("T")


class Draw:
    """Seeded choices.

    Only `Random.random` is promised to give the same numbers in every version of Python, so
    nothing else is used.
    """

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def __call__(self, *pools: tuple[T, ...]) -> T:
        """One element of all pools together, each as likely as any other."""
        index = int(self._random.random() * sum(len(pool) for pool in pools))
        for pool in pools:
            if index < len(pool):
                break
            index -= len(pool)
        return pool[index]

    def two(self, *pools: tuple[T, ...]) -> tuple[T, T]:
        """Two elements that differ."""
        first = self(*pools)
        second = self(*pools)
        while second == first:
            second = self(*pools)
        return first, second


Make = Callable[[Draw, int], tuple[str, str]]


@dataclass(frozen=True)
class Phenomenon:
    """A phenomenon, the field of grammar it belongs to, and the function that makes a pair."""

    name: str
    field: str
    make: Make


NAMES = words.FEMALE_NAMES + words.MALE_NAMES
ANYONE = words.PEOPLE + words.MALE + words.FEMALE
BESIDE = ("near", "behind", "beside", "next to", "in front of")
LATER = ("before", "after", "when")
WHEN = ("after lunch", "before noon", "during the storm", "after the game", "before the meeting")
WHERE = ("at the party", "in the garden", "in the park", "at the station")
ASKED = ("knew", "remembered", "explained", "asked", "wondered", "guessed")
# These take a "that" clause as well as a question.
KNEW = ("knew", "remembered", "explained", "forgot", "learned", "noticed", "revealed", "guessed")

VERBS_OF_DOING = words.TRANSITIVE + words.IRREGULAR
MUST = tuple(verb for verb in words.TRANSITIVE if "must" in verb.marks)
ONE_OBJECT = tuple(verb for verb in words.TRANSITIVE if "one" in verb.marks)
LASTING = tuple(verb for verb in VERBS_OF_DOING if "lasting" in verb.marks)
# "That" after one of these cannot begin a clause.
HANDLED = tuple(
    verb
    for verb in VERBS_OF_DOING
    if verb.base in {"buy", "sell", "take", "borrow", "bring", "keep", "steal", "hide"}
)
# These can happen in a place.
MET = tuple(
    verb
    for verb in words.SOCIAL
    if verb.base in {"visit", "meet", "help", "follow", "thank", "invite"}
)


def _form(noun: Noun, plural: bool) -> str:
    return noun.plural if plural else noun.singular


def _finite(verb: Verb, plural: bool) -> str:
    return verb.base if plural else verb.third


def _someone(draw: Draw) -> str:
    """Draw a singular subject: a name or a person."""
    return draw(NAMES, tuple(f"the {noun.singular}" for noun in words.PEOPLE))


def _object(draw: Draw, verb: Verb) -> str:
    return "the " + _form(draw(verb.objects), draw((False, True)))


# Agreement of subject and verb. The bad sentence has the verb in the other number.


def agreement_simple(draw: Draw, turn: int) -> tuple[str, str]:
    plural = turn % 2 == 1
    verb = draw(words.ACTIVITIES, words.HABITS)
    trait = f"{draw(words.TRAITS)} " if turn % 4 > 1 else ""
    subject, after = _form(draw(ANYONE), plural), draw(verb.after)
    return (
        f"the {trait}{subject} {_finite(verb, plural)} {after}",
        f"the {trait}{subject} {_finite(verb, not plural)} {after}",
    )


def agreement_prepositional(draw: Draw, turn: int) -> tuple[str, str]:
    plural = turn % 2 == 1
    verb = draw(words.ACTIVITIES)
    near = draw(words.LANDMARKS if turn % 4 > 1 else words.PEOPLE)
    subject = draw(ANYONE)
    while subject == near:
        subject = draw(ANYONE)
    start = f"the {_form(subject, plural)} {draw(BESIDE)} the {_form(near, not plural)}"
    after = draw(verb.after)
    return (
        f"{start} {_finite(verb, plural)} {after}",
        f"{start} {_finite(verb, not plural)} {after}",
    )


def agreement_relative(draw: Draw, turn: int) -> tuple[str, str]:
    plural = turn % 2 == 1
    outer, inner = draw.two(ANYONE)
    verb = draw(words.ACTIVITIES, words.HABITS)
    clause = f"that the {_form(inner, not plural)} {_finite(draw(words.SOCIAL), not plural)}"
    start, after = f"the {_form(outer, plural)} {clause}", draw(verb.after)
    return (
        f"{start} {_finite(verb, plural)} {after}",
        f"{start} {_finite(verb, not plural)} {after}",
    )


# Agreement of determiner and noun. The bad sentence has the noun in the other number.


def determiner_noun(draw: Draw, turn: int) -> tuple[str, str]:
    return _determiner(draw, turn, "")


def determiner_adjective_noun(draw: Draw, turn: int) -> tuple[str, str]:
    return _determiner(draw, turn, f"{draw(words.COLORS_AND_SIZES)} ")


def _determiner(draw: Draw, turn: int, adjective: str) -> tuple[str, str]:
    plural = turn % 2 == 1
    determiner = draw(("these", "those") if plural else ("this", "that"))
    noun, when = draw(words.GOODS), draw(WHEN)
    start = f"{_someone(draw)} {draw(HANDLED).past} {determiner} {adjective}"
    return f"{start}{_form(noun, plural)} {when}", f"{start}{_form(noun, not plural)} {when}"


# Reflexives.


def anaphor_agreement(draw: Draw, turn: int) -> tuple[str, str]:
    female = turn % 2 == 1
    own, other = ("herself", "himself") if female else ("himself", "herself")
    nouns = words.FEMALE if female else words.MALE
    if turn % 4 < 2:
        # gender
        names = words.FEMALE_NAMES if female else words.MALE_NAMES
        subject = draw(names, tuple(f"the {noun.singular}" for noun in nouns))
        good, bad = own, other
    elif turn % 8 < 4:
        subject = f"the {draw(nouns).plural}"
        good, bad = "themselves", own
    else:
        subject = f"the {draw(nouns).singular}"
        good, bad = own, "themselves"
    verb = draw(words.REFLEXIVE)
    after = draw(verb.after)
    return f"{subject} {verb.past} {good} {after}", f"{subject} {verb.past} {bad} {after}"


def anaphor_locality(draw: Draw, turn: int) -> tuple[str, str]:
    """Let the bad reflexive agree with a noun that is not the subject of its clause."""
    female = turn % 2 == 1
    outer = draw(words.FEMALE if female else words.MALE)
    inner = draw(words.MALE if female else words.FEMALE)
    # Which of the two nouns is plural: none, the outer, the inner.
    outer_plural, inner_plural = ((False, False), (True, False), (False, True))[turn // 2 % 3]
    own = "themselves" if outer_plural else "herself" if female else "himself"
    far = "themselves" if inner_plural else "himself" if female else "herself"
    verb = draw(words.REFLEXIVE)
    start = (
        f"the {_form(outer, outer_plural)} that the {_form(inner, inner_plural)} "
        f"{draw(words.SOCIAL).past} {verb.past}"
    )
    after = draw(verb.after)
    return f"{start} {own} {after}", f"{start} {far} {after}"


# Negative polarity: "ever" needs a negative word, or "only", that stands above it.


def npi_licensor(draw: Draw, turn: int) -> tuple[str, str]:
    done = draw(words.EXPERIENCES)
    if turn % 2:
        who = _someone(draw)
        return f"only {who} has ever {done}", f"even {who} has ever {done}"
    who = draw(ANYONE).plural
    other = draw(("some", "many", "most", "the"))
    return f"no {who} have ever {done}", f"{other} {who} have ever {done}"


def npi_scope(draw: Draw, turn: int) -> tuple[str, str]:
    """Use the same words, but put the bad sentence's "no" inside the relative clause."""
    plural = turn % 2 == 1
    outer, inner = draw.two(ANYONE)
    subject, others = _form(outer, plural), inner.plural
    verb, done = draw(words.SOCIAL).past, draw(words.EXPERIENCES)
    end = f"{verb} {'have' if plural else 'has'} ever {done}"
    return f"no {subject} that the {others} {end}", f"the {subject} that no {others} {end}"


# Islands: the same words, but the question word belongs to a place inside an island. The verb in
# the island cannot do without an object and the other verb lacks nothing, so that no other
# reading is left.


def adjunct_island(draw: Draw, turn: int) -> tuple[str, str]:
    name, (one, two) = draw(NAMES), draw.two(words.PEOPLE)
    find, arrive = draw(MUST).past, draw(words.INTRANSITIVE).past
    start, later = f"{name} {draw(ASKED)} what the {one.singular}", draw(LATER)
    return (
        f"{start} {find} {later} the {two.singular} {arrive}",
        f"{start} {arrive} {later} the {two.singular} {find}",
    )


def complex_np_island(draw: Draw, turn: int) -> tuple[str, str]:
    name, (one, two) = draw(NAMES), draw.two(words.PEOPLE)
    find, meet = draw(MUST).past, f"{draw(words.SOCIAL).past} the {two.singular}"
    start = f"{name} {draw(ASKED)} what the {one.singular} who"
    return f"{start} {meet} {find}", f"{start} {find} {meet}"


def filler_gap(draw: Draw, turn: int) -> tuple[str, str]:
    """In turn: a missing object wants "what", a present one wants "that"."""
    start, subject = f"{draw(NAMES)} {draw(KNEW)}", f"the {draw(ANYONE).singular}"
    if turn % 2:
        # A verb with a second object would leave a place for "what".
        verb = draw(ONE_OBJECT)
        rest = f"{subject} {verb.past} {_object(draw, verb)}"
        return f"{start} that {rest}", f"{start} what {rest}"
    rest = f"{subject} {draw(MUST).past}"
    return f"{start} what {rest}", f"{start} that {rest}"


# Argument structure.


def transitivity(draw: Draw, turn: int) -> tuple[str, str]:
    """In turn: an intransitive verb with an object, a transitive one without."""
    intransitive = draw(words.INTRANSITIVE).past
    if turn % 2:
        verb = draw(VERBS_OF_DOING)
        subject, rest = _someone(draw), f"{_object(draw, verb)} {draw(WHEN)}"
        return f"{subject} {verb.past} {rest}", f"{subject} {intransitive} {rest}"
    # A name, since "the man found after lunch" would be a phrase, though not a sentence.
    subject, rest = draw(NAMES), draw(WHEN)
    return f"{subject} {intransitive} {rest}", f"{subject} {draw(MUST).past} {rest}"


def passive(draw: Draw, turn: int) -> tuple[str, str]:
    plural = turn % 2 == 1
    verb = draw(VERBS_OF_DOING)
    start = f"the {_form(draw(verb.objects), plural)} {'were' if plural else 'was'}"
    end = f"by {_someone(draw)}"
    return (
        f"{start} {verb.participle} {end}",
        f"{start} {draw(words.INTRANSITIVE).participle} {end}",
    )


# Verb forms.


def irregular_past(draw: Draw, turn: int) -> tuple[str, str]:
    verb, when = draw(words.IRREGULAR), draw(WHEN)
    subject = f"the {draw(ANYONE).plural}" if turn % 2 else _someone(draw)
    thing = _object(draw, verb)
    return f"{subject} {verb.past} {thing} {when}", f"{subject} {verb.participle} {thing} {when}"


def auxiliary_form(draw: Draw, turn: int) -> tuple[str, str]:
    """In turn: will take, has taken, is taking; the bad sentence has another form."""
    plural = draw((False, True))
    verb = draw(LASTING)
    auxiliary, good, others = (
        ("will", verb.base, (verb.past, verb.ing)),
        ("have" if plural else "has", verb.participle, (verb.base, verb.ing)),
        ("are" if plural else "is", verb.ing, (verb.base,)),
    )[turn % 3]
    start = f"the {_form(draw(ANYONE), plural)} {auxiliary}"
    thing = _object(draw, verb)
    return f"{start} {good} {thing}", f"{start} {draw(others)} {thing}"


# Quantifiers.


def quantifier_there(draw: Draw, turn: int) -> tuple[str, str]:
    """Put "every", "each" or "most" into a "there" sentence, which takes none of them."""
    where = draw(WHERE)
    noun = draw(ANYONE)
    if turn % 2:
        good = draw(("many", "some", "several", "few", "no"))
        return f"there were {good} {noun.plural} {where}", f"there were most {noun.plural} {where}"
    word = noun.singular
    good = draw(("an" if word[0] in "aeiou" else "a", "no"))
    bad = draw(("every", "each"))
    return f"there was {good} {word} {where}", f"there was {bad} {word} {where}"


def quantifier_noun(draw: Draw, turn: int) -> tuple[str, str]:
    start = f"{_someone(draw)} {draw(('bought', 'ordered', 'sold', 'wanted', 'needed'))}"
    start = f"{start} {draw(('too', 'so'))}"
    many, much = "many", "much"
    if turn % 2:
        noun, good, bad = draw(words.GOODS).plural, many, much
    else:
        noun, good, bad = draw(words.MASS), much, many
    when = draw(WHEN)
    return f"{start} {good} {noun} {when}", f"{start} {bad} {noun} {when}"


def pronoun_case(draw: Draw, turn: int) -> tuple[str, str]:
    """In turn: a pronoun as subject, as object, after a preposition."""
    subject, thing = draw(words.PRONOUNS)
    who, where = f"the {draw(ANYONE).singular}", draw(WHERE)
    verb = draw(MET).past
    if turn % 3 == 0:
        return f"{subject} {verb} {who} {where}", f"{thing} {verb} {who} {where}"
    if turn % 3 == 1:
        return f"{who} {verb} {thing} {where}", f"{who} {verb} {subject} {where}"
    start = f"{who} {draw(('waited for', 'talked about', 'laughed at', 'looked at'))}"
    return f"{start} {thing} {where}", f"{start} {subject} {where}"


PHENOMENA = (
    Phenomenon("agreement_simple", "agreement", agreement_simple),
    Phenomenon("agreement_prepositional", "agreement", agreement_prepositional),
    Phenomenon("agreement_relative", "agreement", agreement_relative),
    Phenomenon("determiner_noun", "determiners", determiner_noun),
    Phenomenon("determiner_adjective_noun", "determiners", determiner_adjective_noun),
    Phenomenon("anaphor_agreement", "anaphors", anaphor_agreement),
    Phenomenon("anaphor_locality", "anaphors", anaphor_locality),
    Phenomenon("npi_licensor", "negative polarity", npi_licensor),
    Phenomenon("npi_scope", "negative polarity", npi_scope),
    Phenomenon("adjunct_island", "islands", adjunct_island),
    Phenomenon("complex_np_island", "islands", complex_np_island),
    Phenomenon("filler_gap", "filler-gap", filler_gap),
    Phenomenon("transitivity", "argument structure", transitivity),
    Phenomenon("passive", "argument structure", passive),
    Phenomenon("irregular_past", "verb forms", irregular_past),
    Phenomenon("auxiliary_form", "verb forms", auxiliary_form),
    Phenomenon("quantifier_there", "quantifiers", quantifier_there),
    Phenomenon("quantifier_noun", "quantifiers", quantifier_noun),
    Phenomenon("pronoun_case", "pronouns", pronoun_case),
)
