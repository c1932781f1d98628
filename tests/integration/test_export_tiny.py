"""Tiny seeded models of several families through torch and optimum: parity and anatomy."""

import pytest
import torch
from helpers.torch_models import make
from onnxloc_exporters.optimum_ import OptimumExporter
from onnxloc_exporters.torch_ import TorchExporter

from onnxloc.errors import ExportError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

# These take too long for the unit tests.
pytestmark = pytest.mark.integration

CASES = [
    ("gpt_neox", TorchExporter()),
    ("gpt2", TorchExporter(dtype="float16")),
    ("bert", TorchExporter(dtype="bfloat16")),
    ("t5", TorchExporter()),
    ("gpt2", OptimumExporter(dtype="bfloat16", with_past=True)),
    ("bert", OptimumExporter(dtype="float16")),
    ("t5", OptimumExporter()),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and on a busy machine lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def part_names(made):
    """What the model's modules are, and one of the three where one product makes q, k and v."""
    return {name.replace(".qkv", ".q") for name in made.parts}


@pytest.mark.parametrize(
    ("kind", "exporter"), CASES, ids=[f"{k}-{type(e).__name__}-{e.dtype}" for k, e in CASES]
)
def test_families(kind, exporter, tmp_path, figure):
    made = make(kind)
    made.module.model.save_pretrained(tmp_path / kind, safe_serialization=True)
    model = Model.open(exporter.export(tmp_path / kind, tmp_path / "bundle"))
    info = model.bundle.info
    assert info.dtype == exporter.dtype
    assert info.parity is not None
    figure(f"{kind}, {info.exporter}, {info.dtype}: parity, relative", info.parity.max_rel)
    assert info.parity.max_rel <= (1e-2 if exporter.dtype == "float16" else 1e-5)
    assert part_names(made) <= {name for site in model.sites for name in site.names}
    # Whatever inputs there are, they are filled from token ids.
    tap = Tap(next(site.tensor for site in model.sites.match(["**block.1.out"])), "last")
    session = model.compile(Plan(taps=(tap,)), RuntimeOptions())
    values = session.taps(Batch.of([[1, 2, 3], [4, 5]], [0, 1], pad=0))[tap]
    assert values.shape == (2, 32)


def test_what_optimum_cannot_do(tmp_path):
    make("bert").module.model.save_pretrained(tmp_path / "bert", safe_serialization=True)
    with pytest.raises(ExportError, match="--with-past is for causal language models"):
        OptimumExporter(with_past=True).export(tmp_path / "bert", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"bert"}
