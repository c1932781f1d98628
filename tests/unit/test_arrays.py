"""Stimuli as .npz files: what is read, and what is refused."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxloc.errors import StimulusError
from onnxloc.stimuli import arrays as arrays_module
from onnxloc.stimuli.arrays import load_arrays

pytestmark = pytest.mark.unit

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((8, 3, 4, 5)).astype(np.float32)
SIDES = np.array(["positive", "control"] * 4)


def write(path, *, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def member(array):
    data = io.BytesIO()
    np.lib.format.write_array(data, array)
    return data.getvalue()


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_batches_are_the_rows_of_the_file(tmp_path, compressed, rows):
    extra = RNG.integers(0, 9, (8, 2))
    path = write(tmp_path / "a.npz", compressed=compressed, image=IMAGES, more=extra,
                 rate=np.float32(16), condition=SIDES)  # fmt: skip
    stimuli = load_arrays(path)
    assert (len(stimuli), stimuli.name) == (8, "a")
    assert stimuli.is_positive.tolist() == [True, False] * 4
    for _ in range(2):
        found = list(stimuli.batches(rows))
        assert all(len(places) <= rows for places, _ in found)
        np.testing.assert_array_equal(np.concatenate([places for places, _ in found]), range(8))
        np.testing.assert_array_equal(np.concatenate([a["image"] for _, a in found]), IMAGES)
        np.testing.assert_array_equal(np.concatenate([a["more"] for _, a in found]), extra)
        assert all(a["rate"].shape == () and a["rate"] == 16 for _, a in found)
        assert all(a["image"].flags.writeable for _, a in found)


@pytest.mark.parametrize(
    ("condition", "positive", "labels"),
    [
        (SIDES, None, ("positive", "control")),
        (SIDES.astype("S"), None, ("positive", "control")),
        (np.array([1, 0] * 4), None, ("positive", "control")),
        (np.array([True, False] * 4), None, ("positive", "control")),
        (np.array(["faces", "things"] * 4), "faces", ("faces", "things")),
        (np.array(["things", "faces"] * 4), "things", ("things", "faces")),
        (SIDES[::-1], "control", ("control", "positive")),
    ],
)
def test_conditions(tmp_path, condition, positive, labels):
    path = write(tmp_path / "a.npz", image=IMAGES, condition=condition)
    stimuli = load_arrays(path, positive)
    assert (stimuli.positive_label, stimuli.control_label) == labels
    assert stimuli.is_positive.tolist() == [True, False] * 4


@pytest.mark.parametrize(
    ("condition", "positive", "message"),
    [
        (np.array(["faces", "things"] * 4), None, "'faces' or 'things'; say which is positive"),
        (np.array(["faces", "things"] * 4), "face", "no stimulus is 'face'; did you mean 'faces'"),
        (np.array(["a", "b", "c", "a"] * 2), "a", "must be two names; it has 3: 'a', 'b', 'c'"),
        (np.array(["a"] * 8), "a", "must be two names; it has 1"),
        (np.array(["positive"] * 8), None, "has 0 stimuli of control; at least 3"),
        (np.array(["positive"] * 6 + ["control"] * 2), None, "has 2 stimuli of control"),
        (np.array([1, 2] * 4), None, "must be 1 .positive. or 0 .control."),
        (np.array([1, -1] * 4), None, "must be 1 .positive. or 0 .control."),
        (np.array([1, 0] * 4), "1", "1 is positive"),
        (np.array([0.0, 1.0] * 4), None, "condition is float64"),
        (SIDES[:7], None, "image has 8 stimuli, condition 7"),
        (SIDES.reshape(2, 4), None, r"condition has the shape \[2, 4\]"),
        (np.array("positive"), None, r"condition has the shape \[\]"),
    ],
)
def test_conditions_that_make_no_sense(tmp_path, condition, positive, message):
    path = write(tmp_path / "a.npz", image=IMAGES, condition=condition)
    with pytest.raises(StimulusError, match=message):
        load_arrays(path, positive)


def test_the_hash_is_that_of_the_content(tmp_path):
    one = load_arrays(write(tmp_path / "a.npz", image=IMAGES, condition=SIDES))
    other = load_arrays(write(tmp_path / "b.npz", image=IMAGES + 1, condition=SIDES))
    assert one.hash != other.hash
    assert len(one.hash) == 64


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    trap = np.empty(8, dtype=object)
    trap[:] = [Trap()] * 8
    for name, arrays in (
        ("a.npz", {"image": trap, "condition": SIDES}),
        ("b.npz", {"image": IMAGES, "condition": trap}),
    ):
        with pytest.raises(StimulusError, match="holds Python objects"):
            load_arrays(write(tmp_path / name, **arrays))
    path = write_zip(tmp_path / "c.npz", [("image.npy", pickle.dumps(Trap()))])
    with pytest.raises(StimulusError, match="'image' cannot be read"):
        load_arrays(path)
    assert capsys.readouterr().out == ""


def header(shape, dtype="<f4", fortran=False):
    data = io.BytesIO()
    described = {"descr": dtype, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(data, described)
    return data.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("image.npy", header((8, 10**6)))], "says that it is 32000000 bytes and is 0"),
        ([("image.npy", header((8, 10**12)))], "says that it is"),
        ([("image.npy", header((8, 2), fortran=True) + bytes(64))], "column by column"),
        ([("image.npy", header((8, 0)))], r"is empty: its shape is \[8, 0\]"),
        ([("image.npy", header((0, 8)))], r"is empty: its shape is \[0, 8\]"),
        ([("image.npy", b"\x93NUMPY\x09\x00" + bytes(99))], "version .9, 0. of the format"),
        ([("image.npy", b"")], "'image' cannot be read"),
        ([("image.txt", b"text")], "'image.txt' is no array"),
        ([("image.npy", member(IMAGES))] * 2, "'image.npy' stands twice"),
        ([("image.npy", member(np.array(["a"] * 8)))], "is <U1; inputs are arrays of numbers"),
        ([("image.npy", member(np.zeros(8, "M8[s]")))], "inputs are arrays of numbers"),
        ([("image.npy", member(np.zeros(8, [("a", "f4")])))], "inputs are arrays of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members(tmp_path, members, message):
    path = write_zip(tmp_path / "a.npz", [*members, ("condition.npy", member(SIDES))])
    with pytest.raises(StimulusError, match=message) as caught:
        load_arrays(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(StimulusError, match="there is no file"):
        load_arrays(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(StimulusError, match=r"is no .npz file: .*; write it with numpy.savez"):
        load_arrays(tmp_path / "text.npz")
    with pytest.raises(StimulusError, match="has no array 'condition'"):
        load_arrays(write(tmp_path / "a.npz", image=IMAGES))
    with pytest.raises(StimulusError, match="has no array beside 'condition'"):
        load_arrays(write(tmp_path / "b.npz", condition=SIDES))
    with pytest.raises(StimulusError, match="no array has an axis of stimuli"):
        load_arrays(write(tmp_path / "c.npz", condition=SIDES, rate=np.float32(1)))
    with pytest.raises(StimulusError, match="image has 7 stimuli, condition 8"):
        load_arrays(write(tmp_path / "d.npz", condition=SIDES, image=IMAGES[:7]))


def test_bounds_on_what_a_header_promises(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npz", image=IMAGES, condition=SIDES)
    monkeypatch.setattr(arrays_module, "MAX_STIMULUS_BYTES", 100)
    with pytest.raises(StimulusError, match="one stimulus of 'image' has 240 bytes, more than 100"):
        load_arrays(path)
    monkeypatch.undo()
    monkeypatch.setattr(arrays_module, "MAX_NAMES", 1)
    with pytest.raises(StimulusError, match="holds more than 1 arrays"):
        load_arrays(path)


def test_a_small_file_that_unpacks_to_a_large_one_takes_no_memory(tmp_path):
    """400 MB of zeros in 400 kB: two stimuli at a time are in memory."""
    import tracemalloc

    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("image.npy", "w") as stream:
            stream.write(header((400, 2**18)))
            for _ in range(400):
                stream.write(bytes(2**20))
        archive.writestr("condition.npy", member(np.array([1, 0] * 200)))
    assert path.stat().st_size < 2**20
    stimuli = load_arrays(path)
    tracemalloc.start()
    try:
        assert sum(len(places) for places, _ in stimuli.batches(2)) == 400
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write(tmp_path / "a.npz", image=IMAGES, condition=SIDES)
    stimuli = load_arrays(path)
    write(path, image=IMAGES[:, :2], condition=SIDES)
    with pytest.raises(StimulusError, match="has changed while it was used"):
        stimuli.head(2)
    path.unlink()
    with pytest.raises(StimulusError, match="cannot read"):
        stimuli.head(2)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_file_gives_a_clear_error_or_rows(tmp_path, data):
    path = write(tmp_path / "a.npz", compressed=True, image=IMAGES, condition=SIDES)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    try:
        stimuli = load_arrays(path)
        rows = sum(len(places) for places, _ in stimuli.batches(3))
    except StimulusError as error:
        fine = "\n" not in str(error)
    else:
        fine = rows == len(stimuli)
    assert fine
