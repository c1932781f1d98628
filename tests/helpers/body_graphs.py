"""Tiny seeded graphs with branches and loops, written as text, and what they compute."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

WIDTH, LAYERS, VOCABULARY = 4, 3, 11
HEAD = """<ir_version: 8, opset_import: ["" : 17]>
tiny (int64[batch, tokens] input_ids) => (float[batch, tokens, 11] logits)"""

# A stack of layers, run as a loop over their stacked weights.
LAYERED = """{
    x = Gather(table, input_ids)
    times = Constant<value = int64 {3}>()
    yes = Constant<value = bool {1}>()
    z = Loop(times, yes, x) <body = layer
        (int64 i, bool go, float[batch, tokens, 4] h)
            => (bool again, float[batch, tokens, 4] after) {
            again = Identity(go)
            weight = Gather<axis = 0>(stack, i)
            pre = MatMul(h, weight)
            hidden = Tanh(pre)
            after = Add(h, hidden)
        }>
    logits = MatMul(z, head)
}"""

# The same as a scan; REVERSED takes the last layer first.
SCANNED = """{
    x = Gather(table, input_ids)
    z = Scan(x, stack) <num_scan_inputs = 1, body = layer
        (float[batch, tokens, 4] h, float[4, 4] weight) => (float[batch, tokens, 4] after) {
            pre = MatMul(h, weight)
            hidden = Tanh(pre)
            after = Add(h, hidden)
        }>
    logits = MatMul(z, head)
}"""
REVERSED = SCANNED.replace(
    "num_scan_inputs = 1,", "num_scan_inputs = 1, scan_input_directions = [1],"
)

# A recurrent layer, one turn for each token.
RECURRENT = """{
    x = Gather(table, input_ids)
    turned = Transpose<perm = [1, 0, 2]>(x)
    start = ReduceSum<keepdims = 0>(x, first)
    zero = Constant<value = float {0.0}>()
    blank = Mul(start, zero)
    last, steps = Scan(blank, turned) <num_scan_inputs = 1, body = cell
        (float[batch, 4] state, float[batch, 4] token)
            => (float[batch, 4] next, float[batch, 4] out) {
            mixed = MatMul(state, recurrent)
            total = Add(mixed, token)
            next = Tanh(total)
            out = Identity(next)
        }>
    back = Transpose<perm = [1, 0, 2]>(steps)
    logits = MatMul(back, head)
}"""

# One turn for each row of the batch.
BY_ROW = """{
    x = Gather(table, input_ids)
    z = Scan(x) <num_scan_inputs = 1, body = row
        (float[tokens, 4] one) => (float[tokens, 4] after) {
            hidden = MatMul(one, w0)
            after = Tanh(hidden)
        }>
    logits = MatMul(z, head)
}"""

# Which branch runs depends on how large the largest token is: over 5, then another at 8.
BRANCHED = """{
    x = Gather(table, input_ids)
    h = MatMul(x, w0)
    largest = ReduceMax<keepdims = 0>(input_ids)
    five = Constant<value = int64 {5}>()
    eight = Constant<value = int64 {8}>()
    big = Greater(largest, five)
    bigger = Greater(largest, eight)
    z = If(big) <
        then_branch = above () => (float[batch, tokens, 4] out) {
            a = Mul(h, h)
            b = If(bigger) <
                then_branch = far () => (float[batch, tokens, 4] r) { a2 = Tanh(a) r = Add(a2, h) },
                else_branch = near () => (float[batch, tokens, 4] r2) {
                    a2 = Exp(a) r2 = Add(a2, x)
                }
            >
            out = Add(a, b)
        },
        else_branch = below () => (float[batch, tokens, 4] out) { a = Neg(h) out = Add(a, x) }
    >
    logits = MatMul(z, head)
}"""

# A loop that ends when the sum of the token ids says so.
WHILE = """{
    x = Gather(table, input_ids)
    total = ReduceSum<keepdims = 0>(input_ids)
    many = Constant<value = int64 {100}>()
    one = Constant<value = int64 {1}>()
    seven = Constant<value = int64 {7}>()
    begin = Less(one, total)
    z = Loop(many, begin, x) <body = turn
        (int64 i, bool go, float[batch, tokens, 4] h)
            => (bool again, float[batch, tokens, 4] after) {
            spent = Mul(i, seven)
            again = Less(spent, total)
            hidden = MatMul(h, w0)
            after = Tanh(hidden)
        }>
    logits = MatMul(z, head)
}"""

# The stack of layers in a branch.
LOOP_IN_IF = """{
    x = Gather(table, input_ids)
    largest = ReduceMax<keepdims = 0>(input_ids)
    five = Constant<value = int64 {5}>()
    big = Greater(largest, five)
    times = Constant<value = int64 {3}>()
    yes = Constant<value = bool {1}>()
    z = If(big) <
        then_branch = above () => (float[batch, tokens, 4] y) {
            y = Loop(times, yes, x) <body = layer
                (int64 i, bool go, float[batch, tokens, 4] h)
                    => (bool again, float[batch, tokens, 4] after) {
                    again = Identity(go)
                    weight = Gather<axis = 0>(stack, i)
                    pre = MatMul(h, weight)
                    hidden = Tanh(pre)
                    after = Add(h, hidden)
                }>
        },
        else_branch = below () => (float[batch, tokens, 4] same) { same = Identity(x) }
    >
    logits = MatMul(z, head)
}"""

# Layers of which every second is left out.
IF_IN_LOOP = """{
    x = Gather(table, input_ids)
    times = Constant<value = int64 {3}>()
    yes = Constant<value = bool {1}>()
    two = Constant<value = int64 {2}>()
    none = Constant<value = int64 {0}>()
    z = Loop(times, yes, x) <body = layer
        (int64 i, bool go, float[batch, tokens, 4] h)
            => (bool again, float[batch, tokens, 4] after) {
            again = Identity(go)
            rest = Mod(i, two)
            even = Equal(rest, none)
            after = If(even) <
                then_branch = yes () => (float[batch, tokens, 4] y) {
                    weight = Gather<axis = 0>(stack, i)
                    hidden = MatMul(h, weight)
                    y = Tanh(hidden)
                },
                else_branch = no () => (float[batch, tokens, 4] y) { y = Neg(h) }
            >
        }>
    logits = MatMul(z, head)
}"""

# A stack of layers, each of which runs two steps of its own.
NESTED = """{
    x = Gather(table, input_ids)
    times = Constant<value = int64 {3}>()
    twice = Constant<value = int64 {2}>()
    yes = Constant<value = bool {1}>()
    z = Loop(times, yes, x) <body = layer
        (int64 i, bool go, float[batch, tokens, 4] h)
            => (bool again, float[batch, tokens, 4] after) {
            again = Identity(go)
            weight = Gather<axis = 0>(stack, i)
            after = Loop(twice, yes, h) <body = step
                (int64 j, bool on, float[batch, tokens, 4] g)
                    => (bool more, float[batch, tokens, 4] then) {
                    more = Identity(on)
                    hidden = MatMul(g, weight)
                    then = Tanh(hidden)
                }>
        }>
    logits = MatMul(z, head)
}"""


def model(text: str, *, seed: int = 0) -> ModelProto:
    """A graph of text with seeded weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "table": rng.standard_normal((VOCABULARY, WIDTH)),
        "stack": rng.standard_normal((LAYERS, WIDTH, WIDTH)) / 2,
        "w0": rng.standard_normal((WIDTH, WIDTH)) / 2,
        "recurrent": rng.standard_normal((WIDTH, WIDTH)) / 2,
        "head": rng.standard_normal((WIDTH, VOCABULARY)),
    }
    proto = onnx.parser.parse_model(HEAD + text)
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([1]), "first"))
    proto.graph.initializer.extend(tensors)
    return proto


def weights_of(proto: ModelProto) -> dict[str, np.ndarray]:
    """Every initializer."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def reference(proto: ModelProto, ids: np.ndarray, names: Sequence[str] = ("logits",)) -> list:
    """What onnx's own evaluator computes."""
    return list(ReferenceEvaluator(proto).run(list(names), {"input_ids": ids}))


def layers(
    weights: Mapping[str, np.ndarray],
    ids: np.ndarray,
    change=None,
    *,
    order: Sequence[int] = (0, 1, 2),
) -> dict[str, np.ndarray]:
    """What the stack of layers computes, in numpy, stacked over layers; and the logits.

    `change` is given the layer's number and its hidden units, and gives what becomes of them.
    """
    h = weights["table"][ids]
    seen: dict[int, dict[str, np.ndarray]] = {}
    for layer in order:
        pre = h @ weights["stack"][layer]
        hidden = np.tanh(pre)
        if change is not None:
            hidden = change(layer, hidden)
        h = h + hidden
        seen[layer] = {"pre": pre, "hidden": hidden, "after": h}
    stacked = {k: np.stack([seen[i][k] for i in range(LAYERS)]) for k in ("pre", "hidden", "after")}
    return stacked | {"logits": h @ weights["head"]}


def recurrence(
    weights: Mapping[str, np.ndarray], ids: np.ndarray, change=None
) -> dict[str, np.ndarray]:
    """What the recurrent layer computes, ``[tokens, batch, units]``; and the logits."""
    x = weights["table"][ids]
    state = np.zeros((len(ids), WIDTH), np.float32)
    totals, states = [], []
    for t in range(ids.shape[1]):
        total = state @ weights["recurrent"] + x[:, t]
        if change is not None:
            total = change(t, total)
        state = np.tanh(total)
        totals.append(total)
        states.append(state)
    return {
        "total": np.stack(totals),
        "next": np.stack(states),
        "logits": np.stack(states, 1) @ weights["head"],
    }


def branched(
    weights: Mapping[str, np.ndarray], ids: np.ndarray, change=lambda _, value: value
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the branches that run compute, by site, and the logits.

    `change` is given each site's name and value, and gives what becomes of it.
    """
    x = weights["table"][ids]
    h = x @ weights["w0"]
    seen = {}

    def put(name, value):
        seen[name] = change(name, value)
        return seen[name]

    if ids.max() > 5:
        a = put("z/then/a", h * h)
        if ids.max() > 8:
            b = put("z/then/b/then/a2", np.tanh(a)) + h
        else:
            b = put("z/then/b/else/a2", np.exp(a)) + x
        z = put("z/then/out", a + b)
    else:
        z = put("z/else/out", put("z/else/a", -h) + x)
    return seen, z @ weights["head"]
