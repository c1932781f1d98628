"""Units chosen on halves: what is measured is never what chose them."""

import numpy as np
import pytest

from onnxloc.choose import top_units
from onnxloc.errors import NetworkError
from onnxloc.graph.sites import Axis, Site
from onnxloc.network import network_from_flat
from onnxloc.stats.compare import compare
from onnxloc.studies.profile_networks import controls_of, half_arms, responses
from onnxloc.studies.profile_readings import Readings

pytestmark = pytest.mark.unit

N, UNITS = 60, 400
SITES = {"block.0.out": UNITS, "block.1.out": UNITS}


def site(name, block):
    return Site(
        tensor=name, names=(name,), op_type="Add", dtype="float32",
        axes=(Axis.BATCH, Axis.FEATURE), shape=(None, UNITS), block=block,
    )  # fmt: skip


def readings_of(rng, effect=0.0):
    """Noise; the first ten units of block 1 respond to the first half of the rows by `effect`."""
    values = [rng.normal(size=(N, UNITS)) for _ in SITES]
    values[1][: N // 2, :10] += effect
    return Readings(tuple(site(name, i) for i, name in enumerate(SITES)), tuple(values))


def found_in(readings, k=20):
    is_positive = np.arange(N) < N // 2
    t = np.concatenate([compare(v, is_positive).t for v in readings.values])
    return network_from_flat(top_units(t, k), SITES, "hash", {"how": "units"})


def arms_of(readings, network, items, splits=6, paired=False):
    rows = np.arange(N)
    return half_arms(
        network, readings, rows[: N // 2], rows[N // 2 :], items, "welch",
        paired=paired, splits=splits, seed=2,
    )  # fmt: skip


def gap(readings, arms):
    """Difference of both conditions, each item measured with what its weights say."""
    items = np.arange(N)
    chosen = responses(readings, items, [arm.network for arm in arms], z=True).mean
    weights = np.stack([arm.weight for arm in arms], axis=1)
    mean = (chosen * weights).sum(axis=1) / weights.sum(axis=1)
    return mean[: N // 2].mean() - mean[N // 2 :].mean()


def test_noise_has_no_response_once_it_is_held_out():
    gaps, inside = [], []
    for seed in range(12):
        readings = readings_of(np.random.default_rng(seed))
        network = found_in(readings)
        gaps.append(gap(readings, arms_of(readings, network, np.arange(N))))
        own = responses(readings, np.arange(N), [network], z=True).mean[:, 0]
        inside.append(own[: N // 2].mean() - own[N // 2 :].mean())
    # The units that noise favours differ by more than half a standard deviation where they were
    # chosen, and by nothing elsewhere.
    assert min(inside) > 0.5
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(len(gaps)) + 0.02
    assert max(gaps) < 0.25


def test_a_true_response_stays():
    readings = readings_of(np.random.default_rng(1), effect=2.0)
    network = found_in(readings, k=10)
    assert gap(readings, arms_of(readings, network, np.arange(N))) > 1


def test_every_item_is_measured_by_the_half_that_it_is_not_in():
    readings = readings_of(np.random.default_rng(0))
    network = found_in(readings)
    # Items 60 and on are not the localizer's.
    items = np.array([0, 5, 30, 59, 60, 61])
    more = Readings(readings.sites, tuple(np.concatenate([v, v[:2]]) for v in readings.values))
    arms = arms_of(more, network, items, splits=5)
    assert len(arms) == 10
    for one, two in zip(arms[::2], arms[1::2], strict=True):
        assert one.network.size == two.network.size == network.size
        np.testing.assert_array_equal(one.weight + two.weight, np.ones(6))
        assert set(one.weight[:4]) <= {0.0, 1.0}
        assert one.weight[4:].tolist() == [0.5, 0.5]


def test_an_arm_does_not_depend_on_the_items_that_it_measures():
    rng = np.random.default_rng(3)
    readings = readings_of(rng)
    network = found_in(readings)
    items = np.arange(N)
    arms = arms_of(readings, network, items)
    for arm in arms[:4]:
        values = [v.copy() for v in readings.values]
        for v in values:
            v[arm.weight > 0] = rng.normal(50, 9, v[arm.weight > 0].shape)
        other = arms_of(Readings(readings.sites, tuple(values)), network, items)
        same = other[next(i for i, one in enumerate(arms) if one is arm)]
        np.testing.assert_array_equal(same.network.flat, arm.network.flat)


def test_pairs_stay_in_one_half():
    readings = readings_of(np.random.default_rng(0))
    arms = arms_of(readings, found_in(readings), np.arange(N), paired=True)
    for arm in arms:
        np.testing.assert_array_equal(arm.weight[: N // 2], arm.weight[N // 2 :])


def test_a_text_in_both_halves_is_measured_by_neither():
    readings = readings_of(np.random.default_rng(0))
    rows = np.arange(N)
    positive, control = rows[: N // 2].copy(), rows[N // 2 :].copy()
    positive[1] = positive[0]
    arms = half_arms(
        found_in(readings), readings, positive, control, np.array([0, 7]), "welch",
        paired=False, splits=12, seed=0,
    )  # fmt: skip
    weights = np.array([[arm.weight for arm in pair] for pair in zip(arms[::2], arms[1::2])])  # noqa: B905
    both = weights.sum(axis=1)
    assert set(both[:, 0]) == {0.0, 1.0}
    assert set(both[:, 1]) == {1.0}


def test_controls_share_no_unit_with_any_arm():
    readings = readings_of(np.random.default_rng(0))
    network = found_in(readings)
    arms = arms_of(readings, network, np.arange(N))
    controls = controls_of(network, arms, 8, "site", 0, None)
    taken = np.unique(np.concatenate([network.flat, *(arm.network.flat for arm in arms)]))
    for control in controls:
        assert not np.intersect1d(control.flat, taken).size
        assert {s: len(u) for s, u in control.units.items()} == {
            s: len(u) for s, u in network.units.items()
        }


def test_a_network_of_all_units_is_measured_alone():
    readings = readings_of(np.random.default_rng(0))
    network = network_from_flat(np.arange(2 * UNITS), SITES, "hash", {"how": "units"})
    assert controls_of(network, [], 0, "site", 0, None) == ()
    with pytest.raises(NetworkError, match="outside the network"):
        controls_of(network, [], 1, "site", 0, None)
    mean = responses(readings, np.arange(N), [network], z=False).mean[:, 0]
    np.testing.assert_allclose(mean, np.concatenate(readings.values, axis=1).mean(axis=1))


def test_units_that_do_not_vary_or_are_no_numbers_do_not_count():
    readings = readings_of(np.random.default_rng(0))
    readings.values[0][:, 0] = 7.0
    readings.values[0][3, 1] = np.nan
    readings.values[0][:, 2] = np.arange(N)
    network = network_from_flat(np.arange(3), SITES, "hash", {"how": "units"})
    lone = network_from_flat(np.arange(2), SITES, "hash", {"how": "units"})
    items = np.arange(N)
    z = responses(readings, items, [network, lone], z=True).mean
    np.testing.assert_allclose(z[:, 0], (items - items.mean()) / items.std())
    assert np.isnan(z[:, 1]).all()
    raw = responses(readings, items, [network], z=False).mean
    np.testing.assert_allclose(raw[:, 0], (7.0 + items) / 2)
