"""Scoring the texts of a task under many conditions, each row of a batch under its own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.checkpoint import Part
from onnxloc.errors import ModelError
from onnxloc.graph.partition import late_cut
from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.graph.topology import Topology
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.binding import Held
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import EditValues, Session
from onnxloc.runtime.tokens import Window
from onnxloc.tasks import Task

__all__ = ["Prefix", "Scorer", "first_scored", "require_causal", "rows_and_conditions"]

Array = NDArray[Any]
# Takes the scores before the first batch, and the number of rows as `total`.
Begin = Callable[..., Part]


@dataclass(frozen=True)
class Prefix:
    """The part of a model before the first edit, which every condition of a text shares."""

    session: Session
    tensor: str

    @classmethod
    def of(cls, model: Model, edited: Iterable[Site], runtime: RuntimeOptions) -> Self | None:
        """The prefix, if there is enough work in it to be run apart."""
        tensors = [site.tensor for site in edited]
        topology = Topology(model.graph.proto)
        cut = late_cut(topology, model.sites, tensors, model.logits.tensor)
        if cut is None:
            return None
        return cls(model.compile(Plan(taps=(Tap(cut.tensor, "none"),)), runtime), cut.tensor)

    def run(self, batch: Batch) -> dict[str, Array | Held]:
        """Run each text of a batch once; what the rows of the batch need of it."""
        _, first, back = np.unique(batch.rows, return_index=True, return_inverse=True)
        texts = batch.take(first.tolist(), batch.ids.shape[1])
        return {self.tensor: self.session.held(texts)[back]}


def require_causal(session: Session, prefix: Prefix | None, token: int) -> None:
    """Refuse a model whose score of a token depends on the tokens behind it.

    Parameters
    ----------
    session : Session
        As in `Scorer`.
    prefix : Prefix or None
        As in `Scorer`.
    token : int
        What every text begins with.

    Raises
    ------
    ModelError
        If the model sees later tokens, as a masked language model does.
    """
    # The same token scored before two different ones; low ids exist in every vocabulary.
    batch = Batch.of([[token, 1, 1], [token, 1, 2]], [0, 1], pad=0)
    given = None if prefix is None else prefix.run(batch)
    one, other = session.target_logprobs(batch, None, given)
    if not np.isclose(one[0], other[0], rtol=1e-2, atol=1e-2):
        raise ModelError(
            "the model sees the tokens behind the one that it scores, so its scores mean nothing "
            "here; the tasks need a causal language model"
        )


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores texts under every condition, through one session.

    Attributes
    ----------
    session : Session
        Its plan has the edits and a head for log-probabilities at given positions.
    prefix : Prefix or None
        What is run once for all conditions; its tensor is given to the session.
    edits : callable
        What to feed for rows under the conditions given, in the tokens of a window.
    n_conditions, batch_size, pad : int
        Number of conditions; rows run at a time; id of the padding.
    shared : bool
        Whether the edits are the same at every token of every text. Then what texts have in common
        at their start is scored in one of them.
    """

    session: Session
    prefix: Prefix | None
    edits: Callable[[NDArray[np.int64], Window], EditValues]
    n_conditions: int
    batch_size: int
    pad: int
    shared: bool = False

    def score(
        self,
        task: Task,
        sequences: Sequence[list[int]],
        progress: Progress,
        offsets: Sequence[NDArray[np.int64]] | None = None,
        begin: Begin | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scores ``[conditions, items]``, and the scored tokens of each item's first text.

        Parameters
        ----------
        task : Task
            What is scored.
        sequences : sequence of list of int
            Token ids of all its texts in order, each behind a prefix token.
        progress : Progress
            Told of every row that is done.
        offsets : sequence of ndarray of int64, [tokens, 2], optional
            Of each text where its tokens stand; needed where parts of texts are scored.
        begin : callable, optional
            Begins the part of a checkpoint; batches that it has are not run again.
        """
        lengths = np.array([len(sequence) - 1 for sequence in sequences], dtype=np.int64)
        ends = np.cumsum(lengths)
        source = first_scored(sequences) if self.shared else np.arange(int(ends[-1]))
        wanted = np.ones(len(source), np.bool_)
        if task.has_spans and offsets is not None:
            wanted = np.concatenate(task.wanted(offsets))
        needed = np.zeros(len(source), np.bool_)
        needed[source[wanted]] = True
        logprobs = np.full((self.n_conditions, len(source)), np.nan)
        top = np.zeros(logprobs.shape if task.greedy else (self.n_conditions, 0), np.bool_)
        own = [
            np.flatnonzero(needed[end - count : end])
            for count, end in zip(lengths, ends, strict=True)
        ]
        scored = [text for text, places in enumerate(own) if places.size]
        progress.add(self.n_conditions * (len(sequences) - len(scored)))
        state = {"logprobs": logprobs, "top": top}
        part = None if begin is None else begin(state, total=self.n_conditions * len(scored))
        if part is not None and part.saved is not None:
            for key, array in state.items():
                array[...] = part.saved[key]
        skip = 0 if part is None else part.batches
        for number, (batch, conditions) in enumerate(
            rows_and_conditions(sequences, self.n_conditions, self.batch_size, self.pad, scored)
        ):
            if number < skip:
                progress.add(len(batch.rows))
                continue
            texts = batch.rows.tolist()
            window = Window.whole([sequences[i] for i in texts], front=1, rows=texts)
            edits = self.edits(conditions, window)
            given = None if self.prefix is None else self.prefix.run(batch)
            at = [own[text].tolist() for text in texts]
            found, best = self._run(batch, edits, given, at, greedy=task.greedy)
            with nullcontext() if part is None else part.batch(len(texts), lambda: state):
                for row, (text, condition) in enumerate(zip(texts, conditions, strict=True)):
                    places = ends[text] - lengths[text] + own[text]
                    logprobs[condition, places] = found[row]
                    if task.greedy:
                        top[condition, places] = best[row] == batch.ids[row, own[text] + 1]
            progress.add(len(batch.rows))
        if part is not None:
            part.finish()
        counts = [len(item.texts) for item in task.items]
        first = np.cumsum(counts) - counts
        by_item = None if offsets is None else _by_item(offsets, counts)
        scores = []
        for condition in range(self.n_conditions):
            texts = np.split(logprobs[condition, source], ends[:-1])
            won = np.split(top[condition, source], ends[:-1]) if task.greedy else None
            best_by_item = None if won is None else _by_item(won, counts)
            scores.append(task.score(_by_item(texts, counts), by_item, best_by_item))
        n_wanted = np.add.reduceat(wanted.astype(np.int64), ends - lengths)
        return np.stack(scores), n_wanted[first]

    def _run(
        self,
        batch: Batch,
        edits: EditValues,
        given: dict[str, Array | Held] | None,
        at: list[list[int]],
        *,
        greedy: bool,
    ) -> tuple[Sequence[Array], list[Array]]:
        """Log-probabilities of the tokens behind the positions, and the likeliest tokens there."""
        if not greedy:
            return self.session.target_logprobs(batch, edits, given, at), []
        reading = self.session.read(batch, edits, given, at)
        return reading.target_logprobs or (), [top.ids[:, 0] for top in reading.top or ()]


def _by_item(values: Sequence[Array], counts: Sequence[int]) -> list[list[Array]]:
    """Values of all texts in order, item by item."""
    rest = iter(values)
    return [[next(rest) for _ in range(count)] for count in counts]


def first_scored(sequences: Sequence[list[int]]) -> NDArray[np.int64]:
    """Where each token behind the first of its text is scored.

    The probability of a token depends on those before it alone, so tokens that stand behind the
    same beginning, and are the same, have one score.

    Parameters
    ----------
    sequences : sequence of list of int
        Token ids of the texts, of one token or more each.

    Returns
    -------
    ndarray of int64, [tokens]
        For every scored token of every text, text by text, the index of that in whose place it is
        scored; its own, if it is the first of its kind.
    """
    lengths = np.array([len(sequence) - 1 for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    source = np.arange(int(lengths.sum()))
    # In the order of a dictionary no other text shares more of a text's start than the one before.
    order = sorted(range(len(sequences)), key=lambda text: sequences[text])
    for before, text in pairwise(order):
        one, other = sequences[before], sequences[text]
        pairs = enumerate(zip(one, other, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
        shared = max(same - 1, 0)
        source[starts[text] :][:shared] = source[starts[before] :][:shared]
    return source


def rows_and_conditions(
    sequences: Sequence[list[int]],
    n_conditions: int,
    batch_size: int,
    pad: int,
    texts: Sequence[int] | None = None,
) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
    """Every text, or those of `texts`, under every condition, in batches of like length."""
    chosen = range(len(sequences)) if texts is None else texts
    order = sorted(chosen, key=lambda i: (-len(sequences[i]), i))
    repeated = np.repeat(np.array(order, dtype=np.int64), n_conditions)
    conditions = np.tile(np.arange(n_conditions), len(order))
    # Whole texts to a batch, where they fit, so that what all conditions share is run once.
    step = batch_size - batch_size % n_conditions or batch_size
    for start in range(0, len(repeated), step):
        rows = slice(start, start + step)
        yield Batch.of(sequences, repeated[rows].tolist(), pad=pad), conditions[rows]
