"""Groups of items: means, intervals, tests between them, and Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats.groups import group_means, pair_tests, permuted_p
from onnxloc.stats.multiple import holm

pytestmark = pytest.mark.unit


@pytest.fixture
def groups():
    rng = np.random.default_rng(4)
    return [rng.normal(mean, sd, (n, 3)) for mean, sd, n in ((0, 1, 20), (1, 3, 35), (0, 1, 12))]


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm(np.array([0.02, np.nan, 0.6, 0.7]))
    assert adjusted[[0, 2, 3]] == pytest.approx([0.06, 1.0, 1.0])
    assert np.isnan(adjusted[1])
    assert holm(np.array([])).size == 0
    with pytest.raises(OptionError, match="must lie in"):
        holm(np.array([1.5]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_p_and_bonferroni(p):
    values = np.array(p)
    adjusted = holm(values)
    assert (adjusted >= values).all()
    assert (adjusted <= np.minimum(1, values * values.size) + 1e-15).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_means_and_their_intervals(groups):
    found = group_means(groups, resamples=4_000, seed=1)
    for place, values in enumerate(groups):
        np.testing.assert_allclose(found.mean[place], values.mean(axis=0))
        np.testing.assert_allclose(found.sd[place], values.std(axis=0, ddof=1))
        theirs = stats.bootstrap(
            (values,), np.mean, axis=0, n_resamples=4_000, method="percentile",
            random_state=np.random.default_rng(2),
        ).confidence_interval  # fmt: skip
        # Both are simulated: bounds differ by a few percent of the interval.
        slack = 0.06 * (theirs.high - theirs.low)
        assert (np.abs(found.low[place] - theirs.low) < slack).all()
        assert (np.abs(found.high[place] - theirs.high) < slack).all()
    low, high = found.difference(1, 0)
    difference = groups[1].mean(axis=0) - groups[0].mean(axis=0)
    assert (low < difference).all()
    assert (difference < high).all()


def test_draws_depend_on_the_seed_alone(groups):
    first, again, other = (group_means(groups, resamples=50, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.drawn, again.drawn)
    assert (first.drawn != other.drawn).any()


def test_equal_items_have_an_interval_of_width_0():
    found = group_means([np.full((5, 1), 0.1), np.full((4, 1), 1e9)], resamples=30, seed=0)
    np.testing.assert_array_equal(found.low, found.high)
    np.testing.assert_array_equal(found.low, [[0.1], [1e9]])


def test_a_nan_stays_in_its_group_and_measure(groups):
    groups[1][3, 2] = np.nan
    found = group_means(groups, resamples=10, seed=0)
    assert np.isnan(found.low).tolist() == [[False] * 3, [False, False, True], [False] * 3]
    tests = pair_tests(groups)
    assert np.isnan([one.t for one in tests]).sum() == 2


def test_pairs_are_tested_as_scipy_does(groups):
    found = pair_tests(groups)
    assert [(one.a, one.b) for one in found] == [(0, 1), (0, 2), (1, 2)]
    for one in found:
        theirs = stats.ttest_ind(groups[one.a], groups[one.b], equal_var=False)
        np.testing.assert_allclose(one.t, theirs.statistic)
        np.testing.assert_allclose(one.df, theirs.df)
        np.testing.assert_allclose(one.p, theirs.pvalue)
    p = np.array([one.p[1] for one in found])
    np.testing.assert_allclose([one.p_holm[1] for one in found], holm(p))


def test_permutation_agrees_with_every_arrangement():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.0, 1, 5), rng.normal(1.5, 2, 6)

    def t(x, y, axis):
        return stats.ttest_ind(x, y, axis=axis, equal_var=False).statistic

    exact = stats.permutation_test(
        (a, b), lambda x, y, axis: np.abs(t(x, y, axis)), alternative="greater", vectorized=True
    ).pvalue
    found = permuted_p([a, b], permutations=20_000, seed=3)["p"]
    assert found[0] == pytest.approx(exact, abs=0.01)


def test_permutation_keeps_its_level_where_spreads_differ():
    rng = np.random.default_rng(8)
    p = [
        permuted_p([rng.normal(0, 1, 40), rng.normal(0, 4, 12)], permutations=199, seed=i)["p"][0]
        for i in range(300)
    ]
    # 300 draws of 5 %: 15, and 28 with a chance of a thousandth. A plain difference of means
    # has about 60 here.
    assert np.sum(np.array(p) <= 0.05) <= 28


def test_what_is_refused():
    with pytest.raises(OptionError, match="2 items"):
        group_means([np.zeros((2, 1)), np.zeros((9, 1))], resamples=5, seed=0)
    with pytest.raises(OptionError, match="two groups"):
        pair_tests([np.zeros((9, 1))])
    with pytest.raises(OptionError, match="resamples"):
        group_means([np.zeros((3, 1))] * 2, resamples=0, seed=0)
