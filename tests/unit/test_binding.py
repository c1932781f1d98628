"""Runs whose inputs and results are bound: the same numbers, and nothing copied that need not be.

The binding is the same code on every provider; here it is on the CPU.
"""

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.errors import ModelError
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs
from onnxloc.runtime import binding as binding_module
from onnxloc.runtime import session as session_module
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.binding import Held
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.scoring import Prefix

pytestmark = pytest.mark.unit

SEQUENCES = [[1, 2, 3, 4, 5], [6, 7], [8], [9, 10, 1, 2]]
BATCH = Batch.of(SEQUENCES, range(4), pad=0)
PLAIN = RuntimeOptions(io_binding=False)
BOUND = RuntimeOptions(io_binding=True)
HEAD = TargetLogProbs("logits")
TAPS = tuple(Tap(name, pool) for name in ("b0.out", "b1.out") for pool in ("last", "mean", "none"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Model.open(tiny.write(tmp_path_factory.mktemp("bound"), tiny.decoder()))


def edits(seed=0):
    rng = np.random.default_rng(seed)
    return {"b0.out": (rng.random((4, 1, 8)) < 0.5, rng.standard_normal((1, 1, 8)))}


@pytest.mark.parametrize("change", [None, edits()], ids=["intact", "edited"])
def test_bound_runs_give_the_same(model, change):
    plan = Plan(taps=TAPS, edits=(Edit("b0.out"),), head=HEAD, outputs=("logits",))
    plain, bound = (model.compile(plan, options) for options in (PLAIN, BOUND))
    for tap, value in bound.taps(BATCH, change).items():
        np.testing.assert_array_equal(value, plain.taps(BATCH, change)[tap])
    for one, other in zip(
        bound.target_logprobs(BATCH, change), plain.target_logprobs(BATCH, change), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    found = bound.outputs(BATCH, change)["logits"]
    np.testing.assert_array_equal(found, plain.outputs(BATCH, change)["logits"])


def test_results_outlive_the_next_run(model):
    session = model.compile(Plan(taps=(Tap("b1.out"),)), BOUND)
    first = session.taps(BATCH)[Tap("b1.out")]
    kept = first.copy()
    session.taps(Batch.of([[5, 5], [3], [2], [1, 1]], range(4), pad=0))
    np.testing.assert_array_equal(first, kept)


def test_what_is_shared_by_conditions_stays_where_it_is(model, monkeypatch):
    """The prefix is run once, its rows are repeated, and none of it comes to the host."""
    shared = replace(BATCH.take([0, 1], 5), rows=np.arange(2))
    rows = shared.take([0, 0, 1, 1], 5)
    whole = model.compile(Plan(head=HEAD, edits=(Edit("b1.out"),)), PLAIN)
    suffix = model.compile(Plan(head=HEAD, edits=(Edit("b1.out"),), given=("b0.out",)), BOUND)
    prefix = Prefix(model.compile(Plan(taps=(Tap("b0.out", "none"),)), BOUND), "b0.out")
    change = {"b1.out": (np.array([0, 1, 0, 1], bool)[:, None, None].repeat(8, 2), ZERO)}
    expected = whole.target_logprobs(rows, change)

    fed = []
    real = session_module.run_bound

    def watch(session, names, feeds, options, **settings):
        fed.append(feeds)
        return real(session, names, feeds, options, **settings)

    monkeypatch.setattr(session_module, "run_bound", watch)
    given = prefix.run(rows)
    monkeypatch.setattr(Held, "numpy", None)
    found = suffix.target_logprobs(rows, change, given)
    assert isinstance(given["b0.out"], Held)
    assert given["b0.out"].shape == (4, 5, 8)
    assert any(isinstance(value, Held) for value in fed[-1].values())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.allclose(found[0], found[1])


ZERO = np.zeros((1, 1, 8), np.float32)


def test_without_binding_the_prefix_is_an_array(model):
    prefix = Prefix(model.compile(Plan(taps=(Tap("b0.out", "none"),)), PLAIN), "b0.out")
    assert isinstance(prefix.run(BATCH)["b0.out"], np.ndarray)


def test_held_rows_are_those_of_the_array(model):
    session = model.compile(Plan(taps=(Tap("b0.out", "none"),)), BOUND)
    held = session.held(BATCH)
    (expected,) = session.taps(BATCH).values()
    np.testing.assert_array_equal(held.numpy(), expected)
    assert (held.dtype, held.ndim) == (np.float32, 3)
    rows = np.array([3, 0, 0, 2, 1, 3])
    np.testing.assert_array_equal(held[rows].numpy(), expected[rows])
    assert held[np.arange(4)] is held
    assert not np.array_equal(held[np.array([1, 0, 2, 3])].numpy(), expected)


def test_the_gathering_session_is_made_once(model, monkeypatch):
    monkeypatch.setattr(binding_module, "_gathers", {})
    made = []
    real = binding_module.make_session
    monkeypatch.setattr(
        binding_module, "make_session", lambda *a, **k: made.append(a) or real(*a, **k)
    )
    held = model.compile(Plan(taps=(Tap("b0.out", "none"),)), BOUND).held(BATCH)
    for _ in range(3):
        held[np.array([1, 1])]
    assert len(made) == 1


@pytest.mark.parametrize("dims", [(2, "tokens"), ("batch", 6)])
def test_graphs_that_fix_their_sizes_are_bound_too(tmp_path, dims):
    model = Model.open(tiny.write(tmp_path, tiny.layouts(dims=dims)))
    taps = tuple(Tap("heads", pool) for pool in ("last", "none"))
    plain, bound = (model.compile(Plan(taps=taps), options) for options in (PLAIN, BOUND))
    for tap, value in bound.taps(BATCH).items():
        np.testing.assert_array_equal(value, plain.taps(BATCH)[tap])
    # Rows of parts are put together on the host.
    one = model.compile(Plan(taps=taps[1:]), BOUND)
    assert isinstance(one.held(BATCH), np.ndarray)


def test_a_failure_is_one_line(model):
    session = model.compile(Plan(taps=(Tap("b0.out"),)), BOUND)
    with pytest.raises(ModelError, match=r"failed while running: .*\(on 1 rows of 2 tokens\)"):
        session.taps(Batch.of([[1, 99]], [0], pad=0))
