"""Tasks of every form through an ablation, against the tiny model's reference in NumPy."""

import json

import numpy as np
import pytest
from helpers.tiny_bundle import MODEL, write_tiny_bundle

from onnxloc import AblateOptions, Model, Network, ablate, load_task
from onnxloc.tasks import Task

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.open(write_tiny_bundle(tmp_path_factory.mktemp("tasks") / "tiny"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    folder = tmp_path_factory.mktemp("files")
    choices = [
        {"question": "the dog", "choices": ["sleeps", "sun", "a hen sees"], "answer": 0},
        {"question": "the sun", "choices": ["is hot", "dog"], "answer": 1},
        {"question": "the", "choices": ["fox", "of", "in", "and"], "answer": "of"},
    ]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    (folder / "l.txt").write_text("the dog sleeps\nthe hen sees the fox\nit is the sun\n")

    def condition(name: str, *contents: str) -> dict[str, object]:
        regions = [{"region_number": i, "content": c} for i, c in enumerate(contents, 1)]
        return {"condition_name": name, "regions": regions}

    items = [
        {"conditions": [condition("x", "the dog", a, "now"), condition("y", "the dogs", a, "now")]}
        for a in ("sleeps", "sees it", "is", "runs")
    ]
    formulas = ["(2;%x%) < (2;%y%)", "(*;%x%) - (1;%x%) < (2;%y%) + (3;%y%)"]
    predictions = [{"type": "formula", "formula": formula} for formula in formulas]
    suite = {"meta": {"name": "s"}, "predictions": predictions, "items": items}
    (folder / "s.json").write_text(json.dumps(suite))
    specs = {
        "choice": f"choice:{folder / 'c.jsonl'}",
        "cloze": f"cloze:{folder / 'l.txt'}",
        "logprob": f"cloze-logprob:{folder / 'l.txt'}",
        "formula": f"syntaxgym:{folder / 's.json'}",
    }
    return {name: load_task(spec) for name, spec in specs.items()}


def reference(model: Model, text: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the tokens that end in a part of a text, and whether each wins."""
    encoding = model.bundle.tokenizer.encode(text, add_special_tokens=False)
    ids = model.encode_scored([text])[0]
    n = len(ids)
    logits = MODEL.logits(np.array([ids]), np.ones((1, n), np.int64), np.arange(n)[None])[0]
    table = np.asarray(logits, np.float64)
    table = table - table.max(axis=-1, keepdims=True)
    table -= np.log(np.exp(table).sum(axis=-1, keepdims=True))
    places = [i for i, (_, stop) in enumerate(encoding.offsets) if start < stop <= end]
    own = [table[i, ids[i + 1]] for i in places]
    return np.array(own), np.array([table[i].argmax() == ids[i + 1] for i in places])


def test_every_form_is_scored_as_the_reference_says(model: Model, tasks: dict[str, Task]) -> None:
    site = model.sites.find("block.1.out")
    chosen = Network({site.name: np.arange(5)}, {site.name: site.units}, model.graph.hash, {})
    done = ablate(model, chosen, list(tasks.values()), AblateOptions(controls=1))
    found = {name: result.scores[0] for name, result in zip(tasks, done.results, strict=True)}

    def part(text: str, span: tuple[int, int]) -> np.ndarray:
        return reference(model, text, *span)[0]

    for row, item in enumerate(tasks["choice"].items):
        means = [part(t, s[0]).mean() for t, s in zip(item.texts, item.spans, strict=True)]
        assert found["choice"][row] == float(np.argmax(means) == item.answer)
    for row, item in enumerate(tasks["cloze"].items):
        values, won = reference(model, item.texts[0], *item.spans[0][0])
        assert found["logprob"][row] == pytest.approx(values.sum(), abs=1e-3)
        assert found["cloze"][row] == float(won.all())
    for row, item in enumerate(tasks["formula"].items):
        sums = [
            [part(t, span).sum() for span in spans]
            for t, spans in zip(item.texts, item.spans, strict=True)
        ]
        (x, y) = sums
        expected = -x[1] < -y[1] if row % 2 == 0 else -x[1] - x[2] < -y[1] - y[2]
        assert found["formula"][row] == float(expected)
    entries = {entry["task"]: entry for entry in done.summary["ablate"]["effects"]}
    assert all(entry["n_comparisons"] == 3 for entry in entries.values())


def test_edits_at_chosen_tokens_score_the_same_parts(model: Model, tasks: dict[str, Task]) -> None:
    """Where texts share nothing, each is run for itself: the intact scores stay what they are."""
    site = model.sites.find("block.1.out")
    chosen = Network({site.name: np.arange(5)}, {site.name: site.units}, model.graph.hash, {})
    shared, apart = (
        ablate(model, chosen, list(tasks.values()), AblateOptions(controls=1, tokens=tokens))
        for tokens in ("all", "0")
    )
    for one, other in zip(shared.results, apart.results, strict=True):
        np.testing.assert_allclose(one.scores[0], other.scores[0], atol=1e-5)
        np.testing.assert_array_equal(one.token_counts, other.token_counts)
