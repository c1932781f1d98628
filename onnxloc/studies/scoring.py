"""Scoring the texts of a task under many conditions, each row of a batch under its own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError
from onnxloc.graph.partition import late_cut
from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.graph.topology import Topology
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session
from onnxloc.tasks import Task

__all__ = ["Prefix", "Scorer", "require_causal", "rows_and_conditions"]

Array = NDArray[Any]


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

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run each text of a batch once; what the rows of the batch need of it."""
        _, first, back = np.unique(batch.rows, return_index=True, return_inverse=True)
        texts = batch.take(first.tolist(), batch.ids.shape[1])
        (values,) = self.session.taps(texts).values()
        return {self.tensor: values[back]}


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
        Its plan edits the sites of `masks` and has a head for log-probabilities.
    prefix : Prefix or None
        What is run once for all conditions; its tensor is given to the session.
    masks : mapping of Site to ndarray of bool, [conditions, 1, units]
        Which units each condition replaces.
    values : mapping of str to ndarray, [1, 1, units]
        With what, by the site's tensor.
    n_conditions, batch_size, pad : int
        Number of conditions; rows run at a time; id of the padding.
    """

    session: Session
    prefix: Prefix | None
    masks: Mapping[Site, NDArray[np.bool_]]
    values: Mapping[str, Array]
    n_conditions: int
    batch_size: int
    pad: int

    def score(
        self, task: Task, sequences: Sequence[list[int]], progress: Progress
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
        """
        lengths = np.array([len(sequence) - 1 for sequence in sequences], dtype=np.int64)
        ends = np.cumsum(lengths)
        logprobs = np.empty((self.n_conditions, int(ends[-1])))
        for batch, conditions in rows_and_conditions(
            sequences, self.n_conditions, self.batch_size, self.pad
        ):
            edits = {
                site.tensor: (mask[conditions], self.values[site.tensor])
                for site, mask in self.masks.items()
            }
            given = None if self.prefix is None else self.prefix.run(batch)
            found = self.session.target_logprobs(batch, edits, given)
            for text, condition, row in zip(batch.rows, conditions, found, strict=True):
                logprobs[condition, ends[text] - lengths[text] : ends[text]] = row
            progress.add(len(batch.rows))
        per_item = len(task.items[0].texts)
        scores = [
            task.score([texts[i : i + per_item] for i in range(0, len(texts), per_item)])
            for texts in (np.split(row, ends[:-1]) for row in logprobs)
        ]
        return np.stack(scores), lengths[::per_item]


def rows_and_conditions(
    sequences: Sequence[list[int]], n_conditions: int, batch_size: int, pad: int
) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
    """Every text under every condition, in batches of texts of like length."""
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    texts = np.repeat(np.array(order, dtype=np.int64), n_conditions)
    conditions = np.tile(np.arange(n_conditions), len(order))
    # Whole texts to a batch, where they fit, so that what all conditions share is run once.
    step = batch_size - batch_size % n_conditions or batch_size
    for start in range(0, len(texts), step):
        rows = slice(start, start + step)
        yield Batch.of(sequences, texts[rows].tolist(), pad=pad), conditions[rows]
