"""Edits of every kind in `ablate` and `bake`, in two precisions, and their commands."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.gguf_files import TinyModel
from helpers.tiny_bundle import CONTROL, POSITIVE
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import (
    AblateOptions,
    Intervention,
    LocalizeOptions,
    Mean,
    Model,
    Network,
    Noise,
    Patch,
    Run,
    Selection,
    Steer,
    StimulusSet,
    Vector,
    ablate,
    localize,
    run_with_edits,
    write_report,
)
from onnxloc.cli import main
from onnxloc.errors import OptionError, RunError
from onnxloc.report.finding import findings
from onnxloc.report.folder import read_run
from onnxloc.studies.bake import BakeOptions, bake_network
from onnxloc.studies.edits import EditInputs, as_edit
from onnxloc.tasks import text_task

pytestmark = pytest.mark.unit

TINY = TinyModel(blocks=3, seed=7, metadata={"llama.context_length": 256})
TASK = text_task("text", POSITIVE, "here")
SITES = ("block.0.out", "block.1.mlp.hidden")
TOLERANCE = {"float32": 1e-5, "float16": 2e-2}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    source = TINY.write(folder / "tiny.gguf")
    return {
        dtype: Model.open(GGUFExporter(dtype=dtype).export(source, folder / dtype))
        for dtype in TOLERANCE
    }


def network(model):
    sites = {name: model.sites.find(name).units for name in SITES}
    units = {name: np.arange(1, width, 5) for name, width in sites.items()}
    return Network(units, sites, model.graph.hash, {"how": "here"})


WIDTH = TINY.width + TINY.hidden
STEER = Steer(np.linspace(-1, 1, WIDTH), 2)
SOURCE = "a red hen"
# What is done in the study; and to token ids, in which positions count the prefix token.
EDITS = {
    "mean": ("mean", "all", lambda model: Mean(texts=POSITIVE), "all"),
    "force": ("force=0.5", "0,-2", lambda model: "force=0.5", "1,-2"),
    "scale": ("scale=3", "all", lambda model: "scale=3", "all"),
    "steer": (STEER, "1", lambda model: STEER, "2"),
    "noise": ("noise=absolute:0.5", "all", lambda m: Noise(0.5, relative=False, seed=4), "all"),
    "relative": ("noise=1", "1,2", lambda m: Noise(1, seed=4, texts=POSITIVE), "2,3"),
    "patch": (Patch(SOURCE, tokens="-1"), "all", lambda m: Patch(prefixed(m), "-1"), "all"),
    "positions": (Patch(SOURCE), "0,-2", lambda m: Patch(prefixed(m)), "1,-2"),
}


def prefixed(model):
    return model.encode_scored([SOURCE])[0]


@pytest.mark.parametrize("kind", EDITS)
def test_an_ablation_is_the_same_edit_of_each_text_alone(models, kind):
    edit, tokens, made, places = EDITS[kind]
    model = models["float32"]
    options = AblateOptions(replacement=edit, tokens=tokens, controls=2, batch_size=7, seed=4)
    done = ablate(model, network(model), [TASK], options)
    scores = done.results[0]
    sequences = model.encode_scored(list(POSITIVE))
    for condition, one in done.networks.items():
        logits = run_with_edits(
            model,
            sequences,
            [Intervention(one, made(model), places)],
            taps=["logits"],
            pool="none",
        ).taps["logits"]
        for item, ids in enumerate(sequences):
            x = logits[item, : len(ids) - 1].astype(np.float64)
            logprobs = x - np.logaddexp.reduce(x, -1, keepdims=True)
            want = logprobs[np.arange(len(ids) - 1), ids[1:]].mean()
            found = scores.scores[scores.conditions.index(condition), item]
            assert found == pytest.approx(want, abs=1e-4)
    # The control of this test: the edit does something.
    assert np.abs(scores.scores[1] - scores.scores[0]).max() > 1e-3


@pytest.mark.parametrize("kind", ["force", "scale", "steer", "noise", "positions"])
def test_half_precision_gives_nearly_the_same(models, kind):
    edit, tokens, *_ = EDITS[kind]
    found = []
    for model in models.values():
        options = AblateOptions(replacement=edit, tokens=tokens, controls=0, seed=4)
        done = ablate(model, network(model), [TASK], options)
        found.append(done.results[0].scores)
    np.testing.assert_allclose(found[0], found[1], atol=2e-2)


def test_the_batch_changes_nothing(models):
    model = models["float32"]
    one, other = (
        ablate(
            model,
            network(model),
            [TASK],
            AblateOptions(replacement="noise=1", controls=3, batch_size=size, seed=2),
        )
        for size in (1, 32)
    )
    np.testing.assert_allclose(one.results[0].scores, other.results[0].scores, atol=1e-5)


def test_what_is_recorded(models, tmp_path):
    model = models["float32"]
    options = AblateOptions(replacement=Patch(SOURCE), tokens="0,-2", controls=1)
    done = ablate(model, network(model), [TASK], options)
    assert (done.summary["ablate"]["with"], done.summary["ablate"]["tokens"]) == ("patch", "0,-2")
    done.save(tmp_path / "run")
    said = json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"][0]["parameters"]
    assert (said["with"], said["tokens"]) == ("patch", "0,-2")
    assert (said["patch_from"], said["patch_tokens"]) == (SOURCE, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "prompt"}, "have no prompt tokens"),
        ({"tokens": "generated"}, "have no generated tokens"),
        ({"tokens": "last"}, "no score depends on what is done at the last token"),
        ({"tokens": "-1"}, "no score depends on what is done at the last token"),
        ({"tokens": "first"}, "no choice of tokens"),
        ({"replacement": "zeros"}, "did you mean 'zero'"),
        ({"replacement": "patch"}, "--patch-from"),
        ({"replacement": "steer=contrast"}, "give --network the folder"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        AblateOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "40"}, "none at position 40"),
        ({"replacement": Patch("the")}, "would be patched from"),
        ({"replacement": Steer([1.0, 2.0])}, "has 2 numbers"),
    ],
)
def test_edits_that_do_not_fit_the_texts(models, options, message):
    model = models["float32"]
    with pytest.raises(OptionError, match=message):
        ablate(model, network(model), [TASK], AblateOptions(controls=0, **options))


def test_a_target_must_fit_the_model(models):
    with pytest.raises(OptionError, match="have 301 tokens, the model takes 256"):
        run_with_edits(models["float32"], [[5]], targets=[[5] * 300])


# --- baking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["zero", "mean", "force=0.5", "scale=-2", "steer"])
def test_a_baked_edit_is_the_edit_fed(models, tmp_path, dtype, kind):
    model = models[dtype]
    edit = STEER if kind == "steer" else kind
    options = BakeOptions(replacement=edit)
    baked = bake_network(model, network(model), tmp_path / "baked", options, texts=POSITIVE)
    assert baked.sites == 2
    onnx.checker.check_model(tmp_path / "baked" / "model.onnx", full_check=True)
    ids = model.encode(["the dog sleeps in the sun"], bos=False)
    fed = run_with_edits(
        model,
        ids,
        [Intervention(network(model), Mean(texts=POSITIVE) if kind == "mean" else edit)],
        logits=True,
    )
    session = ort.InferenceSession(tmp_path / "baked" / "model.onnx")
    now = np.array(ids)
    feeds = {"input_ids": now, "attention_mask": np.ones_like(now)}
    feeds["position_ids"] = np.arange(now.shape[1])[None]
    (got, *_) = session.run(["logits"], feeds)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(got[0, -1].astype(np.float32), fed.logits[0], atol=tolerance)
    intact = run_with_edits(model, ids, logits=True)
    assert np.abs(intact.logits - fed.logits).max() > 2 * tolerance
    assert Model.open(tmp_path / "baked").bundle.info.name.endswith(f"-{options.edit.name}")


@pytest.mark.parametrize("edit", ["noise=1", Patch(SOURCE)])
def test_what_differs_from_token_to_token_is_not_baked(edit):
    with pytest.raises(OptionError, match="cannot be built in; zero, mean"):
        BakeOptions(replacement=edit)


# --- the contrast of a run, and the commands ----------------------------------------------------


@pytest.fixture
def work(models, tmp_path, monkeypatch):
    """A folder with two runs, of signed and of absolute activations."""
    monkeypatch.chdir(tmp_path)
    stimuli = StimulusSet(name="tiny", positive=POSITIVE, control=CONTROL)
    for name, magnitude in (("signed", False), ("absolute", True)):
        options = LocalizeOptions(
            magnitude=magnitude, selection=Selection(how="units", value=9), max_tokens=0
        )
        localize(models["float32"], stimuli, options).save(tmp_path / name)
    (tmp_path / "lines.txt").write_text("the dog sleeps\nthe fox sleeps\n")
    return tmp_path


def test_steering_along_the_contrast_moves_units_by_the_difference_of_means(models, work):
    run = Run.open(work / "signed")
    chosen = Network.load(work / "signed")
    model = models["float32"]
    edit = as_edit("steer=contrast*2", EditInputs(run=run))
    texts = ["the dog sleeps", "a hen"]
    moved, intact = (
        run_with_edits(model, texts, edits, taps=["block.0.out"], pool="none").taps["block.0.out"]
        for edits in ([Intervention(chosen, edit)], [])
    )
    units = run.table("units.parquet")
    rows = units[(units["site"] == "block.0.out") & units["selected"]]
    want = np.zeros(TINY.width)
    want[rows["unit"]] = 2 * (rows["mean_positive"] - rows["mean_control"])
    assert np.abs(want).max() > 1e-3
    real = ~np.isnan(intact)
    gap = np.broadcast_to(want, intact.shape)[real]
    np.testing.assert_allclose((moved - intact)[real], gap, atol=1e-5)


def ablate_command(models, *more):
    model = str(models["float32"].bundle.folder)
    return main(["ablate", model, "--task", "text:lines.txt", "--controls", "1", *more])


@pytest.mark.parametrize(
    ("more", "words", "method"),
    [
        (["--with", "steer=contrast*2"], "Steering", "contrast*2 is added at every token."),
        (["--with", "scale=0.5", "--tokens", "0,-2"], "Scaling", "multiplied by 0.5 at these"),
        (["--with", "force=2"], "Setting", "set to 2 at every token"),
        (["--with", "noise=1"], "Adding noise to", "of 1 times the unit's own over"),
        (["--with", "noise=absolute:2"], "Adding noise to", "deviation of 2, at every"),
        (
            ["--with", "patch", "--patch-from", "a hen", "--patch-tokens", "last"],
            "Patching",
            "by those in another text at every token.",
        ),
    ],
)
def test_ablate_command_and_its_report(models, work, capsys, more, words, method):
    assert ablate_command(models, "--network", "signed", "-o", "run", *more) == 0
    run = read_run(work / "run")
    assert findings(run)[-1].text.startswith(words)
    page = write_report(work / "run").read_text(encoding="utf-8").replace("&#39;", "'")
    assert method in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--network", "absolute", "--with", "steer=contrast"], "localize --signed"),
        (["--network", "signed/network.parquet", "--with", "steer=contrast"], "the folder"),
        (["--network", "signed", "--with", "zer"], "did you mean 'zero'"),
        (["--network", "signed", "--with", "patch"], "--patch-from"),
        (["--network", "signed", "--patch-tokens", "last"], "goes with --with patch"),
        (["--network", "signed", "--tokens", "generated"], "have no generated tokens"),
        (["--network", "signed", "--tokens", "50"], "none at position 50"),
        (["--network", "signed", "--with", "force=nothing.npy"], "cannot read nothing.npy"),
    ],
)
def test_ablate_command_with_bad_input(models, work, capsys, more, message):
    before = sorted(work.rglob("*"))
    assert ablate_command(models, *more, "-o", "run") == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().split("\n")) == 1
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("damage", ["words", "nothing"])
def test_a_damaged_run_gives_no_contrast(work, damage):
    table = Run.open(work / "signed").table("units.parquet")
    table = (
        table.assign(mean_control="a") if damage == "words" else table.drop(columns="mean_control")
    )
    table.to_parquet(work / "signed" / "units.parquet")
    with pytest.raises(RunError, match=r"units\.parquet"):
        Vector.contrast(Run.open(work / "signed"))


def test_bake_command(models, work, capsys):
    model = str(models["float32"].bundle.folder)
    words = ["bake", model, "--network", "signed", "-o", "baked"]
    assert main([*words, "--with", "steer=contrast*3"]) == 0
    assert "9 units in " in (said := capsys.readouterr().out)
    assert "moved by 3 times contrast" in said
    assert main([*words, "--force", "--with", "noise=1"]) == 2
    assert "cannot be built in" in capsys.readouterr().err


def test_a_file_name_is_no_markup(models, work):
    np.save(work / "<b>x.npy", np.full(TINY.width, 0.5))
    assert (
        ablate_command(models, "--network", "signed", "--with", "force=<b>x.npy", "-o", "run") == 0
    )
    page = write_report(work / "run").read_text(encoding="utf-8")
    assert "<b>x.npy" not in page
    assert "&lt;b&gt;x.npy" in page
