"""What a behavioural task is, and how the log-probabilities of its tokens become scores."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import TaskError

__all__ = ["Item", "Task", "TaskInputs", "perplexity"]

_TEXTS = {"pairs": 2, "text": 1}


@dataclass(frozen=True)
class Item:
    """One item of a task.

    Attributes
    ----------
    id : str
        Its name, unique in its task.
    group : str
        The paradigm or phenomenon it belongs to.
    texts : tuple of str
        The sequences whose tokens are scored: (good, bad) in a task of pairs, one text otherwise.
    field : str
        The field of grammar that `group` belongs to, where the source names one.
    """

    id: str
    group: str
    texts: tuple[str, ...]
    field: str = ""


@dataclass(frozen=True)
class TaskInputs:
    """What a task may need of its caller.

    Attributes
    ----------
    sentences : tuple of str
        The localizer's own sentences.
    source : str
        Where they come from, for messages and records.
    """

    sentences: tuple[str, ...] = ()
    source: str = "the localizer's sentences"


@dataclass(frozen=True)
class Task:
    """A set of items and the way they are scored.

    Attributes
    ----------
    name : str
        A name for tables and figures.
    kind : {"pairs", "text"}
        Minimal pairs, or single texts.
    items : tuple of Item
        In the order in which they are scored.
    source : str
        Where the items come from, for people.

    Raises
    ------
    TaskError
        If there is no item, an id occurs twice, or an item does not fit the kind.
    """

    name: str
    kind: Literal["pairs", "text"]
    items: tuple[Item, ...]
    source: str

    def __post_init__(self) -> None:
        if self.kind not in _TEXTS:
            raise TaskError(f"task {self.name}: the kind {self.kind!r} is not 'pairs' or 'text'")
        if not self.items:
            raise TaskError(f"task {self.name} has no items ({self.source})")
        twice, count = Counter(item.id for item in self.items).most_common(1)[0]
        if count > 1:
            raise TaskError(f"task {self.name}: the item id {twice!r} occurs {count} times")
        for item in self.items:
            if len(item.texts) != _TEXTS[self.kind] or not all(item.texts):
                raise TaskError(
                    f"task {self.name}: item {item.id!r} needs {_TEXTS[self.kind]} text(s), "
                    "none of them empty"
                )

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of the kind and of all items in order.

        The name and the source do not count: they change no score.
        """
        rows = [[item.id, item.group, item.field, *item.texts] for item in self.items]
        text = json.dumps([self.kind, rows], separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @property
    def metric(self) -> str:
        """What the mean score of the items is called."""
        return "accuracy" if self.kind == "pairs" else "mean log-probability"

    @property
    def chance(self) -> float | None:
        """The mean score of blind guessing, or None where that has no meaning."""
        return 0.5 if self.kind == "pairs" else None

    def limited(self, n_per_group: int) -> Self:
        """Keep the task as it is, but with only the first `n_per_group` items of each group.

        Raises
        ------
        TaskError
            If `n_per_group` is below 1.
        """
        if n_per_group < 1:
            raise TaskError(f"a task needs at least 1 item in each group, not {n_per_group}")
        seen: Counter[str] = Counter()
        kept: list[Item] = []
        for item in self.items:
            seen[item.group] += 1
            if seen[item.group] <= n_per_group:
                kept.append(item)
        if len(kept) == len(self.items):
            return self
        source = f"{self.source}, first {n_per_group} of each group"
        return replace(self, items=tuple(kept), source=source)

    def score(self, logprobs: Sequence[Sequence[NDArray[np.float64]]]) -> NDArray[np.float64]:
        """Score every item.

        Parameters
        ----------
        logprobs : sequence of sequence of array
            ``logprobs[i][j]`` has shape (tokens,): the natural-log probability of each token of
            text j of item i, given all tokens before it. The first token's context is a prefix
            token, so that every token has a value.

        Returns
        -------
        array of shape (items,)
            Pairs: 1.0 if the sum over the good text is greater than the sum over the bad one,
            else 0.0; a tie counts 0.0, and so does a NaN in either text. Text: the mean
            log-probability a token, in nats; a NaN stays NaN.

        Raises
        ------
        TaskError
            If `logprobs` does not fit the items, or a text has no tokens.
        """
        if len(logprobs) != len(self.items):
            raise TaskError(
                f"task {self.name} has {len(self.items)} items, but {len(logprobs)} were given"
            )
        scores = np.empty(len(self.items), dtype=np.float64)
        for row, (item, given) in enumerate(zip(self.items, logprobs, strict=True)):
            texts = [np.asarray(values, dtype=np.float64) for values in given]
            if len(texts) != len(item.texts) or any(t.ndim != 1 or not t.size for t in texts):
                raise TaskError(
                    f"task {self.name}: item {item.id!r} needs the log-probabilities of at least "
                    f"one token for each of its {len(item.texts)} text(s)"
                )
            if self.kind == "pairs":
                scores[row] = float(texts[0].sum() > texts[1].sum())
            else:
                scores[row] = texts[0].mean()
        return scores


def perplexity(scores: NDArray[np.float64], token_counts: NDArray[np.int64]) -> float:
    """Perplexity of a whole text: exp of minus the mean log-probability of all its tokens.

    Parameters
    ----------
    scores : array of shape (items,)
        Mean log-probability a token of each item, in nats, as `Task.score` gives it.
    token_counts : array of shape (items,)
        Number of tokens behind each score.

    Returns
    -------
    float
        At least 1 for true probabilities; inf where it is too large to be represented, NaN if
        any score is NaN.

    Raises
    ------
    TaskError
        If the shapes differ, or a count is below 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    counts = np.asarray(token_counts)
    if values.ndim != 1 or not values.size or values.shape != counts.shape or counts.min() < 1:
        raise TaskError("perplexity needs one token count of at least 1 for each score")
    with np.errstate(over="ignore"):
        return float(np.exp(-np.average(values, weights=counts)))
