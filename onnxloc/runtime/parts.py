"""Batches that a graph cannot take as they are: cut into parts, and the parts' results joined.

A graph may fix its number of rows or tokens. And one that takes no attention mask sees padding as
text: it is given rows of one length at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError
from onnxloc.graph.load import InputSpec
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.feeds import fixed_rows, fixed_sizes, input_role

__all__ = ["Part", "join", "parts"]


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that are run together.

    Attributes
    ----------
    rows : tuple of int
        Which rows of the whole batch these are. The part may have more, which stand for nothing.
    batch : Batch or ArrayBatch
        What is run.
    """

    rows: tuple[int, ...]
    batch: Batch | ArrayBatch

    def operand(self, value: NDArray[Any]) -> NDArray[Any]:
        """What this part takes of an operand ``[rows or 1, tokens or 1, units]`` of the whole."""
        if value.shape[0] > 1:
            spare = self.batch.shape[0] - len(self.rows)
            value = value[[*self.rows, *self.rows[:1] * spare]]
        tokens = self.batch.shape[1]
        if value.shape[1] > 1:
            more = max(0, tokens - value.shape[1])
            value = np.pad(value[:, :tokens], ((0, 0), (0, more), (0, 0)), mode="edge")
        return value


def parts(batch: Batch | ArrayBatch, specs: Sequence[InputSpec]) -> Iterator[Part]:
    """Cut a batch into what a graph with these inputs can run at once.

    Raises
    ------
    ModelError
        If a row is longer than the graph takes, or shorter where nothing masks its padding.
    """
    if isinstance(batch, ArrayBatch):
        yield from _array_parts(batch, fixed_rows(specs))
        return
    rows_at_once, fixed_tokens = fixed_sizes(specs)
    masked = any(input_role(spec) == "mask" for spec in specs)
    lengths = batch.lengths.tolist()
    if fixed_tokens is not None:
        wrong = [n for n in lengths if n > fixed_tokens or (n < fixed_tokens and not masked)]
        if wrong:
            bound = "at most" if masked else "exactly"
            raise ModelError(f"the model takes {bound} {fixed_tokens} tokens, not {wrong[0]}")
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(0 if masked else length, []).append(row)
    for length, rows in groups.items():
        tokens = fixed_tokens or length or batch.ids.shape[1]
        step = rows_at_once or len(rows)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            filled = chosen + chosen[:1] * (step - len(chosen))
            if len(chosen) == batch.ids.shape[0] == step and tokens == batch.ids.shape[1]:
                yield Part(tuple(chosen), batch)
            else:
                yield Part(tuple(chosen), batch.take(filled, tokens))


def _array_parts(batch: ArrayBatch, rows_at_once: int | None) -> Iterator[Part]:
    count = len(batch.rows)
    step = rows_at_once or count
    if step == count:
        yield Part(tuple(range(count)), batch)
        return
    for start in range(0, count, step):
        chosen = list(range(start, min(start + step, count)))
        spare = chosen[:1] * (step - len(chosen))
        yield Part(tuple(chosen), batch.take(chosen + spare))


def join(
    whole: Batch | ArrayBatch, done: Sequence[tuple[Part, NDArray[Any]]], *, by_token: bool
) -> NDArray[Any]:
    """The results of all parts as those of the whole batch.

    Parameters
    ----------
    whole : Batch or ArrayBatch
        The batch that was cut.
    done : sequence of (Part, ndarray)
        Each part with its result.
    by_token : bool
        Whether the second axis runs over tokens. It gets the tokens of the whole batch, and what a
        part did not run is 0.
    """
    part, first = done[0]
    if len(done) == 1 and part.batch is whole:
        return first
    n_rows, tokens = whole.shape
    rest = (tokens, *first.shape[2:]) if by_token else first.shape[1:]
    out = np.zeros((n_rows, *rest), first.dtype)
    for part, value in done:
        if by_token:
            kept = min(tokens, value.shape[1])
            out[list(part.rows), :kept] = value[: len(part.rows), :kept]
        else:
            out[list(part.rows)] = value[: len(part.rows)]
    return out
