"""The words of the built-in minimal pairs: common English words with all their forms.

Each table is a text of one word a line (verbs) or a list of words (nouns), so that it can be
read and checked by eye. What a word must satisfy to stand in a table is said above it.
"""

from dataclasses import dataclass

__all__ = [
    "ACTIVITIES",
    "COLORS_AND_SIZES",
    "EXPERIENCES",
    "FEMALE",
    "FEMALE_NAMES",
    "GOODS",
    "HABITS",
    "INTRANSITIVE",
    "IRREGULAR",
    "LANDMARKS",
    "MALE",
    "MALE_NAMES",
    "MASS",
    "PEOPLE",
    "PRONOUNS",
    "REFLEXIVE",
    "SOCIAL",
    "THINGS",
    "TRAITS",
    "TRANSITIVE",
    "Noun",
    "Verb",
]


@dataclass(frozen=True)
class Noun:
    """A countable noun."""

    singular: str
    plural: str


@dataclass(frozen=True)
class Verb:
    """A verb with its forms and what may follow it.

    Attributes
    ----------
    base, third, past, participle, ing : str
        Its forms: "take", "takes", "took", "taken", "taking".
    after : tuple of str
        Phrases that may follow it.
    objects : tuple of Noun
        Nouns that may be its object.
    marks : frozenset of str
        What else is true of it; the tables say what the marks mean.
    """

    base: str
    third: str
    past: str
    participle: str
    ing: str
    after: tuple[str, ...] = ()
    objects: tuple[Noun, ...] = ()
    marks: frozenset[str] = frozenset()


def _nouns(text: str) -> tuple[Noun, ...]:
    """Nouns of a list; the plural stands after a slash where it is not the word and an s."""
    nouns = []
    for word in text.split():
        singular, slash, plural = word.partition("/")
        nouns.append(Noun(singular, plural if slash else singular + "s"))
    return tuple(nouns)


def _with_phrases(text: str) -> tuple[Verb, ...]:
    """Verbs of lines ``five forms: phrase | phrase``."""
    verbs = []
    for line in text.strip().splitlines():
        forms, _, rest = line.partition(":")
        base, third, past, participle, ing = forms.split()
        after = tuple(phrase.strip() for phrase in rest.split("|") if phrase.strip())
        verbs.append(Verb(base, third, past, participle, ing, after=after))
    return tuple(verbs)


def _with_objects(text: str) -> tuple[Verb, ...]:
    """Verbs of lines ``five forms: objects: marks``; ``goods`` stands for all of `GOODS`."""
    known = {noun.singular: noun for noun in THINGS}
    verbs = []
    for line in text.strip().splitlines():
        forms, objects, marks = (part.split() for part in line.split(":"))
        base, third, past, participle, ing = forms
        nouns = GOODS if objects == ["goods"] else tuple(known[word] for word in objects)
        verbs.append(
            Verb(base, third, past, participle, ing, objects=nouns, marks=frozenset(marks))
        )
    return tuple(verbs)


# Nouns for people that say nothing of their gender.
PEOPLE = _nouns("""
    teacher doctor student farmer lawyer nurse artist singer driver baker child/children writer
    pilot soldier dancer manager engineer scientist officer guest visitor player reporter tourist
    painter worker customer mayor captain friend gardener musician
""")

# Nouns for people whose gender every speaker agrees on.
MALE = _nouns("man/men boy king prince father brother son uncle husband grandfather")
FEMALE = _nouns("""
    woman/women girl queen princess/princesses mother sister daughter aunt actress/actresses
    waitress/waitresses
""")

MALE_NAMES = ("John", "David", "Peter", "Tom", "Robert", "James", "Michael", "Daniel", "Paul")
FEMALE_NAMES = ("Mary", "Anna", "Sarah", "Emma", "Laura", "Julia", "Susan", "Lisa", "Alice")

# Things that a person can buy, carry, hide and lose.
GOODS = _nouns("""
    book chair picture cup plate bottle box/boxes bag shirt hat coat lamp clock phone bike guitar
    camera map basket ball toy blanket mirror pencil ticket ring umbrella knife/knives
    brush/brushes dress/dresses dish/dishes shoe jacket candle flag pillow radio violin suitcase
""")

# Things that a person can stand beside.
LANDMARKS = _nouns("""
    car tree house truck boat tent statue bench/benches gate tower fountain table window fence
    wall shop bus/buses
""")

THINGS = (
    GOODS
    + LANDMARKS
    + _nouns("""
    letter cake apple sandwich/sandwiches cookie egg poem story/stories stone kite plane horse
    shelf/shelves bridge door
""")
)

# Nouns without a plural that a shop sells.
MASS = ("milk", "sugar", "bread", "rice", "butter", "coffee", "furniture", "cheese", "salt",
        "flour", "meat", "soup", "water", "juice", "honey")  # fmt: skip

TRAITS = ("tall", "happy", "clever", "quiet", "friendly", "polite", "tired", "lucky")
COLORS_AND_SIZES = ("old", "new", "small", "large", "red", "blue", "green", "black", "white",
                    "beautiful", "expensive", "cheap", "strange", "nice")  # fmt: skip

# Subject form and object form.
PRONOUNS = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me"))

# What a person does in a scene, in the present tense.
ACTIVITIES = _with_phrases("""
smile smiles smiled smiled smiling: at the camera | in the sun
laugh laughs laughed laughed laughing: at the joke | all the time
sing sings sang sung singing: in the garden | all day
dance dances danced danced dancing: at the party | in the street
wait waits waited waited waiting: at the station | for the train
sleep sleeps slept slept sleeping: in the shade | on the grass
cough coughs coughed coughed coughing: at night | all the time
cry cries cried cried crying: at night | all day
talk talks talked talked talking: about the weather | about the game
listen listens listened listened listening: to the music | to the news
look looks looked looked looking: at the sky | at the sea
stand stands stood stood standing: in the rain | in the sun
sit sits sat sat sitting: on the floor | on the grass
play plays played played playing: in the park | in the snow
rest rests rested rested resting: in the shade | after lunch
""")

# What a person does as a rule.
HABITS = _with_phrases("""
walk walks walked walked walking: to the park | to work
run runs ran run running: to the station | in the park
swim swims swam swum swimming: in the lake | in the sea
travel travels traveled traveled traveling: to the city | by train
live lives lived lived living: in the village | by the sea
work works worked worked working: in the city | at night
arrive arrives arrived arrived arriving: in the morning | before noon
""")

# Verbs that never take an object, a question word's gap included. "Wait" (wait tables) and
# "appear" (appear a fool) would not do.
INTRANSITIVE = _with_phrases("""
arrive arrives arrived arrived arriving
sleep sleeps slept slept sleeping
smile smiles smiled smiled smiling
laugh laughs laughed laughed laughing
sneeze sneezes sneezed sneezed sneezing
yawn yawns yawned yawned yawning
giggle giggles giggled giggled giggling
blush blushes blushed blushed blushing
kneel kneels knelt knelt kneeling
shiver shivers shivered shivered shivering
faint faints fainted fainted fainting
listen listens listened listened listening
hesitate hesitates hesitated hesitated hesitating
""")

# Verbs with a person as object, which take no second object and no clause.
SOCIAL = _with_phrases("""
like likes liked liked liking
admire admires admired admired admiring
love loves loved loved loving
know knows knew known knowing
trust trusts trusted trusted trusting
visit visits visited visited visiting
meet meets met met meeting
help helps helped helped helping
follow follows followed followed following
thank thanks thanked thanked thanking
invite invites invited invited inviting
hate hates hated hated hating
""")

# Verbs with a reflexive object.
REFLEXIVE = _with_phrases("""
introduce introduces introduced introduced introducing: at the party | at the meeting
hurt hurts hurt hurt hurting: in the kitchen | during the game
blame blames blamed blamed blaming: for the accident | for the mistake
describe describes described described describing: in the letter | in the book
defend defends defended defended defending: in the meeting | with a stick
see sees saw seen seeing: in the mirror | in the water
protect protects protected protected protecting: from the rain | from the sun
praise praises praised praised praising: in the speech | after the game
embarrass embarrasses embarrassed embarrassed embarrassing: at the party | in the meeting
cover covers covered covered covering: with a blanket | with a towel
wash washes washed washed washing: in the river | before dinner
dry dries dried dried drying: with a towel | in the sun
""")

# Verbs with a thing as object. Marks: "must" = the object cannot be left out; "one" = no second
# object and nothing said of the object may follow; "lasting" = natural in the progressive.
TRANSITIVE = _with_objects("""
buy buys bought bought buying: goods: lasting
sell sells sold sold selling: goods: lasting
find finds found found finding: goods: must
bring brings brought brought bringing: goods: must lasting
take takes took taken taking: goods: lasting
make makes made made making: cake basket toy candle table blanket sandwich: must lasting
keep keeps kept kept keeping: goods: must
order orders ordered ordered ordering: goods: lasting
own owns owned owned owning: goods: must one
want wants wanted wanted wanting: goods: must
need needs needed needed needing: goods: must
receive receives received received receiving: letter ticket book picture phone ring: must one
repair repairs repaired repaired repairing: bike car truck clock radio fence: one lasting
damage damages damaged damaged damaging: car bike clock camera guitar boat: must one
destroy destroys destroyed destroyed destroying: letter picture map house tent: must one lasting
mention mentions mentioned mentioned mentioning: book letter picture map story: must one
discover discovers discovered discovered discovering: letter map ring picture: must one
carry carries carried carried carrying: box bag chair suitcase basket table: one lasting
move moves moved moved moving: table chair box lamp mirror: one lasting
wash washes washed washed washing: plate cup shirt coat blanket car window: one lasting
borrow borrows borrowed borrowed borrowing: goods: one lasting
drop drops dropped dropped dropping: cup plate bottle book phone ball:
paint paints painted painted painting: door chair house fence boat wall: lasting
build builds built built building: house boat shelf wall bridge tower: lasting
""")

# The same, with a past tense and a participle that differ from each other and from the base.
IRREGULAR = _with_objects("""
break breaks broke broken breaking: cup plate lamp bottle mirror window: lasting
write writes wrote written writing: letter book poem story: lasting
eat eats ate eaten eating: cake apple sandwich cookie egg: lasting
drive drives drove driven driving: car truck bus: lasting
steal steals stole stolen stealing: goods: lasting
wear wears wore worn wearing: hat coat shirt dress jacket ring shoe: lasting
draw draws drew drawn drawing: picture map tree house horse: lasting
throw throws threw thrown throwing: ball stone bottle pillow shoe: lasting
tear tears tore torn tearing: letter shirt map dress ticket: lasting
choose chooses chose chosen choosing: goods: lasting
hide hides hid hidden hiding: goods: lasting
forget forgets forgot forgotten forgetting: ticket umbrella bag phone camera hat:
shake shakes shook shaken shaking: bottle box basket tree blanket: lasting
ride rides rode ridden riding: bike horse: lasting
fly flies flew flown flying: kite plane: lasting
""")

# What a person may have done once, after "has ever".
EXPERIENCES = (
    "climbed the mountain", "visited the old castle", "lost a game", "complained about the food",
    "been to the island", "eaten in the restaurant", "slept in a tent", "missed the train",
    "told a lie", "broken a promise", "won the prize", "lived in a big city", "driven a truck",
    "read the letter", "answered the question", "swum in the lake", "worked at night",
    "seen a snake", "crossed the river", "opened the door",
)  # fmt: skip
