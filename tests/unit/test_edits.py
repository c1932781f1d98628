"""Edits of each row's own tokens do what hooks in torch do, in padded batches."""

import numpy as np
import pytest
import torch
from helpers.torch_edits import Hooked, run_hooked
from helpers.torch_models import VOCABULARY, export, make

from onnxloc import (
    Force,
    Intervention,
    Mean,
    Model,
    Noise,
    Patch,
    RuntimeOptions,
    Scale,
    Steer,
    Tokens,
    Zero,
    run_with_edits,
)
from onnxloc.errors import OnnxlocError, OptionError
from onnxloc.runtime.batches import Batch

pytestmark = pytest.mark.unit

RNG = np.random.default_rng(5)
TEXTS = [RNG.integers(1, VOCABULARY, n).tolist() for n in (7, 4, 9, 5)]
SOURCE = RNG.integers(1, VOCABULARY, 6).tolist()
ONE = RuntimeOptions(threads=1)
READ = ("block.*.out", "block.*.mlp.hidden", "final_norm")
UNITS = [0, 3, 17, 31]


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def pair(request, tmp_path_factory):
    """A torch model and its export; OPT merges batch and tokens for its MLPs."""
    made = make(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    export(made, folder / "model.onnx", dynamo=False)
    return made, Model.open(folder)


def padded(texts):
    batch = Batch.of(texts, range(len(texts)), pad=0)
    return batch.ids, batch.mask


def compare(pair, edits, hooks, texts=TEXTS):
    made, model = pair
    ours = run_with_edits(model, texts, edits, taps=READ, pool="none", logits=True, runtime=ONE)
    ids, mask = padded(texts)
    theirs, logits = run_hooked(made, ids, mask, hooks)
    last = mask.sum(1) - 1
    scale = np.abs(logits[mask]).max()
    worst = np.abs(ours.logits - logits[np.arange(len(texts)), last]).max() / scale
    for name, values in ours.taps.items():
        assert np.isnan(values[~mask]).all()
        gap = np.abs(values[mask] - theirs[name][mask]).max()
        worst = max(worst, gap / max(1.0, np.abs(theirs[name][mask]).max()))
    assert worst <= 1e-5
    intact = run_with_edits(model, texts, taps=READ, pool="none", logits=True, runtime=ONE)
    assert np.abs(ours.logits - intact.logits).max() > 1e-2
    return ours, intact


def set_to(value):
    return lambda x: torch.zeros_like(x) + torch.as_tensor(value, dtype=x.dtype)


def test_each_row_has_its_own_edits_at_its_own_tokens(pair):
    vector = np.linspace(-1, 1, 32)
    edits = [
        [Intervention("block.0.out", Force(3.5), Tokens.at(0, -2))],
        [],
        [
            Intervention({"block.0.mlp.hidden": UNITS}, "scale=-2", "2,4"),
            Intervention("block.1.out", Steer(vector, 4), "last"),
        ],
        [Intervention({"block.1.out": UNITS}, Zero())],
    ]
    steer = torch.as_tensor(4 * vector, dtype=torch.float32)
    hooks = [
        Hooked("block.0.out", 0, [0, 5], slice(None), set_to(3.5)),
        Hooked("block.0.mlp.hidden", 2, [2, 4], UNITS, lambda x: x * -2),
        Hooked("block.1.out", 2, [8], slice(None), lambda x: x + steer),
        Hooked("block.1.out", 3, range(5), UNITS, set_to(0.0)),
    ]
    ours, intact = compare(pair, edits, hooks)
    # A row without edits, and the tokens before an edit, are left as they are.
    np.testing.assert_allclose(ours.logits[1], intact.logits[1], atol=1e-5)
    for name, values in ours.taps.items():
        np.testing.assert_allclose(values[2, :2], intact.taps[name][2, :2], atol=1e-5)


def test_values_are_patched_from_another_text(pair):
    made, _ = pair
    ids, mask = padded([SOURCE])
    source, _ = run_hooked(made, ids, mask, [])
    at = {name: torch.as_tensor(source[name][0]) for name in ("block.0.out", "block.1.mlp.hidden")}
    edits = [
        [Intervention("block.0.out", Patch(SOURCE), "last")],
        [Intervention({"block.0.out": UNITS}, Patch(SOURCE, tokens="5,1"), "0,2")],
        [Intervention(["block.0.out", "block.1.mlp.hidden"], Patch(SOURCE, "2"), "all")],
        [Intervention("block.0.out", Patch(TEXTS[3]), "all")],
    ]
    hooks = [
        Hooked("block.0.out", 0, [6], slice(None), lambda x: at["block.0.out"][5:6]),
        Hooked("block.0.out", 1, [0], UNITS, lambda x: at["block.0.out"][5:6, UNITS]),
        Hooked("block.0.out", 1, [2], UNITS, lambda x: at["block.0.out"][1:2, UNITS]),
        *(
            Hooked(name, 2, range(9), slice(None), lambda x, n=name: at[n][2:3].expand_as(x))
            for name in at
        ),
    ]
    ours, intact = compare(pair, edits, hooks)
    # Patched from itself, a text is what it was.
    np.testing.assert_allclose(ours.logits[3], intact.logits[3], atol=1e-5)


def test_means_are_over_all_tokens_of_the_texts(pair):
    made, _ = pair
    ids, mask = padded(TEXTS)
    seen, _ = run_hooked(made, ids, mask, [])
    mean = seen["block.0.out"][mask].astype(np.float64).mean(0)
    edits = [Intervention("block.0.out", Mean(), "1,-1")]
    hooks = [
        Hooked("block.0.out", row, [1, len(text) - 1], slice(None), set_to(mean))
        for row, text in enumerate(TEXTS)
    ]
    compare(pair, edits, hooks)


def test_edits_of_one_site_are_done_in_their_order(pair):
    """Each to what the one before leaves, whatever their kinds."""
    edits = [
        Intervention("block.0.out", "force=2", "0,1"),
        Intervention("block.0.out", "scale=3", "1,2"),
        Intervention({"block.0.out": UNITS}, Steer(1.5), "all"),
        Intervention("block.0.out", "zero", "2"),
    ]

    def hooks(row, n):
        return [
            Hooked("block.0.out", row, [0, 1], slice(None), set_to(2.0)),
            Hooked("block.0.out", row, [1, 2], slice(None), lambda x: x * 3),
            Hooked("block.0.out", row, range(n), UNITS, lambda x: x + 1.5),
            Hooked("block.0.out", row, [2], slice(None), set_to(0.0)),
        ]

    compare(pair, edits, [h for row, text in enumerate(TEXTS) for h in hooks(row, len(text))])


def noisy(model, texts, edits, **more):
    return run_with_edits(
        model, texts, edits, taps=["block.0.out"], pool="none", runtime=ONE, **more
    ).taps["block.0.out"]


def test_noise_is_the_texts_own(pair):
    _, model = pair
    one = Intervention("block.0.out", Noise(0.5, relative=False, seed=3), "1,-1")
    together = noisy(model, TEXTS, [one])
    plain = noisy(model, TEXTS, [])
    for row, text in enumerate(TEXTS):
        alone = noisy(model, [text], [one])[0]
        np.testing.assert_allclose(together[row, : len(text)], alone, atol=1e-6)
    np.testing.assert_allclose(noisy(model, TEXTS, [one], batch_size=1), together, atol=1e-6)
    added = torch.as_tensor(together - plain)
    for row, text in enumerate(TEXTS):
        touched = np.abs(added[row, : len(text)].numpy()).max(axis=1) > 1e-3
        assert np.flatnonzero(touched).tolist() == [1, len(text) - 1]
    other = Intervention("block.0.out", Noise(0.5, relative=False, seed=4), "1,-1")
    assert np.abs(noisy(model, TEXTS, [other]) - together)[:, 1].max() > 0.1
    # What follows is what follows in torch when the same numbers are added.
    hooks = [
        Hooked("block.0.out", row, [t], slice(None), lambda x, r=row, t=t: x + added[r, t])
        for row, text in enumerate(TEXTS)
        for t in (1, len(text) - 1)
    ]
    compare(pair, [one], hooks)


def test_texts_that_begin_alike_have_the_same_noise(pair):
    _, model = pair
    one = Intervention("block.0.out", Noise(1.0, relative=False))
    texts = [[5, 6, 7, 8], [5, 6, 9, 8]]
    added = noisy(model, texts, [one]) - noisy(model, texts, [])
    np.testing.assert_allclose(added[0, :2], added[1, :2], atol=1e-5)
    assert np.abs(added[0, 2:] - added[1, 2:]).min(axis=1).max() > 1e-4
    assert np.abs(added[0, 0] - added[0, 1]).max() > 0.1


def test_noise_has_the_deviation_that_is_asked_for(pair):
    _, model = pair
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, VOCABULARY, 12).tolist() for _ in range(60)]
    plain = noisy(model, texts, [])
    flat = plain.reshape(-1, 32).astype(np.float64)
    added = noisy(model, texts, [Intervention("block.0.out", Noise(2.0))]) - plain
    ratio = added.reshape(-1, 32).std(axis=0) / flat.std(axis=0, ddof=1)
    # 720 draws for each unit: the standard error of a deviation is 2/sqrt(1440).
    assert np.abs(ratio - 2).max() < 5 * 2 / np.sqrt(2 * len(flat))
    assert abs((added.reshape(-1, 32) / flat.std(axis=0)).mean()) < 5 * 2 / np.sqrt(flat.size)


def test_targets_are_behind_the_text_and_no_part_of_it(pair):
    made, model = pair
    targets = [[4], [9, 2, 6], [1], [8, 8]]
    edits = [Intervention("block.0.out", "force=1", "last")]
    ours = run_with_edits(model, TEXTS, edits, targets=targets, runtime=ONE)
    whole = [a + b for a, b in zip(TEXTS, targets, strict=True)]
    ids, mask = padded(whole)
    hooks = [
        Hooked("block.0.out", row, [len(text) - 1], slice(None), set_to(1.0))
        for row, text in enumerate(TEXTS)
    ]
    _, logits = run_hooked(made, ids, mask, hooks)
    logprobs = torch.log_softmax(torch.as_tensor(logits).double(), -1).numpy()
    for row, (text, target) in enumerate(zip(TEXTS, targets, strict=True)):
        want = [logprobs[row, len(text) - 1 + i, token] for i, token in enumerate(target)]
        np.testing.assert_allclose(ours.target_logprobs[row], want, atol=1e-4)
    generated = [Intervention("block.0.out", "force=1", "generated")]
    changed = run_with_edits(model, TEXTS, generated, targets=targets, runtime=ONE)
    intact = run_with_edits(model, TEXTS, targets=targets, runtime=ONE)
    for row in range(4):
        # The first token of a target is read from the text's last one.
        first = changed.target_logprobs[row][0] - intact.target_logprobs[row][0]
        assert abs(first) < 1e-5
    assert abs(changed.target_logprobs[1][1] - intact.target_logprobs[1][1]) > 1e-3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_is_its_rows(pair, batch_size):
    _, model = pair
    edits = [
        [Intervention("block.0.out", Patch(SOURCE, "-1"), "0")],
        [Intervention("block.0.out", Noise(1.0, relative=False))],
        [
            Intervention("block.1.out", "scale=0.5", "last"),
            Intervention("block.1.out", "zero", "0"),
        ],
        [],
    ]
    ways = [
        run_with_edits(model, TEXTS, edits, taps=READ, logits=True, batch_size=size, runtime=ONE)
        for size in (64, batch_size)
    ]
    np.testing.assert_allclose(ways[0].logits, ways[1].logits, atol=1e-5)
    for name in ways[0].taps:
        np.testing.assert_allclose(ways[0].taps[name], ways[1].taps[name], atol=1e-5)


def test_what_is_read(pair):
    _, model = pair
    ours = run_with_edits(model, TEXTS, taps="block.*.out", pool="mean", runtime=ONE)
    assert list(ours.taps) == ["block.0.out", "block.1.out"]
    assert ours.taps["block.0.out"].shape == (4, 32)
    assert ours.logits is None
    assert ours.target_logprobs == ()
    assert ours.tokens == tuple(map(tuple, TEXTS))


@pytest.mark.parametrize(
    ("edits", "more", "message"),
    [
        ([], {}, "nothing is to be read"),
        ([], {"texts": []}, "there must be a text"),
        ([], {"texts": "the dog"}, "texts and targets are lists"),
        ([], {"logits": True, "texts": [[]]}, "at least one"),
        ([], {"logits": True, "batch_size": 0}, "batch size"),
        ([], {"targets": [[1]]}, "4 texts take as many targets, not 1"),
        ([], {"targets": [[1] * 9, [1], [1], []]}, "at least one"),
        ([[]], {"logits": True}, "4 texts take as many lists of edits, not 1"),
        (["zero"], {"logits": True}, "edits are interventions"),
        ([Intervention("block.9.out", "zero")], {"logits": True}, "no site matches"),
        ([Intervention({"block.0.out": [32]}, "zero")], {"logits": True}, "must lie in 0 to 31"),
        ([Intervention({"block.0.out": [0.5]}, "zero")], {"logits": True}, "whole numbers"),
        (
            [Intervention("block.0.out", "zero", "4")],
            {"logits": True},
            "text 2 has 4 tokens of its own and so none at position 4",
        ),
        (
            [Intervention("block.0.out", Patch(SOURCE))],
            {"logits": True},
            "would be patched from 6 of the source",
        ),
        (
            [Intervention("block.0.out", Patch(SOURCE), "6,0")],
            {"logits": True, "texts": [TEXTS[0]]},
            "in the text to patch from, text 1 has 6 tokens",
        ),
        (
            [Intervention("block.0.out", Patch(SOURCE), "generated")],
            {"logits": True},
            "no token of the text to patch from",
        ),
        ([Intervention("block.0.out", Force([1.0, 2.0]))], {"logits": True}, "has 2 numbers"),
        (
            [Intervention("block.0.out", Force(1e39))],
            {"logits": True},
            "larger numbers than float32",
        ),
        ([Intervention("block.0.out", Noise(1.0))], {"logits": True, "texts": [[3]]}, "2 tokens"),
    ],
)
def test_what_is_refused(pair, edits, more, message):
    _, model = pair
    more = dict(more)
    with pytest.raises(OnnxlocError, match=message):
        run_with_edits(model, more.pop("texts", TEXTS), edits, **more)


def test_an_intervention_is_checked_when_it_is_made():
    with pytest.raises(OptionError, match="did you mean 'zero'"):
        Intervention("block.0.out", "zeros")
    with pytest.raises(OptionError, match="no choice of tokens"):
        Intervention("block.0.out", Scale(2), "first")
