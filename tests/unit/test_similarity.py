import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist

from onnxloc.errors import OptionError
from onnxloc.stats.depth import depth_distance
from onnxloc.stats.overlap import overlap
from onnxloc.stats.similarity import (
    cka_signature,
    debiased_signature,
    permutation_p,
    rsa_signature,
)

pytestmark = pytest.mark.unit

SIGNATURES = (cka_signature, debiased_signature, rsa_signature)


def two(n=24, units=(40, 17), shared=1.0, seed=0):
    """Two tables of values with a common part."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 5))
    return [
        rng.normal(size=(n, k)) + shared * common @ rng.normal(size=(5, k)) + rng.normal(size=k)
        for k in units
    ]


def similarity(signature, x, y):
    return float(signature(x) @ signature(y))


def hsic0(k, m):
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ m @ h) / (n - 1) ** 2


def hsic1(k, m):
    """Song et al. 2012, equation 4, as it is written."""
    n = len(k)
    k, m = (x - np.diag(np.diag(x)) for x in (k, m))
    one = np.ones(n)
    return (
        np.trace(k @ m)
        + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    ) / (n * (n - 3))


@pytest.mark.parametrize(
    ("signature", "hsic"), [(cka_signature, hsic0), (debiased_signature, hsic1)]
)
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_cka_is_that_of_the_gram_matrices(signature, hsic, shared):
    x, y = two(shared=shared)
    k, m = x @ x.T, y @ y.T
    want = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert similarity(signature, x, y) == pytest.approx(want, abs=1e-12)
    assert similarity(signature, x, x) == pytest.approx(1, abs=1e-12)


def test_plain_cka_is_that_of_the_features():
    x, y = (v - v.mean(axis=0) for v in two())
    norms = [np.linalg.norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y))]
    assert similarity(cka_signature, x, y) == pytest.approx(norms[0] ** 2 / norms[1] / norms[2])


def test_bias_of_many_units():
    x, y = two(n=20, units=(4000, 4000), shared=0.0)
    assert similarity(cka_signature, x, y) > 0.9
    assert abs(similarity(debiased_signature, x, y)) < 0.25
    values = [
        similarity(debiased_signature, *two(n=12, units=(30, 30), shared=0.0, seed=seed))
        for seed in range(300)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_what_cka_does_not_see(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = two(n=12, units=(9, 7), seed=seed)
    turn, _ = np.linalg.qr(rng.normal(size=(9, 9)))
    for signature in (cka_signature, debiased_signature):
        moved = scale * (x @ turn) + shift
        assert similarity(signature, moved, y) == pytest.approx(
            similarity(signature, x, y), abs=1e-7
        )
        stretched = x * np.linspace(0.1, 9, 9)
        assert abs(similarity(signature, stretched, y) - similarity(signature, x, y)) > 1e-6


def test_rsa_is_that_of_scipy():
    x, y = two()
    want = stats.spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic
    assert similarity(rsa_signature, x, y) == pytest.approx(want, abs=1e-12)
    # The scale and the mean of a stimulus do not matter.
    assert similarity(rsa_signature, 3 * x + np.arange(24)[:, None], y) == pytest.approx(
        want, abs=1e-12
    )


@pytest.mark.parametrize("signature", SIGNATURES)
def test_what_has_no_similarity(signature):
    x, _ = two()
    broken = x.copy()
    broken[3, 2] = np.inf
    for values in (np.full((24, 6), 0.1), np.zeros((24, 6)), broken, broken * np.nan):
        assert np.isnan(signature(values.astype(np.float32))).all()
    for size in (1e-30, 1e30):
        small = signature((x * size).astype(np.float32))
        np.testing.assert_allclose(small, signature(x.astype(np.float32)), atol=1e-5)
    for shape in ((3, 5), (5, 0), (5,)):
        with pytest.raises(OptionError, match="at least 4 stimuli"):
            signature(np.ones(shape))


def stacked(signature, sides):
    return [np.stack([signature(site) for site in side]) for side in sides]


@pytest.mark.parametrize("signature", [debiased_signature, rsa_signature])
def test_permutations_are_of_stimuli(signature):
    x, y = two(n=9, shared=0.4)
    first, second = stacked(signature, ([x, x[:, :8]], [y, x, y[:, :5]]))
    p, p_best = permutation_p(first, second, permutations=60, seed=3)
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(60):
        order = rng.permutation(9)
        moved, _ = stacked(signature, ([x[order], x[order, :8]], [y]))
        drawn.append(moved @ second.T)
    drawn = np.array(drawn)
    seen = first @ second.T
    np.testing.assert_allclose(p, (1 + (drawn >= seen - 1e-6).sum(axis=0)) / 61)
    best = (drawn.max(axis=2) >= seen.max(axis=1) - 1e-6).sum(axis=0)
    np.testing.assert_allclose(p_best, (1 + best) / 61)
    assert p[0, 1] == 1 / 61
    assert (permutation_p(first, second, permutations=60, seed=4)[0] != p).any()


def test_p_is_even_where_nothing_is_shared():
    p = []
    for seed in range(150):
        first, second = stacked(
            debiased_signature, [[v] for v in two(n=10, units=(6, 6), shared=0.0, seed=seed)]
        )
        p.append(permutation_p(first, second, permutations=99, seed=seed)[0][0, 0])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    first, second = stacked(debiased_signature, [[v] for v in two(n=24, shared=1.0)])
    assert permutation_p(first, second, permutations=99, seed=0)[0][0, 0] == 0.01


def test_sites_without_a_signature_have_no_p():
    x, y = two(n=8)
    first, second = stacked(debiased_signature, ([x, np.ones((8, 3))], [y]))
    p, p_best = permutation_p(first, second, permutations=9, seed=0)
    assert np.isnan(p[1, 0])
    assert np.isnan(p_best[1])
    assert 0.1 <= p[0, 0] <= 1
    assert np.isnan(permutation_p(first, second, permutations=0, seed=0)[0]).all()
    with pytest.raises(OptionError, match="same stimuli"):
        permutation_p(first, second[:, 1:], permutations=9, seed=0)


@given(st.data())
def test_overlap_is_hypergeometric(data):
    n = data.draw(st.integers(1, 300))
    a, b = (data.draw(st.integers(0, n)) for _ in range(2))
    shared = data.draw(st.integers(max(0, a + b - n), min(a, b)))
    found = overlap(n, a, b, shared)
    if a + b == 0:
        assert (found.dice, found.p) == (1, 1)
        return
    assert found.dice == 2 * shared / (a + b)
    draws = np.arange(0, min(a, b) + 1)
    mass = stats.hypergeom.pmf(draws, n, a, b)
    assert found.p == pytest.approx(mass[draws >= shared].sum(), abs=1e-9)
    assert found.chance == pytest.approx((mass * draws).sum() * 2 / (a + b))
    assert found.chance_low <= found.chance_high


def test_overlap_that_cannot_be():
    with pytest.raises(OptionError, match="cannot share 3"):
        overlap(10, 2, 5, 3)
    with pytest.raises(OptionError, match="cannot share 0"):
        overlap(10, 6, 5, 0)


def test_depth_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for blocks in ((30, 6), (4, 4), (1, 7)):
        first, second = (rng.integers(0, 9, n) + 1 for n in blocks)
        # Each block as many points, spread evenly.
        steps = (np.arange(2000) + 0.5) / 2000
        points = [((np.arange(c.size)[:, None] + steps) / c.size).ravel() for c in (first, second)]
        weights = [np.repeat(c / c.sum(), 2000) for c in (first, second)]
        want = stats.wasserstein_distance(*points, *weights)
        assert depth_distance(first, second)[0] == pytest.approx(want, abs=1e-3)
    assert depth_distance(np.array([1, 0]), np.array([0, 0, 0, 5]))[0] == pytest.approx(0.625)


def test_depth_p():
    even = np.full(6, 20)
    late = np.array([0, 0, 0, 0, 20, 100])
    assert depth_distance(even, late, permutations=99)[1] == 0.01
    assert depth_distance(even, even, permutations=99) == (0, 1)
    rng = np.random.default_rng(1)
    p = [
        depth_distance(*rng.multinomial(60, np.full(8, 1 / 8), 2), permutations=99, seed=seed)[1]
        for seed in range(200)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.isnan(depth_distance(even, np.zeros(3, int), permutations=9)).all()
    with pytest.raises(OptionError, match="no depth"):
        depth_distance(even, np.empty(0, int))
