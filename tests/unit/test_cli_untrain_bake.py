import re

import numpy as np
import onnxruntime as ort
import pytest
from helpers import weight_graphs as graphs

from onnxloc.cli import main
from onnxloc.network import Network
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a model and a network of it, where the commands are called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    graphs.save_decoder(tmp_path / "model")
    model = Model.open(tmp_path / "model")
    sites = {"op:hidden": model.sites.find("hidden").units}
    Network({"op:hidden": [0, 7]}, sites, model.graph.hash, {"how": "top"}).save(
        tmp_path / "network.parquet"
    )
    Network({"op:hidden": [0, 7]}, sites, "e" * 64, {"how": "top"}).save(tmp_path / "other.parquet")
    (tmp_path / "lines.txt").write_text("the dog sees a cat\na cat sleeps\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    return tmp_path


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def logits(folder):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": np.arange(10).reshape(2, 5)})[0]


def test_untrain(work, capsys):
    before = snapshot(work / "model")
    assert main(["untrain", "model", "--how", "gaussian", "--seed", "4", "-o", "new"]) == 0
    said = capsys.readouterr().out
    count = sum(
        graphs.constants(work / "model")[n].size for n in ("embed", "positions", "up", "down")
    )
    assert f"re-initialised 4 tensors ({count:,} values)" in said
    assert "kept 5 other tensors of two or more axes: cos, sinusoids, " in said
    assert said.endswith("wrote new\n")
    assert np.abs(logits(work / "new") - logits(work / "model")).max() > 0.1
    assert snapshot(work / "model") == before


def test_untrain_names_its_output_after_the_model(work, capsys):
    assert main(["untrain", "model", "--seed", "2"]) == 0
    assert (work / "tiny-shuffle-2" / "bundle.json").is_file()
    text = (work / "model" / "bundle.json").read_text()
    (work / "model" / "bundle.json").write_text(text.replace('"tiny"', '"../../evil/.. \\n"'))
    assert main(["untrain", "model", "--seed", "2"]) == 0
    written = re.search(r"wrote (\S+)\n", capsys.readouterr().out.split("wrote tiny")[1])
    assert written is not None
    assert (work / written[1] / "bundle.json").is_file()
    assert "/" not in written[1]


def test_an_untrained_model_can_be_inspected_and_untrained_again(work, capsys):
    assert main(["untrain", "model", "-o", "one"]) == 0
    assert main(["inspect", "one", "--sites", "op:hidden"]) == 0
    assert f"feature {2 * graphs.WIDTH}" in capsys.readouterr().out
    assert main(["untrain", "one", "-o", "one"]) == 2
    assert "one exists" in capsys.readouterr().err
    assert main(["untrain", "one", "-o", "two"]) == 0
    assert main(["untrain", "model", "-o", "two", "--force"]) == 0
    assert np.array_equal(logits(work / "one"), logits(work / "two"))


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_bake(work, capsys, how):
    before = snapshot(work / "model")
    words = ["bake", "model", "--network", "network.parquet", "--with", how, "-o", "baked"]
    assert main([*words, "--task", "text:lines.txt"]) == 0
    assert capsys.readouterr().out == f"2 units in 1 sites set to {how}\nwrote baked\n"
    assert np.abs(logits(work / "baked") - logits(work / "model")).max() > 1e-3
    assert snapshot(work / "model") == before


NETWORK = ["--network", "network.parquet"]
BAD = [
    (["untrain", "missing", "-o", "out"], "there is no model at missing"),
    (["untrain", "model", "--how", "zeros", "-o", "out"], "'zeros' is not one of"),
    (["untrain", "model", "--seed", "-1", "-o", "out"], "-1"),
    (["untrain", "model", "-o", "taken"], "taken exists"),
    (["untrain", "model", "-o", "taken", "--force"], "was not written by onnxloc"),
    (["untrain", "model", "-o", "model", "--force"], "holds the model itself"),
    (["untrain", "model", "-o", "lines.txt/out"], "lines.txt"),
    (["untrain", "lines.txt", "-o", "out"], "not an ONNX model"),
    (["bake", "model", "-o", "out"], "--network"),
    (["bake", "model", "--network", "nothing", "-o", "out"], "there is no network at nothing"),
    (["bake", "model", "--network", "lines.txt", "-o", "out"], "is not a network file"),
    (["bake", "model", "--network", "other.parquet", "-o", "out"], "is of model eeeeeeeeeeee"),
    (["bake", "model", *NETWORK, "--with", "one", "-o", "out"], "there is no edit 'one'"),
    (["bake", "model", *NETWORK, "-o", "taken"], "taken exists"),
    (["bake", "model", *NETWORK, "-o", "model", "--force"], "holds the model itself"),
    (["bake", "missing", *NETWORK, "-o", "out"], "there is no model at missing"),
    (["bake", "model", *NETWORK, "--with", "mean", "--task", "text:no.txt", "-o", "out"], "no.txt"),
    (["bake", "model", *NETWORK, "--provider", "tpu", "-o", "out"], "there is no provider 'tpu'"),
    (["bake", "model", *NETWORK], "--output"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda x: " ".join(x) if x else "")
def test_bad_input_is_one_line_and_leaves_nothing(work, capsys, words, message):
    before = snapshot(work)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("onnxloc: error: ")
    assert said.err.count("\n") == 1
    assert snapshot(work) == before


def test_a_network_without_its_model_can_be_forced(work):
    words = ["bake", "model", "--network", "other.parquet", "--force-model", "-o", "out"]
    assert main(words) == 0
    assert main(["bake", "model", *NETWORK, "-o", "out", "--force"]) == 0


def test_an_interrupted_write_leaves_nothing(work, capsys, monkeypatch):
    from onnxloc.graph import weights

    def stop(*_):
        raise KeyboardInterrupt

    before = snapshot(work)
    monkeypatch.setattr(weights, "looks_fixed", stop)
    assert main(["untrain", "model", "-o", "out"]) == 130
    assert snapshot(work) == before


@pytest.mark.parametrize("name", ["untrain", "bake"])
def test_help_has_examples(work, capsys, name):
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"onnxloc {name} smollm2-135m" in said
    assert main(["--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out
