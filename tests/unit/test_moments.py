import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxloc.errors import OptionError, RunError
from onnxloc.stats import Moments
from onnxloc.stats.moments import BLOCK_ROWS, BLOCK_VALUES

pytestmark = pytest.mark.unit

HUGE = 1e8 / 3


def of(*batches, n_units=None):
    moments = Moments(batches[0].shape[1] if n_units is None else n_units)
    for batch in batches:
        moments.update(batch)
    return moments


def exact(column):
    """Mean and sum of squares of float64 values, in rational arithmetic."""
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values)


def assert_exact(moments, rows, rtol=1e-12):
    slack = 8 * np.finfo(float).eps * np.abs(rows).max()
    for unit in range(rows.shape[1]):
        mean, squares = exact(rows[:, unit])
        assert moments.mean[unit] == pytest.approx(float(mean), rel=0, abs=slack)
        assert moments.sum_of_squares[unit] == pytest.approx(float(squares), rel=rtol, abs=0)


@st.composite
def split_rows(draw):
    rows, units = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centre = draw(st.sampled_from([0.0, 1.0, -1e6, 1e6]))
    spread = draw(st.sampled_from([1.0, 1e-6, 1e-9])) * max(abs(centre), 1.0)
    x = centre + spread * rng.normal(size=(rows, units))
    order = rng.permutation(rows)
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    return x, np.split(x[order], cuts)


@given(split_rows())
@settings(max_examples=150, deadline=None)
def test_any_split_in_any_order_gives_the_exact_moments(case):
    x, batches = case
    moments = of(*batches)
    assert moments.count == len(x)
    assert_exact(moments, x)


@given(split_rows())
@settings(max_examples=100, deadline=None)
def test_numpy_on_the_whole_agrees(case):
    x, batches = case
    moments = of(*batches)
    scale = np.abs(x).max() ** 2 * np.finfo(float).eps ** 2 * len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14, atol=1e-14 * np.abs(x).max())
    np.testing.assert_allclose(moments.variance, x.var(0, ddof=1), rtol=1e-10, atol=scale)


@given(split_rows(), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_merging_is_associative_and_in_any_order(case, seed):
    x, batches = case
    parts = [of(batch) for batch in batches]
    order = np.random.default_rng(seed).permutation(len(parts))
    left, right = Moments(x.shape[1]), Moments(x.shape[1])
    for i in order:
        left.merge(parts[i])
    for i in reversed(order):
        joined = of(batches[i])
        joined.merge(right)
        right = joined
    for merged in (left, right):
        assert merged.count == len(x)
        assert_exact(merged, x)


@pytest.mark.parametrize("value", [HUGE, 0.1, -1e300, 0.0, 1 / 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_constant_has_a_sum_of_squares_of_exactly_zero(value, dtype):
    if abs(value) > float(np.finfo(dtype).max):
        value = 1 / 7
    x = np.full((64, 3), value, dtype=dtype)
    moments = of(x[:1], x[:7], x, x[:0], x[:13])
    moments.merge(of(x[:5], x[:3]))
    assert (moments.sum_of_squares == 0).all()
    assert (moments.variance == 0).all()
    assert (moments.mean == x[0].astype(np.float64)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 5, 31])
def test_nan_and_inf_stay_in_their_unit_without_warnings(bad, row):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    clean = of(x[:16], x[16:])
    x[row, 1] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moments = of(x[:16], x[16:])
        merged = of(x[:16])
        merged.merge(of(x[16:]))
        moments.update(x)
        moments.merge(Moments(4))
        for m in (moments, merged):
            assert np.isnan(m.mean[1])
            assert np.isnan(m.variance[1])
            assert np.isnan(m.difference(clean)[1])
    others = [0, 2, 3]
    np.testing.assert_allclose(merged.mean[others], clean.mean[others], rtol=1e-14)
    np.testing.assert_allclose(merged.variance[others], clean.variance[others], rtol=1e-13)
    assert np.isfinite(moments.variance[others]).all()


def test_squares_that_overflow_give_nan_and_no_warning():
    x = np.array([[1e200, 1.0], [-1e200, 2.0], [1e200, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for moments in (of(x), of(x[:1], x[1:])):
            assert np.isnan(moments.variance[0])
            assert np.isnan(moments.mean[0])
            assert moments.variance[1] == 1.0


def test_an_outlier_in_the_first_row_costs_no_digits():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 5))
    x[0] = 1e9
    assert_exact(of(*np.array_split(x, 13)), x)
    tail = of(x[1:])
    tail.merge(Moments(5))
    assert_exact(tail, x[1:])


def test_wide_and_long_batches_are_cut_into_blocks():
    rng = np.random.default_rng(4)
    wide = rng.normal(size=(3, BLOCK_VALUES // 3 + 101)).astype(np.float32)
    np.testing.assert_allclose(of(wide).variance, wide.astype(float).var(0, ddof=1), rtol=1e-9)
    long = rng.normal(size=(2 * BLOCK_ROWS + 5, 3))
    assert_exact(of(long), long)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_are_summed_in_float64(dtype):
    x = (1000 + np.random.default_rng(5).normal(size=(500, 3))).astype(dtype)
    before = x.copy()
    moments = of(*np.array_split(x, 9))
    assert_exact(moments, x.astype(np.float64))
    np.testing.assert_array_equal(x, before)


def test_float64_input_is_not_modified_and_strides_do_not_matter():
    x = np.random.default_rng(6).normal(size=(8, 30))
    before = x.copy()
    moments = of(x.T[::2, ::-1])
    np.testing.assert_array_equal(x, before)
    assert_exact(moments, x.T[::2, ::-1])


def test_difference_of_huge_means_keeps_its_digits():
    rng = np.random.default_rng(7)
    a, b = 1e6 + 1e-4 * rng.normal(size=(2, 60, 8))
    got = of(*np.array_split(a, 4)).difference(of(b))
    want = [float(exact(a[:, i])[0] - exact(b[:, i])[0]) for i in range(8)]
    np.testing.assert_allclose(got, want, rtol=1e-11)


def test_before_and_at_one_row():
    moments = Moments(2)
    assert moments.count == 0
    assert np.isnan(moments.mean).all()
    assert np.isnan(moments.variance).all()
    moments.update(np.empty((0, 2), np.float32))
    assert moments.count == 0
    moments.update(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(moments.mean, [1.0, 2.0])
    assert np.isnan(moments.variance).all()


def test_merging_into_or_with_nothing():
    x = np.random.default_rng(8).normal(size=(9, 3))
    empty, full = Moments(3), of(x)
    empty.merge(full)
    full.merge(Moments(3))
    assert_exact(empty, x)
    assert_exact(full, x)
    empty.update(x)
    assert_exact(full, x)


def test_no_units():
    moments = of(np.empty((4, 0)))
    assert moments.count == 4
    assert moments.variance.shape == (0,)


def test_state_goes_there_and_back():
    x = np.random.default_rng(9).normal(size=(20, 4))
    x[3, 2] = np.nan
    first = of(x[:7])
    state = first.state()
    back = Moments.from_state(state)
    first.update(x[7:])
    back.update(x[7:])
    np.testing.assert_array_equal(back.mean, first.mean)
    np.testing.assert_array_equal(back.variance, first.variance)
    assert int(state["count"]) == 7
    assert back.count == 20


@pytest.mark.parametrize(
    "change",
    [
        {"count": np.array(-1)},
        {"count": np.array(1.5)},
        {"count": np.array([1])},
        {"origin": np.zeros(3)},
        {"offset": np.zeros((2, 1))},
        {"squares": np.zeros(2, np.float32)},
        {"more": np.zeros(2)},
    ],
)
def test_a_damaged_state_is_refused(change):
    with pytest.raises(RunError, match="start the run afresh"):
        Moments.from_state(Moments(2).state() | change)


def test_wrong_shapes_are_refused():
    with pytest.raises(OptionError, match="rows of 3 units"):
        Moments(3).update(np.zeros((2, 4)))
    with pytest.raises(OptionError, match="rows of 3 units"):
        Moments(3).update(np.zeros(3))
    with pytest.raises(OptionError, match="do not go with"):
        Moments(3).merge(Moments(4))
    with pytest.raises(OptionError, match="cannot be -1"):
        Moments(-1)


def test_joined_moments_are_those_of_the_units_side_by_side():
    rng = np.random.default_rng(5)
    x = rng.normal(1e6, 1.0, size=(20, 7))
    x[3, 2] = np.nan
    whole, left, right = Moments(7), Moments(3), Moments(4)
    for rows in (x[:5], x[5:]):
        whole.update(rows)
        left.update(rows[:, :3])
        right.update(rows[:, 3:])
    found = Moments.joined([left, right])
    assert found.count == 20
    np.testing.assert_array_equal(found.mean, whole.mean)
    np.testing.assert_array_equal(found.variance, whole.variance)
    right.update(x[:1, 3:])
    with pytest.raises(OptionError, match="same number of rows"):
        Moments.joined([left, right])
    with pytest.raises(OptionError, match="same number of rows"):
        Moments.joined([])
