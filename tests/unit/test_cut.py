"""A model cut in two: the parts give what the whole gives, or the cut is refused."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.errors import AnatomyError, OptionError
from onnxloc.graph.plan import Edit, Entropy, Plan, Tap, TargetLogProbs, TopLogits
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.cut import Cut
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]], [0, 1, 2], pad=0)
PLAN = Plan(
    taps=(Tap("b2.out", "mean"),),
    edits=(Edit("b1.mid"),),
    head=(TargetLogProbs("logits"), TopLogits("logits", 3, "last"), Entropy("logits", "given")),
    outputs=("logits",),
)
AT = [[0, 3], [], [2]]
EDITS = {"b1.mid": (np.arange(8) % 2 == np.zeros((3, 1, 1)), np.ones((1, 1, 8), np.float32))}


@pytest.fixture(scope="module", params=[True, False], ids=["with mask", "without mask"])
def model(request, tmp_path_factory):
    proto = tiny.decoder(blocks=3, mask=request.param)
    return Model.open(tiny.write(tmp_path_factory.mktemp("m"), proto))


def u_shape(*, skip: str) -> object:
    """Down, middle, up; `skip` is what the way up reads beside the middle."""
    g = tiny.Builder(4)
    g.op("Gather", [g.weight("table", tiny.VOCABULARY, tiny.WIDTH), "input_ids"], "x")
    g.op("MatMul", ["x", g.weight("w0", tiny.WIDTH, tiny.WIDTH)], "down")
    g.op("Relu", ["down"], "first")
    g.op("MatMul", ["first", g.weight("w1", tiny.WIDTH, tiny.WIDTH)], "middle")
    g.op("Cast", ["attention_mask"], "real", to=1)
    g.op("Unsqueeze", ["real", g.const("two", [2])], "wide")
    g.op("Mul", ["middle", "wide"], "kept")
    g.op("MatMul", ["kept", g.weight("w2", tiny.WIDTH, tiny.WIDTH)], "up")
    g.op("Add", ["up", skip], "joined")
    g.op("MatMul", ["joined", g.weight("w3", tiny.WIDTH, tiny.VOCABULARY)], "logits")
    inputs = [tiny.value(name, tiny.TEXT_DIMS) for name in ("input_ids", "attention_mask")]
    return g.model(inputs, ["logits"])


def same(found, expected, *, atol=1e-5):
    for tap, value in expected.taps.items():
        np.testing.assert_allclose(found.taps[tap], value, atol=atol)
    real = BATCH.mask
    np.testing.assert_allclose(
        found.outputs["logits"][real], expected.outputs["logits"][real], atol=atol
    )
    for a, b in zip(found.target_logprobs, expected.target_logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    for a, b in zip(found.entropy, expected.entropy, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    for a, b in zip(found.top, expected.top, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)


@pytest.mark.parametrize("site", ["embed", "block.0.out", "b1.mid"])
def test_the_parts_give_what_the_whole_gives(model, site):
    cut = Cut.at(model, site, PLAN)
    whole = model.compile(PLAN, RuntimeOptions())
    values = cut.prefix(BATCH)
    assert values.shape == (3, 5, 8)
    for edits in (None, EDITS):
        same(cut.suffix(BATCH, values, edits, AT), whole.read(BATCH, edits, at=AT))


def test_a_function_at_the_cut_does_what_the_same_edit_does(model):
    cut = Cut.at(model, "block.0.out", PLAN)
    values = cut.prefix(BATCH)
    kept = values.copy()
    zeroed = np.where(np.arange(8) < 3, np.float32(0), values)
    plan = Plan(
        taps=PLAN.taps, edits=(Edit("b0.out"), *PLAN.edits), head=PLAN.head, outputs=PLAN.outputs
    )
    edits = {"b0.out": ((np.arange(8) < 3)[None, None], np.zeros((1, 1, 8), np.float32))}
    expected = model.compile(plan, RuntimeOptions()).read(BATCH, edits, at=AT)
    found = cut.suffix(BATCH, zeroed, at=AT)
    same(found, expected)
    # The control of this test: the function changes something.
    intact = cut.suffix(BATCH, values, at=AT)
    assert np.abs(found.outputs["logits"] - intact.outputs["logits"]).max() > 1e-3
    np.testing.assert_array_equal(values, kept)


def test_the_beginning_is_not_run_again(model):
    cut = Cut.at(model, "block.1.out", Plan(outputs=("logits",)))
    behind = {n for node in cut.behind.instrumented.proto.graph.node for n in node.output}
    before = {n for node in cut.before.instrumented.proto.graph.node for n in node.output}
    assert "b1.scores" in before - behind
    assert "b2.scores" in behind - before


def test_a_skip_connection_across_the_cut_is_refused(tmp_path):
    model = Model.open(tiny.write(tmp_path, u_shape(skip="first")))
    with pytest.raises(OptionError, match=r"op:kept leaves other ways .* is read: op:first; cut"):
        Cut.at(model, "kept", Plan(outputs=("logits",)))
    # Before the ways part, and where they have met, there is one.
    for site in ("first", "joined"):
        cut = Cut.at(model, site, Plan(outputs=("logits",)))
        whole = model.compile(Plan(outputs=("logits",)), RuntimeOptions()).outputs(BATCH)
        found = cut.suffix(BATCH, cut.prefix(BATCH)).outputs["logits"]
        np.testing.assert_allclose(found, whole["logits"], atol=1e-6)


def test_what_takes_no_product_is_computed_anew(tmp_path):
    """A mask, and an embedding that is added once more."""
    model = Model.open(tiny.write(tmp_path, u_shape(skip="x")))
    plan = Plan(outputs=("logits",))
    for site in ("first", "middle", "kept"):
        cut = Cut.at(model, site, plan)
        whole = model.compile(plan, RuntimeOptions()).outputs(BATCH)["logits"]
        found = cut.suffix(BATCH, cut.prefix(BATCH)).outputs["logits"]
        np.testing.assert_allclose(found, whole, atol=1e-6)


def test_what_does_not_lie_behind_the_cut_is_refused(model):
    for site, plan, message in (
        ("block.1.attn.q", Plan(outputs=("logits",)), "b1.ln0.*cut where all that lies behind"),
        ("b1.attn", Plan(outputs=("logits",)), "is read: block.0.out; cut"),
        ("b1.out", Plan(taps=(Tap("b0.out"),)), "block.0.out does not follow from block.1.out"),
        ("b1.out", Plan(edits=(Edit("b1.mid"),), outputs=("logits",)), "block.1.mid lies before"),
        ("b1.heads", Plan(outputs=("logits",)), r"cut at a tensor \[batch, tokens, features\]"),
        ("b1.out", Plan(outputs=("logits",), given=("b1.out",)), "is given nothing"),
    ):
        with pytest.raises(OptionError, match=message):
            Cut.at(model, site, plan)
    with pytest.raises(AnatomyError, match=r"no site 'block\.9\.out'"):
        Cut.at(model, "block.9.out", Plan(outputs=("logits",)))
    cut = Cut.at(model, "b1.out", Plan(outputs=("logits",)))
    with pytest.raises(OptionError, match="it takes"):
        cut.suffix(BATCH, np.zeros((3, 4, 8), np.float32))
