"""SmolLM2 through torch and optimum: the same sites, values and network as from the GGUF."""

import shutil

import numpy as np
import pytest
from onnxloc_exporters.optimum_ import OptimumExporter
from onnxloc_exporters.torch_ import TorchExporter

import onnxloc
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.integration

EXPORTERS = {"torch": TorchExporter, "optimum": OptimumExporter}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, torch_model, bundle_path):
    folder = tmp_path_factory.mktemp("checkpoint") / "smollm2"
    torch_model.save_pretrained(folder, safe_serialization=True)
    # transformers' own conversion of this GGUF's tokenizer forgets a step.
    shutil.copy(bundle_path / "tokenizer.json", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request, tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    yield Model.open(EXPORTERS[request.param]().export(checkpoint, folder))
    shutil.rmtree(folder)


def canonical(model):
    return {
        name: (site.units, site.axes)
        for site in model.sites
        for name in site.names
        if not name.startswith("op:")
    }


def block_outputs(model, sequences):
    taps = tuple(Tap(site.tensor, "none") for site in model.sites.match(["block.*.out"]))
    batch = Batch.of(sequences, range(len(sequences)), pad=7)
    values = model.compile(Plan(taps=taps), RuntimeOptions()).taps(batch)
    return np.stack([values[tap] for tap in taps]), batch


def chosen(model, stimuli):
    units = onnxloc.localize(model, stimuli).units()
    return set(units[units["selected"]][["site", "unit"]].itertuples(index=False, name=None))


def test_the_same_as_from_the_gguf(exported, model, figure):
    name = exported.bundle.info.exporter
    parity = exported.bundle.info.parity
    figure(f"{name}: logits against torch at export, relative", parity.max_rel)
    assert parity.max_rel <= 1e-3
    assert canonical(exported) == canonical(model)
    assert len(canonical(model)) > 300

    stimuli = onnxloc.load_stimuli("language")
    texts = [*stimuli.positive[:10], *stimuli.control[:10]]
    sequences = model.encode(texts, bos=False, max_tokens=12)
    assert exported.encode(texts, bos=False, max_tokens=12) == sequences
    theirs, batch = block_outputs(model, sequences)
    ours, _ = block_outputs(exported, sequences)
    difference = np.abs(ours - theirs)
    later = batch.mask.copy()
    # The first token carries values of up to 24,000, where float32 has steps of 0.002.
    later[:, 0] = False
    figure(f"{name}: block outputs, later tokens, max abs difference", difference[:, later].max())
    first = difference[:, :, 0].max() / np.abs(theirs[:, :, 0]).max()
    figure(f"{name}: block outputs, first token, difference / largest value", first)
    assert difference[:, later].max() <= 5e-3
    assert first <= 5e-6

    a, b = chosen(exported, stimuli), chosen(model, stimuli)
    dice = 2 * len(a & b) / (len(a) + len(b))
    figure(f"{name}: Dice of the language network", dice)
    assert dice >= 0.98
