"""A model with an edit built in keeps the names of its parts."""

import numpy as np
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.graph.bake import FixedEdit, bake
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3], [4, 5, 6]], [0, 1], pad=0)


def named(model):
    return {name: s.tensor for s in model.sites for name in s.names if not name.startswith("op:")}


def edit_of(units, *, scaled):
    rng = np.random.default_rng(1)
    scale = np.full(units, 2.0, np.float32) if scaled else None
    mask = np.arange(units) % 2 == 0
    return FixedEdit(mask, rng.standard_normal(units).astype(np.float32), scale)


@pytest.mark.parametrize("scaled", [False, True])
def test_names_stay_and_mean_the_edited_values(tmp_path, scaled):
    source = Model.open(tiny.write(tmp_path / "source", tiny.decoder()))
    names = named(source)
    assert {"embed", "block.0.out", "block.1.mlp.hidden", "block.1.attn.heads"} <= set(names)
    units = {tensor: source.sites.tensor(tensor).units for tensor in names.values()}
    edits = {
        tensor: edit_of(count, scaled=scaled) for tensor, count in sorted(units.items()) if count
    }
    assert len(edits) > 15
    baked = Model.open(tiny.write(tmp_path / "baked", bake(source.graph, source.sites, edits)))
    assert named(baked) == names
    again = Model.open(tiny.write(tmp_path / "again", bake(baked.graph, baked.sites, edits)))
    assert named(again) == names
    for model in (baked, again):
        tap = Tap(model.sites.find("block.0.mlp.hidden").tensor, "none")
        found = model.compile(Plan(taps=(tap,)), RuntimeOptions()).taps(BATCH)[tap]
        edit = edits[tap.site]
        if not scaled:
            fixed = found[..., edit.mask]
            np.testing.assert_array_equal(
                fixed, np.broadcast_to(edit.values[edit.mask], fixed.shape)
            )


def test_a_mask_that_differs_by_token_is_no_edit(tmp_path):
    graph = tiny.decoder()
    (node,) = (n for n in graph.graph.node if "b0.out" in n.output)
    node.output[0] = "raw"
    mask, value = np.arange(3).reshape(1, 3, 1) > 0, np.zeros((1, 1, 8), np.float32)
    graph.graph.initializer.extend(
        [tiny.numpy_helper.from_array(mask, "m"), tiny.numpy_helper.from_array(value, "v")]
    )
    where = tiny.helper.make_node("Where", ["m", "v", "raw"], ["b0.out"])
    graph.graph.node.insert(list(graph.graph.node).index(node) + 1, where)
    for dim in graph.graph.input:
        dim.type.tensor_type.shape.dim[1].dim_value = 3
    model = Model.open(tiny.write(tmp_path, graph))
    assert "b0.out" not in named(model).values()
