"""Shares of a network by group, and one network predicted from another, on plain arrays."""

from itertools import permutations as arrangements

import numpy as np
import pytest
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats.enrichment import enrichment, mean_shift_p
from onnxloc.stats.predict import PENALTIES, _ridge, fold_of, held_out_r2, shift_correlation

pytestmark = pytest.mark.unit

LABEL = np.array([0, 0, 1, 1, 2])
UNITS = np.array([10, 10, 30, 30, 20])
CHOSEN = np.array([5, 3, 1, 1, 0])


def test_ratios_and_expected_counts():
    found = enrichment(LABEL, UNITS, CHOSEN, 4)
    assert found.units.tolist() == [20, 60, 20, 0]
    assert found.chosen.tolist() == [8, 2, 0, 0]
    np.testing.assert_allclose(found.expected, [2, 6, 2, 0])
    np.testing.assert_allclose(found.ratio[:3], [4, 1 / 3, 0])
    assert np.isnan([found.ratio[3], found.p_units[3], found.p_sites[0]]).all()


def test_p_of_units_is_that_of_fishers_test_doubled():
    found = enrichment(LABEL, UNITS, CHOSEN, 3)
    for group in range(3):
        table = [
            [found.chosen[group], 10 - found.chosen[group]],
            [found.units[group] - found.chosen[group], 90 - found.units[group]
             + found.chosen[group]],
        ]  # fmt: skip
        tails = [stats.fisher_exact(table, alternative=a).pvalue for a in ("less", "greater")]
        assert found.p_units[group] == pytest.approx(min(1, 2 * min(tails)))
    assert (found.p_units_holm >= found.p_units).all()


def test_p_of_sites_is_that_of_all_arrangements():
    found = enrichment(LABEL, UNITS, CHOSEN, 3, permutations=20_000, seed=1)
    rate = CHOSEN.sum() / UNITS.sum()

    def away(label, group):
        own = np.array(label) == group
        return abs(CHOSEN[own].sum() / UNITS[own].sum() - rate)

    for group in range(3):
        drawn = [away(label, group) for label in arrangements(LABEL)]
        exact = np.mean(np.array(drawn) >= away(LABEL, group) - 1e-12)
        assert found.p_sites[group] == pytest.approx(exact, abs=0.012)


def test_sites_that_are_alike_do_not_make_a_network_of_chance_significant():
    # Whole sites are chosen, whatever their label: to the hypergeometric p that is no chance.
    rng = np.random.default_rng(2)
    of_units, of_sites = [], []
    for seed in range(150):
        label = rng.permutation(np.repeat([0, 1], 10))
        chosen = np.where(rng.random(20) < 0.3, 90, 5)
        found = enrichment(label, np.full(20, 100), chosen, 2, permutations=199, seed=seed)
        of_units.append(found.p_units[0] <= 0.05)
        of_sites.append(found.p_sites[0] <= 0.05)
    # 5 % of 150 is 7.5; 17 or more has a chance of a thousandth.
    assert sum(of_sites) <= 16
    assert sum(of_units) > 75


def test_one_group_has_no_p_of_sites():
    found = enrichment(np.zeros(3, int), np.full(3, 9), np.array([1, 0, 2]), 1, permutations=9)
    assert np.isnan(found.p_sites).all()
    assert found.ratio.tolist() == [1]
    with pytest.raises(OptionError, match="more chosen units"):
        enrichment(np.zeros(1, int), np.array([1]), np.array([2]), 1)


def test_mean_depth():
    place = np.array([0.1, 0.5, 0.9])
    units, chosen = np.array([10, 10, 10]), np.array([0, 1, 3])
    own, searched, p = mean_shift_p(place, units, chosen, permutations=20_000, seed=0)
    assert own == pytest.approx((0.5 + 2.7) / 4)
    assert searched == pytest.approx(0.5)
    # Of the six orders of the shares, two set the mean as far off.
    assert p == pytest.approx(2 / 6, abs=0.02)
    assert np.isnan(mean_shift_p(place, units, 0 * units, permutations=9, seed=0)).all()
    assert np.isnan(mean_shift_p(place, units, chosen, permutations=0, seed=0)[2])


def test_correlation_along_depth():
    a = np.array([0.0, 1, 2, 5, 3, 2])
    assert shift_correlation(a, 2 * a) == (pytest.approx(1), pytest.approx(1 / 6))
    low, p = shift_correlation(a, -a)
    assert low == pytest.approx(-1)
    assert p == 1
    assert np.isnan(shift_correlation(a, np.ones(6))).all()


def test_folds_hold_every_condition():
    condition = np.repeat([True, False], [23, 31])
    fold = fold_of(condition, 5, 0)
    for one in (True, False):
        counts = np.bincount(fold[condition == one])
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(fold, fold_of(condition, 5, 0))
    with pytest.raises(OptionError, match="too few for 20 folds"):
        fold_of(condition, 20, 0)


@pytest.fixture
def data():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(120, 40))
    condition = np.repeat([True, False], 60)
    return rng, x, condition, fold_of(condition, 5, 1)


def test_what_is_linear_is_predicted(data):
    rng, x, condition, fold = data
    y = x[:, :5].sum(axis=1) + 0.1 * rng.normal(size=120)
    assert held_out_r2(x, y, condition, fold) > 0.9
    assert held_out_r2(x * 1e6, y, condition, fold) > 0.9


def test_noise_and_a_difference_of_conditions_predict_nothing(data):
    rng, x, condition, fold = data
    assert held_out_r2(x, rng.normal(size=120), condition, fold) < 0.1
    # Both sides differ between the conditions, and in nothing else.
    both = x + 5.0 * condition[:, None]
    assert held_out_r2(both, rng.normal(size=120) + 5.0 * condition, condition, fold) < 0.1
    assert np.isnan(held_out_r2(x, np.zeros(120), condition, fold))


def test_a_rare_huge_value_does_not_decide(data):
    rng, x, condition, fold = data
    y = x[:, :5].sum(axis=1)
    wild = np.concatenate([x, rng.normal(size=(120, 30))], axis=1)
    wild[::9, 45:] *= 1e4
    assert held_out_r2(wild, y, condition, fold) > 0.5


def test_the_penalty_is_that_of_least_leave_one_out_error():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(25, 8)), rng.normal(size=(4, 8))
    y = x @ rng.normal(size=8) + rng.normal(size=25)
    scale = np.trace(x @ x.T) / 25

    def fit(rows, penalty):
        own = x[rows]
        return np.linalg.solve(own.T @ own + penalty * scale * np.eye(8), own.T @ y[rows])

    errors = []
    for penalty in PENALTIES:
        left = [np.delete(np.arange(25), i) for i in range(25)]
        errors.append(sum((y[i] - x[i] @ fit(rows, penalty)) ** 2 for i, rows in enumerate(left)))
    best = PENALTIES[int(np.argmin(errors))]
    np.testing.assert_allclose(_ridge(x, y, new), new @ fit(np.arange(25), best), rtol=1e-6)
    np.testing.assert_array_equal(_ridge(x[:, :0], y, new[:, :0]), np.zeros(4))
