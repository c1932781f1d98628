import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats import TESTS, Contrast, Moments, compare, correction, correlate, paired
from onnxloc.stats.compare import centred_ranks

pytestmark = pytest.mark.unit

CLOSE = {"rtol": 1e-10, "atol": 1e-300}
EVEN, UNEVEN = [(240, 240), (30, 30), (3, 3)], [(30, 21), (3, 8)]


def data(sizes=(30, 21), units=40, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(size=units), 1 + rng.random(units), (sum(sizes), units))
    values[: sizes[0]] += 0.7 * rng.random(units)
    if ties:
        values = np.round(values * 2) / 2
    is_positive = np.arange(sum(sizes)) < sizes[0]
    # Rows of both conditions mixed: what belongs to a pair is said by their order.
    order = rng.permutation(len(values))
    return values[order], is_positive[order]


def by_scipy(test, a, b):
    """Statistic, degrees of freedom and p of scipy; it has no z for ranks."""
    if test == "mannwhitney":
        p = stats.mannwhitneyu(a, b, axis=0, method="asymptotic").pvalue
        return None, np.inf, p
    if test == "paired":
        got = stats.ttest_rel(a, b, axis=0)
    else:
        got = stats.ttest_ind(a, b, axis=0, equal_var=test == "student")
    return got.statistic, got.df, got.pvalue


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("test", "sizes"),
    [(t, sizes) for t in TESTS for sizes in EVEN + UNEVEN if t != "paired" or sizes in EVEN],
)
def test_equals_scipy(test, sizes, ties):
    values, is_positive = data(sizes, ties=ties)
    # With three coarse values a condition, some units do not vary: they have a test of their own.
    usable = values[is_positive].std(axis=0) * values[~is_positive].std(axis=0) > 0
    if test == "paired":
        usable &= (values[is_positive] - values[~is_positive]).std(axis=0) > 0
    values = values[:, usable]
    a, b = values[is_positive], values[~is_positive]
    got = compare(values, is_positive, test)
    t, df, p = by_scipy(test, a, b)
    if t is not None:
        np.testing.assert_allclose(got.t, t, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(got.df, np.broadcast_to(df, got.t.shape), **CLOSE)
    np.testing.assert_allclose(got.p, p, **CLOSE)
    np.testing.assert_allclose(got.mean_positive, a.mean(axis=0), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(got.mean_control, b.mean(axis=0), rtol=1e-10, atol=1e-14)
    assert (got.n_positive, got.n_control, got.n_undefined) == (*sizes, 0)
    assert got.t.size > 15


def naive_z(a, b):
    """Signed z of one unit, by counting pairs, with the textbook's correction for ties."""
    u = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    n1, n2, n = len(a), len(b), len(a) + len(b)
    counts = np.unique(np.concatenate([a, b]), return_counts=True)[1]
    ties = (counts**3 - counts).sum() / (n * (n - 1))
    scale = math.sqrt(n1 * n2 / 12 * (n + 1 - ties))
    return math.copysign(max(abs(u - n1 * n2 / 2) - 0.5, 0), u - n1 * n2 / 2) / scale


@pytest.mark.parametrize("ties", [False, True])
def test_z_of_mann_and_whitney_by_counting(ties):
    values, is_positive = data((9, 14), ties=ties)
    got = compare(values, is_positive, "mannwhitney")
    want = [naive_z(column[is_positive], column[~is_positive]) for column in values.T]
    np.testing.assert_allclose(got.t, want, rtol=1e-12, atol=1e-12)
    ranks, squares = centred_ranks(values)
    np.testing.assert_allclose(ranks, stats.rankdata(values, axis=0) - 12)
    np.testing.assert_allclose(squares, (ranks**2).sum(axis=0))


@given(st.integers(0, 10_000), st.sampled_from(TESTS), st.booleans())
def test_swapping_the_conditions_turns_the_sign(seed, test, ties):
    values, is_positive = data((6, 6), units=5, seed=seed, ties=ties)
    one, two = compare(values, is_positive, test), compare(values, ~is_positive, test)
    np.testing.assert_allclose(one.t, -two.t, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.p, two.p, rtol=1e-9)
    np.testing.assert_allclose(one.d, -two.d, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("test", TESTS)
def test_a_unit_without_a_t_is_nan_and_reaches_no_other(test):
    values, is_positive = data((10, 10), units=8)
    clean = compare(values, is_positive, test)
    broken = values.copy()
    broken[:, 1] = 3.7
    broken[4, 2] = np.nan
    broken[5, 3] = np.inf
    broken[6, 4] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = compare(broken, is_positive, test)
    bad = [1, 2, 3, 4]
    for name in ("t", "df", "p", "d", "g"):
        column = getattr(got, name)
        assert np.isnan(column[bad]).all()
        np.testing.assert_array_equal(
            np.delete(column, bad), np.delete(getattr(clean, name), bad), err_msg=name
        )
    assert got.n_undefined == len(bad)


# scipy doubts its own digits for a condition that does not vary.
@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@pytest.mark.parametrize("test", ["welch", "student", "mannwhitney"])
def test_a_unit_that_varies_in_one_condition_has_a_t(test):
    values, is_positive = data((8, 8), units=2)
    values[is_positive, 0] = 0.25
    got = compare(values, is_positive, test)
    assert np.isfinite(got.t).all()
    t, _, p = by_scipy(test, values[is_positive], values[~is_positive])
    np.testing.assert_allclose(got.p, p, rtol=1e-10)
    assert t is None or np.allclose(got.t, t, rtol=1e-10)


def test_constant_conditions_that_differ_have_ranks_but_no_t():
    values = np.array([[1.0]] * 4 + [[0.0]] * 4)
    is_positive = np.arange(8) < 4
    assert np.isnan(compare(values, is_positive, "welch").t).all()
    assert np.isnan(compare(values, is_positive, "student").t).all()
    ranks = compare(values, is_positive, "mannwhitney")
    np.testing.assert_allclose(ranks.p, stats.mannwhitneyu(values[:4], values[4:], axis=0,
                                                          method="asymptotic").pvalue)  # fmt: skip


def test_paired_differences_that_do_not_vary_have_no_t():
    values = np.array([[1.0, 5.0], [2.0, 7.0], [4.0, 1.0], [0.5, 2.0], [1.5, 3.0], [3.5, 8.0]])
    got = compare(values, np.arange(6) < 3, "paired")
    assert np.isnan(got.t[0])
    assert np.isfinite(got.t[1])


@pytest.mark.parametrize("test", TESTS)
def test_half_and_single_precision_are_computed_in_double(test):
    values, is_positive = data((12, 12))
    single = values.astype(np.float32)
    one = compare(single, is_positive, test)
    two = compare(single.astype(np.float64), is_positive, test)
    np.testing.assert_allclose(one.t, two.t, rtol=1e-12)


@pytest.mark.parametrize("test", TESTS)
def test_effect_sizes(test):
    values, is_positive = data((9, 9), units=12)
    a, b = values[is_positive], values[~is_positive]
    got = compare(values, is_positive, test)
    if test == "paired":
        d, m = (a - b).mean(axis=0) / (a - b).std(axis=0, ddof=1), 8
    else:
        pooled = (a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2
        d, m = (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt(pooled), 16
    np.testing.assert_allclose(got.d, d, rtol=1e-10)
    factor = math.gamma(m / 2) / (math.sqrt(m / 2) * math.gamma((m - 1) / 2))
    np.testing.assert_allclose(got.g, d * factor, rtol=1e-10)


def test_the_correction_of_hedges():
    # The gamma function at halves and wholes, by hand.
    assert correction(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-12)
    assert correction(3) == pytest.approx(math.sqrt(math.pi / 6), rel=1e-12)
    assert correction(4) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-12)
    # The common approximation.
    assert correction(40) == pytest.approx(1 - 3 / 159, rel=1e-4)
    assert correction(1e6) == pytest.approx(1, abs=1e-6)
    assert math.isnan(correction(1))


def test_hedges_g_has_no_bias():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(10, 60_000))
    values[:5] += 0.8
    got = compare(values, np.arange(10) < 5)
    # The standard error of the mean is 0.003.
    assert got.g.mean() == pytest.approx(0.8, abs=0.011)
    assert got.d.mean() > 0.86


def test_joined_parts_are_the_whole():
    values, is_positive = data((10, 10), units=9)
    whole = compare(values, is_positive, "paired")
    parts = [compare(values[:, cut], is_positive, "paired") for cut in (slice(4), slice(4, 9))]
    joined = Contrast.joined(parts)
    for name in ("mean_positive", "mean_control", "t", "df", "p", "d", "g"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.is_paired
    with pytest.raises(OptionError, match="same rows"):
        Contrast.joined([whole, compare(values, is_positive, "welch")])


def test_what_does_not_go_together_is_refused():
    values, is_positive = data((4, 6), units=2)
    with pytest.raises(OptionError, match="4 and 6"):
        compare(values, is_positive, "paired")
    with pytest.raises(OptionError, match="welch, student, paired, mannwhitney"):
        compare(values, is_positive, "anova")
    with pytest.raises(OptionError, match="do not go with 9"):
        compare(values, is_positive[:9])
    with pytest.raises(OptionError, match="true and false"):
        compare(values, is_positive.astype(int))
    moments = [Moments(1), Moments(1), Moments(1)]
    moments[0].update(np.ones((2, 1)))
    with pytest.raises(OptionError, match="as many rows"):
        paired(*moments)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(method, ties):
    values, _ = data((20, 17), units=15, ties=ties)
    numbers = np.round(np.random.default_rng(3).normal(size=37) + values[:, 0], 0 if ties else 5)
    values[:, 1] = 4.0
    values[3, 2] = np.nan
    got = correlate(values, numbers, method)
    function = stats.pearsonr if method == "pearson" else stats.spearmanr
    for unit in (0, *range(3, 15)):
        want = function(values[:, unit], numbers)
        assert got.r[unit] == pytest.approx(want.statistic, rel=1e-10, abs=1e-13)
        assert got.p[unit] == pytest.approx(want.pvalue, rel=1e-9)
    assert np.isnan(got.r[[1, 2]]).all()
    assert np.isnan(got.t[[1, 2]]).all()
    assert got.df == 35
    assert (np.sign(got.t[3:]) == np.sign(got.r[3:])).all()
    perfect = correlate(np.stack([numbers, -numbers], axis=1), numbers, method)
    np.testing.assert_allclose(perfect.r, [1, -1], rtol=1e-12)
    np.testing.assert_allclose(perfect.p, 0, atol=1e-100)


def test_correlations_that_cannot_be_are_refused():
    values = np.ones((5, 2))
    with pytest.raises(OptionError, match="all equal"):
        correlate(values, np.ones(5))
    with pytest.raises(OptionError, match="finite"):
        correlate(values, np.array([1, 2, 3, 4, np.nan]))
    with pytest.raises(OptionError, match="three rows"):
        correlate(values[:2], np.arange(2.0))
    with pytest.raises(OptionError, match="do not go with"):
        correlate(values, np.arange(4.0))
    with pytest.raises(OptionError, match="pearson or spearman"):
        correlate(values, np.arange(5.0), "kendall")
