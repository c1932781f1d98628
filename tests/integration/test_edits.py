"""Edits of chosen tokens of the real model do what hooks in torch do."""

import numpy as np
import pytest
import torch

from onnxloc import (
    Intervention,
    Model,
    Noise,
    Patch,
    RuntimeOptions,
    Scale,
    Steer,
    run_with_edits,
)
from onnxloc.network import Network
from onnxloc.runtime.generate import Sampling
from onnxloc.studies.continuations import ContinueOptions, continue_prompts

pytestmark = pytest.mark.integration

PROMPT, TARGET = "The Colosseum is in the city of", " Rome"
SUBJECT = [1, 2, 3]
OTHER = "Water boils at"
ONE = RuntimeOptions(threads=1)


@torch.no_grad()
def hooked(torch_model, ids, changes):
    """Log-probabilities of each token after the first; `changes` edit a module's output."""

    def hook(change):
        def apply(_module, _args, out):
            value = out if isinstance(out, torch.Tensor) else out[0]
            return change(value.clone())

        return apply

    handles = [module.register_forward_hook(hook(change)) for module, change in changes]
    try:
        logits = torch_model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    finally:
        for handle in handles:
            handle.remove()
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


def at(tokens, new):
    def change(value):
        value[0, tokens] = new(value[0, tokens])
        return value

    return change


def test_a_fact_is_lost_and_found_as_in_torch(model, torch_model, figure):
    """Noise on the subject, then one block's output at one token put back; every row its own."""
    corrupt = Intervention("embed", Noise(1, seed=1, texts=(PROMPT,)), "1,2,3")
    heal = [Intervention(f"block.{i}.out", Patch(PROMPT), "3") for i in (5, 10, 20)]
    shout = Intervention("block.7.out", Scale(1.5), "last")
    steer = Intervention("block.3.out", Steer(np.linspace(-1, 1, 576), 3), "all")
    rows = [[], [corrupt], *([corrupt, one] for one in heal), [shout], [steer]]
    texts = [PROMPT] * len(rows) + [OTHER]
    run = run_with_edits(model, texts, [*rows, [shout]], targets=[TARGET] * len(texts), runtime=ONE)
    ours = [float(row[0]) for row in run.target_logprobs]

    embeddings = [
        run_with_edits(model, [PROMPT], edits, taps=["embed"], pool="none", runtime=ONE)
        for edits in ([corrupt], [])
    ]
    added = torch.tensor(embeddings[0].taps["embed"][0] - embeddings[1].taps["embed"][0])
    assert np.flatnonzero(added.abs().amax(1).numpy() > 0).tolist() == SUBJECT
    ids = [*run.tokens[0], *model.encode([TARGET], bos=False)[0]]
    other = [*run.tokens[-1], *model.encode([TARGET], bos=False)[0]]
    assert len(ids) == len(run.tokens[0]) + 1
    clean: dict[int, torch.Tensor] = {}

    def keep(block):
        def change(value):
            clean[block] = value[0, 3].clone()
            return value

        return change

    layers = torch_model.model.layers
    intact = hooked(torch_model, ids, [(layers[i], keep(i)) for i in (5, 10, 20)])
    noise = (torch_model.model.embed_tokens, at(SUBJECT, lambda x: x + added[SUBJECT]))
    vector = torch.linspace(-3, 3, 576)
    last, end = len(ids) - 2, len(other) - 2
    theirs = [
        intact,
        hooked(torch_model, ids, [noise]),
        *(
            hooked(torch_model, ids, [noise, (layers[i], at([3], lambda x, i=i: clean[i][None]))])
            for i in (5, 10, 20)
        ),
        hooked(torch_model, ids, [(layers[7], at([last], lambda x: x * 1.5))]),
        hooked(torch_model, ids, [(layers[3], lambda x: x + vector)]),
        hooked(torch_model, other, [(layers[7], at([end], lambda x: x * 1.5))]),
    ]
    worst = max(abs(a - float(b[-1])) for a, b in zip(ours, theirs, strict=True))
    figure("edits at chosen tokens, max abs difference of log-probabilities from torch", worst)
    assert worst <= 2e-3
    # The fact is known, is lost with the subject, and comes back with one vector.
    assert ours[0] > np.log(0.5)
    assert ours[1] < ours[0] - 2
    assert max(ours[2:5]) > ours[1] + 1


def test_a_batch_of_edits_is_its_rows(model):
    texts = [PROMPT, OTHER, "It", PROMPT]
    edits = [
        [Intervention("block.*.mlp.hidden", "scale=0.5", "0,-1")],
        [Intervention("block.9.out", Noise(0.5), "prompt")],
        [],
        [
            Intervention("block.9.out", Patch(OTHER), "last"),
            Intervention("block.9.out", "zero", "0"),
        ],
    ]
    together, single = (
        run_with_edits(model, texts, edits, logits=True, batch_size=size, runtime=ONE).logits
        for size in (4, 1)
    )
    np.testing.assert_allclose(together, single, atol=1e-3)


def test_the_cache_changes_no_token(model, gguf_path, tmp_path):
    from onnxloc_exporters.gguf_ import GGUFExporter

    past = Model.open(GGUFExporter(with_past=True).export(gguf_path, tmp_path / "past"))
    sites = {site.name: site.units for site in model.sites.match(["block.1*.out"])}
    units = {name: np.arange(0, 576, 5) for name in sites}
    for tokens in ("prompt", "generated"):
        options = ContinueOptions(
            sampling=Sampling(max_new_tokens=5), replacement="scale=-1", tokens=tokens
        )
        found = []
        for one in (model, past):
            network = Network(units, sites, one.graph.hash, {"how": "here"})
            done = continue_prompts(one, [PROMPT, OTHER], options, ONE, network=network)
            found.append([item.ids for item in done.items])
        assert found[0] == found[1]
        assert found[0][0] != found[0][1]
