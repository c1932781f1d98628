"""The model type onnxloc of lm-evaluation-harness against the same model in torch."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from onnxloc.adapters.lm_eval import OnnxlocLM

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

pytestmark = pytest.mark.integration

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Rome, the city of seven hills."),
    ("Water boils at one hundred", " degrees"),
    ("", "Once upon a time"),
]


def test_loglikelihoods_are_those_of_torch(
    bundle_path: Path, torch_model: "LlamaForCausalLM"
) -> None:
    lm = OnnxlocLM(path=str(bundle_path))
    found = lm.loglikelihood([SimpleNamespace(args=pair) for pair in PAIRS], disable_tqdm=True)
    for (context, end), (score, greedy) in zip(PAIRS, found, strict=True):
        front = lm.tok_encode(context) if context else [lm.prefix_token_id]
        behind = lm.tok_encode(context + end)[len(front) :] if context else lm.tok_encode(end)
        ids = torch.tensor([[*front, *behind]])
        with torch.no_grad():
            table = torch_model(ids).logits[0].double().log_softmax(dim=-1)
        rows = table[len(front) - 1 : -1]
        targets = torch.tensor(behind)
        expected = rows.gather(1, targets[:, None]).sum().item()
        assert score == pytest.approx(expected, abs=1e-3)
        assert greedy == bool((rows.argmax(dim=-1) == targets).all())
