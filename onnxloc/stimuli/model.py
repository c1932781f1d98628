"""What a stimulus set is, once it has been read."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self, get_args

from onnxloc.errors import StimulusError
from onnxloc.registry import did_you_mean

__all__ = ["MIN_TEXTS", "POOLS", "Condition", "ConditionSet", "Pool", "StimulusSet"]

# Variances of two conditions need at least this many texts each to mean anything.
MIN_TEXTS = 3

# The ways of pooling a text's tokens, as a plan has them.
Pool = Literal["last", "mean", "sum", "max"]
POOLS: tuple[Pool, ...] = get_args(Pool)


def _check(where: str, max_tokens: int, pool: str) -> None:
    if max_tokens < 0:
        raise StimulusError(f"{where}: max_tokens is {max_tokens}; 0 means no cut")
    if pool not in POOLS:
        raise StimulusError(f"{where}: pool is {pool[:40]!r}; it must be one of {', '.join(POOLS)}")


def _check_texts(where: str, condition: str, texts: tuple[str, ...]) -> None:
    if len(texts) < MIN_TEXTS:
        count = f"{len(texts)} {condition} text" + "s" * (len(texts) != 1)
        raise StimulusError(
            f"{where} has only {count}; at least {MIN_TEXTS} in each condition are needed"
        )
    if any(not text.strip() for text in texts):
        raise StimulusError(f"{where} has an empty {condition} text")


@dataclass(frozen=True, kw_only=True)
class StimulusSet:
    """The texts of two conditions whose contrast localizes a network.

    Attributes
    ----------
    name, version : str
        What the set calls itself.
    positive, control : tuple of str
        The texts of the two conditions, in the order of the data; the network is what responds
        more to `positive`.
    paired : bool
        Whether each positive text has its own control text: the one at the same place.
    max_tokens : int
        Texts are cut to this many tokens; 0 means no cut.
    pool : {"last", "mean", "sum", "max"}
        How a text's tokens are pooled, unless the user says otherwise.
    positive_label, control_label : str
        The conditions' names for people.
    source : str
        Where the set was read: a localizer's name, or a path.
    title, description : str
        For people; may be empty.

    Raises
    ------
    StimulusError
        If a condition has fewer than three texts, a text is empty, both conditions hold the same
        texts, paired conditions are not of the same size, `max_tokens` is negative, or `pool` is
        unknown.
    """

    name: str
    version: str = ""
    positive: tuple[str, ...]
    control: tuple[str, ...]
    paired: bool = False
    max_tokens: int = 0
    pool: Pool = "last"
    positive_label: str = "positive"
    control_label: str = "control"
    source: str = ""
    title: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        where = self.source or self.name
        _check(where, self.max_tokens, self.pool)
        for condition, texts in (("positive", self.positive), ("control", self.control)):
            if not texts:
                raise StimulusError(
                    f"{where} has no {condition} text; both conditions, positive and control, "
                    "are needed"
                )
            _check_texts(where, condition, texts)
        if set(self.positive) == set(self.control):
            raise StimulusError(
                f"{where}: both conditions hold the same texts; there is nothing to compare"
            )
        if self.paired and len(self.positive) != len(self.control):
            raise StimulusError(
                f"{where} is paired, but has {len(self.positive)} positive and "
                f"{len(self.control)} control texts"
            )

    def __len__(self) -> int:
        return len(self.positive) + len(self.control)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the conditions and texts, in order: positive first, then control.

        Names, labels, `max_tokens`, `pool` and `paired` do not enter it.
        """
        return _hash((("positive", self.positive), ("control", self.control)))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The texts of one condition.

    Attributes
    ----------
    name : str
        As the data file has it.
    label : str
        For people.
    texts : tuple of str
        In the order of the data.
    """

    name: str
    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConditionSet:
    """Texts of two or more conditions, for profiles and for contrasts of any two of them.

    Attributes
    ----------
    name, version : str
        What the set calls itself.
    conditions : tuple of Condition
        In the order in which they are to be shown.
    max_tokens, pool, source, title, description
        As of a `StimulusSet`.

    Raises
    ------
    StimulusError
        If there are fewer than two conditions, two have one name, one has fewer than three texts
        or an empty one, `max_tokens` is negative, or `pool` is unknown.
    """

    name: str
    version: str = ""
    conditions: tuple[Condition, ...]
    max_tokens: int = 0
    pool: Pool = "last"
    source: str = ""
    title: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        where = self.source or self.name
        _check(where, self.max_tokens, self.pool)
        if len(self.conditions) < 2:
            raise StimulusError(f"{where} must have two conditions or more")
        if len(set(self.names)) < len(self.names):
            raise StimulusError(f"{where}: two conditions have one name")
        for condition in self.conditions:
            _check_texts(where, condition.name, condition.texts)

    def __len__(self) -> int:
        return sum(len(condition.texts) for condition in self.conditions)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the conditions, in order."""
        return tuple(condition.name for condition in self.conditions)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the names of the conditions and their texts, in order."""
        return _hash((condition.name, condition.texts) for condition in self.conditions)

    def __getitem__(self, name: str) -> Condition:
        """The condition of that name.

        Raises
        ------
        StimulusError
            If there is none.
        """
        for condition in self.conditions:
            if condition.name == name:
                return condition
        hint = did_you_mean(name, self.names)
        raise StimulusError(
            f"{self.source or self.name} has no condition {name!r}{hint} "
            f"(it has {', '.join(self.names)})"
        )

    @classmethod
    def of(cls, stimuli: StimulusSet) -> Self:
        """Both conditions of a localizer, named `positive` and `control`."""
        both = (
            Condition(name="positive", label=stimuli.positive_label, texts=stimuli.positive),
            Condition(name="control", label=stimuli.control_label, texts=stimuli.control),
        )
        return cls(
            name=stimuli.name,
            version=stimuli.version,
            conditions=both,
            max_tokens=stimuli.max_tokens,
            pool=stimuli.pool,
            source=stimuli.source,
            title=stimuli.title,
            description=stimuli.description,
        )

    def contrast(self, positive: str, control: str) -> StimulusSet:
        """Two of the conditions as a localizer.

        Raises
        ------
        StimulusError
            If there is no such condition, or both are the same.
        """
        first, second = self[positive], self[control]
        return StimulusSet(
            name=f"{self.name}:{positive}-{control}",
            version=self.version,
            positive=first.texts,
            control=second.texts,
            max_tokens=self.max_tokens,
            pool=self.pool,
            positive_label=first.label,
            control_label=second.label,
            source=self.source,
            title=self.title,
            description=self.description,
        )


def _hash(conditions: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    digest = hashlib.sha256()
    for condition, texts in conditions:
        for text in texts:
            digest.update(json.dumps([condition, text]).encode() + b"\n")
    return digest.hexdigest()
