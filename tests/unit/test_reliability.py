import math

import numpy as np
import pytest
from scipy import stats

from onnxloc.errors import OptionError
from onnxloc.stats import (
    agreement,
    chance_dice,
    compare,
    draw_halves,
    spearman,
    spearman_brown,
    subset_statistics,
)
from onnxloc.stats.halves import SubsetStatistics
from onnxloc.stats.reliability import dice, percentiles

pytestmark = pytest.mark.unit


def data(sizes=(20, 16), units=60, effect=1.0, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(sum(sizes), units))
    is_positive = rng.permutation(len(values)) < sizes[0]
    values[is_positive] += effect * rng.random(units)
    return values, is_positive


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("sizes", [(20, 16), (11, 15), (4, 5)])
def test_halves_hold_half_of_each_condition(sizes, shuffled):
    is_positive = np.random.default_rng(1).permutation(sum(sizes)) < sizes[0]
    halves = draw_halves(is_positive, 50, 0, shuffled=shuffled)
    for half in (0, 1):
        positive, control = halves.subsets(half, slice(None))
        extra = half * (np.array(sizes) % 2)
        assert set(positive.sum(axis=1)) == {sizes[0] // 2 + extra[0]}
        assert set(control.sum(axis=1)) == {sizes[1] // 2 + extra[1]}
    assert (halves.is_positive == is_positive).all() != shuffled
    assert (halves.is_positive.sum(axis=1) == sizes[0]).all()
    if sum(sizes) > 20:
        assert len({row.tobytes() for row in halves.in_first}) == 50


def test_pairs_stay_together():
    is_positive = np.array([True, False, False, True, True, False, True, False, True, False])
    halves = draw_halves(is_positive, 30, 0, paired=True)
    first = halves.in_first
    np.testing.assert_array_equal(first[:, is_positive], first[:, ~is_positive])
    free = draw_halves(is_positive, 30, 0)
    assert (free.in_first[:, is_positive] != free.in_first[:, ~is_positive]).any()


def test_seeds_of_halves():
    _, is_positive = data()
    one, same, other = (draw_halves(is_positive, 20, seed) for seed in (1, 1, 2))
    assert (one.in_first == same.in_first).all()
    assert (one.in_first != other.in_first).any()


def test_bad_splits_are_refused():
    with pytest.raises(OptionError, match="at least 4 stimuli"):
        draw_halves(np.arange(10) < 3, 5, 0)
    with pytest.raises(OptionError, match="at least 1"):
        draw_halves(np.arange(10) < 5, 0, 0)
    with pytest.raises(OptionError, match="one size"):
        draw_halves(np.arange(10) < 4, 5, 0, paired=True)
    values, is_positive = data()
    with pytest.raises(OptionError, match="two rows"):
        subset_statistics(values, is_positive[None], np.eye(36, dtype=bool)[:1])
    with pytest.raises(OptionError, match="do not go with"):
        subset_statistics(values[1:], is_positive[None], ~is_positive[None])


def test_statistics_of_subsets_are_those_of_the_test(monkeypatch):
    monkeypatch.setattr("onnxloc.stats.halves.BLOCK_UNITS", 17)
    values, is_positive = data()
    values[:, 1] = 0.1
    values[7, 2] = np.nan
    values[:, 3] = 1e6 + 1e-6 * values[:, 3]
    values[:, 4] *= 1e20
    # Varies in a few rows alone: in some subsets not at all.
    values[:, 5] = 0
    values[:3, 5] = [1, 2, 3]
    halves = draw_halves(is_positive, 12, 0)
    missing = 0
    for half in (0, 1):
        positive, control = halves.subsets(half, slice(None))
        got = subset_statistics(values, positive, control)
        for row in range(12):
            rows = positive[row] | control[row]
            want = compare(values[rows], is_positive[rows])
            # A NaN in one half takes the unit out of both.
            for column in (want.t, want.d):
                column[2] = np.nan
            # Its values are near a million and hold no more digits.
            loose = np.arange(60) == 3
            for name, other in (("t", want.t), ("d", want.d)):
                mine = getattr(got, name)[row]
                np.testing.assert_allclose(mine[~loose], other[~loose], rtol=1e-8, err_msg=name)
                np.testing.assert_allclose(mine[loose], other[loose], rtol=1e-4, err_msg=name)
            known = ~np.isnan(want.t)
            difference = want.mean_positive - want.mean_control
            np.testing.assert_allclose(
                got.difference[row][known & ~loose], difference[known & ~loose], rtol=1e-8
            )
            missing += (~known).sum()
    # Units 1 and 2 in all 24 halves, and unit 5 where it does not vary.
    assert missing > 48


def test_agreement_of_a_split_by_hand():
    first = SubsetStatistics(
        t=np.array([[5.0, 4, 3, 2, 1, np.nan]]),
        d=np.array([[1.0, 0.8, 0.6, 0.4, 0.2, np.nan]]),
        difference=np.array([[10.0, 8, 6, 4, 2, np.nan]]),
    )
    second = SubsetStatistics(
        t=np.array([[4.0, 1, 3, 5, 2, 9]]),
        d=np.array([[0.5, 0.1, 0.3, 0.7, 0.2, 2.0]]),
        difference=np.array([[5.0, 1, 3, 7, 2, 20]]),
    )
    got = agreement(first, second, 0, 2)
    # The first half chooses units 0 and 1, the second 5 and 3; unit 5 has no d in the first.
    assert got.dice == 0
    assert agreement(first, second, 0, 3).dice == pytest.approx(2 / 6)
    assert got.correlation == pytest.approx(stats.spearmanr([5, 4, 3, 2, 1], [4, 1, 3, 5, 2])[0])
    assert got.d_chosen == pytest.approx(((1.0 + 0.8) / 2 + (2.0 + 0.7) / 2) / 2)
    assert got.d_held_out == pytest.approx(((0.5 + 0.1) / 2 + 0.4) / 2)
    assert got.difference_held_out == pytest.approx(((5 + 1) / 2 + 4) / 2)
    with pytest.raises(OptionError, match="cannot choose 6"):
        agreement(first, second, 0, 6)


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = np.round(rng.normal(size=(2, 200)), 1)
    b[5] = np.nan
    keep = ~np.isnan(b)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a[keep], b[keep]).statistic, rel=1e-12)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))
    assert math.isnan(spearman(np.array([1.0, np.nan]), np.array([np.nan, 2.0])))


def test_spearman_brown_doubles_the_length():
    # The sum of two halves correlates with another such sum as the formula says.
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(1) == 1
    assert spearman_brown(0) == 0
    assert math.isnan(spearman_brown(-1))
    rng = np.random.default_rng(3)
    truth = rng.normal(size=200_000)
    parts = truth + rng.normal(size=(4, truth.size))
    half = np.corrcoef(parts[0], parts[1])[0, 1]
    whole = np.corrcoef(parts[0] + parts[1], parts[2] + parts[3])[0, 1]
    assert whole == pytest.approx(spearman_brown(half), abs=0.01)


def test_chance_of_dice_by_drawing():
    chance = chance_dice(200, 20)
    assert chance.estimate == 0.1
    rng = np.random.default_rng(0)
    drawn = [
        dice(*(rng.choice(200, 20, replace=False, shuffle=False) for _ in range(2)))
        for _ in range(4000)
    ]
    assert np.mean(drawn) == pytest.approx(0.1, abs=0.004)
    inside = np.mean([chance.low <= value <= chance.high for value in drawn])
    assert inside >= 0.94
    assert chance_dice(20, 20).estimate == 1
    with pytest.raises(OptionError, match="cannot choose"):
        chance_dice(5, 6)
    with pytest.raises(OptionError, match="level"):
        chance_dice(5, 1, 1.0)


def test_dice_of_sets():
    assert dice(np.array([1, 2, 3]), np.array([2, 3, 4])) == pytest.approx(2 / 3)
    assert dice(np.array([], dtype=int), np.array([], dtype=int)) == 1


def test_percentiles_of_splits():
    values = np.append(np.arange(101.0), np.nan)
    got = percentiles(values)
    assert (got.estimate, got.low, got.high) == pytest.approx((50, 2.5, 97.5))
    assert math.isnan(percentiles(np.array([np.nan])).estimate)


def test_noise_is_not_reliable_and_an_effect_is():
    """Chosen units look selective where they were chosen, and keep it only if it is real."""
    found = {}
    for effect in (0.0, 2.0):
        values, is_positive = data((60, 60), units=400, effect=effect, seed=4)
        halves = draw_halves(is_positive, 20, 0)
        both = [subset_statistics(values, *halves.subsets(half, slice(None))) for half in (0, 1)]
        found[effect] = [agreement(*both, row, 40) for row in range(20)]
    noise, real = ({n: np.mean([getattr(a, n) for a in rows]) for n in ("dice", "correlation",
                    "d_chosen", "d_held_out")} for rows in found.values())  # fmt: skip
    # Ten standard errors of 400 units around no correlation and the hypergeometric 0.1.
    assert abs(noise["correlation"]) < 0.15
    assert abs(noise["dice"] - 0.1) < 0.08
    assert noise["d_chosen"] > 0.3
    assert abs(noise["d_held_out"]) < 0.1
    assert real["correlation"] > 0.7
    assert real["dice"] > 0.3
    assert real["d_chosen"] > real["d_held_out"] > 1.2
