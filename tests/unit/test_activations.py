import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxloc import activation_writer
from onnxloc.activation_writer import ActivationWriter, check_space
from onnxloc.activations import Activations
from onnxloc.errors import OptionError, RunError
from onnxloc.folder import sha256_file
from onnxloc.store import Manifest, Run, Step, write_summary

pytestmark = pytest.mark.unit

SITES = [("block.0.out", 5, "float32"), ("op:/a/../b:0", 3, "float64"), ("half", 2, "float16")]
STEP = {
    "step": "localize", "command": "", "parameters": {}, "versions": {}, "seconds": {},
    "provider": "", "threads": 0,
}  # fmt: skip


def values_of(n, seed=0, sites=SITES):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(n, units)).astype("float64" if dtype == "float64" else "float32")
        for name, units, dtype in sites
    }


def write(folder, n=10, batch=3, *, values=None, sites=SITES, paired=False, seed=0):
    values = values or values_of(n, sites=sites)
    folder.mkdir()
    writer = ActivationWriter(sites, n)
    writer.start(folder)
    order = np.random.default_rng(seed).permutation(n)
    for start in range(0, n, batch):
        rows = order[start : start + batch]
        writer.add(rows, [values[name][rows] for name, _, _ in sites])
    is_positive = np.arange(n) < n // 2
    texts = [f"text {i}" for i in range(n)]
    hashes = writer.finish(is_positive, texts, paired=paired)
    write_summary(folder, {"format": 1})
    Manifest(name="x", steps=(Step(**STEP, hashes=hashes),)).write(folder)
    return values


@pytest.fixture
def run(tmp_path):
    write(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("buffer", [1, 200, 1 << 28])
def test_what_is_written_is_read(tmp_path, monkeypatch, buffer):
    # One row a chunk, a few, and all in one.
    monkeypatch.setattr(activation_writer, "BUFFER_BYTES", buffer)
    values = write(tmp_path / "run", n=11, batch=4)
    stored = Activations.open(tmp_path / "run")
    assert list(stored.sites) == [name for name, _, _ in SITES]
    assert dict(stored).keys() == values.keys()
    for name, got in stored:
        np.testing.assert_array_equal(got, values[name])
        assert got.dtype == values[name].dtype
    assert len(stored) == 11
    assert stored.nbytes == sum(value.nbytes for value in values.values())
    np.testing.assert_array_equal(stored.is_positive, np.arange(11) < 5)
    assert stored.stimuli["text"].tolist() == [f"text {i}" for i in range(11)]
    assert not stored.is_paired


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(20, 3000), st.integers(0, 99))
def test_any_order_and_batch(tmp_path_factory, n, batch, buffer, seed):
    folder = tmp_path_factory.mktemp("any") / "run"
    before = activation_writer.BUFFER_BYTES
    activation_writer.BUFFER_BYTES = buffer
    try:
        values = write(folder, n=n, batch=batch, seed=seed, sites=SITES[:1])
    finally:
        activation_writer.BUFFER_BYTES = before
    np.testing.assert_array_equal(
        Activations.open(folder).read("block.0.out"), values["block.0.out"]
    )
    shutil.rmtree(folder)


def test_zeros_nan_and_infinity_are_kept(tmp_path):
    values = values_of(10)
    values["block.0.out"][:] = 0
    values["half"][:] = [np.nan, -np.inf]
    write(tmp_path / "run", values=values)
    stored = Activations.open(tmp_path / "run")
    for name in values:
        np.testing.assert_array_equal(stored.read(name), values[name])


def test_pairs(tmp_path):
    write(tmp_path / "run", paired=True)
    stored = Activations.open(Run.open(tmp_path / "run"))
    assert stored.is_paired
    assert stored.stimuli["pair"].tolist() == [*range(5), *range(5)]


def test_other_programs_can_read_it(run):
    """The format is Zarr's own: an array a site, with its name, and the order beside it."""
    group = zarr.open_group(run / "activations.zarr", mode="r")
    names = group.attrs["sites"]
    assert list(names.values()) == [name for name, _, _ in SITES]
    index = json.loads((run / "activations.json").read_text())
    for key, name in names.items():
        assert group[key].attrs["site"] == name
        np.testing.assert_array_equal(group[key][:], values_of(10)[name][index["order"]])


def test_only_plain_files_are_written(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    arrays = {
        f"activations.zarr/0000{i}/{name}" for i in range(3) for name in ("zarr.json", "c/0/0")
    }
    assert files == arrays | {
        "activations.zarr/zarr.json", "activations.json", "stimuli.parquet", "manifest.json",
        "summary.json",
    }  # fmt: skip


def test_a_run_without_activations_says_so(run):
    (run / "activations.json").unlink()
    with pytest.raises(RunError, match="--keep-activations"):
        Activations.open(run)


def test_a_site_that_is_not_there(run):
    with pytest.raises(RunError, match=r"did you mean 'block\.0\.out'"):
        Activations.open(run).read("block.0.oud")


CHUNK = "activations.zarr/00001/c/0/0"
META = "activations.zarr/00001/zarr.json"


def flip(path):
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


def link(path):
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def edit(key, value):
    def change(path):
        raw = json.loads(path.read_text())
        raw[key] = value
        path.write_text(json.dumps(raw))

    return change


DAMAGE = [
    (CHUNK, flip, "another hash"),
    (CHUNK, Path.unlink, "missing or cut off"),
    (CHUNK, lambda p: p.write_bytes(p.read_bytes()[:-1]), "missing or cut off"),
    (CHUNK, link, "missing or cut off"),
    (CHUNK, lambda p: link(p.parent.parent), "missing or cut off"),
    (META, link, "is a link"),
    (META, Path.unlink, "cannot read"),
    (META, edit("shape", [10, 1 << 50]), "its shape"),
    (META, edit("data_type", "int64"), "its data_type"),
    (META, edit("codecs", [{"name": "numcodecs.pickle"}]), "its codecs"),
    (META, edit("zarr_format", 2), "its zarr_format"),
    (META, edit("chunk_key_encoding", {"name": "v2"}), "its chunk_key_encoding"),
    (META, edit("fill_value", "x" * 40), "damaged"),
    (META, lambda p: p.write_text("[" * 100_000), "is not JSON"),
]


@pytest.mark.parametrize(("file", "damage", "said"), DAMAGE)
def test_damage_of_a_site_is_named_and_others_are_read(run, file, damage, said):
    damage(run / file)
    stored = Activations.open(run)
    with pytest.raises(RunError, match=said) as error:
        stored.read("op:/a/../b:0")
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(stored.read("half"), values_of(10)["half"])


def promise(run):
    """Let the manifest vouch for the index as it is now, as an attacker would."""
    raw = json.loads((run / "manifest.json").read_text())
    raw["steps"][0]["hashes"]["activations"] = sha256_file(run / "activations.json")
    (run / "manifest.json").write_text(json.dumps(raw))


INDEX = [
    ("order", [0] * 10, "every stimulus once"),
    ("order", [0.0, *range(1, 10)], "every stimulus once"),
    ("order", [True, *range(1, 10)], "every stimulus once"),
    ("order", list(range(9)), "number of rows"),
    ("order", list(range(11)), "another number of stimuli"),
    ("order", [], "number of rows"),
    ("order", "no", "no list"),
    ("sites", 7, "no list"),
    ("sites", [{"site": "x"}], "damaged"),
    ("sites", [{"site": "x", "units": 0, "dtype": "float32", "sha256": ""}], "units or type"),
    ("sites", [{"site": "x", "units": 1, "dtype": "O", "sha256": ""}], "units or type"),
    ("sites", [{"site": "x", "units": 1, "dtype": "float32", "sha256": ""}] * 2, "twice"),
    ("chunk_rows", 0, "number of rows"),
    ("chunk_rows", 11, "number of rows"),
    ("chunk_rows", "1", "wrong type"),
    ("stimuli_sha256", "00", "missing or damaged"),
    ("format", 2, "format 2"),
    ("more", 1, "unknown key"),
]


@pytest.mark.parametrize(("key", "value", "said"), INDEX)
def test_a_damaged_index_is_refused(run, key, value, said):
    edit(key, value)(run / "activations.json")
    with pytest.raises(RunError, match="not the one that the run's manifest names"):
        Activations.open(run)
    promise(run)
    with pytest.raises(RunError, match=said):
        Activations.open(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop(columns="text"),
        lambda t: t.assign(condition="other"),
        lambda t: t.rename(columns={"pair": "pears"}),
    ],
)
def test_a_damaged_table_of_stimuli_is_refused(run, change):
    table = run / "stimuli.parquet"
    change(pd.read_parquet(table)).to_parquet(table, index=False)
    with pytest.raises(RunError, match=r"stimuli\.parquet is missing or damaged"):
        Activations.open(run)
    edit("stimuli_sha256", sha256_file(table))(run / "activations.json")
    promise(run)
    with pytest.raises(RunError, match="other columns or conditions"):
        Activations.open(run)


def test_the_estimate_is_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(activation_writer, "BUFFER_BYTES", 200)
    writer = ActivationWriter(SITES, 11)
    assert writer.estimate == "keeping activations: 11 stimuli x 10 units, 0.0 MB"
    write(tmp_path / "run", n=11)
    files = (tmp_path / "run" / "activations.zarr").rglob("c/*/0")
    assert sum(path.stat().st_size for path in files) == writer.nbytes
    big = ActivationWriter([("x", 764_000, "float32")], 480)
    assert big.estimate == "keeping activations: 480 stimuli x 764,000 units, 1,466.9 MB"


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path):
    writer = ActivationWriter([("x", 1 << 40, "float32")], 480)
    with pytest.raises(RunError, match=r"needs .* MB and the disk .* has .* MB free"):
        writer.start(tmp_path)
    assert not list(tmp_path.iterdir())
    check_space(tmp_path, 1)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(OptionError, match="no activations"):
        ActivationWriter([], 3)
    writer = ActivationWriter(SITES[:1], 3)
    writer.start(tmp_path)
    writer.add(np.array([0, 1]), [np.ones((2, 5), np.float32)])
    with pytest.raises(OptionError, match="do not fit"):
        writer.add(np.array([2]), [np.ones((1, 4), np.float32)])
    with pytest.raises(OptionError, match="do not fit"):
        writer.add(np.array([1, 2]), [np.ones((2, 5), np.float32)])
    with pytest.raises(OptionError, match="every stimulus once"):
        writer.finish(np.ones(3, dtype=bool))
