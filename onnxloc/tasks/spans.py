"""Which tokens of a text belong to which of its parts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Span", "tokens_of_spans"]

Span = tuple[int, int]


def tokens_of_spans(
    text: str, offsets: NDArray[np.int64], spans: Sequence[Span]
) -> NDArray[np.int64]:
    """The span that each token belongs to: that of its last character which is not white space.

    So a blank counts to the word behind it, whether the tokenizer's offsets hold it or not, and a
    token that begins before a span and ends in it is in it. A token of white space alone goes with
    the character behind it.

    Parameters
    ----------
    text : str
        The text.
    offsets : array of shape (tokens, 2)
        Where each token begins and ends, in characters.
    spans : sequence of (int, int)
        Ranges of characters that do not overlap.

    Returns
    -------
    array of int64, (tokens,)
        Index of the span, -1 where there is none.
    """
    found = np.full(len(offsets), -1, dtype=np.int64)
    for token, (start, end) in enumerate(np.asarray(offsets).tolist()):
        inside = text[start:end].rstrip()
        behind = len(text) - len(text[end:].lstrip())
        place = start + len(inside) - 1 if inside else min(behind, len(text) - 1)
        for index, (low, high) in enumerate(spans):
            if low <= place < high:
                found[token] = index
                break
    return found
