"""What a run reads of a batch, and the positions that it is read at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.parts import Part

__all__ = ["Positions", "Reading", "Top"]

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Top:
    """The largest logits at some positions of a text.

    A position with a logit that is NaN has NaN in all of it, and the id -1.

    Attributes
    ----------
    ids : ndarray of int64, [positions, k]
        The tokens, the likeliest first; of equal ones that with the lower id first.
    logits : ndarray of float64, [positions, k]
        Their logits.
    mean, variance, log_sum_exp : ndarray of float64, [positions]
        Of all logits at the position; the variance is that of the population.
    """

    ids: NDArray[np.int64]
    logits: Floats
    mean: Floats
    variance: Floats
    log_sum_exp: Floats

    @property
    def logprobs(self) -> Floats:
        """Natural log-probabilities of the tokens, ``[positions, k]``."""
        with np.errstate(invalid="ignore"):
            found: Floats = self.logits - self.log_sum_exp[:, None]
        return found


@dataclass(frozen=True, eq=False)
class Reading:
    """All that one run of a plan reads.

    Attributes
    ----------
    taps : mapping of Tap to ndarray
        As `Session.taps` gives them.
    outputs : mapping of str to ndarray
        As `Session.outputs` gives them.
    target_logprobs, top, entropy : tuple or None
        For each row what the head gives, as the methods of `Session` have it; None where the plan
        has no such head.
    """

    taps: Mapping[Tap, Array] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)
    target_logprobs: tuple[Floats, ...] | None = None
    top: tuple[Top, ...] | None = None
    entropy: tuple[Floats, ...] | None = None


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions in the rows of a batch.

    Attributes
    ----------
    rows, tokens : ndarray of int64, [positions]
        The row and the token of each, row by row.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, batch: Batch, at: Sequence[Sequence[int]] | None, *, scored: bool) -> "Positions":
        """The positions `at` of each row, or all of them.

        Parameters
        ----------
        batch : Batch
            The batch.
        at : sequence of sequences of int, or None
            For each row its positions, 0 for the first token; None for all.
        scored : bool
            Whether the next token is scored, so that the last one is no position.

        Raises
        ------
        OptionError
            If there is no position, or a row has no such one.
        """
        counts = batch.lengths - int(scored)
        given = [np.arange(n) for n in counts] if at is None else [np.asarray(row) for row in at]
        if len(given) != len(counts):
            raise OptionError(f"positions are given for {len(given)} of {len(counts)} rows")
        for row, (own, count) in enumerate(zip(given, counts, strict=True)):
            if own.ndim != 1 or (own.size and own.dtype.kind not in "iu"):
                raise OptionError(f"the positions in row {row} are not a list of whole numbers")
            if own.size and not 0 <= own.min() <= own.max() < count:
                behind = "with a token behind it" if scored else "of its tokens"
                raise OptionError(
                    f"row {row} has {max(count, 0)} positions {behind}; "
                    f"{own.min()} to {own.max()} were given"
                )
        tokens = np.concatenate([np.zeros(0), *given]).astype(np.int64)
        if not tokens.size and at is not None:
            raise OptionError("no position is given in any row")
        rows = np.repeat(np.arange(len(given)), [len(own) for own in given])
        return cls(rows.astype(np.int64), tokens)

    def within(self, part: Part) -> tuple["Positions", NDArray[np.int64]]:
        """Those in a part of the batch, by its own rows; and which of all positions they are."""
        place = {row: i for i, row in enumerate(part.rows)}
        chosen = np.flatnonzero(np.isin(self.rows, part.rows))
        own = np.array([place[row] for row in self.rows[chosen].tolist()], dtype=np.int64)
        return Positions(own, self.tokens[chosen]), chosen

    @property
    def fed(self) -> NDArray[np.int64]:
        """Row and token of each, ``[positions, 2]``; of none, one that stands for nothing."""
        if not len(self.rows):
            return np.zeros((1, 2), dtype=np.int64)
        return np.stack([self.rows, self.tokens], axis=1)

    def targets(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The token behind each, as `fed` has them."""
        rows, tokens = self.fed.T
        behind: NDArray[np.int64] = ids[rows, np.minimum(tokens + 1, ids.shape[1] - 1)]
        return behind

    def joined(self, done: Sequence[tuple[Part, Array]]) -> Array:
        """The values ``[positions, ...]`` of all parts in the order of the positions."""
        first = done[0][1]
        out = np.empty((len(self.rows), *first.shape[1:]), first.dtype)
        for part, values in done:
            _, chosen = self.within(part)
            out[chosen] = values[: len(chosen)]
        return out

    def by_row(self, values: Array, rows: int) -> list[Array]:
        """Values ``[positions, ...]`` as one array for each row."""
        return np.split(values, np.searchsorted(self.rows, np.arange(1, rows)))
