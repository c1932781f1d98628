"""Run folders: manifests, summaries, tables."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from onnxloc.errors import RunError
from onnxloc.store import (
    Manifest,
    Run,
    Step,
    package_versions,
    read_json,
    write_json,
    write_summary,
    write_table,
)

pytestmark = pytest.mark.unit

STEP = Step(
    step="localize",
    command="onnxloc localize model -o run",
    parameters={"pool": "last", "top": 1.0, "sites": ["block.*.out"], "cut": None},
    hashes={"model": "ab"},
    versions={"python": "3.11"},
    seconds={"run": 2, "load": 0.5},
    provider="CPUExecutionProvider",
    threads=0,
)
MANIFEST = Manifest(name="tiny", steps=(STEP, STEP))


def run_folder(folder, **changes):
    MANIFEST.write(folder)
    record = json.loads((folder / "manifest.json").read_text())
    step = changes.pop("step", {})
    for key, value in step.items():
        record["steps"][0][key] = value
    record |= changes
    record = {key: value for key, value in record.items() if value is not ...}
    write_json(folder / "manifest.json", record)
    write_summary(folder, {"units": 3})
    return folder


def test_a_run_comes_back_as_it_was_written(tmp_path):
    run = Run.open(run_folder(tmp_path))
    assert run.manifest == MANIFEST
    assert asdict(run.manifest) == asdict(MANIFEST)
    assert run.summary == {"units": 3}
    assert MANIFEST.created.endswith("+00:00")
    assert package_versions(["numpy", "no-such-package"]) == {
        "python": package_versions([])["python"],
        "numpy": np.__version__,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"format": 9}, "format 9 is not 1"),
        ({"name": 3}, "name has the wrong type"),
        ({"name": ...}, "missing 1 required keyword-only argument: 'name'"),
        ({"steps": ...}, "steps is missing or no list"),
        ({"steps": {}}, "steps is missing or no list"),
        ({"steps": [3]}, "a step is no JSON object"),
        ({"steps": [{}]}, "missing 8 required"),
        ({"step": {"more": 1}}, "unknown key 'more'"),
        ({"step": {"threads": "2"}}, "threads has the wrong type"),
        ({"step": {"hashes": {"model": 1}}}, "hashes has the wrong type"),
        ({"step": {"seconds": {"run": "long"}}}, "seconds has the wrong type"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, changes, message):
    with pytest.raises(RunError) as caught:
        Run.open(run_folder(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no run folder at"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"is not a run folder: it has no manifest.json"):
        Run.open(tmp_path)
    MANIFEST.write(tmp_path)
    with pytest.raises(RunError, match=r"cannot read .*summary.json: No such file"):
        Run.open(tmp_path)


def test_numbers_that_are_not_finite_become_null(tmp_path):
    write_json(
        tmp_path / "x.json",
        {
            "a": float("nan"),
            "b": [np.float32("inf"), np.float64(0.5), -np.inf],
            "c": {"d": np.array([1.0, np.nan]), 3: np.int64(4)},
            "e": (True, np.bool_(False), None, "é"),
            "f": np.array(2),
        },
    )
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "é" in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 0.5, None],
        "c": {"d": [1.0, None], "3": 4},
        "e": [True, False, None, "é"],
        "f": 2,
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xff", b"[" * 100_000])
def test_json_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RunError, match=r"x.json (is not JSON|must hold)") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_json_of_many_megabytes_is_refused(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(RunError, match="is larger than any file that onnxloc writes"):
        read_json(tmp_path / "x.json")


def test_tables_come_back_and_damage_is_refused(tmp_path):
    run = Run.open(run_folder(tmp_path))
    table = pd.DataFrame({"site": pd.Categorical(["a", "b"]), "t": [np.nan, 2.0]})
    write_table(tmp_path, "units.parquet", table)
    pd.testing.assert_frame_equal(run.table("units.parquet"), table)
    with pytest.raises(RunError, match=r"has no effects.parquet"):
        run.table("effects.parquet")
    whole = (tmp_path / "units.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / "units.parquet").write_bytes(content)
        with pytest.raises(RunError, match=r"units.parquet is damaged: ") as caught:
            run.table("units.parquet")
        assert "\n" not in str(caught.value)
