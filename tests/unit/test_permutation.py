import itertools
import warnings

import numpy as np
import pytest
from scipy.stats import binom

from onnxloc.errors import OptionError
from onnxloc.stats import TESTS, MaxStatistic, benjamini_hochberg, compare

pytestmark = pytest.mark.unit


def data(n=12, units=30, seed=0, n_positive=None, effect=0.0):
    rng = np.random.default_rng(seed)
    # Units share a part, as neighbours in a network do.
    values = rng.normal(size=(n, units)) + rng.normal(size=(n, 1))
    is_positive = rng.permutation(n) < (n // 2 if n_positive is None else n_positive)
    values[is_positive, :3] += effect
    return values, is_positive


def naive(values, is_positive, test, drawn):
    """The largest |t| of each relabelling, one at a time, with the tests themselves."""
    largest = []
    for row in drawn:
        if test == "paired":
            a, b = values[is_positive], values[~is_positive]
            relabelled = np.empty_like(values)
            relabelled[is_positive] = np.where(row[:, None], a, b)
            relabelled[~is_positive] = np.where(row[:, None], b, a)
            t = compare(relabelled, is_positive, test).t
        else:
            t = compare(values, row, test).t
        largest.append(np.nanmax(np.abs(t)))
    return np.array(largest)


@pytest.mark.parametrize("n_positive", [6, 4])
@pytest.mark.parametrize("test", TESTS)
def test_equals_a_loop(test, n_positive):
    if test == "paired":
        n_positive = 6
    values, is_positive = data(n_positive=n_positive, effect=1.5)
    values[:, 4] = 2.5
    values[1, 5] = np.nan
    values[:, 6] = values[:, 6] * 1e-9 + 1e3
    values[:, 7] = values[:, 7] * 1e12
    found = MaxStatistic(is_positive, test, n_permutations=200, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.update(values)
    want = naive(values, is_positive, test, found._drawn)
    np.testing.assert_allclose(found.null, want, rtol=1e-6)
    t = compare(values, is_positive, test).t
    p = found.p(t)
    counts = [(want >= abs(value) * (1 - 1e-9)).sum() for value in t]
    known = ~np.isnan(t)
    np.testing.assert_array_equal(p[known], ((1 + np.array(counts)) / 201)[known])
    assert np.isnan(p[[4, 5]]).all()


@pytest.mark.parametrize("test", TESTS)
def test_chunks_in_any_order_give_the_same(test, monkeypatch):
    values, is_positive = data(units=50)
    whole = MaxStatistic(is_positive, test, n_permutations=99, seed=1)
    whole.update(values)
    monkeypatch.setattr("onnxloc.stats.permute.BLOCK_UNITS", 7)
    monkeypatch.setattr("onnxloc.stats.permute.BLOCK_PERMUTATIONS", 10)
    parts = MaxStatistic(is_positive, test, n_permutations=99, seed=1)
    for cut in (slice(30, 50), slice(0, 1), slice(1, 30)):
        parts.update(values[:, cut])
    np.testing.assert_allclose(parts.null, whole.null, rtol=1e-12)


def test_every_labelling_of_few_stimuli_gives_the_exact_p():
    # Of 6 stimuli there are 20 labellings: with many draws, p comes to the share of them.
    values, is_positive = data(n=6, units=4, seed=2, effect=30.0)
    found = MaxStatistic(is_positive, "student", n_permutations=20_000, seed=0)
    found.update(values)
    t = compare(values, is_positive, "student").t
    labellings = [np.isin(np.arange(6), chosen) for chosen in itertools.combinations(range(6), 3)]
    largest = naive(values, is_positive, "student", labellings)
    exact = [(largest >= abs(value) * (1 - 1e-9)).mean() for value in t]
    # Half a width of four standard errors of 20,000 draws.
    np.testing.assert_allclose(found.p(t), exact, atol=0.015)
    assert min(exact) == 0.1


@pytest.mark.parametrize("test", TESTS)
def test_a_labelling_that_gives_back_the_data_counts_as_equal(test):
    values, is_positive = data(n=8, units=300, seed=4)
    found = MaxStatistic(is_positive, test, n_permutations=500, seed=0)
    found.update(values)
    t = compare(values, is_positive, test).t
    top = np.array([np.nanmax(np.abs(t))])
    same = (
        (found._drawn.all(axis=1) | ~found._drawn.any(axis=1))
        if test == "paired"
        else (found._drawn == is_positive).all(axis=1) | (found._drawn == ~is_positive).all(axis=1)
    )
    assert same.sum() > 3
    assert found.p(top)[0] >= (1 + same.sum()) / 501


def test_seeds():
    _, is_positive = data()
    one, same, other = (
        MaxStatistic(is_positive, "welch", n_permutations=50, seed=seed)._drawn
        for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()
    assert (one.sum(axis=1) == is_positive.sum()).all()


def test_what_is_out_of_range_is_refused():
    _, is_positive = data()
    for count in (0, -1, 100_001):
        with pytest.raises(OptionError, match="number of permutations"):
            MaxStatistic(is_positive, "welch", n_permutations=count, seed=0)
    with pytest.raises(OptionError, match="two rows or more"):
        MaxStatistic(np.arange(8) < 1, "welch", n_permutations=9, seed=0)
    with pytest.raises(OptionError, match="seed"):
        MaxStatistic(is_positive, "welch", n_permutations=9, seed=-1)
    with pytest.raises(OptionError, match="4 and 8"):
        MaxStatistic(np.arange(12) < 4, "paired", n_permutations=9, seed=0)
    with pytest.raises(OptionError, match="do not go with"):
        MaxStatistic(is_positive, "welch", n_permutations=9, seed=0).update(np.ones((5, 2)))


@pytest.fixture(scope="module")
def null_rates():
    """How many of 1,000 data sets without any effect show one, by each correction and test."""
    hits = {(test, kind): 0 for test in TESTS for kind in ("fwe", "fdr")}
    rng = np.random.default_rng(11)
    for seed in range(1000):
        values = rng.normal(size=(24, 40)) + rng.normal(size=(24, 1))
        is_positive = np.arange(24) < 12
        for test in TESTS:
            found = compare(values, is_positive, test)
            null = MaxStatistic(is_positive, test, n_permutations=99, seed=seed)
            null.update(values)
            hits[test, "fwe"] += bool((null.p(found.t) <= 0.05).any())
            hits[test, "fdr"] += bool((benjamini_hochberg(found.p) <= 0.05).any())
    return hits


@pytest.mark.parametrize("test", TESTS)
def test_the_family_wise_error_rate_is_the_nominal_one(null_rates, test):
    # Exactly 5 % of exchangeable data sets: between the 0.1 and 99.9 % points of the binomial.
    low, high = binom(1000, 0.05).ppf([0.001, 0.999])
    # Ties between equal values of |z| make the rank test conservative.
    assert (0 if test == "mannwhitney" else low) <= null_rates[test, "fwe"] <= high


@pytest.mark.parametrize("test", TESTS)
def test_the_false_discovery_rate_is_at_most_the_nominal_one(null_rates, test):
    # Without any effect every discovery is false, and the rate is the share of data sets with one.
    assert 1 <= null_rates[test, "fdr"] <= binom(1000, 0.05).ppf(0.999)


def test_the_false_discovery_rate_among_true_effects():
    rng = np.random.default_rng(12)
    shares, found_true = [], 0
    for _ in range(1000):
        values = rng.normal(size=(30, 50))
        is_positive = np.arange(30) < 15
        values[is_positive, :10] += 1.5
        chosen = benjamini_hochberg(compare(values, is_positive).p) <= 0.05
        shares.append(chosen[10:].sum() / max(chosen.sum(), 1))
        found_true += chosen[:10].sum()
    # Benjamini and Hochberg: the expected share is 0.05 times 40 of 50.
    error = np.std(shares) / np.sqrt(1000)
    assert abs(np.mean(shares) - 0.04) < 3.5 * error
    assert found_true > 8000
