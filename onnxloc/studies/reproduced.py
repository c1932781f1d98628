"""What a reproduction measured, in plain records: what the page and the verdicts are made of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from onnxloc.stats.resample import Interval

__all__ = [
    "Difference",
    "GroupScores",
    "KindScores",
    "Located",
    "Measured",
    "Response",
    "SizeEffect",
]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Located:
    """A network, and how well half of the stimuli finds that of the other half.

    Attributes
    ----------
    name : str
        The localizer; "untrained" for the language localizer in an untrained copy.
    positive, control : str
        Labels of the two conditions.
    n_stimuli, n_units, k : int
        Stimuli; units searched; units of the network.
    n_significant : int
        Units that respond more to the positive condition at a false discovery rate of 5 %.
    blocks : tuple of int
        Units of the network in each block.
    reliability, shuffled, chance : Interval
        Dice of the networks of two random halves: median and middle 95 % of splits; the same with
        shuffled labels; and of two random networks.
    correlation : Interval
        Rank correlation of t between halves, corrected for the halved length.
    dice_language, dice_language_chance : float or None
        Overlap with the language network, and what two random networks share.
    """

    name: str
    positive: str
    control: str
    n_stimuli: int
    n_units: int
    k: int
    n_significant: int
    blocks: tuple[int, ...]
    reliability: Interval
    shuffled: Interval
    chance: Interval
    correlation: Interval
    dice_language: float | None = None
    dice_language_chance: float | None = None

    @property
    def holds(self) -> bool:
        """Whether halves agree more than shuffled labels and chance let them."""
        return self.reliability.low > max(self.shuffled.high, self.chance.high)

    @property
    def n_blocks(self) -> int:
        """Blocks that hold a unit of the network."""
        return sum(count > 0 for count in self.blocks)


@dataclass(frozen=True, kw_only=True)
class KindScores:
    """The controls of one kind at one size.

    Attributes
    ----------
    kind : str
        "count", "site", "norm", "least", "shuffled" or "untrained".
    scores : tuple of float
        Mean score of each.
    as_harmful : int
        How many score as the network or lower.
    p : float
        (1 + as_harmful) / (1 + controls).
    perplexity : tuple of float or None
        Of each, for a task of texts.
    """

    kind: str
    scores: tuple[float, ...]
    as_harmful: int
    p: float
    perplexity: tuple[float, ...] | None = None

    @property
    def median(self) -> float:
        """Median score."""
        return median(self.scores)


@dataclass(frozen=True, kw_only=True)
class SizeEffect:
    """One task with the network ablated in one size.

    Attributes
    ----------
    task, metric : str
        What was scored, and how.
    size : float
        Percent of all units.
    units, n_items : int
        Units ablated; items scored.
    intact, network : float
        Mean scores.
    difference, low, high : float
        Network minus intact, with a 95 % bootstrap interval over items.
    kinds : tuple of KindScores
        The controls.
    without_massive : float or None
        Score where the units of the network with very large activations stay as they are.
    intact_perplexity, network_perplexity : float or None
        For a task of texts.
    """

    task: str
    metric: str
    size: float
    units: int
    n_items: int
    intact: float
    network: float
    difference: float
    low: float
    high: float
    kinds: tuple[KindScores, ...]
    without_massive: float | None = None
    intact_perplexity: float | None = None
    network_perplexity: float | None = None

    @property
    def harms(self) -> bool:
        """Whether the interval of the difference lies below 0."""
        return self.high < 0

    def share(self, kind: KindScores) -> float:
        """What part of the network's loss the median control of a kind loses, too."""
        return (self.intact - kind.median) / (self.intact - self.network)


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """The pairs of one phenomenon.

    Attributes
    ----------
    group : str
        The phenomenon.
    n_items : int
        Pairs.
    intact : float
        Accuracy.
    network : mapping of float to float
        Accuracy without the network, by size in percent.
    controls : mapping of str to float
        Median accuracy of the controls of each kind, at the largest size.
    """

    group: str
    n_items: int
    intact: float
    network: Mapping[float, float]
    controls: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Response:
    """Mean response of the network to one condition of the profile, with a 95 % interval.

    `controls_low` and `controls_high` hold the middle 95 % of random networks.
    """

    condition: str
    label: str
    n: int
    mean: float
    low: float
    high: float
    controls_median: float
    controls_low: float
    controls_high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The response to condition `a` minus that to `b`.

    `p` is of Welch's test over items, corrected by Holm's method; `p_controls` is the place of the
    difference among those of random networks.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_controls: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes
    ----------
    model, model_hash : str
        The model.
    language, untrained : Located
        The language network, and that of an untrained copy.
    others : tuple of Located
        Other networks.
    effects : tuple of SizeEffect
        Tasks and sizes.
    groups : tuple of GroupScores
        The pairs by phenomenon.
    responses : tuple of Response
        The profile.
    differences : tuple of Difference
        Between its conditions.
    """

    model: str
    model_hash: str
    language: Located
    untrained: Located
    others: tuple[Located, ...]
    effects: tuple[SizeEffect, ...]
    groups: tuple[GroupScores, ...]
    responses: tuple[Response, ...]
    differences: tuple[Difference, ...]

    @property
    def pairs(self) -> tuple[SizeEffect, ...]:
        """Effects on minimal pairs, the smallest size first."""
        own = (effect for effect in self.effects if effect.task == "pairs")
        return tuple(sorted(own, key=lambda effect: effect.size))

    def between(self, a: str, b: str) -> Difference | None:
        """The difference between two conditions, if both were shown."""
        return next((one for one in self.differences if (one.a, one.b) == (a, b)), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it once numbers are made finite."""
        return {"format": FORMAT, **asdict(self)}
