"""The battery of controls on a tiny model, and what is said of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.gguf_files import TinyModel
from helpers.tiny_bundle import CONTROL, POSITIVE, write_stimuli
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import AblateOptions, Model, RuntimeOptions, ablate, load_stimuli
from onnxloc.choose import Selection, generator, top_units
from onnxloc.cli import main
from onnxloc.errors import OptionError
from onnxloc.graph.weights import UntrainOptions, untrain
from onnxloc.network import network_from_flat
from onnxloc.report import render
from onnxloc.report.folder import Ablated
from onnxloc.report.kinds import kind_chart, kind_finding, kind_rows
from onnxloc.report.schema import build
from onnxloc.store import Run
from onnxloc.studies.battery import _order, gather_battery
from onnxloc.studies.conditions import WITHOUT_MASSIVE, Battery, Drawn, conditions, described
from onnxloc.studies.localize import LocalizeOptions, localize, localize_into
from onnxloc.studies.magnitudes import mean_magnitudes, spread_sample
from onnxloc.studies.means import recorded
from onnxloc.studies.stored import Rows
from onnxloc.tasks import text_task

pytestmark = pytest.mark.unit

OPTIONS = LocalizeOptions(selection=Selection(how="units", value=5))
KINDS = {"count": 3, "site": 3, "norm": 3, "least": 1, "shuffled": 3, "untrained": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model, a run that kept its activations, and one that did not."""
    folder = tmp_path_factory.mktemp("battery")
    tiny = TinyModel(blocks=3, seed=7, metadata={"llama.context_length": 256})
    model = Model.open(GGUFExporter().export(tiny.write(folder / "t.gguf"), folder / "bundle"))
    stimuli = load_stimuli(str(write_stimuli(folder / "stimuli.csv")))
    localize_into(folder / "kept", model, stimuli, OPTIONS)
    localize(model, stimuli, OPTIONS).save(folder / "plain")
    return model, stimuli, Run.open(folder / "kept"), Run.open(folder / "plain")


def network_of(run):
    from onnxloc.network import Network

    return Network.load(run.folder)


@pytest.fixture(scope="module")
def battery(work):
    model, stimuli, kept, _ = work
    return gather_battery(model, kept, network_of(kept), stimuli, shuffles=3, seed=4)


@pytest.fixture(scope="module")
def tasks():
    return [text_task("text", POSITIVE, "here"), text_task("more", CONTROL, "there")]


@pytest.fixture(scope="module")
def done(work, battery, tasks):
    model, _, kept, _ = work
    return ablate(
        model, network_of(kept), tasks, AblateOptions(controls=3, seed=4), battery=battery
    )


def test_kept_activations_and_a_new_pass_give_the_same_battery(work, battery):
    model, stimuli, _, plain = work
    again = gather_battery(model, plain, network_of(plain), stimuli, shuffles=2, seed=4)
    assert (battery.about["activations"], again.about["activations"]) == (
        "kept by the run",
        "a forward pass",
    )
    np.testing.assert_allclose(again.shuffled, battery.shuffled[:2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.untrained, battery.untrained, rtol=1e-4, atol=1e-4)
    assert not np.allclose(battery.shuffled[0], battery.t)
    assert not np.allclose(battery.shuffled[0], battery.shuffled[1])
    assert not np.allclose(battery.untrained, battery.t)


def test_a_run_on_an_untrained_copy_stands_in_for_a_new_one(work, battery, tmp_path):
    model, stimuli, kept, _ = work
    untrain(model.bundle, model.graph, tmp_path / "copy", UntrainOptions(seed=4))
    localize(Model.open(tmp_path / "copy"), stimuli, OPTIONS).save(tmp_path / "run")
    given = Run.open(tmp_path / "run")
    found = gather_battery(model, kept, network_of(kept), stimuli, shuffles=1, untrained=given)
    np.testing.assert_allclose(found.untrained, battery.untrained, rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="of the trained model itself"):
        gather_battery(model, kept, network_of(kept), stimuli, shuffles=1, untrained=kept)


def test_a_battery_refuses_what_it_cannot_show_again(work):
    model, stimuli, kept, _ = work
    with pytest.raises(OptionError, match="raise --controls"):
        gather_battery(model, kept, network_of(kept), stimuli, shuffles=0)
    steps = (*kept.manifest.steps, replace(kept.manifest.steps[0], step="contrast"))
    other = replace(kept, manifest=replace(kept.manifest, steps=steps))
    with pytest.raises(OptionError, match="no run of onnxloc localize"):
        gather_battery(model, other, network_of(kept), stimuli, shuffles=1)
    with pytest.raises(OptionError, match="same units"):
        Battery(t=np.ones(3), shuffled=np.ones((2, 4)), untrained=np.ones(3))


def test_a_paired_shuffle_exchanges_within_pairs_and_another_permutes():
    rows = Rows(np.arange(9), np.arange(9, 18), paired=True)
    orders = [_order(generator(0, 1, i), rows, "paired") for i in range(30)]
    for order in orders:
        assert (np.sort([order[:9], order[9:]], axis=0) == [np.arange(9), np.arange(9, 18)]).all()
    assert 0.3 < np.mean([order[:9] >= 9 for order in orders]) < 0.7
    free = _order(generator(0, 1, 0), rows, "welch")
    assert sorted(free) == list(range(18))
    assert (free[:9] % 9 != free[9:] % 9).any()


def test_every_kind_is_run_and_recorded(done, battery, tasks):
    table = done.effects()
    assert list(table.columns) == [
        "task", "group", "item", "condition", "kind", "size", "score",
    ]  # fmt: skip
    one = table[table["task"] == "text"].groupby("condition", observed=True)["kind"].first()
    expected = KINDS | {"intact": 1, "network": 1}
    assert one.value_counts().to_dict() == expected
    for condition, network in done.networks.items():
        whole = done.networks[next(c for c in done.networks if c.kind == "network")]
        assert network.size == whole.size
        if condition.kind == "shuffled":
            t = battery.shuffled[int(condition.name[-2:])]
            assert network.flat.tolist() == top_units(t, whole.size).tolist()
        if condition.kind == "untrained":
            expected_units = top_units(battery.untrained, whole.size).tolist()
            assert network.flat.tolist() == expected_units
    json.dumps(done.summary["ablate"]["networks"])


def test_each_kind_has_its_own_p(done):
    means = done.effects().groupby(["task", "condition"], observed=True)["score"].mean()
    for entry in done.summary["ablate"]["effects"]:
        network = means[entry["task"], "network"]
        assert [kind["kind"] for kind in entry["kinds"]] == list(KINDS)
        for kind in entry["kinds"]:
            scores = np.array([means[entry["task"], name] for name in kind["names"]])
            assert len(scores) == KINDS[kind["kind"]]
            np.testing.assert_allclose(kind["scores"], scores)
            harmful = [n for n, s in zip(kind["names"], scores, strict=True) if s <= network]
            assert kind["as_harmful"] == harmful
            assert kind["p_empirical"] == pytest.approx((1 + len(harmful)) / (1 + len(scores)))
        main = next(kind for kind in entry["kinds"] if kind["kind"] == "site")
        assert (main["scores"], main["p_empirical"]) == (entry["controls"], entry["p_empirical"])


def test_the_main_controls_are_those_of_a_run_without_a_battery(work, done, tasks):
    model, _, kept, _ = work
    alone = ablate(model, network_of(kept), tasks, AblateOptions(controls=3, seed=4))
    for condition, network in alone.networks.items():
        assert done.networks[condition] == network
    assert "networks" not in alone.summary["ablate"]
    norm = ablate(model, network_of(kept), tasks, AblateOptions(controls=3, seed=4, match="norm"))
    for i in range(3):
        by_name = [
            next(n for c, n in run.networks.items() if c.name == name)
            for run, name in ((norm, f"control-{i:02d}"), (done, f"norm-{i:02d}"))
        ]
        assert by_name[0] == by_name[1]
    assert len(norm.summary["ablate"]["networks"]) == 4


def test_magnitudes_are_over_all_tokens_the_prefix_among_them(work):
    model = work[0]
    sites = [model.sites.find(f"block.{i}.out") for i in (0, 2)]
    texts = model.encode_scored(["a", "ab cd", "the dog sleeps in the sun"])
    found = mean_magnitudes(model, sites, texts, RuntimeOptions(), batch_size=2)
    rows = recorded(model, sites, texts, RuntimeOptions(), batch_size=3)
    expected = [
        np.abs(np.concatenate([row[site.tensor] for row in rows])).mean(axis=0) for site in sites
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4)


def test_a_sample_of_texts_is_spread_over_all():
    texts = [[i] for i in range(1000)]
    some = spread_sample(texts, 5)
    assert [text[0] for text in some] == [0, 250, 500, 749, 999]
    assert spread_sample(texts[:4], 5) == texts[:4]


# A network with two massive units, and one control that holds another


@pytest.fixture
def massive():
    sites = {"a": 50, "b": 50}
    size = np.ones(100)
    size[[3, 60]] = 500.0
    size[7] = 300.0
    whole = network_from_flat([3, 4, 60], sites, "ab" * 32, {"how": "top", "value": 3.0})
    t = np.linspace(-1, 1, 100)
    shuffled = np.zeros((2, 100))
    shuffled[0, [7, 8, 9]] = 5.0
    battery = Battery(t=t, shuffled=shuffled, untrained=t)
    networks = conditions({3.0: whole}, Drawn(2, "site", 0), battery=battery, magnitudes=size)
    return networks, size


def test_massive_units_are_named_and_the_network_runs_without_them(massive):
    networks, size = massive
    rest = {c.name: network for c, network in networks.items()}[WITHOUT_MASSIVE]
    assert rest.flat.tolist() == [4]
    facts = {one["condition"]: one for one in described(networks, size)}
    assert facts["network"]["n_massive"] == 2
    assert facts["network"]["massive"] == [
        {"site": "a", "unit": 3, "multiple": 500.0},
        {"site": "b", "unit": 10, "multiple": 500.0},
    ]
    assert facts["shuffled-00"]["massive"] == [{"site": "a", "unit": 7, "multiple": 300.0}]
    assert facts["shuffled-00"]["n_shared"] == 0
    assert facts["shuffled-01"]["n_shared"] == 0 + len({0, 1, 2} & {3, 4, 60})
    assert facts[WITHOUT_MASSIVE]["n_shared"] == 1
    assert facts["norm-00"]["match_largest"] >= 500.0 / 300.0


def test_a_network_of_massive_units_alone_is_not_run_empty():
    size = np.ones(10)
    size[2] = 500.0
    whole = network_from_flat([2], {"a": 10}, "ab" * 32, {"how": "top", "value": 10.0})
    t = np.arange(10.0)
    battery = Battery(t=t, shuffled=t[None], untrained=t)
    found = conditions({10.0: whole}, Drawn(1, "site", 0), battery=battery, magnitudes=size)
    assert WITHOUT_MASSIVE not in {c.name for c in found}


# Words


def study(**scores):
    """A study of one task, with the scores of each kind; the network has 0.5."""
    kinds = [
        {
            "kind": kind,
            "names": [f"{kind}-{i:02d}" for i in range(len(values))],
            "scores": values,
            "as_harmful": [f"{kind}-{i:02d}" for i, v in enumerate(values) if v <= 0.5],
            "p_empirical": (1 + sum(v <= 0.5 for v in values)) / (1 + len(values)),
        }
        for kind, values in scores.items()
    ]
    held = {"site": "block.27.out", "unit": 507, "multiple": 180.0}
    ablated = {
        "battery": True,
        "networks": [
            {"condition": "network", "size": 1.0, "kind": "network", "n_units": 9,
             "n_massive": 1, "massive": [held]},
            {"condition": "norm-00", "size": 1.0, "kind": "norm", "n_units": 9, "n_massive": 1,
             "massive": [held], "match_median": 1.1, "match_largest": 51.0},
        ],
        "effects": [
            {"task": "pairs", "kind": "pairs", "size": 1.0, "n_items": 40, "intact": 0.8,
             "network": 0.5, "chance": 0.5, "kinds": kinds, "without_massive": {"score": 0.6}},
        ],
    }  # fmt: skip
    found = build(Ablated, ablated, "study")
    return found.effects[0], found


def test_harmful_controls_are_named_with_their_kind():
    effect, ablated = study(site=[0.7, 0.75], norm=[0.45, 0.6], least=[0.79])
    found = kind_finding(effect, ablated)
    assert found.verdict == ("1 of 5 controls of all kinds is as harmful as the network or more")
    assert found.tone == "open"
    assert found.text == (
        "As harmful as the network or more: norm-00 (1 of 2 random, matched by site and "
        "activation). Every network of these kinds does less harm: random, matched by site (2, p "
        "= 0.33), least selective units (1, p = 0.50). The smallest p that a kind can have "
        "is 0.50 for 1 network, 0.33 for 2 networks."
    )
    assert "1 of the network's units is massive" in found.warnings[0]
    assert "unit 507 of block.27.out. Without them accuracy is 0.600" in found.warnings[0]
    assert found.warnings[1] == (
        "1 control holds massive units: norm-00. 1 of these is as harmful as the network or more."
    )
    assert "only to 51.0 in the worst" in found.warnings[2]
    rows = {row.name: row for row in kind_rows(effect, ablated)}
    assert rows["random, matched by site and activation"].as_harmful == "1 of 2"
    assert rows["network"].massive == "1"


@pytest.mark.parametrize(("n", "tone"), [(10, "open"), (19, "yes")])
def test_no_harmful_control_is_said_and_sure_only_with_a_small_p(n, tone):
    effect, ablated = study(site=[0.7] * n, least=[0.79])
    found = kind_finding(effect, ablated)
    assert found.verdict == f"None of {n + 1} controls of all kinds is as harmful as the network"
    assert found.tone == tone


def test_a_network_that_does_no_harm_is_not_called_harmful():
    effect, ablated = study(site=[0.45] * 20, least=[0.79])
    found = kind_finding(replace(effect, intact=0.5), ablated)
    assert found.verdict.startswith("Ablating the network does not lower the score; 20 of 21")
    assert found.tone == "open"
    assert "does less harm" not in found.text
    assert kind_finding(replace(effect, network=None), ablated).tone == "open"


def test_every_control_is_drawn_and_massive_ones_are_crossed():
    effect, ablated = study(site=[0.7, 0.75], norm=[0.45, 0.6], least=[0.79])
    data = json.loads(kind_chart(effect, ablated).json)["data"]
    points = {trace["name"]: trace for trace in data if trace.get("mode") == "markers"}
    assert points["random, matched by site and activation"]["marker"]["symbol"] == ["x", "circle"]
    assert points["least selective units"]["marker"]["symbol"] == ["circle"]
    drawn = sum(len(trace["hovertext"]) for trace in points.values())
    assert drawn == 5 + 2


def test_the_page_shows_a_battery(done, work, tmp_path):
    done.save(tmp_path / "run", localized=work[2])
    page = render(tmp_path / "run")
    for words in (
        "By kind of control",
        "localized with shuffled labels",
        "controls of all kinds",
        "the units with the smallest |t|",
    ):
        assert words in page


def test_the_command_runs_a_battery_and_says_what_came_out(work, tmp_path, capsys):
    kept = work[2]
    words = ["ablate", str(kept.folder.parent / "bundle"), "--network", str(kept.folder)]
    words += ["--controls", "2", "--limit", "2", "-o", str(tmp_path / "out")]
    assert main([*words, "--battery"]) == 0
    said = capsys.readouterr().out
    assert "random, matched by site and activation" in said
    assert "controls of all kinds" in said
    assert "\\u202f" not in said
    assert Run.open(tmp_path / "out").summary["ablate"]["battery"] is True


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--untrained", "{run}"], "--untrained is a part of --battery"),
        (["--battery", "--untrained", "{run}"], "of the trained model itself"),
        (["--battery", "--controls", "0"], "raise --controls"),
        (["--battery", "--network", "{run}/network.parquet"], "a run of onnxloc localize"),
        (["--battery", "--untrained", "{run}/none"], "no run folder"),
    ],
)
def test_a_battery_that_cannot_be_is_refused_in_one_line(work, tmp_path, capsys, extra, said):
    kept = work[2]
    words = ["ablate", str(kept.folder.parent / "bundle"), "--network", str(kept.folder)]
    words += ["--limit", "2", "-o", str(tmp_path / "out")]
    assert main([*words, *(word.format(run=kept.folder) for word in extra)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
