"""Edits as text, what they record, and the vectors that they take."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc import Force, Intervention, Mean, Model, Noise, Patch, Scale, Steer, Tokens, Vector
from onnxloc.errors import OptionError
from onnxloc.runtime.tokens import Window
from onnxloc.studies.edit_values import joined, operands
from onnxloc.studies.edits import Change, EditInputs, Facts, as_edit

pytestmark = pytest.mark.unit

INPUTS = EditInputs(seed=7, source="the dog")


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return Model.open(tiny.write(tmp_path_factory.mktemp("tiny"), tiny.decoder())).sites


@pytest.fixture(scope="module")
def site(sites):
    return sites.find("block.0.out")


@pytest.mark.parametrize(
    ("words", "kind", "label", "said"),
    [
        ("zero", "Zero", "zero", "set to zero"),
        ("mean", "Mean", "mean", "set to mean"),
        ("force=3.5", "Force", "force=3.5", "set to 3.5"),
        ("scale= -2", "Scale", "scale=-2", "multiplied by -2"),
        ("noise=1", "Noise", "noise=1", "deviation of 1 times each unit's own"),
        ("noise=absolute:0.1", "Noise", "noise=absolute:0.1", "of 0.1 in their own measure"),
        ("patch", "Patch", "patch", "patched"),
    ],
)
def test_edits_as_text(words, kind, label, said):
    edit = as_edit(words, INPUTS)
    assert type(edit).__name__ == kind
    assert edit.label == label
    assert said in edit.said
    assert as_edit(edit.label, INPUTS).label == label
    assert as_edit(edit) is edit


def test_what_is_recorded_beside_the_label():
    assert as_edit("noise=1", INPUTS).parameters == {"noise_seed": 7}
    assert as_edit("patch", INPUTS).parameters == {"patch_from": "the dog", "patch_tokens": None}
    two = Patch([3, 4], tokens="-1")
    assert two.parameters == {"patch_from": [3, 4], "patch_tokens": "-1"}
    assert as_edit("force=3", INPUTS).parameters == {}
    hashes = [Steer(v).parameters["vector_sha256"] for v in ([1, 2], [1.0, 2.0], [2, 1])]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zeros", "there is no edit 'zeros'; did you mean 'zero'"),
        ("", "there is no edit ''"),
        ("zero=1", "zero takes no value"),
        ("mean=1", "mean takes no value"),
        ("force", "force takes a value"),
        ("force=a", "'a' is no number"),
        ("force=nan", "not finite"),
        ("force=none.npy", "cannot read none.npy"),
        ("scale", "scale takes a factor"),
        ("scale=inf", "must be finite"),
        ("noise", "noise takes a standard deviation"),
        ("noise=absolute:", "noise takes a standard deviation"),
        ("noise=-1", "0 or more"),
        ("steer", "steer takes a .npy file or the contrast"),
        ("steer=3", "steer takes a .npy file or the contrast"),
        ("steer=contrast*2", "give --network the folder of a run"),
        ("patch", "give --patch-from TEXT"),
        ("patch=the dog", "patch takes no value"),
        ("scale=" + "9" * 5000, "must be finite"),
    ],
)
def test_edits_that_make_no_sense(words, message):
    with pytest.raises(OptionError, match=message) as caught:
        as_edit(words)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scale(None),
        lambda: Scale(True),
        lambda: Scale(10**400),
        lambda: Noise(1.0, seed=-1),
        lambda: Noise(1.0, seed=0.5),
        lambda: Mean("one text"),
        lambda: Patch(""),
        lambda: Patch([]),
        lambda: Patch("the dog", tokens="first"),
        lambda: Force([[1.0]]),
        lambda: Force(["a"]),
        lambda: Force([True]),
        lambda: Steer([np.inf]),
        lambda: Steer({"block.0.out": 1.0}),
        lambda: Steer([1.0], strength=np.nan),
        lambda: Intervention("block.0.out", as_edit("zero"), "0,x"),
    ],
)
def test_values_that_make_no_sense(make):
    with pytest.raises(OptionError):
        make()


# --- vectors ------------------------------------------------------------------------------------


def test_one_vector_for_many_sites(sites, site):
    span = {"block.0.out": site.units, "block.1.out": site.units}
    rising = np.arange(2.0 * site.units)
    other = sites.find("block.1.out")
    assert Vector(2).at(site, {}).tolist() == [2.0] * site.units
    assert Vector(rising[: site.units]).at(other, span).tolist() == list(range(site.units))
    assert Vector(rising).at(other, span).tolist() == rising[site.units :].tolist()
    named = Vector({"block.1.out": rising[: site.units]})
    assert named.at(other, {})[3] == 3
    with pytest.raises(OptionError, match=r"no numbers for the units of block\.0\.out"):
        named.at(site, span)
    with pytest.raises(OptionError, match=r"has 3 numbers; block.0.out has \d+ units and the"):
        Vector([1, 2, 3]).at(site, span)
    with pytest.raises(OptionError, match="none of the sites"):
        Vector(rising).at(sites.find("logits"), span)


def test_a_file_of_numbers(tmp_path, site):
    np.save(tmp_path / "v.npy", np.arange(site.units, dtype=np.float32))
    edit = as_edit(f"steer={tmp_path / 'v.npy'}*-2")
    assert edit.label == "steer=v.npy*-2"
    shift = edit.change(site, Facts(), None, Tokens()).shift
    assert shift.ravel().tolist() == [-2.0 * i for i in range(site.units)]
    force = as_edit(f"force={tmp_path / 'v.npy'}")
    assert force.change(site, Facts(), None, Tokens()).shift.shape == (1, 1, site.units)
    np.save(tmp_path / "a*b.npy", np.ones(3))
    assert as_edit(f"steer={tmp_path / 'a*b.npy'}").label == "steer=a*b.npy*1"
    assert as_edit(f"steer={tmp_path / 'v.npy'}").label == "steer=v.npy*1"


def hostile(path, what):
    if what == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif what == "several":
        with path.open("wb") as file:
            np.savez(file, a=np.ones(3), b=np.ones(3))
    elif what == "text":
        path.write_text("1 2 3")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "huge":
        np.save(path, np.ones(3))
        text = path.read_bytes().replace(b"(3,), }", b"(3000000000000000,), }")
        path.write_bytes(text)
    elif what == "code":
        np.save(path, np.ones(3))
        path.write_bytes(path.read_bytes().replace(b"False", b"exit("))
    elif what == "complex":
        np.save(path, np.ones(3, complex))
    elif what == "table":
        np.save(path, np.ones((3, 3)))
    elif what == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "what",
    ["pickle", "several", "text", "empty", "huge", "code", "complex", "table", "folder", "absent"],
)
def test_hostile_files(tmp_path, what):
    path = tmp_path / "v.npy"
    hostile(path, what)
    with pytest.raises(OptionError) as caught:
        Vector.read(path)
    assert "v.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- operands -----------------------------------------------------------------------------------


def applied(x, values):
    """What a plan's edit does, in numpy."""
    if len(values) == 2:
        return np.where(values[0], values[1], x)
    mask, scale, shift = values
    return np.where(mask, 0, x * scale) + shift


def change(rng, site, *, replaces):
    shift = rng.standard_normal((1, 4, site.units)).astype(site.dtype)
    scale = None if replaces else rng.standard_normal((1, 1, site.units)).astype(site.dtype)
    return Change(shift, scale)


@pytest.mark.parametrize("kinds", [(a, b) for a in (True, False) for b in (True, False)])
@pytest.mark.parametrize("form", ["replace", "affine"])
def test_two_edits_joined_are_one_after_the_other(site, kinds, form):
    if form == "replace" and not all(kinds):
        return
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, site.units)).astype(site.dtype)
    steps = []
    for replaces in kinds:
        units = rng.random((3, 1, site.units)) < 0.5
        chosen = rng.random((3, 4)) < 0.5
        steps.append(operands(form, site, change(rng, site, replaces=replaces), units, chosen))
    want = applied(applied(x, steps[0]), steps[1])
    np.testing.assert_allclose(applied(x, joined(*steps)), want, atol=1e-6)
    assert np.abs(want - x).max() > 0.1


@pytest.mark.parametrize("form", ["replace", "affine"])
def test_where_no_edit_holds_nothing_changes_to_the_bit(site, form):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 4, site.units)).astype(site.dtype)
    x[0, 0, :2] = -0.0, np.inf
    units = np.zeros((2, 1, site.units), bool)
    units[1] = True
    values = operands(form, site, change(rng, site, replaces=form == "replace"), units)
    out = applied(x, values)
    assert out[0].tobytes() == x[0].tobytes()
    assert np.abs(out[1] - x[1]).max() > 0.1


# --- other packages' edits ----------------------------------------------------------------------


def test_another_package_adds_an_edit(monkeypatch, site):
    found = {"flip": "helpers.flip_edit:Flip", "other": "helpers.tiny_graphs:Builder"}
    monkeypatch.setattr(
        "onnxloc.registry.entry_points",
        lambda group: [
            EntryPoint(k, v, group) for k, v in found.items() if group == "onnxloc.edits"
        ],
    )
    edit = as_edit("flip")
    assert (edit.label, edit.form, edit.said) == ("flip", "affine", "changed by flip")
    window = Window.whole([[1, 2]])
    assert edit.change(site, Facts(), window, Tokens()).scale.max() == -1
    with pytest.raises(OptionError, match="registered as an edit and is none"):
        as_edit("other")
