"""What a behavioural task is, and how the log-probabilities of its tokens become scores."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import TaskError
from onnxloc.tasks.formula import Formula
from onnxloc.tasks.spans import Span, tokens_of_spans

__all__ = ["Item", "Kind", "Length", "Task", "TaskInputs", "perplexity"]

Kind = Literal["pairs", "text", "choice", "cloze", "continuation", "formula"]
Length = Literal["tokens", "bytes", "characters", "none"]
Floats = NDArray[np.float64]
Offsets = Sequence[NDArray[np.int64]]

_TEXTS = {"pairs": 2, "text": 1, "cloze": 1, "continuation": 1}
_WITH_SPANS = ("choice", "cloze", "continuation", "formula")
_BITS = float(np.log(2.0))


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
        The sequences whose tokens are scored: (good, bad) in a task of pairs; one for each choice,
        with the question in front; one for each condition of a formula; else one text.
    field : str
        The field of grammar that `group` belongs to, where the source names one.
    term : str
        The phenomenon that `group` belongs to, where the source has one above it.
    spans : tuple of tuple of (int, int)
        For each text the ranges of characters that are scored; empty where all of a text is.
    answer : int
        Which of the texts is right, in a task of choices.
    formula : Formula, optional
        What must hold of the texts' regions, in a task of formulas.
    """

    id: str
    group: str
    texts: tuple[str, ...]
    field: str = ""
    term: str = ""
    spans: tuple[tuple[Span, ...], ...] = ()
    answer: int = 0
    formula: Formula | None = None


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
    kind : {"pairs", "text", "choice", "cloze", "continuation", "formula"}
        Minimal pairs; single texts; texts of which one is right; a last word, guessed greedily; the
        log-probability of a text's end; a formula over regions of several texts.
    items : tuple of Item
        In the order in which they are scored.
    source : str
        Where the items come from, for people.
    length : {"tokens", "bytes", "characters", "none"}
        What the log-probability of a choice is divided by.
    notes : tuple of str
        What a reader should know of it, such as parts that are missing.

    Raises
    ------
    TaskError
        If there is no item, an id occurs twice, or an item does not fit the kind.
    """

    name: str
    kind: Kind
    items: tuple[Item, ...]
    source: str
    length: Length = "tokens"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(map(repr, get_args(Kind)))
            raise TaskError(f"task {self.name}: the kind {self.kind!r} is none of {known}")
        if self.length not in get_args(Length):
            raise TaskError(f"task {self.name}: there is no length in {self.length!r}")
        if not self.items:
            raise TaskError(f"task {self.name} has no items ({self.source})")
        twice, count = Counter(item.id for item in self.items).most_common(1)[0]
        if count > 1:
            raise TaskError(f"task {self.name}: the item id {twice!r} occurs {count} times")
        for item in self.items:
            self._check(item)

    def _check(self, item: Item) -> None:
        where = f"task {self.name}: item {item.id!r}"
        wanted = _TEXTS.get(self.kind)
        if (wanted and len(item.texts) != wanted) or not item.texts or not all(item.texts):
            raise TaskError(f"{where} needs {wanted or 'some'} text(s), none of them empty")
        if self.kind in _WITH_SPANS and len(item.spans) != len(item.texts):
            raise TaskError(f"{where} needs the ranges of characters that are scored of each text")
        if self.kind == "choice" and not (len(item.texts) > 1 and item.answer < len(item.texts)):
            raise TaskError(f"{where} needs two choices or more, and an answer among them")
        if (self.kind == "formula") != (item.formula is not None):
            raise TaskError(f"{where}: a task of formulas, and no other, has one for each item")

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of the kind and of all items in order.

        The name, the source and the notes do not count: they change no score.
        """
        rows = []
        for item in self.items:
            row: list[object] = [item.id, item.group, item.field, *item.texts]
            if item.spans or item.term:
                formula = None if item.formula is None else item.formula.record
                row.append([item.term, item.spans, item.answer, formula])
            rows.append(row)
        kind = self.kind if self.length == "tokens" else f"{self.kind}/{self.length}"
        text = json.dumps([kind, rows], separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @property
    def has_spans(self) -> bool:
        """Whether scoring needs to know where in its text each token stands."""
        return self.kind in _WITH_SPANS

    @property
    def greedy(self) -> bool:
        """Whether scoring needs to know which tokens are the likeliest in their place."""
        return self.kind == "cloze"

    @property
    def is_accuracy(self) -> bool:
        """Whether each item is right (1.0) or wrong (0.0)."""
        return self.kind not in ("text", "continuation")

    @property
    def metric(self) -> str:
        """What the mean score of the items is called."""
        if self.kind == "continuation":
            return "log-probability"
        return "accuracy" if self.is_accuracy else "mean log-probability"

    @property
    def chance(self) -> float | None:
        """The mean score of blind guessing, or None where that has no meaning."""
        if self.kind == "choice":
            return float(np.mean([1 / len(item.texts) for item in self.items]))
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

    def wanted(self, offsets: Offsets) -> list[NDArray[np.bool_]]:
        """Which tokens of each text are scored: for each text ``[tokens]``.

        Parameters
        ----------
        offsets : sequence of array of shape (tokens, 2)
            For each text of each item in order, where its tokens begin and end.

        Raises
        ------
        TaskError
            If what is to be scored has no tokens.
        """
        found, at = [], iter(offsets)
        for item in self.items:
            for number, (text, spans) in enumerate(zip(item.texts, item.spans, strict=True)):
                place = tokens_of_spans(text, next(at), spans)
                if item.formula is None:
                    if not (place == 0).any():
                        raise TaskError(
                            f"task {self.name}: item {item.id!r} has no token of its own behind "
                            "its context; the tokenizer joins them, or there is nothing to score"
                        )
                    found.append(place == 0)
                else:
                    regions = item.formula.regions_of(number)
                    everything = 0 in regions
                    found.append(np.isin(place, [r - 1 for r in regions]) | everything)
        return found

    def score(
        self,
        logprobs: Sequence[Sequence[Floats]],
        offsets: Sequence[Offsets] | None = None,
        top: Sequence[Sequence[NDArray[np.bool_]]] | None = None,
    ) -> Floats:
        """Score every item.

        Parameters
        ----------
        logprobs : sequence of sequence of array
            ``logprobs[i][j]`` has shape (tokens,): the natural-log probability of each token of
            text j of item i, given all tokens before it. The first token's context is a prefix
            token, so that every token has a value. What is not scored may be NaN.
        offsets : sequence of sequence of array, optional
            In the same form, ``[tokens, 2]``: where each token begins and ends in its text. Needed
            where `has_spans`.
        top : sequence of sequence of array, optional
            In the same form, whether the token is the likeliest in its place. Needed where
            `greedy`.

        Returns
        -------
        array of shape (items,)
            Pairs: 1.0 if the sum over the good text is greater than the sum over the bad one,
            else 0.0; a tie counts 0.0, and so does a NaN in either text. Choice: 1.0 if the sum
            over the right choice, divided by its length, is greater than that of every other; ties
            and NaN as in pairs. Formula: 1.0 if it holds of the regions' surprisals in bits; a NaN
            counts 0.0. Cloze: 1.0 if every token of the last word is the likeliest. Text: the mean
            log-probability a token, in nats; continuation: the sum over the end; a NaN stays NaN.

        Raises
        ------
        TaskError
            If `logprobs` does not fit the items, or a text has no tokens.
        """
        if len(logprobs) != len(self.items):
            raise TaskError(
                f"task {self.name} has {len(self.items)} items, but {len(logprobs)} were given"
            )
        if (self.has_spans and offsets is None) or (self.greedy and top is None):
            raise TaskError(f"task {self.name} needs to know where the tokens stand, and which won")
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
            elif self.kind == "text":
                scores[row] = texts[0].mean()
            else:
                places = [
                    tokens_of_spans(*each)
                    for each in zip(item.texts, (offsets or ())[row], item.spans, strict=True)
                ]
                won = np.asarray((top or ())[row][0]) if self.greedy else None
                scores[row] = self._of_spans(item, texts, places, won)
        return scores

    def _of_spans(
        self,
        item: Item,
        texts: list[Floats],
        places: list[NDArray[np.int64]],
        won: NDArray[np.bool_] | None,
    ) -> float:
        """The score of an item of which parts are scored; `places` has each token's span."""
        if item.formula is not None:

            def surprisal(text: int, region: int) -> float:
                inside = places[text] == region - 1 if region else slice(None)
                return float(-texts[text][inside].sum() / _BITS)

            return float(item.formula.holds(surprisal))
        if won is not None:
            return float(won[places[0] == 0].all())
        sums = [values[place == 0].sum() for values, place in zip(texts, places, strict=True)]
        if self.kind == "continuation":
            return float(sums[0])
        counts = [self._length(item, i, place) for i, place in enumerate(places)]
        values = np.array(sums) / np.array(counts)
        rest = np.delete(values, item.answer)
        return float((values[item.answer] > rest).all())

    def _length(self, item: Item, text: int, place: NDArray[np.int64]) -> int:
        """What the log-probability of a choice is divided by; the blank in front is no part."""
        if self.length == "none":
            return 1
        if self.length == "tokens":
            return int((place == 0).sum())
        start, end = item.spans[text][0]
        choice = item.texts[text][start:end].strip()
        return len(choice.encode() if self.length == "bytes" else choice)


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
