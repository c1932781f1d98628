"""onnx's own cases and what none of them has: reading and editing every site changes nothing."""

from collections import Counter

import pytest
from corpus.node_cases import exported_cases, node_cases
from corpus.synthetic import synthetic_cases
from corpus.verdict import Verdict, examine

pytestmark = pytest.mark.unit

BAR = 0.99


def verdicts(cases, folder) -> list[Verdict]:
    return [examine(case, folder) for case in cases]


def passed(found: list[Verdict]) -> int:
    """How many passed; none may have failed, and of those that onnxruntime runs few be refused."""
    failed = [f"{one.name}: {one.reason}" for one in found if one.outcome == "failed"]
    assert not failed, failed
    count = Counter(one.outcome for one in found)
    assert count["passed"] >= BAR * (count["passed"] + count["refused"])
    assert not any("\n" in one.reason for one in found if one.outcome == "refused")
    for one in found:
        if one.outcome == "passed":
            assert one.exposed
            assert one.kept
    return count["passed"]


def test_node_cases(tmp_path):
    found = verdicts(node_cases(), tmp_path)
    # Under 1,900 in onnx 1.23; onnxruntime 1.31 runs 1,697 of them as expected.
    assert passed(found) > 0.8 * len(found) > 1000
    assert sum(one.changed for one in found) > 5000
    without_effect = {one.name for one in found if one.tried and not one.changed}
    # Only sites that hold no number at all can be changed without effect.
    assert all(
        any(word in name for word in ("zero", "empty", "out_of_bounds")) for name in without_effect
    )


def test_small_exported_models(tmp_path):
    found = verdicts(exported_cases(), tmp_path)
    assert passed(found) > 0.6 * len(found) > 80
    assert all(one.changed == one.tried for one in found)


def test_synthetic_models(tmp_path):
    found = verdicts(synthetic_cases(), tmp_path)
    assert {one.outcome for one in found} == {"passed"}
    sites = {one.name: (one.sites, one.unread, one.changed) for one in found}
    assert sites["loop over stacked weights"] == (8, 0, 8)
    # Of the last turn's gathered token nothing is left out, but a state is begun at zero.
    assert sites["scan over tokens"] == (10, 0, 9)
    assert sites["branches three deep that capture outer tensors"][0] > 15


def test_a_wrong_graph_is_noticed(tmp_path, monkeypatch):
    """The examination itself: it must fail where outputs change, and where edits do nothing."""
    from corpus import verdict as module

    (case,) = [one for one in synthetic_cases() if one.name == "double precision"]
    assert examine(case, tmp_path).outcome == "passed"
    instrument = module.instrument

    def broken(graph, table, plan):
        built = instrument(graph, table, plan)
        for node in built.proto.graph.node:
            if node.op_type == "Gemm":
                node.attribute.add(name="alpha", type=1, f=1.001)
        return built

    monkeypatch.setattr(module, "instrument", broken)
    found = examine(case, tmp_path)
    assert found.outcome == "failed"
    assert "all sites read" in found.reason

    def deaf(graph, table, plan):
        built = instrument(graph, table, plan)
        for node in built.proto.graph.node:
            if node.op_type == "Where" and plan.edits[0].form == "whole":
                node.op_type = "Identity"
                del node.input[:2]
        built.proto.graph.node[0].input[1] = "input_ids"
        return built

    monkeypatch.setattr(module, "instrument", deaf)
    found = examine(case, tmp_path)
    assert found.outcome == "failed"
    assert "does not show" in found.reason
