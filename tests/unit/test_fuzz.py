"""Damaged models through everything: refused in one line, or run as onnxruntime alone runs them.

What is done happens in a process of its own, for native code might end it.
"""

import random
import time
from collections import Counter

import pytest
from corpus.isolated import Isolated
from corpus.mutate import mutated
from corpus.synthetic import synthetic_cases
from corpus.tasks import ALONE, use_model_twice
from helpers import tiny_graphs as tiny

pytestmark = pytest.mark.unit

CASES, SECONDS, LEAST = 1500, 20.0, 150


def wholes():
    return [
        tiny.plain(),
        tiny.decoder(blocks=1),
        tiny.branches("If"),
        tiny.branches("Loop"),
        tiny.with_function(function_opset=18),
        tiny.layouts(),
        tiny.plain(opset=9, ir=3),
        tiny.picture(),
        *(case.model for case in synthetic_cases()),
    ]


def test_damaged_models_are_refused_or_right(tmp_path):
    models = wholes()
    found: Counter[str] = Counter()
    wrong = []
    path = tmp_path / "model.onnx"
    end = time.monotonic() + SECONDS
    with Isolated(use_model_twice, seconds=20) as worker:
        for case in range(CASES):
            if time.monotonic() > end and case >= LEAST:
                break
            path.write_bytes(mutated(models[case % len(models)], random.Random(case)))
            outcome = worker.run(path)
            found[outcome.kind] += 1
            alone = outcome.kind in ("died", "hung") and outcome.message.startswith(ALONE)
            if outcome.kind not in ("ran", "refused") and not alone:
                wrong.append((case, outcome))
            if "\n" in outcome.message or len(outcome.message) > 1500:
                wrong.append((case, outcome))
        assert set(tmp_path.iterdir()) == {path}
    assert not wrong
    assert found["refused"] > found["ran"] > LEAST // 20
