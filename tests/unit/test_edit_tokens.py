"""Which tokens an edit holds on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc import Tokens
from onnxloc.errors import OptionError
from onnxloc.runtime.tokens import Window

pytestmark = pytest.mark.unit

# A text of 2 tokens behind a BOS token, and one of 4; one and two tokens are generated.
TEXTS = [[9, 1, 2, 7], [9, 3, 4, 5, 6, 8, 8]]
WHOLE = Window.whole(TEXTS, front=1, prompts=[3, 5])


@pytest.mark.parametrize(
    ("words", "chosen", "counts"),
    [
        ("all", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]], [4, 7]),
        ("prompt", [[0, 1, 2], [0, 1, 2, 3, 4]], [3, 5]),
        ("generated", [[3], [5, 6]], [1, 2]),
        ("last", [[2], [4]], [1, 1]),
        ("0", [[1], [1]], [1, 1]),
        ("-1,0", [[2, 1], [4, 1]], [2, 2]),
        ("1,-2", [[2, 1], [2, 3]], [2, 2]),
    ],
)
def test_chosen_tokens_in_their_order(words, chosen, counts):
    tokens = Tokens.parse(words)
    assert tokens.label == words
    rank = tokens.rank(WHOLE)
    assert rank.shape == (2, 7)
    found = [[int(np.flatnonzero(row == n)[0]) for n in range(row.max() + 1)] for row in rank]
    assert found == chosen
    assert (rank >= 0).sum(1).tolist() == [len(row) for row in chosen]
    assert tokens.counts(WHOLE).tolist() == counts


@given(
    st.sampled_from(["all", "prompt", "generated", "last", "0,-1", "1"]),
    st.lists(st.tuples(st.integers(2, 6), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(0, 1),
)
def test_the_newest_token_alone_is_as_in_the_whole_text(words, sizes, front):
    texts = [[1] * (front + a + b) for a, b in sizes]
    prompts = [front + a for a, _ in sizes]
    whole = Window.whole(texts, front=front, prompts=prompts)
    newest = replace(whole, first=whole.lengths - 1, width=1)
    tokens = Tokens.parse(words)
    expected = tokens.rank(whole)[np.arange(len(texts)), whole.lengths - 1]
    assert tokens.rank(newest)[:, 0].tolist() == expected.tolist()
    # Padding is never chosen.
    padded = replace(whole, width=whole.width + 3)
    rank = tokens.rank(padded)
    for row, text in enumerate(texts):
        assert (rank[row, len(text) :] == -1).all()
    assert (tokens.counts(whole) == (tokens.rank(whole) >= 0).sum(1)).all() or words == "0,-1"


@pytest.mark.parametrize("words", ["", "first", "0,", "0;1", "1.5", "gen", "positions", "9" * 40])
def test_what_cannot_be_read(words):
    with pytest.raises(OptionError) as caught:
        Tokens.parse(words)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_near_word_is_named():
    with pytest.raises(OptionError, match="did you mean 'generated'"):
        Tokens.parse("generate")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tokens("some"),
        lambda: Tokens("all", (0,)),
        lambda: Tokens("positions"),
        lambda: Tokens.at(),
        lambda: Tokens.at(1.5),
        lambda: Tokens.at(True),
        lambda: Tokens.at(1 << 40),
    ],
)
def test_what_cannot_be_made(make):
    with pytest.raises(OptionError):
        make()


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (2, "text 1 has 2 tokens of its own and so none at position 2"),
        (-3, "text 1 has 2 tokens of its own and so none at position -3"),
        (4, "text 1 has 2"),
    ],
)
def test_a_text_without_the_position_is_named(position, message):
    with pytest.raises(OptionError, match=message):
        Tokens.at(position).rank(WHOLE)
    far = replace(WHOLE, rows=np.array([40, 41]))
    with pytest.raises(OptionError, match="text 41"):
        Tokens.at(position).rank(far)
