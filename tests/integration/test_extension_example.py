"""A localizer, a task and an edit of another package, installed by pip as its users would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_bundle import write_tiny_bundle

from onnxloc.store import Run

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnxloc-extension-example"


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run onnxloc in a folder with a tiny model, the example being installed."""
    folder = tmp_path_factory.mktemp("extension")
    # A build leaves files beside the source.
    source = shutil.copytree(EXAMPLE, folder / "source")
    words = ["--no-build-isolation", "--no-deps", "--no-index", "--target", folder / "site"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *words, source],
        check=True,
        capture_output=True,
    )
    write_tiny_bundle(folder / "tiny")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "onnxloc", *map(str, words)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "site")},
            capture_output=True,
            text=True,
            check=False,
        )

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def localized(call):
    words = ["localize", "tiny", "--localizer", "questions", "--units", "5", "--threads", "1"]
    done = call(*words, "-o", "run")
    assert (done.returncode, done.stderr) == (0, "")
    return Run.open(call.folder / "run")


def test_the_localizer_is_listed_and_used(call, localized):
    assert "questions" in call("localizers").stdout
    summary = localized.summary["localize"]
    assert (summary["n_selected"], summary["n_positive"]) == (5, 6)


def test_the_task_and_the_edit(call, localized):
    assert "number" in call("ablate", "--list-tasks").stdout
    words = ["ablate", "tiny", "--network", "run", "--task", "number", "--controls", "2"]
    done = call(*words, "--with", "mirror", "--threads", "1", "-o", "mirrored")
    assert (done.returncode, done.stderr) == (0, "")
    run = Run.open(call.folder / "mirrored")
    effects = run.table("effects.parquet")
    assert set(effects.group) == {"singular", "plural"}
    assert len(effects) == 4 * 12
    assert run.summary["ablate"]["with"] == "mirror"


def test_the_edit_refuses_an_argument(call, localized):
    words = ["ablate", "tiny", "--network", "run", "--with", "mirror=2", "-o", "refused"]
    done = call(*words)
    assert done.returncode == 2
    assert done.stderr == "onnxloc: error: mirror takes no argument, not '2'\n"
    assert not (call.folder / "refused").exists()


def test_the_edit_mirrors_at_the_mean(call):
    # The package is not installed for this process.
    code = (
        "import numpy as np\n"
        "from onnxloc import Intervention, Model, run_with_edits\n"
        "from onnxloc_extension_example.edit import Mirror\n"
        "model, where = Model.open('tiny'), 'block.1.out'\n"
        "def read(pool, *edits):\n"
        "    run = run_with_edits(model, ['the dog'], edits, taps=[where], pool=pool, bos=False)\n"
        "    return run.taps[where][0]\n"
        "mirrored = read('last', Intervention(where, Mirror()))\n"
        "np.testing.assert_allclose(mirrored, 2 * read('mean') - read('last'), atol=1e-5)\n"
        "assert np.abs(mirrored - read('last')).max() > 0.01\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=call.folder,
        env={**os.environ, "PYTHONPATH": str(call.folder / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
