"""The command that checks a model: it passes what works and fails what does not."""

import json

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.cli import main
from onnxloc.errors import ModelError
from onnxloc.runtime.model import Model
from onnxloc.runtime.session import Session
from onnxloc.studies import check as module
from onnxloc.studies.check import check

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path):
    return Model.open(tiny.write(tmp_path, tiny.decoder()))


def names(found, *, passed):
    return [entry.name for entry in found if entry.passed is passed]


@pytest.mark.parametrize("patterns", [(), ("op:*",)])
def test_a_sound_model_passes(model, patterns):
    found = check(model, patterns)
    assert len(found) == 4
    assert names(found, passed=False) == []


def test_an_output_that_drifts_is_found(model, monkeypatch):
    honest = Session.outputs

    def drifting(self, batch, edits=None, given=None):
        values = honest(self, batch, edits, given)
        if self.plan.taps:
            values = {name: value + np.float32(0.01) for name, value in values.items()}
        return values

    monkeypatch.setattr(Session, "outputs", drifting)
    assert names(check(model), passed=False) == ["reading every site changes no output"]


def test_an_edit_that_does_nothing_is_named(model, monkeypatch):
    honest = Session.outputs
    dead = model.sites.find("block.1.out").tensor

    def deaf(self, batch, edits=None, given=None):
        edits = {name: value for name, value in (edits or {}).items() if name != dead}
        return honest(self, batch, edits, given)

    monkeypatch.setattr(Session, "outputs", deaf)
    failed = [entry for entry in check(model) if not entry.passed]
    assert [entry.name for entry in failed] == ["an edit changes what follows"]
    assert "dead: block.1.out" in failed[0].detail


def test_a_batch_that_is_not_its_rows_is_found(model, monkeypatch):
    honest = Session.outputs

    def leaky(self, batch, edits=None, given=None):
        values = honest(self, batch, edits, given)
        return {name: value + np.float32(batch.ids.shape[0]) for name, value in values.items()}

    monkeypatch.setattr(Session, "outputs", leaky)
    assert names(check(model), passed=False) == ["a padded batch is its rows run singly"]


def test_nan_where_there_was_a_number_is_a_difference():
    one, two = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    assert not module._relative(one, two) <= 1e-4
    assert module._relative(two, two) == 0
    assert module._relative(one, one[:1]) == np.inf


def test_a_model_without_a_float_output_is_refused(tmp_path):
    proto = tiny.decoder()
    proto.graph.node.append(
        tiny.helper.make_node("ArgMax", ["logits"], ["best"], axis=-1, keepdims=0)
    )
    del proto.graph.output[:]
    proto.graph.output.append(tiny.value("best", ["batch", "tokens"]))
    with pytest.raises(ModelError, match="no float output"):
        check(Model.open(tiny.write(tmp_path, proto)))


def test_the_command_prints_a_table_or_json_and_exits_with_1_on_a_failure(
    tmp_path, capsys, monkeypatch
):
    path = str(tiny.write(tmp_path, tiny.decoder()))
    assert main(["check", path]) == 0
    assert capsys.readouterr().out.count(" ok ") == 4
    monkeypatch.setattr(module, "_relative", lambda a, b: 0.0)
    assert main(["check", path, "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)
    assert [entry["passed"] for entry in entries] == [True, True, True, False]
