"""The model type onnxloc of lm-evaluation-harness, on a tiny model; tasks and data are local."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.tiny_bundle import MODEL, write_tiny_bundle
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from onnxloc import Model, Network
from onnxloc.adapters.lm_eval import OnnxlocLM
from onnxloc.errors import OptionError

pytestmark = pytest.mark.unit

PAIRS = [("the dog", " sleeps"), ("the dog sleeps", " in the sun"), ("", "the hen"), ("a ", "fox")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("lm") / "tiny")


@pytest.fixture(scope="module")
def network(bundle: Path) -> Path:
    model = Model.open(bundle)
    site = model.sites.find("block.1.out")
    found = Network(
        {site.name: np.arange(0, site.units, 2)}, {site.name: site.units}, model.graph.hash, {}
    )
    path = bundle.parent / "network.parquet"
    found.save(path)
    return path


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def logprobs(ids: list[int]) -> np.ndarray:
    """Log-probabilities of the next token behind each token, by the reference in NumPy."""
    n = len(ids)
    logits = MODEL.logits(np.array([ids]), np.ones((1, n), np.int64), np.arange(n)[None])[0]
    shifted = np.asarray(logits, np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_loglikelihoods_are_those_of_the_reference(bundle: Path) -> None:
    lm = OnnxlocLM(path=str(bundle), batch_size="3", device="cpu")
    for (context, end), (score, greedy) in zip(
        PAIRS, lm.loglikelihood(requests(*PAIRS), disable_tqdm=True), strict=True
    ):
        front = lm.tok_encode(context.rstrip()) if context else [lm.prefix_token_id]
        whole = lm.tok_encode(context + end) if context else [*front, *lm.tok_encode(end, False)]
        table = logprobs(whole)
        places = np.arange(len(front) - 1, len(whole) - 1)
        targets = np.array(whole)[places + 1]
        assert score == pytest.approx(table[places, targets].sum(), abs=1e-3)
        assert greedy == bool((table[places].argmax(axis=-1) == targets).all())


def test_rolling_scores_every_token_once_in_windows(bundle: Path) -> None:
    text = "the dog sleeps in the sun and the hen sees the fox"
    whole = OnnxlocLM(path=str(bundle))
    (found,) = whole.loglikelihood_rolling(requests((text,)))
    ids = [whole.prefix_token_id, *whole.tok_encode(text, False)]
    table = logprobs(ids)
    assert found == pytest.approx(table[np.arange(len(ids) - 1), ids[1:]].sum(), abs=1e-3)
    cut = OnnxlocLM(path=str(bundle), max_length=8)
    (in_windows,) = cut.loglikelihood_rolling(requests((text,)))
    # Windows of 7 tokens, each behind the last token of the one before.
    expected = 0.0
    for start in range(0, len(ids) - 1, 7):
        window = ids[start : start + 8]
        if len(window) < 8:
            window = ids[-8:]
        rows = logprobs(window)
        new = range(len(window) - min(7, len(ids) - 1 - start) - 1, len(window) - 1)
        expected += sum(rows[i, window[i + 1]] for i in new)
    assert in_windows == pytest.approx(expected, abs=1e-3)
    assert in_windows != pytest.approx(found, abs=1e-3)


def test_a_network_changes_the_scores_and_its_tokens_can_be_chosen(
    bundle: Path, network: Path
) -> None:
    def scores(**changes: Any) -> list[float]:
        lm = OnnxlocLM(path=str(bundle), **changes)
        return [s for s, _ in lm.loglikelihood(requests(*PAIRS), disable_tqdm=True)]

    intact, zeroed = scores(), scores(network=str(network), **{"with": "zero"})
    assert np.abs(np.subtract(intact, zeroed)).min() > 1e-3
    np.testing.assert_allclose(
        scores(network=str(network), **{"with": "scale=1"}), intact, atol=1e-5
    )
    np.testing.assert_allclose(scores(network=str(network), batch_size=1), zeroed, atol=1e-5)
    # What is done at the last token comes too late for its score; a digit is a token of its own.
    one = requests(("the dog", "7"))
    late = OnnxlocLM(path=str(bundle), network=str(network), tokens="generated")
    plain = OnnxlocLM(path=str(bundle))
    assert len(plain.tok_encode("the dog7")) == len(plain.tok_encode("the dog")) + 1
    assert late.loglikelihood(one)[0][0] == pytest.approx(plain.loglikelihood(one)[0][0], abs=1e-5)
    assert scores(network=str(network), tokens="prompt") != pytest.approx(intact, abs=1e-3)
    # The mean is taken over the sentences that localize the network by default.
    assert scores(network=str(network), **{"with": "mean"}) != pytest.approx(zeroed, abs=1e-4)


def test_generation_is_greedy_and_stops(bundle: Path, network: Path) -> None:
    lm = OnnxlocLM(path=str(bundle))
    settings = {"until": [], "max_gen_toks": 6}
    (text,) = lm.generate_until(requests(("the dog", settings)))
    ids = lm.tok_encode("the dog")
    for _ in range(6):
        ids.append(int(logprobs(ids)[-1].argmax()))
    decode = lm.model.bundle.tokenizer.decode
    assert decode(lm.tok_encode("the dog")) + text == decode(ids)
    stop = text[2:4]
    (cut,) = lm.generate_until(requests(("the dog", settings | {"until": stop})))
    assert cut == text[: text.index(stop)]
    ablated = OnnxlocLM(path=str(bundle), network=str(network))
    assert ablated.generate_until(requests(("the dog", settings))) != [text]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs path"),
        ({"path": "here", "netwrok": "x"}, "did you mean 'network'"),
        ({"path": "here", "with": "zero"}, "give network="),
        ({"path": "here", "batch_size": "many"}, "batch_size"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OnnxlocLM(**arguments)


def test_what_does_not_fit_is_refused(bundle: Path) -> None:
    lm = OnnxlocLM(path=str(bundle), max_length=4)
    with pytest.raises(OptionError, match="the model takes 4"):
        lm.loglikelihood(requests(("a", " b c d e f g h")), disable_tqdm=True)
    with pytest.raises(OptionError, match="max_gen_toks"):
        lm.generate_until(requests(("a", {"until": []})))


def test_the_harness_runs_a_local_task(
    bundle: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [("the dog", ["sleeps", "sun", "a"], 0), ("the fox", ["sees", "sleeps", "hen"], 1)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"q": q, "c": c, "a": a}) + "\n" for q, c, a in rows))
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{c}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(json.dumps(task))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for arguments in (f"path={bundle}", f"path={bundle},network={network},with=zero"):
        found = simple_evaluate(
            model="onnxloc",
            model_args=arguments,
            tasks=["tiny_choice"],
            task_manager=manager,
            bootstrap_iters=0,
        )
        lm = OnnxlocLM.create_from_arg_string(arguments)
        right = []
        for question, choices, answer in rows:
            pairs = requests(*((question, f" {choice}") for choice in choices))
            scores = [score for score, _ in lm.loglikelihood(pairs, disable_tqdm=True)]
            right.append(int(np.argmax(scores)) == answer)
        assert found["results"]["tiny_choice"]["acc,none"] == pytest.approx(np.mean(right))
        assert len(found["samples"]["tiny_choice"]) == 2


def test_the_command_hands_its_words_on(monkeypatch):
    import sys

    import lm_eval.__main__ as harness

    from onnxloc.cli import main

    seen, before = [], sys.argv
    monkeypatch.setattr(harness, "cli_evaluate", lambda: seen.append(sys.argv))
    assert main(["lm-eval", "run", "--model", "onnxloc", "--", "--help"]) == 0
    assert seen[0][:4] == ["onnxloc lm-eval", "run", "--model", "onnxloc"]
    assert sys.argv is before


def test_the_command_says_what_to_install(monkeypatch, capsys):
    import sys

    from onnxloc.cli import main

    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    assert main(["lm-eval", "run"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("onnxloc: error: lm-evaluation-harness cannot be imported")
    assert "onnxloc[lm-eval]" in said.err
    assert said.err.count("\n") == 1
