"""Print the unit tests that need no extra: those that import nothing but onnxloc's own needs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "helpers": ROOT / "tests" / "helpers",
    "bad_inputs": ROOT / "tests" / "bad_inputs",
    "corpus": ROOT / "tests" / "corpus",
    "onnxloc_exporters": ROOT / "exporters",
    "onnxloc_models": ROOT / "models",
}
NEEDS = {"click", "filelock", "gguf", "google", "hypothesis", "jinja2", "markupsafe", "ml_dtypes",
         "numpy", "onnx", "onnx_graphsurgeon", "onnxloc", "onnxruntime", "packaging", "pandas",
         "platformdirs", "plotly", "pyarrow", "pytest", "regex", "scipy", "tokenizers", "tqdm",
         "zarr"}  # fmt: skip
TESTS = ("unit", "bad_inputs")
# Starts what builds the site, which it does not import.
OTHER_NEEDS = {"test_site.py"}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports; of a test or its helpers, in functions too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # An exporter imports its framework in the function that exports.
    for node in ast.walk(tree) if "tests" in file.parts else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(file: Path, seen: set[Path]) -> set[str]:
    """Top-level packages that a file imports, by way of the helpers and exporters too."""
    seen.add(file)
    found = set()
    for module in imports(file):
        top, *rest = module.split(".")
        if top not in PLACES:
            found.add(top)
            continue
        path = PLACES[top].joinpath(*rest).with_suffix(".py")
        if path.is_file() and path not in seen:
            found |= reached(path, seen)
    return found


def core_tests() -> list[Path]:
    """The test files that import only what the package itself needs."""
    allowed = NEEDS | sys.stdlib_module_names
    files = [f for name in TESTS for f in sorted((ROOT / "tests" / name).glob("test_*.py"))]
    files = [file for file in files if file.name not in OTHER_NEEDS]
    return [file for file in files if reached(file, set()) <= allowed]


if __name__ == "__main__":
    print("\n".join(str(file.relative_to(ROOT)) for file in core_tests()))
