import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from onnxloc.errors import OptionError
from onnxloc.stats import benjamini_hochberg

pytestmark = pytest.mark.unit

ps = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@given(ps)
def test_equals_scipy(p):
    np.testing.assert_allclose(
        benjamini_hochberg(np.array(p)), false_discovery_control(p), rtol=1e-9
    )


@given(ps, st.lists(st.integers(0, 60), max_size=10))
def test_nan_stays_and_does_not_count(p, places):
    with_nan = np.array(p)
    for place in places:
        with_nan = np.insert(with_nan, min(place, len(with_nan)), np.nan)
    q = benjamini_hochberg(with_nan)
    missing = np.isnan(with_nan)
    assert np.isnan(q[missing]).all()
    np.testing.assert_allclose(q[~missing], false_discovery_control(p), rtol=1e-9)


def test_many_tiny_values_and_ties():
    rng = np.random.default_rng(0)
    p = np.concatenate([10.0 ** -rng.uniform(0, 300, 5000), np.full(100, 0.01), rng.random(5000)])
    rng.shuffle(p)
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q, false_discovery_control(p), rtol=1e-9)
    assert len(set(q[p == 0.01])) == 1


def test_worked_by_hand():
    # Ranks 1 to 4 of 4: 0.04, 0.04, 0.0533.. and 0.5.
    q = benjamini_hochberg(np.array([0.02, 0.5, 0.01, 0.04]))
    np.testing.assert_allclose(q, [0.04, 0.5, 0.04, 0.16 / 3])


def test_shape_is_kept_and_input_is_not_changed():
    p = np.array([[0.3, np.nan], [0.1, 0.2]], dtype=np.float32)
    before = p.copy()
    assert benjamini_hochberg(p).shape == (2, 2)
    np.testing.assert_array_equal(p, before)


def test_nothing_tested():
    assert benjamini_hochberg(np.array([])).shape == (0,)
    assert np.isnan(benjamini_hochberg(np.full(3, np.nan))).all()


@pytest.mark.parametrize("bad", [-1e-9, 1.1, np.inf])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(OptionError, match="p-values"):
        benjamini_hochberg(np.array([0.5, bad]))
