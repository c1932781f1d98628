"""Sites in branches and loop bodies, read and edited, against numpy and onnx's own evaluator."""

import itertools

import numpy as np
import pytest
from helpers import body_graphs as bodies
from helpers.body_runs import (
    DEEP,
    ELSE,
    IDS,
    NEAR,
    batch_of,
    close,
    compiled,
    opened,
    outputs,
    random_edit,
    read,
)

from onnxloc.errors import ModelError
from onnxloc.graph.plan import Edit, Tap
from onnxloc.graph.sites import Axis
from onnxloc.runtime.batches import Batch

pytestmark = pytest.mark.unit

B, T, F, I, O = Axis.BATCH, Axis.TOKEN, Axis.FEATURE, Axis.ITERATION, Axis.OTHER  # noqa: E741
POOLS = ("last", "mean", "sum", "max")
LAYERED = {
    "loop": (bodies.LAYERED, (0, 1, 2)),
    "scan": (bodies.SCANNED, (0, 1, 2)),
    "reversed scan": (bodies.REVERSED, (2, 1, 0)),
}


def pooled(value, pool):
    """numpy's pooling of ``[batch, tokens, units]`` without padding."""
    if pool == "last":
        return value[:, -1]
    return {"mean": value.mean, "sum": value.sum, "max": value.max}[pool](1)


# --- loops over stacked layers -----------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERED)
def test_a_loop_over_layers_is_read_like_any_site(tmp_path, kind):
    text, order = LAYERED[kind]
    proto = bodies.model(text)
    model = opened(tmp_path, proto)
    expected = bodies.layers(bodies.weights_of(proto), IDS, order=order)
    close(outputs(model), expected["logits"])
    names = ("pre", "hidden", "after")
    for name in names:
        site = model.sites.find(f"op:z/body/{name}")
        assert (site.axes, site.shape, site.units) == ((I, B, T, F), (3, None, None, 4), 12)
        assert site.body == "z/body"
    taps = [Tap(f"z/body/{n}", pool) for n, pool in itertools.product(names, (*POOLS, "none"))]
    found = compiled(model, taps=tuple(taps)).taps(batch_of(IDS))
    for tap in taps:
        stacked = expected[tap.site.rpartition("/")[2]]
        # The units of the first layer come first.
        rows = stacked.transpose(1, 2, 0, 3).reshape(3, 5, 12)
        close(found[tap], rows if tap.pool == "none" else pooled(rows, tap.pool), err_msg=tap)


@pytest.mark.parametrize("kind", LAYERED)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 5), (3, 5)])
def test_each_turn_has_an_edit_of_its_own(tmp_path, kind, rows, tokens):
    text, order = LAYERED[kind]
    proto = bodies.model(text)
    model = opened(tmp_path, proto)
    mask, new = random_edit(12, rows=rows, tokens=tokens)

    def change(layer, hidden):
        units = slice(4 * layer, 4 * layer + 4)
        return np.where(mask[..., units], new[..., units], hidden)

    expected = bodies.layers(bodies.weights_of(proto), IDS, change, order=order)
    plain = outputs(model)
    edit = Edit("z/body/hidden")
    np.testing.assert_array_equal(outputs(model, [edit]), plain)
    found = outputs(model, [edit], {"z/body/hidden": (mask, new)})
    close(found, expected["logits"])
    assert np.abs(found - plain).max() > 0.1


def test_an_affine_edit_and_a_tap_in_one_loop(tmp_path):
    proto = bodies.model(bodies.LAYERED)
    model = opened(tmp_path, proto)
    mask, shift = random_edit(12)
    scale = np.linspace(-1, 2, 12, dtype=np.float32)

    def change(layer, hidden):
        units = slice(4 * layer, 4 * layer + 4)
        return np.where(mask[..., units], 0, hidden * scale[units]) + shift[..., units]

    expected = bodies.layers(bodies.weights_of(proto), IDS, change)
    taps = (Tap("z/body/hidden", "mean"), Tap("z/body/after", "last"))
    edit = Edit("z/body/hidden", "affine")
    session = compiled(model, taps=taps, edits=(edit,), outputs=("logits",))
    values = {"z/body/hidden": (mask, scale.reshape(1, 1, 12), shift)}
    found = session.taps(batch_of(IDS), values)
    for tap in taps:
        rows = expected[tap.site.rpartition("/")[2]].transpose(1, 2, 0, 3).reshape(3, 5, 12)
        close(found[tap], pooled(rows, tap.pool))
    close(session.outputs(batch_of(IDS), values)["logits"], expected["logits"])


def test_loops_in_loops(tmp_path):
    proto = bodies.model(bodies.NESTED)
    model = opened(tmp_path, proto)
    weights = bodies.weights_of(proto)
    mask, new = random_edit(24, seed=3)
    parts = np.where(mask, new, np.nan).reshape(3, 2, 4)

    def run(edited):
        h, seen = weights["table"][IDS], []
        for layer, step in itertools.product(range(3), range(2)):
            hidden = h @ weights["stack"][layer]
            part = parts[layer, step] if edited else np.full(4, np.nan)
            hidden = np.where(np.isnan(part), hidden, part)
            seen.append(hidden)
            h = np.tanh(hidden)
        return np.stack(seen), h @ weights["head"]

    name = "z/body/after/body/hidden"
    assert model.sites.tensor(name).axes == (I, I, B, T, F)
    stacked, logits = run(False)
    close(read(model, [name])[name], stacked.transpose(1, 2, 0, 3).reshape(3, 5, 24))
    close(outputs(model, [Edit(name)]), logits)
    close(outputs(model, [Edit(name)], {name: (mask, new)}), run(True)[1])


# --- loops over tokens -------------------------------------------------------------------------


def test_a_scan_over_tokens_has_tokens(tmp_path):
    proto = bodies.model(bodies.RECURRENT)
    model = opened(tmp_path, proto)
    expected = bodies.recurrence(bodies.weights_of(proto), IDS)
    for name in ("total", "next"):
        site = model.sites.tensor(f"last/body/{name}")
        assert (site.axes, site.units) == ((T, B, F), 4)
        rows = expected[name].transpose(1, 0, 2)
        for pool in POOLS:
            close(read(model, [site.tensor], pool=pool)[site.tensor], pooled(rows, pool))


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 5), (3, 5)])
def test_a_turn_over_tokens_takes_its_tokens_edit(tmp_path, rows, tokens):
    proto = bodies.model(bodies.RECURRENT)
    model = opened(tmp_path, proto)
    mask, new = (
        np.broadcast_to(part, (3, 5, 4)) for part in random_edit(4, rows=rows, tokens=tokens)
    )
    expected = bodies.recurrence(
        bodies.weights_of(proto), IDS, lambda t, v: np.where(mask[:, t], new[:, t], v)
    )
    edit = Edit("last/body/total")
    operands = (mask[:rows, :tokens], new[:rows, :tokens])
    close(outputs(model, [edit], {edit.site: operands}), expected["logits"])
    np.testing.assert_array_equal(outputs(model, [edit]), outputs(model))


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 5), (3, 5)])
def test_a_turn_over_rows_takes_its_rows_edit(tmp_path, rows, tokens):
    proto = bodies.model(bodies.BY_ROW)
    model = opened(tmp_path, proto)
    weights = bodies.weights_of(proto)
    name = "z/body/hidden"
    assert (model.sites.tensor(name).axes, model.sites.tensor(name).units) == ((B, T, F), 4)
    hidden = weights["table"][IDS] @ weights["w0"]
    for pool in POOLS:
        close(read(model, [name], pool=pool)[name], pooled(hidden, pool))
    mask, new = random_edit(4, rows=rows, tokens=tokens)
    expected = np.tanh(np.where(mask, new, hidden)) @ weights["head"]
    close(outputs(model, [Edit(name)], {name: (mask, new)}), expected)
    np.testing.assert_array_equal(outputs(model, [Edit(name)]), outputs(model))


def test_a_scan_from_the_last_token_is_told_from_one_from_the_first(tmp_path):
    text = bodies.RECURRENT.replace(
        "num_scan_inputs = 1,",
        "num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],",
    )
    proto = bodies.model(text)
    model = opened(tmp_path, proto)
    # Every turn depends on the last token: which turn is which token cannot be shown.
    assert model.sites.tensor("last/body/total").axes == (O, B, F)
    expected = bodies.recurrence(bodies.weights_of(proto), IDS[:, ::-1])
    found = read(model, ["last/body/total"])["last/body/total"]
    close(found, expected["total"][::-1])
    close(outputs(model), expected["logits"][:, ::-1])


# --- branches ----------------------------------------------------------------------------------


BRANCH_SITES = (
    "z/then/a", "z/then/b/then/a2", "z/then/b/else/a2", "z/then/out", "z/else/a", "z/else/out",
)  # fmt: skip


@pytest.mark.parametrize("ids", [DEEP, NEAR, ELSE])
def test_a_branch_is_read_if_it_runs_and_is_nan_if_not(tmp_path, ids):
    proto = bodies.model(bodies.BRANCHED)
    model = opened(tmp_path, proto)
    expected, logits = bodies.branched(bodies.weights_of(proto), ids)
    close(outputs(model, ids=ids), logits)
    close(bodies.reference(proto, ids)[0], logits)
    for pool in ("none", *POOLS):
        found = read(model, BRANCH_SITES, ids, pool)
        for name in BRANCH_SITES:
            assert model.sites.tensor(name).axes == (B, T, F)
            if name in expected:
                rows = expected[name]
                close(found[name], rows if pool == "none" else pooled(rows, pool))
            else:
                shape = (2, 2, 4) if pool == "none" else (2, 4)
                np.testing.assert_array_equal(found[name], np.full(shape, np.nan))


@pytest.mark.parametrize("ids", [DEEP, NEAR, ELSE])
@pytest.mark.parametrize("name", BRANCH_SITES)
def test_a_branch_is_edited(tmp_path, name, ids):
    proto = bodies.model(bodies.BRANCHED)
    model = opened(tmp_path, proto)
    mask, new = random_edit(4, rows=2)

    def change(site, value):
        return np.where(mask, new, value) if site == name else value

    weights = bodies.weights_of(proto)
    ran = name in bodies.branched(weights, ids)[0]
    plain = outputs(model, ids=ids)
    np.testing.assert_array_equal(outputs(model, [Edit(name)], ids=ids), plain)
    found = outputs(model, [Edit(name)], {name: (mask, new)}, ids)
    close(found, bodies.branched(weights, ids, change)[1])
    assert (np.abs(found - plain).max() > 1e-2) == ran


def test_a_branch_sees_the_edit_of_what_it_captures(tmp_path):
    model = opened(tmp_path, bodies.model(bodies.BRANCHED))
    mask, new = np.ones((1, 1, 4), bool), np.full((1, 1, 4), 2.0, np.float32)
    taps = (Tap("z/then/a", "none"),)
    session = compiled(model, taps=taps, edits=(Edit("h"),))
    np.testing.assert_array_equal(session.taps(batch_of(DEEP), {"h": (mask, new)})[taps[0]], 4.0)


def test_reading_the_last_token_of_a_branch_narrows_nothing_that_it_needs(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    model = opened(tmp_path, proto)
    taps = (Tap("z/then/a"), Tap("logits"), Tap("h"))
    found = compiled(model, taps=taps).taps(batch_of(DEEP))
    expected, logits = bodies.branched(bodies.weights_of(proto), DEEP)
    close(found[taps[0]], expected["z/then/a"][:, -1])
    close(found[taps[1]], logits[:, -1])


def test_a_loop_in_a_branch(tmp_path):
    proto = bodies.model(bodies.LOOP_IN_IF)
    model = opened(tmp_path, proto)
    expected = bodies.layers(bodies.weights_of(proto), DEEP)
    name = "z/then/y/body/hidden"
    assert model.sites.tensor(name).axes == (I, B, T, F)
    rows = expected["hidden"].transpose(1, 2, 0, 3).reshape(2, 2, 12)
    close(read(model, [name], DEEP)[name], rows)
    close(read(model, [name], DEEP, "mean")[name], rows.mean(1))
    np.testing.assert_array_equal(read(model, [name], ELSE)[name], np.full((2, 2, 12), np.nan))
    mask, new = random_edit(12)

    def change(layer, hidden):
        units = slice(4 * layer, 4 * layer + 4)
        return np.where(mask[..., units], new[..., units], hidden)

    edited = bodies.layers(bodies.weights_of(proto), DEEP, change)["logits"]
    close(outputs(model, [Edit(name)], {name: (mask, new)}, DEEP), edited)
    plain = outputs(model, ids=ELSE)
    np.testing.assert_array_equal(outputs(model, [Edit(name)], {name: (mask, new)}, ELSE), plain)


def test_a_branch_in_a_loop_is_nan_in_the_turns_that_take_the_other(tmp_path):
    proto = bodies.model(bodies.IF_IN_LOOP)
    model = opened(tmp_path, proto)
    weights = bodies.weights_of(proto)
    then, other = (f"z/body/after/{end}" for end in ("then/hidden", "else/y"))
    h0 = weights["table"][IDS] @ weights["stack"][0]
    h1 = -np.tanh(h0)
    h2 = h1 @ weights["stack"][2]
    found = read(model, [then, other])
    nan = np.full_like(h0, np.nan)
    close(found[then], np.concatenate([h0, nan, h2], axis=2))
    close(found[other], np.concatenate([nan, h1, nan], axis=2))
    # An edit of the third turn's units.
    mask = np.arange(12).reshape(1, 1, 12) >= 8
    new = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 1, 12)
    expected = np.tanh(np.broadcast_to(new[..., 8:], h2.shape)) @ weights["head"]
    close(outputs(model, [Edit(then)], {then: (mask, new)}), expected)


# --- loops of a number of turns that is not known beforehand -----------------------------------


@pytest.mark.parametrize("ids", [[[1, 2, 3, 4, 5]], [[1, 1]], [[0, 0, 0]]])
def test_a_loop_that_a_condition_ends_is_read_whole(tmp_path, ids):
    ids = np.array(ids)
    proto = bodies.model(bodies.WHILE)
    model = opened(tmp_path, proto)
    weights = bodies.weights_of(proto)
    h, hidden, turn, go = weights["table"][ids], [], 0, ids.sum() > 1
    while go:
        go = turn * 7 < ids.sum()
        hidden.append(h @ weights["w0"])
        h = np.tanh(hidden[-1])
        turn += 1
    name = "z/body/hidden"
    site = model.sites.tensor(name)
    assert (site.axes, site.units) == ((O, B, T, F), 0)
    found = read(model, [name], ids)[name]
    assert len(found) == len(hidden) == {15: 4, 2: 2, 0: 0}[int(ids.sum())]
    if hidden:
        close(found, np.stack(hidden))
    close(outputs(model, ids=ids), h @ weights["head"])
    close(bodies.reference(proto, ids)[0], h @ weights["head"])


def test_a_loop_of_unknown_turns_is_neither_pooled_nor_edited(tmp_path):
    model = opened(tmp_path, bodies.model(bodies.WHILE))
    with pytest.raises(ModelError, match="has no units and cannot be pooled; it can be read whole"):
        compiled(model, taps=(Tap("z/body/hidden"),))
    with pytest.raises(ModelError, match="has no units and cannot be edited"):
        compiled(model, outputs=("logits",), edits=(Edit("z/body/hidden"),))


def test_a_loop_that_never_turns(tmp_path):
    proto = bodies.model(bodies.LAYERED.replace("int64 {3}", "int64 {0}"))
    model = opened(tmp_path, proto)
    assert {site.tensor for site in model.sites if site.units} == {"x", "z", "logits"}
    weights = bodies.weights_of(proto)
    close(outputs(model), weights["table"][IDS] @ weights["head"])


def test_whole_tensors_of_rows_that_run_apart_are_joined(tmp_path):
    # Without a mask, rows of two lengths are run apart; the sums differ, and so do the turns.
    proto = bodies.model(bodies.WHILE)
    model = opened(tmp_path, proto)
    (tap,) = taps = (Tap("z/body/hidden", "none"),)
    session = compiled(model, taps=taps)
    rows = [[1, 2, 3, 4, 5], [1, 1]]
    found = session.taps(Batch.of(rows, range(2), pad=0))[tap]
    first, second = (session.taps(batch_of([row]))[tap] for row in rows)
    assert found.shape == (4, 2, 5, 4)
    np.testing.assert_array_equal(found[:, :1], first)
    np.testing.assert_array_equal(found[:2, 1:, :2], second)
    assert np.isnan(found[2:, 1]).all()
    assert np.isnan(found[:, 1, 2:]).all()
