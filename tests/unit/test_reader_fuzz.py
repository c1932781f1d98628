"""Readers are given anything at all: each gives what it promises or says what is wrong in a line.

Bytes, text, JSON of any form, whole files with bytes changed, and whole JSON with one part changed.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_bundle import CONTROL, POSITIVE, write_stimuli, write_work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxloc_exporters.gguf_reader import GGUFFile

from onnxloc.activations import Activations, Index
from onnxloc.bundle import Bundle
from onnxloc.cli import main
from onnxloc.errors import OnnxlocError, RunError
from onnxloc.network import Network
from onnxloc.recipes import load_recipe
from onnxloc.report.folder import read_run
from onnxloc.state_file import UNREADABLE, read_state, write_state
from onnxloc.stimuli.arrays import load_arrays
from onnxloc.stimuli.localizer_file import LocalizerFile
from onnxloc.stimuli.tables import read_table
from onnxloc.store import Manifest, Run
from onnxloc.studies.item_table import ItemTable
from onnxloc.studies.vectors import Vector
from onnxloc.tasks import load_task

pytestmark = pytest.mark.unit

TEXTS = (*POSITIVE, *CONTROL)
FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**70, -1, 10**400, "\0", "\ud800", "../x", "\x1b[31m", "a" * 300])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@dataclass(frozen=True)
class Reader:
    """A reader, the file it is given, and where a whole one is in the folder of whole ones."""

    read: Callable[[Path], object]
    name: str
    whole: str
    lines: bool = False


def _all_of(arrays):
    return [rows for _, rows in arrays.batches(4)]


def _activations(file):
    return Activations(file.parent, Index.read(file), None)  # type: ignore[arg-type]


def _state(file):
    # Whoever resumes a run makes this error of these.
    try:
        return read_state(file)
    except UNREADABLE as error:
        raise RunError(f"damaged: {str(error)[:500]}") from error


READERS = {
    "csv": Reader(read_table, "x.csv", "stimuli.csv"),
    "jsonl": Reader(read_table, "x.jsonl", "stimuli.jsonl", lines=True),
    "toml": Reader(LocalizerFile.read, "x.toml", "localizer.toml"),
    "npz": Reader(lambda file: _all_of(load_arrays(file)), "x.npz", "arrays.npz"),
    "npy": Reader(Vector.read, "x.npy", "vector.npy"),
    "items": Reader(lambda file: ItemTable.read(file, TEXTS), "x.csv", "items.csv"),
    "network": Reader(Network.load, "x.parquet", "run/network.parquet"),
    "bundle": Reader(lambda file: Bundle.open(file.parent), "bundle.json", "tiny/bundle.json"),
    "config": Reader(lambda file: Bundle.open(file.parent), "config.json", "config.json"),
    "tokenizer": Reader(
        lambda file: Bundle.open(file.parent).tokenizer, "tokenizer.json", "tiny/tokenizer.json"
    ),
    "pairs": Reader(lambda file: load_task(str(file)), "x.jsonl", "pairs.jsonl", lines=True),
    "choice": Reader(lambda f: load_task(f"choice:{f}"), "x.jsonl", "choice.jsonl", lines=True),
    "cloze": Reader(lambda f: load_task(f"cloze:{f}"), "x.jsonl", "cloze.jsonl", lines=True),
    "syntaxgym": Reader(lambda f: load_task(f"syntaxgym:{f}"), "x.json", "suite.json"),
    "lines": Reader(lambda f: load_task(f"text:{f}"), "x.txt", "lines.txt"),
    "manifest": Reader(lambda f: Manifest.read(f.parent), "manifest.json", "run/manifest.json"),
    "summary": Reader(lambda f: Run.open(f.parent), "summary.json", "run/summary.json"),
    "page": Reader(lambda f: read_run(f.parent), "summary.json", "run/summary.json"),
    "units": Reader(lambda f: read_run(f.parent), "units.parquet", "run/units.parquet"),
    "index": Reader(_activations, "activations.json", "run/activations.json"),
    "state": Reader(_state, "x.npz", "state.npz"),
    "recipe": Reader(lambda file: load_recipe(str(file)), "x.toml", "recipe.toml"),
    "gguf": Reader(lambda f: list(GGUFFile(f).tensors), "x.gguf", "tiny.gguf"),
}
JSON = [name for name, one in READERS.items() if one.name.endswith((".json", ".jsonl"))]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A folder with a whole file of every kind."""
    from helpers.tiny_bundle import MODEL

    work = write_work(tmp_path_factory.mktemp("wholes"))
    MODEL.write(work / "tiny.gguf")
    write_stimuli(work / "stimuli.jsonl")
    np.save(work / "vector.npy", np.arange(5.0))
    sides = np.array(["positive", "control"] * 3)
    np.savez(work / "arrays.npz", x=np.ones((6, 2), np.float32), condition=sides)
    write_state(work / "state.npz", {"format": 1}, {"sum": np.ones(3)})
    region = {"region_number": 1, "content": "a dog"}
    suite = {
        "meta": {"name": "x", "metric": "sum"},
        "region_meta": {"1": "all"},
        "predictions": [{"type": "formula", "formula": "(1;%a%) < (1;%b%)"}],
        "items": [
            {"item_number": 1, "conditions": [
                {"condition_name": name, "regions": [region]} for name in "ab"]}
        ],
    }  # fmt: skip
    for name, text in {
        "localizer.toml": 'name = "x"\ndata = "stimuli.csv"\nmax_tokens = 12\npaired = false\n',
        "items.csv": "row,length\n0,5\n1,7\n",
        "config.json": json.dumps({"model_type": "llama", "bos_token_id": 1, "n_positions": 9}),
        "choice.jsonl": json.dumps({"question": "What?", "choices": ["a", "b"], "answer": 1}),
        "cloze.jsonl": json.dumps({"text": "the dog sleeps"}),
        "suite.json": json.dumps(suite),
        "recipe.toml": f'source = "file:x"\nsha256 = "{"0" * 64}"\nsize = 9\nexporter = "gguf"\n',
    }.items():
        (work / name).write_text(text)
    words = ["localize", str(work / "tiny"), "--localizer", str(work / "stimuli.csv"), "--top", "5"]
    assert main([*words, "--keep-activations", "-o", str(work / "run")]) == 0
    return work


@pytest.fixture
def place(wholes, tmp_path):
    """Where a file is put for a reader: what else the reader wants is there."""

    def put(reader):
        folder = tmp_path / "place"
        folder.mkdir(exist_ok=True)
        beside = wholes / reader.whole
        if reader.name in ("config.json", "bundle.json", "tokenizer.json"):
            beside = wholes / "tiny" / reader.name
        if beside.parent != wholes:
            for file in beside.parent.iterdir():
                if file.is_file() and not (reader.name == "config.json" == file.name):
                    (folder / file.name).write_bytes(file.read_bytes())
        if reader.name == "config.json":
            (folder / "bundle.json").unlink()
        return folder / reader.name

    return put


def survives(reader, file, data):
    """Whether the file is refused; anything but a plain refusal is raised."""
    file.write_bytes(data)
    try:
        reader.read(file)
    except OnnxlocError as error:
        said = str(error)
        assert said
        assert len(said) < 2000
        return True
    return False


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name, place, wholes):
    reader = READERS[name]
    file = place(reader)
    assert not survives(reader, file, (wholes / reader.whole).read_bytes())


@pytest.mark.parametrize("name", READERS)
@FEW
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(name, place, data):
    reader = READERS[name]
    survives(reader, place(reader), data)


@pytest.mark.parametrize("name", READERS)
@FEW
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1),
)
def test_a_whole_file_with_bytes_changed(name, place, wholes, changes, cut):
    reader = READERS[name]
    data = bytearray((wholes / reader.whole).read_bytes())
    for where, new in changes:
        at = int(where * len(data))
        data[at : at + len(new)] = new
    survives(reader, place(reader), bytes(data[: None if cut is None else int(cut * len(data))]))


@pytest.mark.parametrize("name", JSON)
@FEW
@given(value=anything)
def test_any_json(name, place, value):
    reader = READERS[name]
    survives(reader, place(reader), json.dumps(value).encode())


def replaced(value, path, new):
    """A JSON value with one part replaced; `path` says which, by numbers."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy = value.copy()
    copy[key] = replaced(value[key], path[1:], new)
    return copy


@pytest.mark.parametrize("name", JSON)
@FEW
@given(path=st.lists(st.integers(0, 40), min_size=1, max_size=5), new=anything, gone=st.booleans())
def test_a_whole_record_with_one_part_changed(name, place, wholes, path, new, gone):
    reader = READERS[name]
    text = (wholes / reader.whole).read_text()
    value = json.loads(text.splitlines()[0] if reader.lines else text)
    if gone:
        keys = list(value)
        del value[keys[path[0] % len(keys)]]
    else:
        value = replaced(value, path, new)
    survives(reader, place(reader), json.dumps(value).encode())


@FEW
@given(
    names=st.lists(st.sampled_from(["x", "condition", "y", "../z", ""]), max_size=3),
    kinds=st.lists(st.sampled_from(["f4", "i8", "U3", "O", "V4", "M8[s]", "c8", "?"]), min_size=3),
    shape=st.lists(st.integers(0, 6), max_size=3),
)
def test_any_arrays(tmp_path, names, kinds, shape):
    import zipfile

    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as archive:
        for name, kind in zip(dict.fromkeys(names), kinds, strict=False):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.zeros(shape, dtype=kind), allow_pickle=True)
            archive.writestr(f"{name}.npy", data.getvalue())
    survives(READERS["npz"], file, file.read_bytes())


@FEW
@given(
    columns=st.lists(st.sampled_from(["site", "unit", "t"]), unique=True, max_size=3),
    rows=st.lists(st.integers(-2, 70), max_size=4),
    meta=st.none() | anything,
    good=st.booleans(),
)
def test_any_table_as_a_network(tmp_path, columns, rows, meta, good):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = {"site": pa.array(["block.1.out"] * len(rows), pa.string()),
             "unit": pa.array(rows, pa.int64()), "t": pa.array([0.5] * len(rows))}  # fmt: skip
    table = pa.table({name: cells[name] for name in columns})
    if good:
        meta = {"format": 1, "model_hash": "x", "how": {}, "sites": {"block.1.out": 64}}
    if meta is not None:
        table = table.replace_schema_metadata({b"onnxloc": json.dumps(meta).encode()})
    file = tmp_path / "x.parquet"
    pq.write_table(table, file)
    refused = survives(READERS["network"], file, file.read_bytes())
    fits = good and columns == ["site", "unit"] and rows == sorted(set(rows))
    assert refused is not (fits and all(0 <= row < 64 for row in rows))
