"""How far a bundle is from the JAX function that it was made of."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxloc_exporters.jax_program import JaxProgram
from onnxloc_exporters.jax_trace import Dims
from onnxloc_exporters.parity import TOLERANCES, ArrayCase, measure_arrays, record, settle

from onnxloc.bundle import Bundle, BundleInfo
from onnxloc.graph.load import load_graph
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import is_text_model, model_feeds

__all__ = ["record_parity"]

SEED = 0
# Size of the axes that vary, in inputs that are not text; None for the example's own.
SIZES = (None, 1, 3)
DTYPES = {"f": np.float32, "i": np.int32, "u": np.uint32}


def record_parity(
    program: JaxProgram,
    sizes: Mapping[str, Dims],
    folder: Path,
    info: BundleInfo,
    *,
    vocabulary: int | None,
    allow_mismatch: bool,
) -> None:
    """Compare the bundle with the function, compiled by JAX, and write ``bundle.json``.

    A text model is run on random tokens (`onnxloc_exporters.parity.measure`); any other on random
    inputs with the sizes of the examples.

    Parameters
    ----------
    program
        The function.
    sizes
        The axes of each input: a number, or a name where the size varies.
    folder
        The bundle but for ``bundle.json``.
    info
        What is known of it.
    vocabulary
        Token ids below it can be looked up; None if the graph looks up nothing.
    allow_mismatch
        Write the record whatever the difference.

    Raises
    ------
    ExportError
        If the graph cannot be run, or differs by more than the tolerance.
    """
    Bundle.describe(folder, info)
    specs = load_graph(Bundle.open(folder)).inputs
    name = f"jax {info.versions['jax']}"
    if is_text_model(specs) and vocabulary is not None:

        def reference(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
            batch = Batch(np.arange(len(ids)), ids, mask.sum(axis=1))
            return program.run(model_feeds(specs, batch))

        record(
            folder, info, reference, vocabulary=vocabulary, name=name, allow_mismatch=allow_mismatch
        )
        return
    parity = measure_arrays(
        folder,
        program.run,
        _cases(program.inputs, sizes),
        name=f"{name}, {info.dtype}",
        tolerance=TOLERANCES[info.dtype],
    )
    settle(parity, allow_mismatch=allow_mismatch)
    Bundle.describe(folder, replace(info, parity=parity))


def _cases(inputs: Mapping[str, NDArray[Any]], sizes: Mapping[str, Dims]) -> list[ArrayCase]:
    draw = np.random.default_rng(SEED)
    found = []
    for number in SIZES:
        feeds: dict[str, NDArray[Any]] = {}
        for name, x in inputs.items():
            shape = [
                number if isinstance(dim, str) and number else size
                for dim, size in zip(sizes[name], x.shape, strict=True)
            ]
            if x.dtype.kind == "f":
                feeds[name] = draw.standard_normal(shape).astype(np.float32)
            else:
                # No number larger than those seen: they may be looked up in a table.
                drawn = draw.integers(0, int(x.max(initial=0)) + 1, shape)
                feeds[name] = drawn.astype(DTYPES.get(x.dtype.kind, np.bool_))
        rows = next((x.shape[0] for x in feeds.values() if x.ndim), 1)
        found.append(ArrayCase(feeds, rows, 0))
    return found
