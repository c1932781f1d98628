"""What is declared fits what there is: lowest versions, packages, data files, hooks."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOWEST = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<version>[\d.]+)(,<[\d.]+)?")


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def lowest(requirements):
    found = [LOWEST.fullmatch(one) for one in requirements]
    assert all(found), requirements
    return {one["name"]: one["version"] for one in found}


def test_the_lowest_versions_are_those_that_are_tested():
    project = PROJECT["project"]
    declared = lowest([*project["dependencies"], *project["optional-dependencies"]["cpu"]])
    tested = pins("constraints-min.txt")
    assert set(declared) == set(tested)
    for name, version in declared.items():
        assert Version(version) == Version(tested[name]), name


def test_every_extra_with_onnxruntime_wants_the_same():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {one.rpartition(">=")[2] for extra in ("cpu", "gpu", "openvino")
              for one in extras[extra] if re.match(r"onnxruntime(-gpu)?(\[|>)", one)}  # fmt: skip
    assert {Version(one) for one in wanted} == {Version(pins("constraints-min.txt")["onnxruntime"])}


def test_the_versions_of_the_tests_are_allowed():
    newest = {name.lower(): version for name, version in pins("constraints.txt").items()}
    for name, version in pins("constraints-min.txt").items():
        used = newest.get(name.lower()) or newest[name.lower().replace("-", "_")]
        assert Version(used) >= Version(version), name


def test_every_package_is_listed_and_every_data_file_is_packed():
    tool = PROJECT["tool"]["setuptools"]
    listed = {name for name in tool["packages"] if name.partition(".")[0] == "onnxloc"}
    folders = {file.parent for file in (ROOT / "onnxloc").rglob("__init__.py")}
    assert listed == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    for name, folder in tool["package-dir"].items():
        for file in (ROOT / folder).rglob("*"):
            if not file.is_file() or file.suffix in (".py", ".pyc") or "__pycache__" in file.parts:
                continue
            package = ".".join([name, *file.relative_to(ROOT / folder).parent.parts])
            if package in tool["packages"]:
                patterns = tool["package-data"].get(package, [])
                assert any(file.match(pattern) for pattern in patterns), file
