"""An exporter of another package, installed by pip as its users would."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxloc.bundle import Bundle

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "onnxloc-exporter-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip installed the example into, without a network."""
    folder = tmp_path_factory.mktemp("third_party")
    # A build leaves files beside the source.
    source = shutil.copytree(EXAMPLE, folder / "source")
    words = ["--no-build-isolation", "--no-deps", "--no-index", "--target", folder / "site"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *words, source],
        check=True,
        capture_output=True,
    )
    return folder / "site"


@pytest.fixture
def call(installed, tmp_path):
    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "onnxloc", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def weights():
    draw = np.random.default_rng(0)
    shapes = {"w0": (6, 8), "b0": (8,), "w1": (8, 3), "b1": (3,)}
    return {key: draw.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def test_the_command_is_found_and_writes_a_bundle(call, tmp_path):
    arrays = weights()
    np.savez(tmp_path / "mlp.npz", **arrays)
    status, said, _ = call("export", "--help")
    assert status == 0
    assert re.search(r"^ +npz +\S", said, re.MULTILINE)
    status, said, _ = call("export", "npz", "--help")
    assert status == 0
    assert "--activation [Relu|Tanh|Sigmoid]" in said
    status, said, wrong = call("export", "npz", "mlp.npz", "--activation", "Tanh", "-o", "mlp")
    assert (status, wrong) == (0, "")
    assert said == "wrote mlp\n"

    info = Bundle.open(tmp_path / "mlp").info
    assert (info.name, info.framework, info.exporter) == ("mlp", "numpy", "npz")
    model = onnxruntime.InferenceSession(
        tmp_path / "mlp" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    hidden = np.tanh(x @ arrays["w0"] + arrays["b0"])
    expected = hidden @ arrays["w1"] + arrays["b1"]
    np.testing.assert_allclose(model.run(None, {"features": x})[0], expected, rtol=1e-4, atol=1e-5)
    status, said, _ = call("inspect", "mlp")
    assert status == 0
    assert "hidden0" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["npz", "wrong.npz", "-o", "out"], "do not fit"),
        (["npz", "nowhere.npz", "-o", "out"], "does not hold arrays"),
        (["npz", "wrong.npz", "--activation", "Sin", "-o", "out"], "Sin"),
        (["nzp", "wrong.npz", "-o", "out"], "did you mean 'npz'?"),
    ],
)
def test_wrong_input_gives_one_line(words, message, call, tmp_path):
    arrays = weights()
    np.savez(tmp_path / "wrong.npz", **{**arrays, "w1": arrays["w1"][:-1]})
    status, _, said = call("export", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_may_name_it(call, tmp_path):
    np.savez(tmp_path / "mlp.npz", **weights())
    content = (tmp_path / "mlp.npz").read_bytes()
    (tmp_path / "mine.toml").write_text(
        f'source = "file:mlp.npz"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        f'size = {len(content)}\nexporter = "npz"\n[options]\nactivation = "Sigmoid"\n'
    )
    status, _, said = call("fetch", "mine.toml", "-o", "mine")
    assert (status, said) == (0, "")
    info = Bundle.open(tmp_path / "mine").info
    assert (info.name, info.exporter) == ("mine", "npz")
    assert info.source_sha256 == hashlib.sha256(content).hexdigest()
