"""onnx's light models: well-known image networks whose weights were taken out and are seeded anew.

In the files each weight is a ConstantOfShape of one value. Here it becomes an initializer of the
same name with values from a seed, as external data.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus.case import Case
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

__all__ = ["light_cases", "light_names"]


def _folder() -> Path:
    import onnx.backend.test

    return Path(onnx.backend.test.__file__).parent / "data" / "light"


def light_names() -> list[str]:
    """Names of the models that the installed onnx ships."""
    return sorted(path.stem for path in _folder().glob("light_*.onnx"))


def light_cases(folder: Path, names: list[str] | None = None) -> Iterator[Case]:
    """The models, written one by one below `folder`."""
    for name in light_names() if names is None else names:
        place = folder / name
        place.mkdir()
        model = onnx.load(_folder() / f"{name}.onnx")
        _seed(model, place / "weights.bin", np.random.default_rng(0))
        path = place / "model.onnx"
        path.write_bytes(model.SerializeToString())
        constants = {tensor.name for tensor in model.graph.initializer}
        (image,) = (v for v in model.graph.input if v.name not in constants)
        shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
        feed = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        yield Case(
            name=name,
            group="light",
            model=path,
            runs=({image.name: feed},),
            sizes=((shape[0], -1),),
            controls=6,
        )


def _seed(model: ModelProto, weights: Path, rng: np.random.Generator) -> None:
    body = model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in body.initializer}
    kept = []
    with weights.open("wb") as file:
        for node in body.node:
            if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
                kept.append(node)
                continue
            shape = tuple(int(size) for size in shapes[node.input[0]])
            values = _values(shape, rng)
            tensor = TensorProto(
                name=node.output[0],
                dims=shape,
                data_type=TensorProto.FLOAT,
                data_location=TensorProto.EXTERNAL,
            )
            entries = {"location": weights.name, "offset": file.tell(), "length": values.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            values.tofile(file)
            body.initializer.append(tensor)
    del body.node[:]
    body.node.extend(kept)


def _values(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Weights that leave the softmax at the end short of saturation, where no edit would show.

    The spread is that of He et al. 2015 (arXiv:1502.01852), a tenth of it in fully connected
    layers; scales, biases, means and variances are small and above 0.
    """
    if len(shape) < 2:
        return rng.uniform(0.2, 0.6, shape).astype(np.float32)
    spread = np.sqrt(2 / np.prod(shape[1:])) / (10 if len(shape) == 2 else 1)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)
