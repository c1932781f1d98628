import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats import Interval, cohens_d, cohens_d_paired, empirical_p, paired_bootstrap

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_interval_is_near_the_normal_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 1.0, 400), rng.normal(0.8, 1.0, 400)
    got = paired_bootstrap(a, b, seed=1)
    error = (a - b).std(ddof=1) / math.sqrt(400)
    low, high = stats.norm.interval(0.95, (a - b).mean(), error)
    assert got.estimate == pytest.approx((a - b).mean(), rel=1e-12)
    assert got.low == pytest.approx(low, abs=0.1 * error)
    assert got.high == pytest.approx(high, abs=0.1 * error)
    assert got.level == 0.95


@pytest.mark.parametrize("binary", [False, True])
def test_coverage(binary):
    # 300 data sets: the share covered has a standard error of 1.3 points at 95 %. The percentile
    # interval of 60 items covers a little less than it says.
    rng = np.random.default_rng(2)
    covered = 0
    for i in range(300):
        if binary:
            a, b = rng.random(60) < 0.8, rng.random(60) < 0.6
            truth = 0.2
        else:
            a, b = rng.normal(0.5, 1, 60), rng.normal(0.2, 1, 60)
            truth = 0.3
        got = paired_bootstrap(a, b, seed=i, n_resamples=1000)
        covered += got.low <= truth <= got.high
    assert 0.90 <= covered / 300 <= 0.985


def test_both_ways_of_drawing_have_the_same_distribution():
    # With few distinct values their counts are drawn. A jitter too small to matter makes all
    # values distinct, so that items are drawn.
    rng = np.random.default_rng(3)
    a = rng.integers(0, 2, 500).astype(float)
    b = rng.integers(0, 2, 500) * (rng.random(500) < 0.7)
    jitter = 1e-9 * rng.random(500)
    counts = paired_bootstrap(a, b, seed=4, n_resamples=20_000)
    items = paired_bootstrap(a + jitter, b, seed=5, n_resamples=20_000)
    error = (a - b).std() / math.sqrt(500)
    assert counts.low == pytest.approx(items.low, abs=0.1 * error)
    assert counts.high == pytest.approx(items.high, abs=0.1 * error)


def test_level_and_seed():
    a, b = np.random.default_rng(6).normal(size=(2, 50))
    wide = paired_bootstrap(a, b, seed=0, level=0.99)
    narrow = paired_bootstrap(a, b, seed=0, level=0.5)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert paired_bootstrap(a, b, seed=0) == paired_bootstrap(a, b, seed=0)
    assert paired_bootstrap(a, b, seed=0) != paired_bootstrap(a, b, seed=1)


def test_equal_differences_have_an_interval_of_no_width():
    got = paired_bootstrap(np.full(37, 0.4), np.full(37, 0.3), seed=0)
    assert got.low == got.estimate == got.high == 0.4 - 0.3


def test_memory_is_bounded():
    a = np.random.default_rng(7).normal(size=20_000)
    tracemalloc.start()
    try:
        paired_bootstrap(a, np.zeros_like(a), seed=0, n_resamples=400)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bootstrap_of_nan_or_nothing_is_nan(bad):
    for a, b in (([1.0, bad], [0.0, 1.0]), ([bad, 1.0], [bad, 1.0]), ([], [])):
        got = paired_bootstrap(a, b, seed=0)
        assert math.isnan(got.estimate)
        assert math.isnan(got.low)
        assert math.isnan(got.high)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_resamples": 0}, "resamples"),
        ({"level": 0}, "level"),
        ({"level": 1.0}, "level"),
        ({"level": math.nan}, "level"),
        ({"seed": -1}, "seed"),
        ({"b": [1.0]}, "one length"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(OptionError, match=match):
        paired_bootstrap(**({"a": [1.0, 2.0], "b": [0.0, 0.0], "seed": 0} | options))


def test_interval_is_a_value():
    assert Interval(1.0, 0.0, 2.0, 0.9) == Interval(1.0, 0.0, 2.0, 0.9)


@pytest.mark.parametrize(
    ("value", "tail", "want"),
    [
        (0.0, "less", 1 / 11),
        (0.0, "greater", 1.0),
        (11.0, "greater", 1 / 11),
        (11.0, "less", 1.0),
        (1.0, "less", 2 / 11),
        (10.0, "greater", 2 / 11),
        (-3.0, "two-sided", 1 / 11),
        (14.0, "two-sided", 1 / 11),
        # The median of 1, 1, 2, ..., 10 is 5: as far from it as 1 are 1, 9 and 10.
        (1.0, "two-sided", 4 / 11),
        (5.5, "two-sided", 1.0),
    ],
)
def test_empirical_p_by_hand(value, tail, want):
    assert empirical_p(value, np.arange(1.0, 11.0), tail=tail) == pytest.approx(want)


def test_ties_in_decimal_fractions_count():
    assert empirical_p(0.3, [0.1, 0.2], tail="two-sided") == pytest.approx(2 / 3)


@given(st.floats(-1e6, 1e6), st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_empirical_p_is_a_p_value(value, controls):
    for tail in ("less", "greater", "two-sided"):
        p = empirical_p(value, controls, tail=tail)
        assert 1 / (1 + len(controls)) <= p <= 1
    mirrored = empirical_p(-value, [-c for c in controls], tail="greater")
    assert mirrored == empirical_p(value, controls, tail="less")


@pytest.mark.parametrize("tail", ["less", "greater", "two-sided"])
def test_empirical_p_is_valid_under_the_null(tail):
    rng = np.random.default_rng(8)
    p = [empirical_p(x[0], x[1:], tail=tail) for x in rng.normal(size=(2000, 20))]
    for alpha in (0.05, 0.1, 0.25, 0.5):
        share = np.mean(np.array(p) <= alpha + 1e-12)
        assert share == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 2000))


def test_empirical_p_of_nan_nothing_and_a_wrong_tail():
    assert math.isnan(empirical_p(math.nan, [1.0]))
    assert math.isnan(empirical_p(1.0, [1.0, math.nan]))
    assert empirical_p(1.0, []) == 1.0
    with pytest.raises(OptionError, match="tail"):
        empirical_p(1.0, [1.0], tail="left")


@pytest.mark.parametrize("centre", [0.0, 1e6])
def test_effect_sizes_against_numpy(centre):
    rng = np.random.default_rng(9)
    a, b = rng.normal(0.5, 1, 30), rng.normal(0, 2, 30)
    pooled = math.sqrt((a.var(ddof=1) * 29 + b[:12].var(ddof=1) * 11) / 40)
    want = (a.mean() - b[:12].mean()) / pooled
    assert cohens_d(a + centre, b[:12] + centre) == pytest.approx(want, rel=1e-8)
    want = (a - b).mean() / (a - b).std(ddof=1)
    assert cohens_d_paired(a + centre, b + centre) == pytest.approx(want, rel=1e-8)


def test_effect_sizes_without_variance():
    same, more = [0.1] * 5, [0.3] * 5
    assert math.isnan(cohens_d(same, same))
    assert cohens_d(more, same) == math.inf
    assert cohens_d(same, more) == -math.inf
    assert math.isnan(cohens_d_paired(same, same))
    assert cohens_d_paired(more, same) == math.inf
    assert cohens_d_paired(same, more) == -math.inf


@pytest.mark.parametrize(
    ("a", "b"),
    [([], []), ([1.0], []), ([1.0], [2.0]), ([1.0, math.nan, 2.0], [1.0, 2.0, 4.0])],
)
def test_effect_sizes_of_too_little_or_nan(a, b):
    assert math.isnan(cohens_d(a, b))
    if len(a) == len(b):
        assert math.isnan(cohens_d_paired(a, b))
    else:
        with pytest.raises(OptionError, match="one length"):
            cohens_d_paired(a, b)
