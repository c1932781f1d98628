"""Batches of token sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.errors import OptionError
from onnxloc.runtime.batches import Batch, batches

pytestmark = pytest.mark.unit

SEQUENCES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), max_size=20)


@given(SEQUENCES, st.integers(1, 6), st.integers(0, 30))
def test_every_sequence_comes_once_whole_and_padded(sequences, rows, tokens):
    seen = []
    widths = []
    for batch in batches(sequences, max_rows=rows, max_tokens=tokens, pad=0):
        assert len(batch.rows) <= rows
        assert not tokens or len(batch.rows) == 1 or batch.ids.size <= tokens
        assert batch.ids.shape[1] == batch.lengths.max()
        assert not batch.ids[~batch.mask].any()
        for row, ids, real in zip(batch.rows, batch.ids, batch.mask, strict=True):
            assert ids[real].tolist() == sequences[row]
            seen.append(row)
        widths.append(batch.ids.shape[1])
    assert sorted(seen) == list(range(len(sequences)))
    assert widths == sorted(widths, reverse=True)


def test_batches_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="at least 1 row"):
        list(batches([[1]], max_rows=0))
    with pytest.raises(OptionError, match="no negative number"):
        list(batches([[1]], max_rows=1, max_tokens=-1))
    with pytest.raises(OptionError, match="without tokens"):
        list(batches([[1], []], max_rows=2))


def test_repeating_and_taking_rows():
    batch = Batch.of([[1, 2, 3], [4]], [1, 0], pad=9)
    np.testing.assert_array_equal(batch.ids, [[4, 9, 9], [1, 2, 3]])
    twice = batch.repeated(2)
    np.testing.assert_array_equal(twice.rows, [1, 0, 1, 0])
    np.testing.assert_array_equal(twice.ids[2:], batch.ids)
    np.testing.assert_array_equal(batch.take([0, 0], 1).ids, [[4], [4]])
    np.testing.assert_array_equal(batch.take([1], 5, pad=7).ids, [[1, 2, 3, 7, 7]])
