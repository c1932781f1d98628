"""How far a bundle is from its source: measured, recorded, and refused."""

import json

import numpy as np
import onnx
import pytest
from helpers.tiny_bundle import MODEL, write_tiny_bundle
from onnxloc_exporters.parity import ArrayCase, measure, measure_arrays, record, settle

from onnxloc.bundle import Bundle, BundleInfo
from onnxloc.cli import main
from onnxloc.cli.export_options import parity_line
from onnxloc.errors import BundleError, ExportError

pytestmark = pytest.mark.unit

VOCABULARY = 101


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(0).standard_normal((VOCABULARY, 8)).astype(np.float32)


@pytest.fixture(params=["masked", "without a mask", "pooled"])
def case(request, tmp_path, weight):
    """A graph that looks tokens up, and the same in numpy."""
    nodes = [onnx.helper.make_node("Gather", ["weight", "input_ids"], ["x"])]
    inputs = [onnx.helper.make_tensor_value_info("input_ids", 7, ["b", "t"])]
    if request.param != "without a mask":
        inputs.append(onnx.helper.make_tensor_value_info("attention_mask", 7, ["b", "t"]))
        nodes += [
            onnx.helper.make_node("Cast", ["attention_mask"], ["m2"], to=1),
            onnx.helper.make_node("Unsqueeze", ["m2", "minus_one"], ["m"]),
            onnx.helper.make_node("Mul", ["x", "m"], ["masked"]),
            onnx.helper.make_node("ReduceSum", ["masked", "one"], ["sum"],
                                  keepdims=int(request.param == "masked")),
        ]  # fmt: skip
    if request.param == "masked":
        nodes.append(onnx.helper.make_node("Add", ["x", "sum"], ["out"]))
    output = {"masked": "out", "without a mask": "x", "pooled": "sum"}[request.param]
    shape = ["b", 8] if request.param == "pooled" else ["b", "t", 8]
    constants = [
        onnx.numpy_helper.from_array(weight, "weight"),
        onnx.numpy_helper.from_array(np.array([1]), "one"),
        onnx.numpy_helper.from_array(np.array([-1]), "minus_one"),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", inputs, [onnx.helper.make_tensor_value_info(output, 1, shape)], constants
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9),
              tmp_path / "model.onnx")  # fmt: skip

    def reference(ids, mask):
        x = weight[ids]
        total = (x * mask[..., None]).sum(1)
        return {"masked": x + total[:, None], "pooled": total, "without a mask": x}[request.param]

    return tmp_path, reference


def run(folder, reference, **options):
    settings = {"vocabulary": VOCABULARY, "max_tokens": 20, "name": "numpy", "tolerance": 1e-5}
    return measure(folder, reference, **{**settings, **options})


def test_a_faithful_graph(case):
    parity = run(*case)
    assert parity.within
    assert parity.max_rel <= 1e-6
    assert (3, 20) in {(c.rows, c.tokens) for c in parity.cases}
    assert {c.padded for c in parity.cases} == {True, False}


def test_the_difference_is_the_one_that_is_there(case):
    folder, reference = case
    seen = []

    def off(ids, mask):
        out = reference(ids, mask).copy()
        seen.append(np.abs(out).max())
        out.flat[0] += 0.5
        return out

    parity = run(folder, off, shapes=[(1, 5)])
    assert parity.max_abs == pytest.approx(0.5, rel=1e-5)
    assert parity.max_rel == pytest.approx(0.5 / seen[0], rel=0.5)
    assert not parity.within
    with pytest.raises(
        ExportError, match=r"differs from numpy by .*1 rows of 5 tokens.*allow-mism"
    ):
        settle(parity, allow_mismatch=False)
    settle(parity, allow_mismatch=True)
    assert "OVER the tolerance" in parity_line(parity)


def test_padding_is_not_compared(case):
    folder, reference = case

    def noisy(ids, mask):
        out = reference(ids, mask).copy()
        if out.ndim == 3:
            out[mask == 0] = 1e6
        return out

    assert run(folder, noisy).within


def test_what_cannot_be_compared(case):
    folder, reference = case
    weightless = np.zeros(10)
    with pytest.raises(ExportError, match="output has the shape"):
        run(folder, lambda ids, mask: reference(ids, mask)[..., :3])
    with pytest.raises(ExportError, match="the source model gives values that are not finite"):
        run(folder, lambda ids, mask: reference(ids, mask) * np.nan)
    with pytest.raises(ExportError, match=r"the source model fails .*: index .* is out of bounds"):
        run(folder, lambda ids, mask: weightless[ids + 10])
    with pytest.raises(ExportError, match="fails on input_ids"):
        run(folder, lambda ids, mask: reference(ids % VOCABULARY, mask), vocabulary=10**6)


def test_record_writes_or_refuses(case):
    folder, reference = case
    info = BundleInfo(name="x", dtype="float32", max_tokens=20)
    given = {"vocabulary": VOCABULARY, "name": "numpy"}
    with pytest.raises(ExportError, match="differs"):
        record(folder, info, lambda *a: reference(*a) + 1, allow_mismatch=False, **given)
    record(folder, info, lambda *a: reference(*a) + 1, allow_mismatch=True, **given)
    parity = Bundle.open(folder).info.parity
    assert parity is not None
    assert not parity.within
    record(folder, info, reference, allow_mismatch=False, **given)
    assert Bundle.open(folder).info.parity.reference == "numpy, float32"


def test_arrays(case, weight):
    folder, reference = case
    ids = np.arange(10).reshape(2, 5)
    names = {i.name for i in onnx.load(folder / "model.onnx").graph.input}
    feeds = {k: v for k, v in {"input_ids": ids, "attention_mask": np.ones_like(ids)}.items()
             if k in names}  # fmt: skip
    cases = [ArrayCase(feeds, 2, 5)]
    right = measure_arrays(folder, lambda f: reference(f["input_ids"], np.ones_like(ids)), cases,
                           name="numpy", tolerance=1e-5)  # fmt: skip
    assert right.within
    wrong = measure_arrays(folder, lambda f: -reference(f["input_ids"], np.ones_like(ids)), cases,
                           name="numpy", tolerance=1e-5)  # fmt: skip
    assert wrong.max_rel == pytest.approx(2, rel=1e-3)


GOOD = {
    "output": "logits", "reference": "numpy", "tolerance": 1e-3, "max_abs": 0.1, "max_rel": 0.01,
    "cases": [{"rows": 1, "tokens": 5, "padded": False, "max_abs": 0.1, "max_rel": 0.01}],
}  # fmt: skip


def test_a_bundle_without_the_record_opens(tmp_path):
    folder = write_tiny_bundle(tmp_path / "tiny")
    file = folder / "bundle.json"
    raw = json.loads(file.read_text())
    assert raw.pop("parity") is None
    file.write_text(json.dumps(raw))
    assert Bundle.open(folder).info.parity is None
    assert parity_line(None) == "parity: not measured"
    file.write_text(json.dumps({**raw, "parity": GOOD}))
    info = Bundle.open(folder).info
    assert info.parity.cases[0].tokens == 5
    assert BundleInfo.from_json(info.to_json(), file) == info


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1}, {"max_rel": "1"}, {"max_rel": -1.0}, {"max_abs": float("nan")},
        {"tolerance": float("inf")}, {"cases": []}, {"cases": 3}, {"cases": [3]},
        {"cases": [{**GOOD["cases"][0], "padded": 1}]}, {"cases": [{**GOOD["cases"][0], "x": 1}]},
        {"cases": [{**GOOD["cases"][0], "rows": 10**400, "max_abs": 10**400}]},
    ],
)  # fmt: skip
def test_malformed_records(change, tmp_path):
    text = json.dumps({"name": "x", "format": 1, "parity": {**GOOD, **change}})
    with pytest.raises(BundleError, match="parity"):
        BundleInfo.from_json(text, tmp_path)


def test_a_gguf_against_transformers(tmp_path, capsys):
    source = MODEL.write(tmp_path / "m.gguf")
    words = ["export", "gguf", str(source), "-o", str(tmp_path / "out"), "--parity"]
    assert main(words) == 0
    assert "within the tolerance of 0.001" in capsys.readouterr().out
    parity = Bundle.open(tmp_path / "out").info.parity
    assert parity is not None
    assert parity.reference.startswith("transformers 4.")
    assert parity.max_rel <= 1e-4
