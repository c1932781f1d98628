"""Other ways to run the real model find the same network."""

from dataclasses import replace

import numpy as np
import pytest

from onnxloc.errors import RuntimeMissingError
from onnxloc.runtime.available import available_providers
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.stimuli.arrays import load_arrays
from onnxloc.studies.localize import LocalizeOptions, localize

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def few():
    stimuli = load_stimuli("language")
    return replace(stimuli, positive=stimuli.positive[:16], control=stimuli.control[:16])


@pytest.fixture(scope="module")
def reference(model, few):
    return localize(model, few)


def test_bound_to_the_device_it_is_the_same(model, few, reference):
    found = localize(model, few, None, RuntimeOptions(io_binding=True))
    assert np.array_equal(found.contrast.t, reference.contrast.t)
    assert found.network == reference.network


def test_texts_as_arrays_of_ids(model, few, reference, tmp_path):
    sequences = model.encode([*few.positive, *few.control], bos=False, max_tokens=12)
    ids = np.zeros((len(sequences), 14), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    path = tmp_path / "ids.npz"
    np.savez(path, input_ids=ids, attention_mask=mask, condition=np.repeat([1, 0], 16))
    found = localize(model, load_arrays(path))
    assert np.abs(found.contrast.t - reference.contrast.t).max() <= 1e-3
    assert found.network.dice(reference.network) >= 0.99
    assert found.summary["localize"]["pool"] == "last"


def test_openvino_agrees_or_says_what_is_missing(model, few, reference, figure):
    usable = {one.provider: one for one in available_providers()}["openvino"]
    if not usable.usable:
        with pytest.raises(RuntimeMissingError) as caught:
            localize(model, few, None, RuntimeOptions(provider="openvino"))
        assert str(caught.value) == usable.missing
        return
    for precision, largest, dice in (("fp32", 1e-2, 0.99), ("bf16", 2.0, 0.9)):
        if precision not in usable.precisions:
            continue
        runtime = RuntimeOptions(provider="openvino", precision=precision)
        found = localize(model, few, LocalizeOptions(agreement=precision == "bf16"), runtime)
        difference = np.abs(found.contrast.t - reference.contrast.t).max()
        figure(f"openvino {precision}: t-values, max abs difference", difference)
        figure(f"openvino {precision}: Dice", found.network.dice(reference.network))
        assert difference <= largest
        assert found.network.dice(reference.network) >= dice
        assert set(found.summary["localize"]["placement"]) == {"OpenVINOExecutionProvider"}
        if precision == "bf16":
            # Computed in less than float32, or else there would be no difference to speak of.
            assert difference > 1e-3
            said = found.summary["localize"]["agreement"]
            assert said["largest_t_difference"] == pytest.approx(difference, rel=1e-6)
