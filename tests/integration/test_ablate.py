"""Ablating the real model does what zeroing the same units in torch does, row by row."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.torch_reference import forward, target_logprobs

from onnxloc.controls import draw_controls
from onnxloc.graph.plan import Edit, Plan, TargetLogProbs
from onnxloc.network import Network
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.store import Run
from onnxloc.studies.ablate import AblateOptions, ablate, rank_of_run
from onnxloc.studies.localize import localize
from onnxloc.tasks import load_task, text_task

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def localization(model):
    stimuli = load_stimuli("language")
    return localize(
        model, replace(stimuli, positive=stimuli.positive[:60], control=stimuli.control[:60])
    )


@pytest.fixture(scope="module")
def network(localization):
    return localization.network


@pytest.fixture(scope="module")
def texts():
    """Sentences of different lengths, nonwords among them."""
    stimuli = load_stimuli("language")
    sentences = [*stimuli.positive[:4], *stimuli.control[:2]]
    return [" ".join(x.split()[: 3 + 2 * i]) for i, x in enumerate(sentences)]


@pytest.fixture(scope="module")
def session(model):
    sites = model.sites.match(["block.*.out"])
    plan = Plan(
        edits=tuple(Edit(site.tensor) for site in sites), head=TargetLogProbs(model.logits.tensor)
    )
    return model.compile(plan, RuntimeOptions())


def zeroing(model, networks):
    """What to feed so that row i of a batch has the units of networks[i] zeroed (None: none)."""
    edits = {}
    for site in model.sites.match(["block.*.out"]):
        rows = [np.zeros(576, bool) if one is None else one.mask(site.name) for one in networks]
        edits[site.tensor] = (np.stack(rows)[:, None, :], np.zeros((1, 1, 576), np.float32))
    return edits


def in_torch(network, value=0.0):
    return {int(site.split(".")[1]): (units, value) for site, units in network.units.items()}


def test_each_row_has_its_own_edit(model, session, network, texts, torch_model, figure):
    controls = draw_controls(network, 3, "site", 0)
    kinds = [network, None, controls[0], network, controls[1], controls[2]]
    sequences = model.encode_scored(texts)
    assert len({len(sequence) for sequence in sequences}) > 3
    batch = Batch.of(sequences, range(len(sequences)), pad=model.pad)
    together = session.target_logprobs(batch, zeroing(model, kinds))
    worst_alone = worst_torch = 0.0
    effects = []
    for row, kind in enumerate(kinds):
        alone = Batch.of(sequences, [row], pad=model.pad)
        (single,) = session.target_logprobs(alone, zeroing(model, [kind]))
        theirs = target_logprobs(
            torch_model, sequences[row], None if kind is None else in_torch(kind)
        )
        worst_alone = max(worst_alone, np.abs(together[row] - single).max())
        worst_torch = max(worst_torch, np.abs(together[row] - theirs).max())
        (intact,) = session.target_logprobs(alone)
        effects.append(np.abs(together[row] - intact).max())
    figure("ablated row in a batch against that row alone, max abs difference", worst_alone)
    figure("ablated log-probabilities, max abs difference from torch", worst_torch)
    assert worst_alone <= 1e-3
    assert worst_torch <= 2e-3
    # The edits do something, and a row without one is left as it is.
    changed = [effect for effect, kind in zip(effects, kinds, strict=True) if kind is not None]
    assert min(changed) > 1e-2
    assert effects[1] <= 1e-3


def test_without_edits_the_edited_session_is_the_plain_one(model, session, texts):
    plain = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), RuntimeOptions())
    sequences = model.encode_scored(texts)
    batch = Batch.of(sequences, range(len(sequences)), pad=model.pad)
    for ours, expected in zip(
        session.target_logprobs(batch), plain.target_logprobs(batch), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_conditions_in_one_batch_are_each_condition_alone(model, network, texts, figure):
    task = text_task("text", texts, "six texts")
    together = ablate(model, network, [task], AblateOptions(controls=3, batch_size=9))
    (scores,) = together.results
    assert [c.name for c in scores.conditions] == [
        "intact", "network", "control-00", "control-01", "control-02",
    ]  # fmt: skip
    worst = 0.0
    for condition, row in zip(scores.conditions, scores.scores, strict=True):
        if condition.name == "intact":
            continue
        alone = ablate(
            model,
            together.networks[condition],
            [task],
            AblateOptions(controls=0, batch_size=1),
        )
        (single,) = alone.results
        worst = max(worst, np.abs(single.scores[1] - row).max())
        worst = max(worst, np.abs(single.scores[0] - scores.scores[0]).max())
    figure("conditions in one batch against each alone, max abs difference of scores", worst)
    assert worst <= 1e-3


def test_scores_and_perplexity_are_those_of_torch(model, network, texts, torch_model):
    task = text_task("text", texts, "six texts")
    done = ablate(model, network, [task], AblateOptions(controls=1))
    (scores,) = done.results
    (summary,) = done.summary["ablate"]["effects"]
    sequences = model.encode_scored(texts)
    assert scores.token_counts.tolist() == [len(sequence) - 1 for sequence in sequences]
    for condition, row in zip(scores.conditions, scores.scores, strict=True):
        zeroed = None if condition.name == "intact" else in_torch(done.networks[condition])
        theirs = [target_logprobs(torch_model, sequence, zeroed) for sequence in sequences]
        np.testing.assert_allclose(row, [x.mean() for x in theirs], atol=2e-3)
        expected = math.exp(-np.concatenate(theirs).mean())
        perplexity = summary["perplexity"]
        found = {
            "intact": perplexity["intact"],
            "network": perplexity["network"],
            "control-00": perplexity["controls"][0],
        }[condition.name]
        assert found == pytest.approx(expected, rel=5e-3)


def test_replacing_by_the_mean_is_replacing_by_the_mean_in_torch(
    model, network, texts, torch_model, figure
):
    task = text_task("text", texts, "six texts")
    done = ablate(model, network, [task], AblateOptions(replacement="mean", controls=0))
    sequences = model.encode_scored(texts)
    batch = Batch.of(sequences, range(len(sequences)), pad=model.pad)
    blocks, _ = forward(torch_model, batch.ids, batch.mask)
    behind = batch.mask.copy()
    behind[:, 0] = False
    means = blocks[:, behind].astype(np.float64).mean(axis=1)
    replaced = {
        block: (units, means[block, units]) for block, (units, _) in in_torch(network).items()
    }
    theirs = [target_logprobs(torch_model, x, replaced).mean() for x in sequences]
    worst = np.abs(done.results[0].scores[1] - theirs).max()
    figure("scores with units at their mean, max abs difference from torch", worst)
    assert worst <= 2e-3


def test_pairs_are_scored_as_torch_scores_them(model, network, torch_model):
    task = load_task("pairs").limited(1)
    done = ablate(model, network, [task], AblateOptions(controls=0))
    zeroed = in_torch(network)
    # A pair whose sums are this near to each other may fall either way.
    margin, decided = 5e-3, 0
    for i, item in enumerate(task.items):
        good, bad = model.encode_scored(list(item.texts))
        for row, change in enumerate((None, zeroed)):
            difference = (
                target_logprobs(torch_model, good, change).sum()
                - target_logprobs(torch_model, bad, change).sum()
            )
            if abs(difference) > margin:
                decided += 1
                assert done.results[0].scores[row, i] == float(difference > 0), item
    assert decided >= 0.9 * 2 * len(task.items)


def test_the_study_is_recorded_whole(model, localization, network, tmp_path, figure):
    """What comes out is not laid down here; that it is sane, complete and on record is."""
    localization.save(tmp_path / "localized")
    run = Run.open(tmp_path / "localized")
    sentences = load_stimuli("language").positive[:20]
    tasks = [load_task("pairs").limited(4), text_task("text", sentences, "20 sentences")]
    t = rank_of_run(run, network)
    options = AblateOptions(controls=2, percents=(0.25, 1.0))
    done = ablate(model, network, tasks, options, t=t)
    done.save(tmp_path / "ablated", localized=run)

    folder = tmp_path / "ablated"
    assert {file.name for file in folder.iterdir()} == {
        "manifest.json", "summary.json", "units.parquet", "network.parquet", "effects.parquet",
    }  # fmt: skip
    ablated = Run.open(folder)
    assert [step.step for step in ablated.manifest.steps] == ["localize", "ablate"]
    assert Network.load(folder) == network
    assert {"localize", "ablate", "model"} <= set(ablated.summary)

    effects = ablated.table("effects.parquet")
    assert list(effects.columns) == ["task", "group", "item", "condition", "kind", "size", "score"]
    assert np.isfinite(effects["score"]).all()
    for task in tasks:
        rows = effects[effects["task"] == task.name]
        assert set(rows["condition"]) == {"intact", "network", "control-00", "control-01"}
        wanted = {("intact", 0.0)} | {
            (name, size) for name in ("network", "control-00", "control-01") for size in (0.25, 1.0)
        }
        by_condition = rows.groupby(["condition", "size"], observed=True)["item"]
        assert set(by_condition.groups) == wanted
        for _, items in by_condition:
            assert items.tolist() == [item.id for item in task.items]
    assert set(effects["score"][effects["task"] == "pairs"]) <= {0.0, 1.0}
    assert (effects["score"][effects["task"] == "text"] < 0).all()

    # A model of this size tells grammatical from ungrammatical far better than by chance.
    pairs = effects[(effects["task"] == "pairs") & (effects["condition"] == "intact")]["score"]
    figure("pairs: accuracy of the intact model", pairs.mean())
    assert pairs.mean() > 0.5 + 3 * math.sqrt(0.25 / len(pairs))

    assert len(ablated.summary["ablate"]["effects"]) == 4
    for entry in ablated.summary["ablate"]["effects"]:
        rows = effects[effects["task"] == entry["task"]]
        sized = rows[rows["size"] == entry["size"]]
        network_mean = sized["score"][sized["condition"] == "network"].mean()
        intact_mean = rows["score"][rows["condition"] == "intact"].mean()
        assert entry["network"] == pytest.approx(network_mean)
        assert entry["intact"] == pytest.approx(intact_mean)
        assert len(entry["controls"]) == 2
        assert 0 < entry["p_empirical"] <= 1
        assert entry["rank"] in (0, 1, 2)
        assert entry["vs_intact"]["difference"] == pytest.approx(network_mean - intact_mean)
        low, high = entry["vs_intact"]["low"], entry["vs_intact"]["high"]
        assert low <= entry["vs_intact"]["difference"] <= high
        assert math.isfinite(entry["vs_intact"]["d"])
        assert entry["n_network_units"] == {0.25: 43, 1.0: 172}[entry["size"]]
    for condition, one in done.networks.items():
        if condition.name.startswith("control"):
            whole = next(
                n
                for c, n in done.networks.items()
                if (c.name, c.size) == ("network", condition.size)
            )
            assert one.dice(whole) == 0
            assert {s: len(u) for s, u in one.units.items()} == {
                s: len(u) for s, u in whole.units.items()
            }
