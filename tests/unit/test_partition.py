"""Given tensors, cuts and narrowing: the short ways give what the long ways give."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.partition import late_cut
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.scoring import rows_and_conditions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]], [0, 1, 2], pad=0)
HEAD = TargetLogProbs("logits")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model.open(tiny.write(tmp_path_factory.mktemp("m"), tiny.decoder(blocks=3)))


def compiled(model, **plan):
    return model.compile(Plan(**plan), RuntimeOptions())


def edits(seed=0):
    rng = np.random.default_rng(seed)
    return {"b1.out": (rng.random((3, 1, 8)) < 0.5, np.zeros((1, 1, 8), np.float32))}


def test_what_is_given_replaces_what_is_computed(model):
    whole = compiled(model, edits=(Edit("b1.out"),), head=HEAD)
    before = compiled(model, taps=(Tap("b1.out", "none"),))
    behind = compiled(model, edits=(Edit("b1.out"),), head=HEAD, given=("b1.out",))
    (values,) = before.taps(BATCH).values()
    expected = whole.target_logprobs(BATCH, edits())
    found = behind.target_logprobs(BATCH, edits(), {"b1.out": values})
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    other = behind.target_logprobs(BATCH, edits(), {"b1.out": values + 1})
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(expected, other, strict=True))


def test_the_prefix_is_pruned_from_what_lies_behind_a_given_tensor(model):
    behind = compiled(model, head=HEAD, given=("b1.out",))
    names = {name for node in behind.instrumented.proto.graph.node for name in node.output}
    assert "b0.out" not in names
    assert "logits" in names
    assert len(behind.instrumented.proto.graph.initializer) < len(
        compiled(model, head=HEAD).instrumented.proto.graph.initializer
    )


def test_given_tensors_are_checked(model):
    session = compiled(model, head=HEAD, given=("b1.out",))
    with pytest.raises(OptionError, match="is given"):
        session.target_logprobs(BATCH)
    with pytest.raises(OptionError, match="it takes"):
        session.target_logprobs(BATCH, None, {"b1.out": np.zeros((3, 4, 8), np.float32)})
    with pytest.raises(ModelError, match="cannot be given"):
        compiled(model, head=HEAD, given=("b0.heads",))


def test_a_cut_is_made_at_the_first_edit_where_enough_lies_before_it(model):
    topology = Topology(model.graph.proto)

    def cut(*edited):
        site = late_cut(topology, model.sites, edited, "logits")
        return None if site is None else site.tensor

    assert cut("b2.out", "b1.out") == "b1.out"
    assert cut("b2.out") == "b2.out"
    embed = model.sites.find("embed").tensor
    assert cut(embed, "b2.out") is None
    assert cut() is None


def test_no_cut_where_an_edit_does_not_follow_from_the_first(model):
    topology = Topology(model.graph.proto)
    q, k = (model.sites.find(f"block.2.attn.{part}").tensor for part in "qk")
    assert late_cut(topology, model.sites, (q, k), "logits") is None


@pytest.mark.parametrize(("conditions", "batch_size"), [(3, 8), (5, 4), (1, 2), (4, 4)])
def test_every_text_meets_every_condition_once(conditions, batch_size):
    sequences = [[1] * n for n in (3, 1, 2, 5)]
    seen = []
    for batch, which in rows_and_conditions(sequences, conditions, batch_size, 0):
        assert len(batch.rows) <= batch_size
        seen += list(zip(batch.rows.tolist(), which.tolist(), strict=True))
    assert sorted(seen) == [(i, c) for i in range(4) for c in range(conditions)]


def test_narrowing_gives_the_last_token_of_the_whole(model):
    sites = [site for site in model.sites if site.units]
    last = compiled(model, taps=tuple(Tap(site.tensor) for site in sites))
    made = {n for node in last.instrumented.proto.graph.node for n in node.output}
    assert "onnxloc.narrow.0" in made
    whole = compiled(model, taps=tuple(Tap(site.tensor, "none") for site in sites))
    everything = whole.taps(BATCH)
    for tap, found in last.taps(BATCH).items():
        values = everything[Tap(tap.site, "none")]
        if values.ndim == 3:
            values = values[np.arange(3), BATCH.lengths - 1]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6, err_msg=tap.site)


def test_nothing_is_narrowed_that_is_read_whole(model):
    plan = Plan(taps=(Tap("b2.out"),), outputs=("logits",))
    session = model.compile(plan, RuntimeOptions())
    found = session.outputs(BATCH)["logits"]
    plain = compiled(model, outputs=("logits",)).outputs(BATCH)["logits"]
    assert found.shape == plain.shape
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
