"""Weights kept in bfloat16, in a graph that computes in float32.

Onnxruntime computes next to nothing in bfloat16 on the CPU, so a graph in it could be run on few
machines, and its sites be looked at on fewer. Each weight is stored in bfloat16 and cast where the
graph begins: half the bytes on disk, and the numbers that float32 gives with rounded weights.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxloc.bundle import MODEL_FILE, WEIGHTS_FILE

__all__ = ["SMALL", "save_weights_beside", "store_as_bfloat16"]

# Tensors of fewer bytes stay as they are, in the graph's file.
SMALL = 1024
SUFFIX = ".bfloat16"


def store_as_bfloat16(folder: Path) -> None:
    """Store as bfloat16 every float32 weight of ``model.onnx`` that loses nothing by it.

    The exporter has rounded the model's weights; tables of other values stay as they are, and so do
    tensors of fewer than `SMALL` bytes.
    """
    import ml_dtypes

    model = onnx.load(folder / MODEL_FILE)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < SMALL:
            continue
        name, narrow = tensor.name, f"{tensor.name}{SUFFIX}"
        wide = numpy_helper.to_array(tensor)
        values = wide.astype(ml_dtypes.bfloat16)
        if not (values.astype(np.float32) == wide).all():
            continue
        tensor.CopyFrom(numpy_helper.from_array(values, narrow))
        casts.append(helper.make_node("Cast", [narrow], [name], f"{name}.cast", to=1))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    save_weights_beside(model, folder)


def save_weights_beside(model: onnx.ModelProto, folder: Path) -> None:
    """Save ``model.onnx`` with all weights but small ones in ``model.onnx.data`` beside it."""
    onnx.save_model(
        model,
        folder / MODEL_FILE,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS_FILE,
        size_threshold=SMALL,
    )
    # onnx makes it for its owner alone; a model of small tensors has none.
    if (folder / WEIGHTS_FILE).exists():
        (folder / WEIGHTS_FILE).chmod(0o644)
