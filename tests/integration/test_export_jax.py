"""SmolLM2 through JAX, without torch: the same sites, values and network as from the GGUF."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import onnxloc
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.integration

PROGRAM = """
import sys
from pathlib import Path
from onnxloc.cli import main
status = main(sys.argv[1:])
print("torch" in sys.modules, "transformers" in sys.modules)
# Not ru_maxrss: that starts at what the parent process held when it forked.
print("peak", Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, gguf_path, figure):
    folder = tmp_path_factory.mktemp("jax") / "bundle"
    words = ["export", "jax", "onnxloc_models.jax.llama:from_gguf", "--arg", str(gguf_path)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "-o", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "False False" in done.stdout
    peak = int(re.search(r"peak (\d+)", done.stdout)[1]) / 1e6
    figure("jax: peak memory of the export, GB", peak)
    assert peak <= 4
    yield Model.open(folder)
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


def test_logits_are_those_of_jax(exported, figure):
    parity = exported.bundle.info.parity
    figure("jax: logits against jax at export, relative", parity.max_rel)
    assert parity.max_rel <= 1e-3
    assert {case.padded for case in parity.cases} == {False, True}


def test_sites_and_tokens_are_those_of_the_gguf(exported, model):
    assert canonical(exported) == canonical(model)
    assert len(canonical(model)) > 300
    text = "Numbers such as 1592 are split, naïveté too."
    assert exported.encode([text], bos=False) == model.encode([text], bos=False)
    ours, theirs = exported.bundle.info, model.bundle.info
    assert (ours.add_bos, ours.max_tokens) == (theirs.add_bos, theirs.max_tokens)


def test_block_outputs_are_those_of_the_gguf(exported, model, figure):
    stimuli = onnxloc.load_stimuli("language")
    texts = [*stimuli.positive[:10], *stimuli.control[:10]]
    texts = [getattr(text, "text", text) for text in texts]
    sequences = model.encode(texts, bos=False, max_tokens=12)
    theirs, batch = block_outputs(model, sequences)
    ours, _ = block_outputs(exported, sequences)
    difference = np.abs(ours - theirs)
    rows, last = np.arange(len(sequences)), batch.lengths - 1
    figure("jax: block outputs, last tokens, max abs diff", difference[:, rows, last].max())
    assert difference[:, rows, last].max() <= 5e-3
    later = batch.mask.copy()
    # The first token carries values of up to 28,000, where float32 has steps of 0.002.
    later[:, 0] = False
    figure("jax: block outputs, later tokens, max abs diff", difference[:, later].max())
    assert difference[:, later].max() <= 5e-3
    first = difference[:, :, 0].max() / np.abs(theirs[:, :, 0]).max()
    figure("jax: block outputs, first token, difference / largest value", first)
    assert first <= 1e-5


def test_the_network_is_that_of_the_gguf(exported, model, figure):
    stimuli = onnxloc.load_stimuli("language")
    ours, theirs = chosen(exported, stimuli), chosen(model, stimuli)
    dice = 2 * len(ours & theirs) / (len(ours) + len(theirs))
    figure("jax: Dice of the network with the GGUF's", dice)
    assert dice >= 0.98
