"""Text generated with edits of chosen tokens: with a cache as without, and as in a plain run."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.gguf_files import TinyModel
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import Intervention, Model, Noise, Patch, Steer, Tokens, run_with_edits
from onnxloc.cli import main
from onnxloc.errors import OptionError
from onnxloc.network import Network
from onnxloc.runtime.generate import Sampling, generate, generation_plan
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.continuations import ContinueOptions, continue_prompts

pytestmark = pytest.mark.unit

PROMPTS = ("the quick brown fox", "they know it", "it")
SAMPLING = Sampling(max_new_tokens=6, temperature=1.5, seed=3)
SITE = "block.0.out"
TINY = TinyModel(tied=False)
KINDS = {
    "zero": "zero",
    "force=2": "force=2",
    "scale=-3": "scale=-3",
    "steer": Steer(1.5, 2),
    "noise": Noise(2.0, relative=False, seed=5),
    "patch": Patch("a lazy dog", tokens="-1"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edits")
    source = TINY.write(folder / "m.gguf")
    return {
        name: Model.open(GGUFExporter(with_past=past).export(source, folder / name))
        for name, past in (("plain", False), ("past", True))
    }


def network(model):
    units = {SITE: np.arange(0, 64, 2), "block.1.mlp.hidden": np.arange(9)}
    sites = {name: model.sites.find(name).units for name in units}
    return Network(units, sites, model.graph.hash, {"how": "here"})


def continued(model, edit, tokens, **more):
    options = ContinueOptions(sampling=SAMPLING, replacement=edit, tokens=tokens, **more)
    return continue_prompts(model, PROMPTS, options, network=network(model)).items


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated", "last", "0,-1"])
def test_the_cache_changes_nothing_and_the_numbers_are_those_of_a_plain_run(models, kind, tokens):
    edit = KINDS[kind]
    plain, past = (continued(model, edit, tokens) for model in models.values())
    assert [one.ids for one in plain] == [one.ids for one in past]
    for a, b in zip(plain, past, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    edited = [one for one in past if one.condition == "network"]
    model = models["plain"]
    units = network(model).units
    run = run_with_edits(
        model,
        PROMPTS,
        [Intervention(units, edit, tokens)],
        targets=[one.ids for one in edited],
    )
    for one, theirs in zip(edited, run.target_logprobs, strict=True):
        np.testing.assert_allclose(one.logprobs, theirs, atol=1e-4)
    # The control of this test: the edit does something to the numbers.
    intact = run_with_edits(model, PROMPTS, targets=[one.ids for one in edited])
    gaps = [np.abs(a - b) for a, b in zip(run.target_logprobs, intact.target_logprobs, strict=True)]
    assert max(gap.max() for gap in gaps) > 1e-2
    if tokens == "generated":
        assert max(gap[0] for gap in gaps) < 1e-5


@pytest.mark.parametrize("form", ["plain", "past"])
def test_a_batch_is_its_rows_whatever_the_edit(models, form):
    for edit, tokens in ((KINDS["noise"], "generated"), (KINDS["patch"], "-1"), ("mean", "prompt")):
        together = continued(models[form], edit, tokens)
        single = continued(models[form], edit, tokens, batch_size=1)
        assert [one.ids for one in together] == [one.ids for one in single]


def test_rows_that_are_run_apart_keep_their_edits(models):
    """A function is told where each row stands among all."""
    model = models["past"]
    site = model.sites.find(SITE)
    session = model.compile(
        generation_plan(model, Intervention(SITE, "zero").planned(model)[0].plan_edits),
        RuntimeOptions(),
    )
    seen = []

    def edits(window):
        seen.append((window.rows.tolist(), window.first.tolist(), window.width))
        rank = Tokens("prompt").rank(window)
        mask = (rank >= 0) & (window.rows == 1)[:, None]
        units = np.ones((1, 1, site.units), bool)
        return {site.tensor: (mask[:, :, None] & units, np.zeros((1, 1, site.units), np.float32))}

    prompts = [[5, 9, 300], [7, 8], [3, 4, 5, 6]]
    found = generate(session, prompts, Sampling(max_new_tokens=3), edits=edits)
    assert seen == [([0, 1, 2], [0, 0, 0], 4), ([0, 1, 2], [3, 2, 4], 1), ([0, 1, 2], [4, 3, 5], 1)]
    intact = generate(session, prompts, Sampling(max_new_tokens=3))
    changed = [a.logprobs != b.logprobs for a, b in zip(found, intact, strict=True)]
    assert changed == [False, True, False]


def test_what_the_cache_holds_is_not_edited_at_some_tokens(models):
    model = models["past"]
    name = "op:present.0.value"
    planned, _ = Intervention(name, "zero", "prompt").planned(model)
    session = model.compile(generation_plan(model, planned.plan_edits), RuntimeOptions())
    with pytest.raises(OptionError, match="is what the cache holds"):
        generate(session, [[5, 6]], edits=lambda window: {})


def test_positions_behind_a_bos_token(models):
    model = models["plain"]
    with_bos, without = (
        run_with_edits(
            model, ["it"], [Intervention(SITE, "force=9", "0")], taps=[SITE], pool="none", bos=bos
        ).taps[SITE][0]
        for bos in (True, False)
    )
    assert [(row == 9).all() for row in with_bos] == [False, True, *[False] * (len(with_bos) - 2)]
    assert (without[0] == 9).all()
    assert len(with_bos) == len(without) + 1


@pytest.mark.parametrize("tokens", ["all", "generated"])
def test_a_patch_that_would_not_come_to_an_end(tokens):
    with pytest.raises(OptionError, match="none can be patched one for one"):
        ContinueOptions(replacement=Patch("the dog"), tokens=tokens)
    ContinueOptions(replacement=Patch("the dog", tokens="-1"), tokens=tokens)


def test_the_record_says_what_was_done(models):
    options = ContinueOptions(
        sampling=replace(SAMPLING, max_new_tokens=1), replacement="noise=0.5", tokens="0,-1"
    )
    model = models["plain"]
    found = continue_prompts(model, PROMPTS, options, network=network(model))
    assert found.record["with"] == "noise=0.5"
    assert found.record["tokens"] == "0,-1"
    assert found.record["noise_seed"] == SAMPLING.seed


def test_command(models, tmp_path, capsys):
    model = models["past"]
    network(model).save(tmp_path / "network.parquet")
    np.save(
        tmp_path / "v.npy", np.linspace(-3, 3, 64 + model.sites.find("block.1.mlp.hidden").units)
    )
    words = ["generate", str(model.bundle.folder), "--prompt", "the fox", "--max-new-tokens", "4"]
    words += ["--network", str(tmp_path / "network.parquet")]
    said = {}
    for more in (
        ["--with", "zero"],
        ["--with", "scale=-2", "--tokens", "generated"],
        ["--with", f"steer={tmp_path / 'v.npy'}*4", "--tokens", "prompt"],
        ["--with", "patch", "--patch-from", "a lazy dog", "--tokens", "last"],
        ["--with", "patch", "--patch-from", "a dog", "--patch-tokens", "0", "--tokens", "all"],
        ["--with", "noise=2", "--tokens", "0,-1"],
    ):
        assert main([*words, *more]) == 0
        said[tuple(more)] = capsys.readouterr().out
    assert all("  network " in text for text in said.values())
    assert main([*words[:6], "--with", "mean"]) == 2
    assert "give --network" in capsys.readouterr().err
    for more, message in (
        (["--with", "zeros"], "did you mean 'zero'"),
        (["--tokens", "first"], "there is no choice of tokens"),
        (["--with", "patch"], "give --patch-from TEXT"),
        (["--patch-from", "a dog"], "--patch-from goes with --with patch"),
        (["--with", "steer=contrast"], "the folder of a run"),
        (["--tokens", "99"], "none at position 99"),
        (["--with", "patch", "--patch-from", "a dog"], "one for one"),
        (["--with", "force=1e99"], "larger numbers than float32"),
    ):
        assert main([*words, *more]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert len(shown.err.strip().split("\n")) == 1
        assert not shown.out
