"""Plans are values."""

import pytest

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs

pytestmark = pytest.mark.unit


def test_equal_plans_are_equal_and_hash_alike():
    def make(site="x", form="replace"):
        return Plan(taps=(Tap(site),), edits=(Edit(site, form),), head=TargetLogProbs("logits"))

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make().hash == make().hash
    others = [make("y"), make(form="affine"), Plan(taps=(Tap("x"),)), Plan(outputs=("x",))]
    assert len({plan.hash for plan in (make(), *others)}) == 5
    assert make() not in others


def test_what_makes_no_sense_is_refused():
    with pytest.raises(
        OptionError, match="no pooling 'first' \\(known: last, mean, sum, max, none"
    ):
        Tap("x", "first")
    with pytest.raises(OptionError, match="no edit 'zero' \\(known: replace, affine, whole\\)"):
        Edit("x", "zero")
    with pytest.raises(OptionError, match="at most once with each pooling"):
        Plan(taps=(Tap("x"), Tap("x")))
    with pytest.raises(OptionError, match="edits each site at most once"):
        Plan(taps=(Tap("x"),), edits=(Edit("x"), Edit("x", "affine")))
    with pytest.raises(OptionError, match="keeps each output at most once"):
        Plan(outputs=("logits", "logits"))
    with pytest.raises(OptionError, match="must read something"):
        Plan(edits=(Edit("x"),))
    assert Plan(taps=(Tap("x"), Tap("x", "mean")))
