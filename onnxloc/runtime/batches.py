"""What is run at once: token sequences, sorted by length and padded on the right, or arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError

__all__ = ["ArrayBatch", "Batch", "batches"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of token ids, padded on the right.

    Attributes
    ----------
    rows : ndarray of int64, [batch]
        Where each row stands in the caller's sequence.
    ids : ndarray of int64, [batch, tokens]
        Token ids; padding is `pad`.
    lengths : ndarray of int64, [batch]
        Number of real tokens of each row.
    skip : int
        Tokens at the start of each row that pooling by mean, sum or max leaves out.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    skip: int = 0

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], rows: Sequence[int], *, pad: int) -> "Batch":
        """The batch of the sequences at `rows`."""
        lengths = np.array([len(sequences[row]) for row in rows], dtype=np.int64)
        ids = np.full((len(rows), int(lengths.max())), pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = sequences[row]
        return cls(np.array(rows, dtype=np.int64), ids, lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens."""
        rows, tokens = self.ids.shape
        return rows, tokens

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """True where there is a real token, ``[batch, tokens]``."""
        return np.arange(self.ids.shape[1])[None, :] < self.lengths[:, None]

    @cached_property
    def pooled(self) -> NDArray[np.bool_]:
        """True at the tokens that are pooled, ``[batch, tokens]``."""
        return self.mask & (np.arange(self.ids.shape[1]) >= self.skip)[None, :]

    def take(self, rows: Sequence[int], tokens: int, *, pad: int = 0) -> "Batch":
        """Some of the rows, cut or padded to `tokens`, which is no less than their lengths."""
        ids = self.ids[list(rows), :tokens]
        ids = np.pad(ids, ((0, 0), (0, tokens - ids.shape[1])), constant_values=pad)
        return Batch(self.rows[list(rows)], ids, self.lengths[list(rows)], self.skip)

    def repeated(self, times: int) -> "Batch":
        """The batch `times` times over: all rows, then all rows again."""
        return Batch(
            np.tile(self.rows, times),
            np.tile(self.ids, (times, 1)),
            np.tile(self.lengths, times),
            self.skip,
        )


@dataclass(frozen=True, eq=False)
class ArrayBatch:
    """Rows of whatever a model takes.

    Attributes
    ----------
    rows : ndarray of int64, [batch]
        Where each row stands among the caller's stimuli.
    feeds : mapping of str to ndarray
        For each input of the model, its rows, ``[batch, ...]``; an array without axes is fed to
        every row.
    text : Batch or None
        The tokens that are among the inputs, if the model is one of text.
    """

    rows: NDArray[np.int64]
    feeds: Mapping[str, NDArray[Any]]
    text: Batch | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens; without tokens, 1 of them."""
        return len(self.rows), 1 if self.text is None else self.text.shape[1]

    def take(self, rows: Sequence[int]) -> "ArrayBatch":
        """Some of the rows."""
        chosen = list(rows)
        feeds = {name: value[chosen] if value.ndim else value for name, value in self.feeds.items()}
        text = self.text and self.text.take(chosen, self.text.shape[1])
        return ArrayBatch(self.rows[chosen], feeds, text)


def batches(
    sequences: Sequence[Sequence[int]], *, max_rows: int, max_tokens: int = 0, pad: int = 0
) -> Iterator[Batch]:
    """Cut sequences into batches of like length, longest first.

    Longest first makes the first batch the one that needs the most memory, and the estimate of the
    time left pessimistic rather than too good.

    Parameters
    ----------
    sequences
        Token ids, none empty.
    max_rows
        Rows of a batch, at most.
    max_tokens
        Rows times padded length of a batch, at most (one row is always taken); 0 for no bound.
    pad
        Id of the padding.

    Raises
    ------
    OptionError
        If `max_rows` is less than 1, `max_tokens` less than 0, or a sequence is empty.
    """
    if max_rows < 1 or max_tokens < 0:
        raise OptionError("a batch has at least 1 row, and no negative number of tokens")
    if not all(map(len, sequences)):
        raise OptionError("a sequence without tokens cannot be run")
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    start = 0
    while start < len(order):
        rows = max_rows
        if max_tokens:
            rows = max(1, min(max_rows, max_tokens // len(sequences[order[start]])))
        yield Batch.of(sequences, order[start : start + rows], pad=pad)
        start += rows
