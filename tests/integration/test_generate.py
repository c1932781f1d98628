"""The real model generates what transformers generates from the same weights."""

import numpy as np
import pytest
import torch
from helpers.torch_reference import replacing

from onnxloc.graph.plan import Edit, Plan
from onnxloc.network import network_from_flat
from onnxloc.runtime.generate import Sampling, generate, generation_plan
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.continuations import ContinueOptions, continue_prompts

pytestmark = pytest.mark.integration

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was",
    "Water boils at 100 degrees, and",
    "def add(a, b):",
)
COUNT = 32


@pytest.fixture(scope="module")
def past_model(gguf_path, tmp_path_factory):
    from onnxloc_exporters.gguf_ import GGUFExporter

    from onnxloc.runtime.model import Model

    folder = tmp_path_factory.mktemp("generate") / "past"
    return Model.open(GGUFExporter(with_past=True).export(gguf_path, folder))


@pytest.fixture(scope="module")
def session(past_model):
    """With every block's output edited."""
    edits = [Edit(site.tensor) for site in past_model.sites.match(["block.*.out"])]
    return past_model.compile(generation_plan(past_model, edits), RuntimeOptions())


@pytest.fixture(scope="module")
def encoded(past_model):
    return past_model.encode(list(PROMPTS), bos=past_model.bundle.info.add_bos)


@torch.no_grad()
def reference(torch_model, prompts):
    """Greedy tokens of transformers, which pads on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = torch_model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=COUNT,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [tuple(row) for row in out[:, longest:].tolist()]


@torch.no_grad()
def followed(torch_model, prompt, ids):
    """Torch's log-probabilities behind the prompt and behind each of `ids` but the last."""
    logits = torch_model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0].double()
    return torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].numpy()


def test_the_form_with_past_has_the_same_anatomy(model, past_model):
    names = [[s.name for s in m.sites if s.role != "op"] for m in (model, past_model)]
    assert names[0] == names[1]
    assert past_model.blocks == 30


def test_greedy_tokens_are_those_of_transformers(session, encoded, torch_model, figure):
    found = generate(session, encoded, Sampling(max_new_tokens=COUNT))
    assert [one.ids for one in found] == reference(torch_model, encoded)
    assert all(len(one.ids) == COUNT for one in found)
    for prompt, one in zip(encoded, found, strict=True):
        theirs = followed(torch_model, prompt, one.ids)[np.arange(COUNT), one.ids]
        worst = np.abs(theirs - one.logprobs).max()
        figure("log-probabilities of generated tokens, max abs difference from torch", worst)
        assert worst <= 2e-3


def test_the_cache_changes_no_token(past_model, session, encoded):
    sampling = Sampling(max_new_tokens=8)
    cached = generate(session, encoded, sampling)
    plain = past_model.compile(Plan(taps=session.plan.taps), RuntimeOptions())
    assert [one.ids for one in generate(plain, encoded, sampling)] == [one.ids for one in cached]


def test_an_ablated_model_generates_what_torch_generates_with_hooks(
    past_model, session, encoded, torch_model
):
    units = np.arange(0, 576, 60)
    edits, hooks = {}, {}
    for site in past_model.sites.match(["block.1*.out"]):
        mask = np.zeros((1, 1, 576), dtype=bool)
        mask[..., units] = True
        edits[site.tensor] = (mask, np.zeros((1, 1, 576), dtype=np.float32))
        hooks[site.block] = (units, 0.0)
    assert len(edits) == 11
    found = generate(session, encoded, Sampling(max_new_tokens=COUNT), edits=edits)
    with replacing(torch_model, hooks):
        for prompt, one in zip(encoded, found, strict=True):
            # If each token is the likeliest behind those before it, greedy search finds them.
            likeliest = followed(torch_model, prompt, one.ids).argmax(-1)
            assert tuple(likeliest.tolist()) == one.ids
    intact = generate(session, encoded, Sampling(max_new_tokens=COUNT))
    assert all(a.ids != b.ids for a, b in zip(found, intact, strict=True))


def test_the_capital_of_france(past_model):
    sites = {site.name: site.units for site in past_model.sites.match(["block.*.out"])}
    network = network_from_flat(
        list(range(0, sum(sites.values()), 7)), sites, past_model.graph.hash, {"how": "every 7th"}
    )
    options = ContinueOptions(sampling=Sampling(max_new_tokens=8))
    found = continue_prompts(past_model, PROMPTS[:1], options, network=network)
    intact, ablated = found.items
    assert intact.text.startswith(" Paris")
    assert not ablated.text.startswith(" Paris")
