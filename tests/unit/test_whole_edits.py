"""Edits of whole tensors: any site, with its own axes, whether it has units or not."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3, 4], [5, 6, 7, 8]], [0, 1], pad=0)
PROBS = "b0.probs"


@pytest.fixture
def model(tmp_path) -> Model:
    return Model.open(tiny.write(tmp_path, tiny.decoder()))


def compiled(model, tensor=PROBS, **plan):
    plan = Plan(edits=(Edit(tensor, "whole"),), outputs=("logits",), **plan)
    return model.compile(plan, RuntimeOptions(threads=1))


def test_attention_has_no_units_and_can_be_replaced(model):
    assert not model.sites.find(PROBS).units
    session = compiled(model, taps=(Tap(PROBS, "none"), Tap("b0.joined", "none")))
    plain = session.outputs(BATCH)["logits"]
    expected = model.compile(Plan(outputs=("logits",)), RuntimeOptions(threads=1)).outputs(BATCH)
    np.testing.assert_array_equal(plain, expected["logits"])
    probs = session.taps(BATCH)[Tap(PROBS, "none")]
    # Head 0 of row 1 looks at the first token alone.
    mask = np.zeros((2, 2, 1, 1), dtype=bool)
    mask[1, 0] = True
    value = np.zeros((1, 1, 1, 4))
    value[..., 0] = 1
    edits = {PROBS: (mask, value)}
    found = session.taps(BATCH, edits)[Tap(PROBS, "none")]
    np.testing.assert_array_equal(found[0], probs[0])
    np.testing.assert_array_equal(found[1, 1], probs[1, 1])
    np.testing.assert_array_equal(found[1, 0], np.tile([1, 0, 0, 0], (4, 1)))
    joined = session.taps(BATCH, edits)[Tap("b0.joined", "none")]
    half = joined.shape[-1] // 2
    np.testing.assert_allclose(joined[1, :, :half], joined[1, :1, :half].repeat(4, 0), rtol=1e-6)
    changed = session.outputs(BATCH, edits)["logits"]
    np.testing.assert_array_equal(changed[0], plain[0])
    # The first token looked at itself before, too.
    np.testing.assert_allclose(changed[1, 0], plain[1, 0], rtol=1e-5)
    assert not np.allclose(changed[1, 1:], plain[1, 1:])


def test_it_can_be_done_to_a_site_with_units_and_to_every_turn_of_a_loop(tmp_path):
    model = Model.open(tiny.write(tmp_path, tiny.branches("Loop")))
    session = compiled(model, "z/body/next", taps=(Tap("z/body/next", "none"),))
    shape = (1, 1, tiny.WIDTH)
    edits = {"z/body/next": (np.ones(shape, dtype=bool), np.full(shape, 0.25))}
    found = session.taps(BATCH, edits)[Tap("z/body/next", "none")]
    assert found.size == 3 * 2 * 4 * tiny.WIDTH
    np.testing.assert_array_equal(found, 0.25)


def test_what_does_not_fit_is_refused(model, tmp_path):
    session = compiled(model)
    with pytest.raises(OptionError, match=r"has 3 axes; its tensor has 4"):
        session.outputs(BATCH, {PROBS: (np.ones((1, 1, 1), dtype=bool), np.zeros((1, 1, 1, 1)))})
    unmasked = Model.open(tiny.write(tmp_path / "unmasked", tiny.decoder(mask=False)))
    session = compiled(unmasked)
    uneven = Batch.of([[1, 2, 3], [4, 5]], [0, 1], pad=0)
    edit = (np.ones((1, 1, 1, 1), dtype=bool), np.zeros((1, 1, 1, 1)))
    with pytest.raises(OptionError, match="all rows run at once"):
        session.outputs(uneven, {PROBS: edit})
