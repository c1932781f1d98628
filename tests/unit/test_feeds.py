"""What a model's inputs are fed."""

import numpy as np
import pytest
from onnx import TensorProto as T

from onnxloc.errors import ModelError
from onnxloc.graph.load import InputSpec
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import fixed_sizes, input_role, is_text_model, model_feeds

pytestmark = pytest.mark.unit

BATCH = Batch.of([[1, 2, 3], [4]], [0, 1], pad=0)
BT = ("b", "t")


@pytest.mark.parametrize(
    ("name", "dtype", "dims", "role"),
    [
        ("input_ids", T.INT64, BT, "ids"),
        ("tokens", T.INT32, (), "ids"),
        ("anything", T.INT64, BT, "ids"),
        ("attention_mask", T.INT64, BT, "mask"),
        ("attention_mask", T.FLOAT, BT, "mask"),
        ("attention_mask", T.FLOAT, ("b", 1, "t", "t"), "other"),
        ("input_mask", T.BOOL, BT, "mask"),
        ("position_ids", T.INT64, BT, "positions"),
        ("cache_position", T.INT64, ("t",), "positions"),
        ("token_type_ids", T.INT64, BT, "types"),
        ("past_key_values.0.key", T.FLOAT, ("b", 2, "p", 4), "past"),
        ("past_key_values.0.key", T.FLOAT, ("b", "h", "p", "d"), "other"),
        ("pixel_values", T.FLOAT, ("b", 3, 8, 8), "other"),
        ("input_ids", T.FLOAT, BT, "other"),
        ("steps", T.INT64, ("n",), "other"),
    ],
)
def test_roles(name, dtype, dims, role):
    assert input_role(InputSpec(name, dtype, dims)) == role


def test_values_and_types():
    specs = [
        InputSpec("input_ids", T.INT32, BT),
        InputSpec("attention_mask", T.FLOAT, BT),
        InputSpec("position_ids", T.INT64, BT),
        InputSpec("cache_position", T.INT64, ("t",)),
        InputSpec("token_type_ids", T.INT64, BT),
        InputSpec("past.0", T.FLOAT16, ("b", 2, "p", 4)),
    ]
    feeds = model_feeds(specs, BATCH)
    np.testing.assert_array_equal(feeds["input_ids"], [[1, 2, 3], [4, 0, 0]])
    np.testing.assert_array_equal(feeds["attention_mask"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(feeds["position_ids"], [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(feeds["cache_position"], [0, 1, 2])
    np.testing.assert_array_equal(feeds["token_type_ids"], np.zeros((2, 3)))
    assert feeds["past.0"].shape == (2, 2, 0, 4)
    assert [str(v.dtype) for v in feeds.values()] == [
        "int32", "float32", "int64", "int64", "int64", "float16",
    ]  # fmt: skip
    for value in feeds.values():
        value[...] = 7
    np.testing.assert_array_equal(BATCH.ids, [[1, 2, 3], [4, 0, 0]])
    np.testing.assert_array_equal(BATCH.mask, [[1, 1, 1], [1, 0, 0]])


def test_an_input_that_text_cannot_fill_is_named():
    specs = [InputSpec("input_ids", T.INT64, BT), InputSpec("pixels", T.FLOAT, ("b", 3, 8, 8))]
    assert not is_text_model(specs)
    with pytest.raises(ModelError, match="input 'pixels' cannot be filled from text"):
        model_feeds(specs, BATCH)


def test_fixed_sizes():
    assert fixed_sizes([InputSpec("input_ids", T.INT64, (1, "t"))]) == (1, None)
    assert fixed_sizes([InputSpec("input_ids", T.INT64, (None, 8))]) == (None, 8)
    assert fixed_sizes([InputSpec("input_ids", T.INT64, ())]) == (None, None)
    assert fixed_sizes([]) == (None, None)
