"""What loading settles: order, names, what is made by nothing or too often, and absurd sizes."""

import numpy as np
import onnx
import pytest
from helpers import body_graphs as bodies
from helpers import tiny_graphs as tiny
from onnx import TensorProto, helper, numpy_helper

from onnxloc.errors import ModelError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.scopes import settle
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

IDS = np.array([[1, 2, 3], [4, 5, 0]])
BATCH = Batch.of(IDS.tolist(), range(2), pad=0)
IDS_INPUT = [tiny.value("input_ids", tiny.TEXT_DIMS)]


def opened(folder, proto) -> Model:
    return Model.open(tiny.write(folder, proto))


def outputs(model, names=("logits",), edits=None):
    plan = Plan(outputs=names, edits=tuple(Edit(name) for name in edits or ()))
    return model.compile(plan, RuntimeOptions()).outputs(BATCH, edits)


def refused(folder, proto) -> str:
    with pytest.raises(ModelError) as caught:
        _ = opened(folder, proto).sites
    message = str(caught.value)
    assert "\n" not in message
    return message


def branch_of(proto, name="else_branch"):
    (node,) = (n for n in proto.graph.node if n.op_type == "If")
    return next(a.g for a in node.attribute if a.name == name)


# --- order and names ---------------------------------------------------------------------------


def test_nodes_in_any_order_are_sorted(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    (expected,) = bodies.reference(proto, IDS)
    for graph in (proto.graph, branch_of(proto, "then_branch")):
        nodes = list(graph.node)[::-1]
        del graph.node[:]
        graph.node.extend(nodes)
    model = opened(tmp_path, proto)
    np.testing.assert_allclose(outputs(model)["logits"], expected, rtol=1e-5, atol=1e-6)
    assert "z/then/b/then/a2" in {site.tensor for site in model.sites}


def test_sorted_nodes_keep_their_order_and_settling_twice_changes_nothing():
    proto = bodies.model(bodies.BRANCHED)
    before = [node.op_type for node in proto.graph.node]
    settle(proto.graph)
    assert [node.op_type for node in proto.graph.node] == before


@pytest.mark.parametrize("place", ["graph", "branch"])
def test_what_is_computed_from_itself_is_refused(tmp_path, place):
    proto = bodies.model(bodies.BRANCHED)
    graph = proto.graph if place == "graph" else branch_of(proto)
    graph.node.extend(
        [
            helper.make_node("Neg", ["loop1"], ["loop2"]),
            helper.make_node("Neg", ["loop2"], ["loop1"]),
        ]
    )
    where = " in z/else" if place == "branch" else ""
    assert f"'loop2'{where} is computed from itself" in refused(tmp_path, proto)


def test_a_branch_that_reads_the_output_of_its_own_node_is_refused(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    branch_of(proto).node[0].input[0] = "z"
    assert "is computed from itself" in refused(tmp_path, proto)


@pytest.mark.parametrize("name", ["nowhere", "z/then/a", "b"])
def test_a_body_that_captures_what_is_not_there_is_refused(tmp_path, name):
    proto = bodies.model(bodies.BRANCHED)
    branch_of(proto).node[0].input[0] = name
    assert f"reads '{name}', which nothing makes" in refused(tmp_path, proto)


def test_an_output_that_nothing_makes_is_refused(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    branch_of(proto).output[0].name = "nowhere"
    assert "its output 'nowhere' in z/else is made by nothing" in refused(tmp_path, proto)
    proto = tiny.plain()
    proto.graph.output[0].name = "nowhere"
    assert "its output 'nowhere' is made by nothing" in refused(tmp_path, proto)


def test_a_tensor_made_twice_is_refused(tmp_path):
    for second in ("x", "table", "input_ids"):
        proto = tiny.plain()
        proto.graph.node.append(helper.make_node("Neg", ["pre"], [second]))
        assert f"{second!r} is made twice" in refused(tmp_path, proto)


def test_nodes_of_one_name_are_told_apart(tmp_path):
    proto = bodies.model(bodies.BRANCHED)
    (expected,) = bodies.reference(proto, IDS)
    for graph in (proto.graph, branch_of(proto), branch_of(proto, "then_branch")):
        for node in graph.node:
            node.name = "same"
    model = opened(tmp_path, proto)
    np.testing.assert_allclose(outputs(model)["logits"], expected, rtol=1e-5, atol=1e-6)


# --- inputs and initializers that are outputs too ----------------------------------------------


def test_inputs_and_initializers_may_be_outputs(tmp_path):
    proto = tiny.plain()
    for name in ("w1", "input_ids", "hidden"):
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    model = opened(tmp_path, proto)
    names = ("logits", "w1", "input_ids", "hidden")
    mask, new = np.ones((1, 1, 8), bool), np.full((1, 1, 8), 3.0, np.float32)
    found = outputs(model, names, {"hidden": (mask, new)})
    weights = bodies.weights_of(proto)
    np.testing.assert_array_equal(found["w1"], weights["w1"])
    np.testing.assert_array_equal(found["input_ids"], IDS)
    np.testing.assert_array_equal(found["hidden"], np.full((2, 3, 8), 3.0))
    np.testing.assert_allclose(found["logits"][0, 0], np.full(8, 3.0) @ weights["w1"], rtol=1e-5)
    assert {site.tensor for site in model.sites} == {"x", "pre", "hidden", "logits"}


# --- what is no tensor -------------------------------------------------------------------------


def test_optionals_and_sequences_are_no_sites_at_any_depth(tmp_path):
    text = """{
        x = Gather(table, input_ids)
        maybe = Optional(x)
        there = OptionalHasElement(maybe)
        parts = SplitToSequence<axis = 2, keepdims = 1>(x)
        mapped = SequenceMap(parts) <body = each
            (float[batch, tokens, 1] part) => (float[batch, tokens, 1] twice) {
                twice = Add(part, part)
            }>
        z = If(there) <
            then_branch = yes () => (float[batch, tokens, 4] y) {
                inner = SequenceInsert(mapped, x)
                many = ConcatFromSequence<axis = 2>(mapped)
                boxed = Optional(many)
                open = OptionalGetElement(boxed)
                y = Neg(open)
            },
            else_branch = no () => (float[batch, tokens, 4] y) { y = Identity(x) }
        >
        logits = MatMul(z, head)
    }"""
    text = bodies.HEAD.replace('"" : 17', '"" : 18') + text
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(bodies.model(bodies.WHILE).graph.initializer)
    model = opened(tmp_path, proto)
    names = {site.tensor for site in model.sites}
    assert {"x", "z", "logits", "z/then/many", "z/then/y", "z/else/y"} <= names
    assert not names & {"maybe", "parts", "mapped", "z/then/inner", "z/then/boxed"}
    weights = bodies.weights_of(proto)
    expected = -2 * weights["table"][IDS]
    tap = Tap("z/then/y", "none")
    found = model.compile(Plan(taps=(tap,)), RuntimeOptions()).taps(BATCH)[tap]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- absurd sizes ------------------------------------------------------------------------------


def test_constants_that_no_memory_holds_are_refused(tmp_path):
    huge = 2**40
    proto = tiny.plain()
    proto.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[huge]))
    assert "'c' has the shape [1099511627776]: 1.1e+12 numbers" in refused(tmp_path, proto)
    proto = tiny.plain()
    proto.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[-3, 2]))
    assert "'c' has the shape [-3, 2]" in refused(tmp_path, proto)
    proto = tiny.plain()
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("c", 1, [1], [1.0]), helper.make_tensor("at", 7, [1], [5]), [huge]
    )
    proto.graph.sparse_initializer.append(sparse)
    assert "'c' has the shape" in refused(tmp_path, proto)
    # In a branch, and as what an operator would fill.
    proto = bodies.model(bodies.BRANCHED)
    shape = numpy_helper.from_array(np.array([huge]), "")
    branch_of(proto).node.extend(
        [
            helper.make_node("Constant", [], ["size"], value=shape),
            helper.make_node("ConstantOfShape", ["size"], ["filled"]),
        ]
    )
    assert "'z/else/filled' has the shape [1099511627776]" in refused(tmp_path, proto)


def test_inputs_that_no_memory_holds_are_not_made(tmp_path):
    g = tiny.Builder()
    g.op("Relu", ["signal"], "y")
    for dims in ([2**40], ["n", 2**20, 2**10]):
        proto = g.model([tiny.value("signal", dims, TensorProto.FLOAT)], ["y"])
        message = refused(tmp_path, proto)
        assert "'signal' has the shape" in message


# --- branches that the probing does not take ---------------------------------------------------


def test_branches_that_no_probe_takes_are_made_to_run(tmp_path):
    # The probing feeds the ids 0 and 1; neither branch of this depth runs then.
    model = opened(tmp_path, bodies.model(bodies.BRANCHED))
    by_name = {site.tensor: site for site in model.sites}
    for name in ("z/then/a", "z/then/b/then/r", "z/then/b/else/r2", "z/else/a"):
        assert by_name[name].units == 4, name
        assert by_name[name].shape == (None, None, 4)


def test_a_branch_that_fails_when_made_to_run_has_no_sites(tmp_path):
    text = bodies.BRANCHED.replace("a = Mul(h, h)", "cut = Reshape(h, far) a = Mul(h, h)")
    proto = bodies.model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([77, 13]), "far"))
    model = opened(tmp_path, proto)
    names = {site.tensor for site in model.sites}
    assert "z/else/a" in names
    assert not any(name.startswith("z/then") for name in names)


# --- damage ------------------------------------------------------------------------------------


def damage(rng, graph):
    """Take something away from a node with a body, or from the body, or swap two names."""
    holders = [node for node in graph.node if node.op_type in ("If", "Loop", "Scan")]
    node = rng.choice(holders)
    bodies_of = [a.g for a in node.attribute if a.HasField("g")]
    kind = rng.integers(0, 6)
    body = bodies_of[rng.integers(0, len(bodies_of))] if bodies_of else graph
    fields = [node.input, node.output, node.attribute, body.input, body.output, body.node]
    field = fields[kind]
    if not len(field):
        return
    place = int(rng.integers(0, len(field)))
    if rng.random() < 0.6:
        del field[place]
    elif kind < 2:
        field[place] = str(rng.choice(["", "x", "z", "input_ids", *node.output]))
    elif any(inner.op_type in ("If", "Loop", "Scan") for inner in body.node):
        damage(rng, body)


@pytest.mark.parametrize("name", ["BRANCHED", "LAYERED", "SCANNED", "NESTED", "WHILE"])
def test_damaged_branches_and_loops_end_in_a_model_error_or_in_a_model(tmp_path, name):
    rng = np.random.default_rng(0)
    ends = set()
    for _ in range(30):
        proto = bodies.model(getattr(bodies, name))
        damage(rng, proto.graph)
        try:
            model = opened(tmp_path, proto)
            inside = [site.tensor for site in model.sites if site.body and site.units]
            plan = Plan(
                taps=tuple(Tap(site) for site in inside),
                edits=tuple(Edit(site) for site in inside),
                outputs=("logits",),
            )
            model.compile(plan, RuntimeOptions()).outputs(BATCH)
            ends.add("model")
        except ModelError as error:
            ends.add("error" if "\n" not in str(error) else "an error of many lines")
    assert {"error"} <= ends <= {"error", "model"}
