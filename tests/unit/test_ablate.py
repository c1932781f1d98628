"""What an ablation refuses, and what its conditions are, on tiny models."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny
from helpers.gguf_files import TinyModel
from helpers.tiny_bundle import POSITIVE
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import AblateOptions, Model, Network, RuntimeOptions, StimulusSet, ablate, localize
from onnxloc.choose import Selection
from onnxloc.errors import ModelError, NetworkError, OptionError, StimulusError
from onnxloc.graph.plan import Edit, Plan, Tap, TargetLogProbs
from onnxloc.runtime.batches import Batch
from onnxloc.store import Run
from onnxloc.studies.localize import LocalizeOptions
from onnxloc.studies.masks import unit_masks
from onnxloc.studies.means import mean_activations
from onnxloc.studies.scoring import require_causal
from onnxloc.studies.sentences import stimuli_of
from onnxloc.tasks import text_task

pytestmark = pytest.mark.unit

SEEDED = TinyModel(blocks=3, seed=7, metadata={"llama.context_length": 256})
TASK = text_task("text", POSITIVE, "here")
OUT = [f"block.{i}.out" for i in range(3)]


@pytest.fixture(scope="module", params=["float32", "float16"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    source = SEEDED.write(folder / "tiny.gguf")
    return Model.open(GGUFExporter(dtype=request.param).export(source, folder / "bundle"))


def network(model, units, how=None):
    sites = {name: model.sites.find(name).units for name in OUT}
    found = {name: np.asarray(u) for name, u in units.items()}
    return Network(found, sites, model.graph.hash, how or {"how": "top", "value": 1.0})


def test_a_late_network_is_ablated_behind_a_shared_start_in_any_precision(model):
    late = network(model, {OUT[2]: [0, 3, 5]})
    done = ablate(model, late, [TASK], AblateOptions(controls=2))
    site = model.sites.find(OUT[2])
    session = model.compile(
        Plan(edits=(Edit(site.tensor),), head=TargetLogProbs(model.logits.tensor)),
        RuntimeOptions(),
    )
    mask = unit_masks(model, [late])[site]
    sequences = model.encode_scored(list(POSITIVE))
    batch = Batch.of(sequences, range(len(sequences)), pad=model.pad)
    zero = np.zeros((1, 1, site.units))
    expected = [row.mean() for row in session.target_logprobs(batch, {site.tensor: (mask, zero)})]
    tolerance = 1e-5 if site.dtype == "float32" else 2e-2
    np.testing.assert_allclose(done.results[0].scores[1], expected, atol=tolerance)
    assert np.abs(done.results[0].scores[1] - done.results[0].scores[0]).max() > tolerance


def test_sizes_in_percent_are_refused_to_a_network_that_is_not_of_the_largest_t(model):
    t = np.arange(sum(model.sites.find(name).units for name in OUT), dtype=np.float64)
    options = AblateOptions(percents=(1.0, 4.0), controls=1)
    chosen = {OUT[0]: [1]}
    least = network(model, chosen, {"how": "top", "value": 1.0, "within": "0-0"})
    with pytest.raises(OptionError, match="chosen otherwise"):
        ablate(model, least, [TASK], options, t=t)
    done = ablate(model, network(model, chosen), [TASK], options, t=t)
    sizes = {c: n for c, n in done.networks.items() if c.name == "network"}
    assert [c.size for c in sizes] == [1.0, 4.0]
    largest = max(sizes.values(), key=lambda n: n.size)
    for condition, control in done.networks.items():
        if condition.name.startswith("control"):
            # Even the controls of the small size keep clear of the largest network.
            assert not set(control.flat) & set(largest.flat)


def test_a_model_that_sees_later_tokens_is_not_scored(tmp_path):
    causal = Model.open(tiny.write(tmp_path / "a", tiny.decoder()))
    session = causal.compile(Plan(head=TargetLogProbs("logits")), RuntimeOptions())

    class Sees:
        def target_logprobs(self, batch, edits, given):
            rows = session.target_logprobs(batch, edits, given)
            return [row + batch.ids[i, -1] for i, row in enumerate(rows)]

    with pytest.raises(ModelError, match="causal language model"):
        require_causal(Sees(), None, 3)


def test_a_causal_model_is_scored(model):
    session = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), RuntimeOptions())
    require_causal(session, None, 1)


def test_means_leave_the_prefix_token_out(model):
    site = model.sites.find(OUT[1])
    texts = model.encode_scored(["a", "ab cd"])
    found = mean_activations(model, [site], texts, RuntimeOptions(), batch_size=2)[site.tensor]
    batch = Batch.of(texts, [0, 1], pad=0)
    whole = model.compile(Plan(taps=(Tap(site.tensor, "none"),)), RuntimeOptions())
    (values,) = whole.taps(batch).values()
    rows = [values[i, : len(text)].astype(np.float64) for i, text in enumerate(texts)]
    tolerance = 1e-6 if site.dtype == "float32" else 5e-3
    behind = np.concatenate([row[1:] for row in rows]).mean(axis=0)
    np.testing.assert_allclose(found[0, 0].astype(np.float64), behind, atol=tolerance)
    # The control of this test: with the prefix the means are others.
    assert np.abs(np.concatenate(rows).mean(axis=0) - behind).max() > 10 * tolerance


def test_masks_refuse_what_does_not_fit(model):
    with pytest.raises(OptionError, match="no units"):
        unit_masks(model, [network(model, {})])
    wide = Network({OUT[0]: np.array([0])}, {OUT[0]: 9999}, model.graph.hash, {})
    with pytest.raises(NetworkError, match="9999 in the network"):
        unit_masks(model, [wide])
    assert unit_masks(model, [None]) == {}


def test_a_run_whose_stimuli_have_changed_says_so(model, tmp_path, monkeypatch):
    file = tmp_path / "mine.csv"
    rows = [f"positive,{text}" for text in POSITIVE] + [f"control,{i}{i}" for i in range(6)]
    file.write_text("\n".join(["condition,text", *rows]))
    stimuli = stimuli_of(None, str(file))
    assert isinstance(stimuli, StimulusSet)
    options = LocalizeOptions(selection=Selection(how="units", value=4))
    localize(model, stimuli, options).save(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    monkeypatch.chdir(tmp_path.parent)
    assert stimuli_of(run, None).hash == stimuli.hash
    file.write_text("\n".join(["condition,text", *rows[1:]]))
    with pytest.raises(StimulusError, match="no longer what it was"):
        stimuli_of(run, None)
    file.unlink()
    with pytest.raises(StimulusError, match="--localizer"):
        stimuli_of(run, None)
    assert stimuli_of(run, "language").name == "language"
