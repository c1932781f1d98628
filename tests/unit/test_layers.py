"""The contracts on imports in pyproject.toml hold."""

import tomllib
from pathlib import Path

import pytest
from importlinter.application import use_cases
from importlinter.configuration import configure

pytestmark = pytest.mark.unit

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def check(settings, capsys):
    """Run import-linter on a configuration; whether it passed, and what it printed."""
    passed = use_cases.lint_imports(config_filename=str(settings), cache_dir=None)
    return passed, capsys.readouterr().out


def test_imports_go_down_the_layers(capsys):
    configure()
    passed, said = check(PYPROJECT, capsys)
    assert passed, said
    names = [
        c["name"] for c in tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    ]
    for name in names:
        assert f"{name} KEPT" in said
    assert f"Contracts: {len(names)} kept, 0 broken" in said


def test_a_broken_contract_is_seen(tmp_path, capsys):
    configure()
    upside_down = tmp_path / "pyproject.toml"
    upside_down.write_text(
        '[tool.importlinter]\nroot_package = "onnxloc"\n'
        '[[tool.importlinter.contracts]]\nname = "upside down"\ntype = "layers"\n'
        'layers = ["onnxloc.errors", "onnxloc.folder"]\n'
    )
    passed, said = check(upside_down, capsys)
    assert not passed
    assert "onnxloc.folder" in said
