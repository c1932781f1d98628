import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats import Moments, welch
from onnxloc.stats.contrast import two_sided_p

pytestmark = pytest.mark.unit


def moments(x, n_batches=5):
    m = Moments(x.shape[1])
    for batch in np.array_split(x, n_batches):
        m.update(batch)
    return m


def exact(a, b):
    """t, df and d of two columns, rational up to the last square root."""
    a, b = ([Fraction(float(v)) for v in column] for column in (a, b))
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    squares_a, squares_b = sum((v - mean_a) ** 2 for v in a), sum((v - mean_b) ** 2 for v in b)
    e_a, e_b = squares_a / (len(a) - 1) / len(a), squares_b / (len(b) - 1) / len(b)
    df = (e_a + e_b) ** 2 / (e_a**2 / (len(a) - 1) + e_b**2 / (len(b) - 1))
    pooled = (squares_a + squares_b) / (len(a) + len(b) - 2)
    difference = mean_a - mean_b
    sign = math.copysign(1, difference)
    t, d = (sign * math.sqrt(difference**2 / v) for v in (e_a + e_b, pooled))
    return t, float(df), d


@pytest.mark.parametrize("centre", [0.0, 3.0, 1e6, -1e6])
@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e-9])
@pytest.mark.parametrize("sizes", [(240, 240), (30, 7), (2, 50)])
def test_equals_rational_arithmetic_at_huge_means_and_tiny_variances(centre, spread, sizes):
    rng = np.random.default_rng(1)
    scale = spread * max(abs(centre), 1.0)
    a = centre + scale * (0.4 + rng.normal(size=(sizes[0], 12)))
    b = centre + scale * 1.7 * rng.normal(size=(sizes[1], 12))
    got = welch(moments(a), moments(b))
    want = np.array([exact(a[:, i], b[:, i]) for i in range(12)]).T
    for name, values in zip(("t", "df", "d"), want, strict=True):
        np.testing.assert_allclose(getattr(got, name), values, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("sizes", [(240, 240), (240, 100), (3, 5)])
def test_equals_scipy_on_data_shifted_exactly(sizes):
    # Multiples of 2**-20 below 16 stay exact under a shift of 2**20: scipy sees the small values,
    # we see the same ones on top of a mean a million times larger.
    rng = np.random.default_rng(2)
    a, b = (
        np.round(rng.normal(c, s, (n, 200)) * 2**20) / 2**20
        for c, s, n in zip((0.2, 0.0), (1.0, 1.5), sizes, strict=True)
    )
    shift = 2.0**20
    np.testing.assert_array_equal((a + shift) - shift, a)
    for scale in (1.0, 2.0**-30):
        got = welch(moments((a + shift) * scale), moments((b + shift) * scale))
        want = stats.ttest_ind(a, b, equal_var=False)
        np.testing.assert_allclose(got.t, want.statistic, rtol=1e-9)
        np.testing.assert_allclose(got.df, want.df, rtol=1e-9)
        np.testing.assert_allclose(got.p, want.pvalue, rtol=1e-9)
    assert (got.n_positive, got.n_control) == sizes


def test_equals_scipy_on_float32_activations():
    rng = np.random.default_rng(3)
    scale = 10.0 ** rng.uniform(-4, 3, 300)
    a = np.abs(scale * rng.normal(0.3, 1, (240, 300))).astype(np.float32)
    b = np.abs(scale * rng.normal(0.0, 1, (240, 300))).astype(np.float32)
    got = welch(moments(a, 4), moments(b, 15))
    want = stats.ttest_ind(a.astype(float), b.astype(float), equal_var=False)
    np.testing.assert_allclose(got.t, want.statistic, rtol=1e-9)
    np.testing.assert_allclose(got.p, want.pvalue, rtol=1e-9)
    np.testing.assert_allclose(got.mean_positive, a.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(got.mean_control, b.astype(float).mean(0), rtol=1e-12)


@pytest.mark.parametrize("t", [0.01, 0.5, 2.0, 8.0, 40.0, 1e4, 1e7])
def test_p_is_accurate_far_out_in_the_tail(t):
    # Closed forms that do not cancel, for 1 and 2 degrees of freedom.
    one = 2 * math.atan(1 / t) / math.pi
    root = math.sqrt(2 + t * t)
    two = 2 / (root * (root + t))
    p = two_sided_p(np.array([t, -t, t, -t]), np.array([1.0, 1.0, 2.0, 2.0]))
    np.testing.assert_allclose(p, [one, one, two, two], rtol=1e-12)


def test_p_of_a_large_t_does_not_round_to_zero():
    p = two_sided_p(np.array([40.0]), np.array([478.0]))
    assert 0 < p[0] < 1e-150


def test_one_condition_without_variance():
    rng = np.random.default_rng(4)
    a, b = np.full((20, 1), 1e6 + 0.25), 1e6 + rng.normal(size=(11, 1))
    for x, y, sign in ((a, b, 1), (b, a, -1)):
        got = welch(moments(x), moments(y))
        want = stats.ttest_1samp(b, 1e6 + 0.25)
        assert got.df[0] == pytest.approx(10, rel=1e-14)
        assert got.t[0] == pytest.approx(-sign * want.statistic[0], rel=1e-8)
        assert np.sign(got.d[0]) == np.sign(got.t[0])


def test_undefined_units_are_nan_and_silent():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(12, 5)), rng.normal(size=(9, 5))
    a[:, 0], b[:, 0] = 1e8 / 3, 1e8 / 3
    a[:, 1], b[:, 1] = 1e8 / 3, 2.0
    a[4, 2] = np.nan
    b[0, 3] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = welch(moments(a), moments(b))
    for name in ("t", "df", "p", "d"):
        values = getattr(got, name)
        assert np.isnan(values[:4]).all(), name
        assert np.isfinite(values[4]), name
    np.testing.assert_array_equal(got.mean_positive[:2], 1e8 / 3)
    assert np.isnan(got.mean_positive[2])
    assert np.isnan(got.mean_control[3])
    assert got.n_undefined == 4


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (1, 5), (5, 1), (1, 1)])
def test_too_few_rows_leave_everything_undefined(sizes):
    rng = np.random.default_rng(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = welch(*(moments(rng.normal(size=(n, 3)), 1) for n in sizes))
    for values in (got.t, got.df, got.p, got.d):
        assert np.isnan(values).all()


def test_variances_too_small_to_square():
    a, b = 1e-100 * np.random.default_rng(7).normal(size=(2, 10, 3))
    got = welch(moments(a), moments(b))
    want = stats.ttest_ind(a * 1e100, b * 1e100, equal_var=False)
    np.testing.assert_allclose(got.t, want.statistic, rtol=1e-9)
    np.testing.assert_allclose(got.df, want.df, rtol=1e-9)


def test_swapping_the_conditions_flips_the_sign():
    a, b = np.random.default_rng(8).normal(size=(2, 14, 6))
    one, two = welch(moments(a), moments(b)), welch(moments(b), moments(a))
    np.testing.assert_array_equal(one.t, -two.t)
    np.testing.assert_array_equal(one.d, -two.d)
    np.testing.assert_array_equal(one.p, two.p)
    assert (np.sign(one.t) == np.sign(a.mean(0) - b.mean(0))).all()


def test_different_units_are_refused():
    with pytest.raises(OptionError, match="do not go with"):
        welch(Moments(3), Moments(4))
