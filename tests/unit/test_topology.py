"""Producers, consumers and ancestry."""

import pytest
from helpers import tiny_graphs as tiny

from onnxloc.graph.topology import Topology

pytestmark = pytest.mark.unit


def test_consumers_and_producers_of_a_chain():
    topology = Topology(tiny.plain())
    assert topology.producer == {"x": 0, "pre": 1, "hidden": 2, "logits": 3}
    assert topology.consumers["hidden"] == (3,)
    assert topology.consumers["w1"] == (3,)
    assert topology.descendants(["pre"]) == {"hidden", "logits"}
    assert topology.ancestors(["pre"]) == {"x", "w0", "table", "input_ids"}
    assert topology.ancestors(["logits"], stop=["pre"]) == {"hidden", "w1", "pre"}


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_captured_tensors_count_as_read(kind):
    topology = Topology(tiny.branches(kind))
    (node,) = (i for i, n in enumerate(topology.nodes) if n.op_type == kind)
    assert "h" in topology.reads[node]
    assert node in topology.consumers["h"]
    assert "h" in topology.ancestors(["logits"])
    assert not {"state", "next", "Add_out", ""} & set(topology.reads[node])


def test_what_depends_on_inputs_leaves_constants_out():
    model = tiny.plain(opset=8, ir=3)
    assert {value.name for value in model.graph.input} >= {"table", "w0"}
    assert Topology(model).dynamic == {"input_ids", "x", "pre", "hidden", "logits"}
    g = tiny.Builder()
    g.op("Cast", [g.weight("w8", 8, 8)], "w", to=1)
    g.op("Gather", ["w", "input_ids"], "x")
    constant = Topology(g.model([tiny.value("input_ids", tiny.TEXT_DIMS)], ["x"]))
    assert constant.dynamic == {"input_ids", "x"}
