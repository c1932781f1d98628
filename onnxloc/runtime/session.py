"""One compiled plan: an onnxruntime session and the feeds that its taps, edits and heads need."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxloc.errors import ModelError, RuntimeMissingError
from onnxloc.graph.plan import Tap
from onnxloc.graph.rewrite import LAST_INDEX, LOGPROBS, TARGETS, TOKEN_MASK, Instrumented
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import model_feeds
from onnxloc.runtime.providers import RuntimeOptions, import_onnxruntime, provider_name

__all__ = ["EditValues", "Session", "make_session"]

Array = NDArray[Any]
EditValues = Mapping[str, tuple[Array, ...]]


def make_session(
    proto: ModelProto, folder: Path, options: RuntimeOptions, *, optimise: bool = True
) -> Any:
    """An onnxruntime session of a model whose weights lie in `folder`.

    Without `optimise` the graph runs as it is and weights stay memory-mapped: quick to make, slow
    to run.

    Raises
    ------
    RuntimeMissingError
        If onnxruntime or the provider is missing.
    ModelError
        If onnxruntime refuses the model.
    """
    ort = import_onnxruntime()
    provider = provider_name(options)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # By default an execution order may be chosen that keeps every tapped tensor alive to the end.
    settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # The bytes have no path of their own: this says where the external data is.
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve()) + os.sep
    )
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.add_session_config_entry("session.disable_prepacking", "1")
    providers = [provider] if options.provider == "cpu" else [provider, "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), sess_options=settings, providers=providers
        )
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(f"onnxruntime refuses the model: {_one_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise RuntimeMissingError(
            f"onnxruntime could not start {provider} and fell back to "
            f"{session.get_providers()[0]}; check the driver and the CUDA libraries"
        )
    return session


class Session:
    """A compiled plan.

    Parameters
    ----------
    instrumented : Instrumented
        The graph with the plan built in.
    options : RuntimeOptions
        Provider and threads.
    """

    def __init__(self, instrumented: Instrumented, options: RuntimeOptions) -> None:
        self.instrumented = instrumented
        self.plan = instrumented.plan
        self._session = make_session(instrumented.proto, instrumented.graph.folder, options)
        self._inputs = instrumented.input_names
        self._specs = [spec for spec in instrumented.graph.inputs if spec.name in self._inputs]

    @property
    def provider(self) -> str:
        """onnxruntime's name of the provider in use."""
        return str(self._session.get_providers()[0])

    def taps(self, batch: Batch, edits: EditValues | None = None) -> dict[Tap, Array]:
        """The pooled activations of a batch: for each tap, ``[rows, units]``."""
        names = [self.instrumented.tap_outputs[tap] for tap in self.plan.taps]
        values = self._run(names, batch, edits, {})
        return dict(zip(self.plan.taps, values, strict=True))

    def target_logprobs(
        self, batch: Batch, edits: EditValues | None = None
    ) -> list[NDArray[np.float64]]:
        """For each row, the log-probability of each token after the first, given those before it.

        Each array is one shorter than its row.
        """
        targets = np.zeros_like(batch.ids)
        targets[:, :-1] = batch.ids[:, 1:]
        (values,) = self._run([LOGPROBS], batch, edits, {TARGETS: targets})
        return [
            values[row, : length - 1].astype(np.float64)
            for row, length in enumerate(batch.lengths)
        ]

    def outputs(self, batch: Batch, edits: EditValues | None = None) -> dict[str, Array]:
        """The kept outputs of the original graph."""
        names = list(self.plan.outputs)
        return dict(zip(names, self._run(names, batch, edits, {}), strict=True))

    def _run(
        self,
        names: list[str],
        batch: Batch,
        edits: EditValues | None,
        extra: Mapping[str, Array],
    ) -> list[Array]:
        feeds = model_feeds(self._specs, batch)
        feeds.update({k: v for k, v in extra.items() if k in self._inputs})
        if LAST_INDEX in self._inputs:
            feeds[LAST_INDEX] = batch.lengths - 1
        if TOKEN_MASK in self._inputs:
            feeds[TOKEN_MASK] = batch.mask
        edits = edits or {}
        for tensor, inputs in self.instrumented.edit_inputs.items():
            if tensor in edits:
                feeds.update(zip(inputs, edits[tensor], strict=True))
            else:
                feeds.update(self._identity(tensor, inputs))
        try:
            return list(self._session.run(names, feeds))
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise ModelError(f"onnxruntime failed while running: {_one_line(error)}") from error

    def _identity(self, tensor: str, inputs: tuple[str, ...]) -> dict[str, Array]:
        """Operands that leave a site as it is."""
        feeds: dict[str, Array] = {}
        for name in inputs:
            value = self._input_info[name]
            kind = name.rpartition(".")[2]
            fill = 1 if kind == "scale" else 0
            feeds[name] = np.full((1, 1, value[1]), fill, dtype=value[0])
        return feeds

    @property
    def _input_info(self) -> dict[str, tuple[str, int]]:
        kinds = {
            "tensor(bool)": "bool",
            "tensor(float)": "float32",
            "tensor(float16)": "float16",
            "tensor(double)": "float64",
        }
        return {
            value.name: (kinds.get(value.type, "float32"), value.shape[-1])
            for value in self._session.get_inputs()
            if value.name.startswith("onnxloc.edit.")
        }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
