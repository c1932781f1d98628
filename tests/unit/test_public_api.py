import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onnxloc

pytestmark = pytest.mark.unit

ROOT = Path(onnxloc.__file__).parent
NAMES = [
    "AblateOptions", "Ablation", "Activations", "ArraySet", "Batch", "Bundle", "BundleInfo",
    "CompareOptions", "Comparison", "ContrastOptions", "CorrelateOptions", "Cut", "Edit",
    "EditedRun", "Entropy", "Force", "Intervention", "Item", "Localization", "LocalizeOptions",
    "Mean", "Model", "Network", "Noise", "OnnxlocError", "Patch", "Plan", "Profile",
    "ProfileOptions", "Reliability", "ReliabilityOptions", "Robustness", "RobustnessOptions", "Run",
    "RuntimeOptions", "Scale", "Selection", "Steer", "StimulusSet", "Tap", "TargetLogProbs", "Task",
    "TaskInputs", "Tokens", "TopLogits", "Vector", "Where", "WhereOptions", "Zero", "ablate",
    "ablate_into", "compare", "contrast", "correlate_run", "fetch", "gather_battery", "load_arrays",
    "load_stimuli", "load_task", "localize", "localize_into", "profile", "reliability",
    "robustness", "run_with_edits", "where", "write_report",
]  # fmt: skip


def test_the_names_are_these():
    assert onnxloc.__all__ == NAMES
    assert set(NAMES) <= set(dir(onnxloc))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_described(name):
    value = getattr(onnxloc, name)
    assert value.__name__ == name
    # A dataclass without a docstring gets one that repeats its signature.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")
    if not isinstance(value, type):
        assert "Raises\n" in value.__doc__


def test_another_name_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        onnxloc.nope  # noqa: B018


def test_an_import_is_light():
    code = "import onnxloc, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split())
    assert "onnxloc" in loaded
    heavy = {
        "click", "gguf", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "pandas", "plotly",
        "pyarrow", "scipy", "tokenizers",
    }  # fmt: skip
    assert not loaded & heavy


def test_names_that_need_no_runtime_load_none():
    code = (
        "import onnxloc, sys; onnxloc.Bundle, onnxloc.load_stimuli('language'), onnxloc.Network; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(said.stdout.split()) & {"onnxruntime", "pandas", "scipy", "plotly"}


def imported(file):
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_no_module_imports_a_training_stack():
    files = sorted(ROOT.rglob("*.py"))
    found = {file.relative_to(ROOT).as_posix(): set(imported(file)) for file in files}
    assert "onnxruntime" in found["runtime/providers.py"]
    banned = {"torch", "jax", "flax", "transformers", "optimum", "tensorflow"}
    assert {name: names & banned for name, names in found.items() if names & banned} == {}


def test_the_package_is_typed():
    assert (ROOT / "py.typed").is_file()
