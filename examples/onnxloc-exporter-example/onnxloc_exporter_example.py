"""An exporter of a package of its own: a multilayer perceptron in a ``.npz`` file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal
from zipfile import BadZipFile

from onnxloc.bundle import MODEL_FILE, WEIGHTS_FILE, Bundle, BundleInfo
from onnxloc.errors import ExportError
from onnxloc.folder import check_free, sha256_file


@dataclass(frozen=True, kw_only=True)
class NpzExporter:
    """Turn the arrays w0, b0, w1, b1, ... of a .npz file into a multilayer perceptron."""

    activation: Literal["Relu", "Tanh", "Sigmoid"] = field(
        default="Relu", metadata={"help": "What stands between two layers."}
    )

    version: ClassVar[str] = "1"

    def export(
        self, source: str | Path, output: Path, *, force: bool = False, name: str | None = None
    ) -> Path:
        """Write a bundle."""
        import numpy as np
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        check_free(output, force=force)
        try:
            with np.load(source, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key], np.float32) for key in file.files}
            layers = len(arrays) // 2
            sizes = [len(arrays["w0"]), *(arrays[f"b{i}"].size for i in range(layers))]
            fit = [arrays[f"w{i}"].shape == (sizes[i], sizes[i + 1]) for i in range(layers)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
            raise ExportError(f"{source} does not hold arrays w0, b0, w1, b1, ...") from error
        if len(arrays) != 2 * layers or not all(fit):
            raise ExportError(f"{source}: the shapes of its arrays do not fit each other")
        nodes, value = [], "features"
        for i in range(layers):
            last = i == layers - 1
            nodes.append(
                helper.make_node(
                    "Gemm", [value, f"w{i}", f"b{i}"], ["output" if last else f"pre{i}"]
                )
            )
            if not last:
                value = f"hidden{i}"
                nodes.append(helper.make_node(self.activation, [f"pre{i}"], [value]))
        graph = helper.make_graph(
            nodes, "mlp",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", sizes[0]])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", sizes[-1]])],
            [numpy_helper.from_array(array.reshape(-1) if key[0] == "b" else array, key)
             for key, array in arrays.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        info = BundleInfo(
            name=name or Path(source).stem, framework="numpy", exporter="npz",
            versions={"exporter": self.version}, source=Path(source).name,
            source_sha256=sha256_file(Path(source)), dtype="float32", opset=20,
        )  # fmt: skip
        with Bundle.writing(output, force=force) as folder:
            onnx.save_model(
                model, folder / MODEL_FILE, save_as_external_data=True,
                location=WEIGHTS_FILE, size_threshold=0,
            )  # fmt: skip
            Bundle.describe(folder, info)
        return output
