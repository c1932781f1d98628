"""Attention probabilities of fused attention: read where they can be, and refused where not."""

import json

import numpy as np
import pytest
from helpers.fused_graphs import DEPTH, HEADS, Variant, transformer

from onnxloc.cli import main
from onnxloc.errors import AnatomyError, ModelError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], [0, 1], pad=0)
SHOWN = {"attention23": 23, "attention23 probs": 23, "gqa": 18}
HIDDEN = {"mha": "MultiHeadAttention", "attention packed": "Attention"}


def opened(folder, attention, opset=18):
    folder.mkdir(exist_ok=True)
    graph = transformer(Variant(attention=attention, opset=opset))
    graph.save(folder / "model.onnx")
    return Model.open(folder / "model.onnx")


def by_hand(model, block, *, causal):
    """The probabilities from queries and keys, in double precision."""
    names = [f"block.{block}.attn.{part}" for part in "qk"]
    taps = [Tap(model.sites.find(name).tensor, "none") for name in names]
    found = model.compile(Plan(taps=tuple(taps)), RuntimeOptions()).taps(BATCH)
    q, k = (
        found[tap].astype(np.float64).reshape(2, 5, HEADS, DEPTH).transpose(0, 2, 1, 3)
        for tap in taps
    )
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(DEPTH)
    if causal:
        scores = np.where(np.tril(np.ones((5, 5), bool)), scores, -np.inf)
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", SHOWN)
def test_probabilities_that_can_be_put_out_are_those_of_queries_and_keys(tmp_path, kind):
    model = opened(tmp_path, kind, SHOWN[kind])
    taps = [Tap(site.tensor, "none") for site in model.sites.match(["block.*.attn.probs"],
                                                                  with_units=False)]  # fmt: skip
    assert len(taps) == 2
    found = model.compile(Plan(taps=tuple(taps)), RuntimeOptions()).taps(BATCH)
    for block, tap in enumerate(taps):
        expected = by_hand(model, block, causal=kind == "gqa")
        np.testing.assert_allclose(found[tap], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["attention23", "gqa"])
def test_probabilities_are_put_out_only_where_they_are_read(tmp_path, kind):
    model = opened(tmp_path, kind, SHOWN[kind])
    logits = model.logits.tensor
    probs = model.sites.find("block.1.attn.probs").tensor

    def outputs(**plan):
        session = model.compile(Plan(outputs=(logits,), **plan), RuntimeOptions())
        made = {n for node in session.instrumented.proto.graph.node for n in node.output}
        return made, session.read(BATCH).outputs[logits]

    plain, without = outputs()
    reading, with_them = outputs(taps=(Tap(probs, "none"),))
    assert {name for name in reading if name.startswith("onnxloc.probs")} == {probs}
    assert not {name for name in plain if name.startswith("onnxloc.")}
    np.testing.assert_allclose(with_them, without, atol=1e-6)
    made = {name for node in model.graph.proto.graph.node for name in node.output}
    assert probs not in made


@pytest.mark.parametrize("kind", ["attention23", "gqa"])
def test_probabilities_that_nothing_reads_are_not_edited(tmp_path, kind):
    model = opened(tmp_path, kind, SHOWN[kind])
    probs = model.sites.find("block.0.attn.probs").tensor
    for form in ("whole", "replace"):
        plan = Plan(edits=(Edit(probs, form),), outputs=(model.logits.tensor,))
        with pytest.raises(ModelError, match=r"block\.0\.attn\.probs can be read and not changed"):
            model.compile(plan, RuntimeOptions())


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_probabilities_are_refused_with_what_to_do(tmp_path, kind):
    model = opened(tmp_path, kind)
    for ask in (
        lambda: model.sites.match(["block.*.attn.probs"], with_units=False),
        lambda: model.sites.match(["block.0.attn.probs"]),
        lambda: model.sites.find("block.0.attn.probs"),
    ):
        with pytest.raises(AnatomyError, match="hides its probabilities; export") as caught:
            ask()
        assert HIDDEN[kind] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(AnatomyError, match=r"no site matches 'block\.\*\.attn\.prob'"):
        model.sites.match(["block.*.attn.prob"])


def test_a_kernel_that_cannot_show_them_leaves_the_model_as_it_is(tmp_path, monkeypatch):
    from onnxloc.runtime import model as module

    model = opened(tmp_path, "gqa")
    real = module.trace

    def fails(graph, *rest):
        if graph is not model.graph:
            raise ModelError("not implemented")
        return real(graph, *rest)

    monkeypatch.setattr(module, "trace", fails)
    assert model.sites.find("block.0.attn.heads")
    with pytest.raises(AnatomyError, match="hides its probabilities"):
        model.sites.find("block.0.attn.probs")


@pytest.mark.parametrize(
    ("kind", "opset", "said"),
    [
        ("mha", 18, "attention is the one operation MultiHeadAttention, which hides"),
        ("gqa", 18, "GroupQueryAttention: its probabilities can be read and not changed"),
        ("attention23", 23, "Attention: its probabilities can be read and not changed"),
        ("plain", 18, None),
    ],
)
def test_inspect_says_what_fused_attention_can_do(tmp_path, capsys, kind, opset, said):
    opened(tmp_path, kind, opset)
    assert main(["inspect", str(tmp_path / "model.onnx"), "--json"]) == 0
    note = json.loads(capsys.readouterr().out)["attention"]
    assert main(["inspect", str(tmp_path / "model.onnx")]) == 0
    plain = capsys.readouterr().out
    if said is None:
        assert note is None
        assert "attention is the one" not in plain
    else:
        assert said in note
        assert said in plain
