"""Controls by activation, distinct draws, least selective units, and massive units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxloc.controls import (
    MASSIVE,
    draw_control,
    draw_controls,
    least_selective,
    massive_units,
    match_ratio,
    site_multiples,
)
from onnxloc.errors import NetworkError, OptionError
from onnxloc.network import network_from_flat

pytestmark = pytest.mark.unit

HASH = "ab" * 32
SITES = {"a": 40, "empty": 0, "b": 25, "c": 60}
N = sum(SITES.values())


def make(flat, sites=SITES):
    return network_from_flat(sorted(flat), sites, HASH, {"how": "top", "value": 1.0})


def counts(network):
    return {site: len(units) for site, units in network.units.items()}


def magnitudes(seed, n=N):
    return np.random.default_rng(seed).lognormal(0, 2, n)


chosen = st.sets(st.integers(0, N - 1), min_size=1, max_size=12)


@given(chosen, st.integers(0, 2**32), st.sampled_from(["site", "count", "norm"]))
def test_controls_are_outside_equal_in_number_distinct_and_the_same_again(flat, seed, match):
    network, size = make(flat), magnitudes(seed % 7)
    controls = draw_controls(network, 6, match, seed, magnitudes=size)
    for control in controls:
        assert not set(control.flat) & set(network.flat)
        assert control.size == network.size
        assert control.how["match"] == match
        if match != "count":
            assert counts(control) == counts(network)
    assert len({tuple(control.flat) for control in controls}) == 6
    assert draw_controls(network, 6, match, seed, magnitudes=size) == controls
    assert draw_controls(network, 2, match, seed, magnitudes=size) == controls[:2]


@given(chosen, st.integers(0, 1000))
def test_a_match_by_norm_takes_one_of_the_nearest(flat, seed):
    network, size = make(flat), magnitudes(seed)
    control = draw_control(network, match="norm", seed=seed, magnitudes=size)
    start = 0
    for site, width in SITES.items():
        own = network.units.get(site, np.empty(0, np.int64))
        logs = np.log(size[start : start + width])
        outside = np.setdiff1d(np.arange(width), own)
        drawn = control.units.get(site, np.empty(0, np.int64))
        if own.size:
            # Any unit drawn is among the 8 nearest left, at most 8 + the number drawn before it.
            apart = np.abs(logs[outside][:, None] - logs[own][None, :])
            ranks = apart.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
            reach = ranks[np.searchsorted(outside, drawn)].min(axis=1)
            assert (reach < 8 + own.size - 1).all()
        start += width


def test_a_match_by_norm_is_closer_than_one_by_site():
    size = magnitudes(3, 2000)
    network = make(range(0, 2000, 40), {"wide": 2000})
    near, far = (
        [
            match_ratio(network, control, size)
            for control in draw_controls(network, 10, match, 0, magnitudes=size)
        ]
        for match in ("norm", "site")
    )
    assert max(one.median for one in near) < 1.1
    assert min(one.median for one in far) > max(one.median for one in near)


def test_a_lone_massive_unit_has_no_like_and_the_ratio_says_so():
    size = np.ones(30)
    size[4] = 500.0
    network = make([4], {"s": 30})
    controls = draw_controls(network, 20, "norm", 0, magnitudes=size)
    # Twenty different controls of one unit: more than the eight nearest are taken.
    assert len({tuple(control.flat) for control in controls}) == 20
    ratio = match_ratio(network, controls[0], size)
    assert ratio.largest == pytest.approx(500)
    multiples = site_multiples(network.sites, size)
    assert massive_units(network, multiples).tolist() == [4]
    assert massive_units(controls[0], multiples).size == 0


@pytest.mark.parametrize(("times", "found"), [(MASSIVE, 0), (MASSIVE * 1.001, 1)])
def test_massive_is_above_the_threshold(times, found):
    size = np.ones(11)
    size[3] = times
    network = make([2, 3], {"s": 11})
    assert massive_units(network, site_multiples(network.sites, size)).size == found


def test_multiples_are_of_each_site_and_undefined_over_a_median_of_zero():
    size = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 7.0, np.nan, 4.0])
    multiples = site_multiples({"a": 3, "zero": 3, "b": 2}, size)
    np.testing.assert_array_equal(multiples[:3], [0.5, 1.0, 1.5])
    assert np.isnan(multiples[3:7]).all()
    assert multiples[7] == 1.0


def test_ratios_are_undefined_where_sites_do_not_correspond():
    size = magnitudes(0)
    assert match_ratio(make([0, 1]), make([2, 50]), size) is None
    assert match_ratio(make([0]), make([1]), np.full(N, np.nan)) is None
    zeros = match_ratio(make([0]), make([1]), np.zeros(N))
    assert (zeros.median, zeros.largest) == (1.0, 1.0)


@given(chosen, st.integers(0, 1000))
def test_the_least_selective_have_the_smallest_magnitude_of_t(flat, seed):
    t = np.random.default_rng(seed).normal(size=N)
    t[::9] = np.nan
    network = make(flat)
    least = least_selective(network, t)
    assert counts(least) == counts(network)
    assert not set(least.flat) & set(network.flat)
    assert not np.isnan(t[least.flat]).any()
    starts = dict(zip(SITES, np.cumsum([0, *SITES.values()]), strict=False))
    for site, units in least.units.items():
        left = np.setdiff1d(np.arange(SITES[site]), [*units, *network.units[site]])
        rest = np.abs(t[left + starts[site]])
        assert np.abs(t[units + starts[site]]).max() <= np.nanmin(rest)


def test_what_cannot_be_drawn_is_said():
    crowded = make(range(20), {"small": 30, "other": 100})
    size = magnitudes(0, 130)
    for match in ("site", "norm"):
        with pytest.raises(NetworkError, match="site 'small' has only 10 units outside"):
            draw_control(crowded, match=match, seed=0, magnitudes=size)
    with pytest.raises(NetworkError, match="site 'small' has only 10 units"):
        least_selective(crowded, size)
    with pytest.raises(NetworkError, match="only 3 different controls"):
        draw_controls(make([0], {"s": 4}), 4, "norm", 0, magnitudes=np.ones(4))
    assert len(draw_controls(make([0], {"s": 4}), 3, "site", 0)) == 3


def test_a_match_by_norm_needs_activations():
    network = make([0, 1])
    with pytest.raises(OptionError, match="needs the mean"):
        draw_control(network, match="norm", seed=0)
    with pytest.raises(OptionError, match="3 activations do not go with 125"):
        draw_control(network, match="norm", seed=0, magnitudes=np.ones(3))
    with pytest.raises(OptionError, match="3 t-values"):
        least_selective(network, np.ones(3))
    broken = magnitudes(0)
    broken[1] = np.nan
    with pytest.raises(NetworkError, match="no mean"):
        draw_control(network, match="norm", seed=0, magnitudes=broken)
    broken = magnitudes(0)
    broken[5:30] = np.inf
    drawn = draw_controls(network, 10, "norm", 0, magnitudes=broken)
    assert not any(set(control.flat) & set(range(5, 30)) for control in drawn)
