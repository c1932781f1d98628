"""One compiled plan: an onnxruntime session and the feeds that its taps, edits and heads need."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import ModelProto

from onnxloc.errors import ModelError, OptionError, RuntimeMissingError
from onnxloc.graph.plan import Tap
from onnxloc.graph.rewrite import LAST_INDEX, LOGPROBS, TARGETS, TOKEN_MASK, Instrumented
from onnxloc.registry import did_you_mean, one_line
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import model_feeds
from onnxloc.runtime.parts import Part, join, parts
from onnxloc.runtime.providers import RuntimeOptions, import_onnxruntime, provider_name

__all__ = ["EditValues", "Session", "make_session", "run_session"]

Array = NDArray[Any]
EditValues = Mapping[str, tuple[Array, ...]]
TYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}
# What each operand of an edit is where the edit changes nothing: x + -0.0 is x, -0.0 included.
IDENTITY = {"mask": False, "value": 0.0, "scale": 1.0, "shift": -0.0}


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
        content = proto.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise ModelError("the model is over 2 GiB; save its weights as external data") from error
    try:
        session = ort.InferenceSession(content, sess_options=settings, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(f"onnxruntime refuses the model: {one_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise RuntimeMissingError(
            f"onnxruntime could not start {provider} and fell back to "
            f"{session.get_providers()[0]}; check the driver and the CUDA libraries"
        )
    return session


def run_session(session: Any, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
    """Run an onnxruntime session.

    Raises
    ------
    ModelError
        If it fails.
    """
    try:
        return list(session.run(list(names), dict(feeds)))
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(f"onnxruntime failed while running: {one_line(error)}") from error


class Session:
    """A compiled plan.

    Parameters
    ----------
    instrumented : Instrumented
        The graph with the plan built in.
    options : RuntimeOptions
        Provider and threads.

    Raises
    ------
    RuntimeMissingError
        If onnxruntime or the provider is missing.
    ModelError
        If onnxruntime refuses the graph.
    """

    def __init__(self, instrumented: Instrumented, options: RuntimeOptions) -> None:
        self.instrumented = instrumented
        self.plan = instrumented.plan
        self._session = make_session(instrumented.proto, instrumented.graph.folder, options)
        self._inputs = instrumented.input_names
        self._specs = [spec for spec in instrumented.graph.inputs if spec.name in self._inputs]

    @property
    def provider(self) -> str:
        """Onnxruntime's name of the provider in use."""
        return str(self._session.get_providers()[0])

    @property
    def handle(self) -> Any:
        """The session as onnxruntime has it."""
        return self._session

    def taps(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array] | None = None,
    ) -> dict[Tap, Array]:
        """The pooled activations of a batch: for each tap, ``[rows, units]``.

        Parameters
        ----------
        batch : Batch
            What is run.
        edits : mapping of str to tuple of ndarray, optional
            For each site that is changed, by its tensor, the operands of the plan's edit: ``(mask,
            value)`` or ``(mask, scale, shift)``, each ``[rows or 1, tokens or 1, units]``. Edits of
            the plan that are not given change nothing.
        given : mapping of str to ndarray, optional
            The plan's given tensors, ``[rows, tokens, features]``.

        Raises
        ------
        OptionError
            If `edits` names a site that the plan does not edit, or an operand does not fit.
        ModelError
            If the model fails, or cannot take the batch.
        """
        names = [self.instrumented.tap_outputs[tap] for tap in self.plan.taps]
        return dict(zip(self.plan.taps, self._run(names, batch, edits, given), strict=True))

    def target_logprobs(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array] | None = None,
    ) -> list[NDArray[np.float64]]:
        """For each row, the log-probability of each token after the first, given those before it.

        Each array is one shorter than its row. Parameters and errors are those of `taps`.
        """
        if self.plan.head is None:
            raise OptionError("the plan has no head for log-probabilities")
        (values,) = self._run([LOGPROBS], batch, edits, given)
        return [
            values[row, : length - 1].astype(np.float64) for row, length in enumerate(batch.lengths)
        ]

    def outputs(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """The kept outputs of the original graph. Parameters and errors are those of `taps`."""
        names = list(self.plan.outputs)
        return dict(zip(names, self._run(names, batch, edits, given), strict=True))

    def _run(
        self,
        names: list[str],
        batch: Batch,
        edits: EditValues | None,
        given: Mapping[str, Array] | None,
    ) -> list[Array]:
        operands = self.operands(batch, edits or {}) | self._given(batch, given or {})
        done: list[tuple[Part, list[Array]]] = []
        for part in parts(batch, self.instrumented.graph.inputs):
            feeds = model_feeds(self._specs, part.batch)
            if LAST_INDEX in self._inputs:
                feeds[LAST_INDEX] = part.batch.lengths - 1
            if TOKEN_MASK in self._inputs:
                feeds[TOKEN_MASK] = part.batch.pooled.copy()
            if TARGETS in self._inputs:
                feeds[TARGETS] = np.pad(part.batch.ids[:, 1:], ((0, 0), (0, 1)))
            # onnxruntime has written into callers' arrays: each run gets its own.
            feeds.update({name: part.operand(value).copy() for name, value in operands.items()})
            try:
                done.append((part, run_session(self._session, names, feeds)))
            except ModelError as error:
                rows, tokens = part.batch.ids.shape
                raise ModelError(f"{error} (on {rows} rows of {tokens} tokens)") from error
        joined = []
        for i, name in enumerate(names):
            results = [(part, values[i]) for part, values in done]
            joined.append(join(batch, results, by_token=self._by_token(name, results)))
        return joined

    def _by_token(self, name: str, results: Sequence[tuple[Part, Array]]) -> bool:
        """Whether the second axis of a result runs over tokens."""
        if name in self._tap_outputs:
            return results[0][1].ndim == 3
        return all(v.ndim > 1 and v.shape[1] == p.batch.ids.shape[1] for p, v in results)

    @cached_property
    def _tap_outputs(self) -> frozenset[str]:
        return frozenset(self.instrumented.tap_outputs.values())

    def operands(self, batch: Batch, edits: EditValues) -> dict[str, Array]:
        """Every operand of every edit, by the graph's input; edits and errors are as in `taps`."""
        known = self.instrumented.edit_inputs
        for tensor in edits:
            if tensor not in known:
                hint = did_you_mean(tensor, known)
                raise OptionError(f"the plan does not edit {tensor!r}{hint}")
        operands: dict[str, Array] = {}
        for tensor, inputs in known.items():
            given = edits.get(tensor)
            if given is not None and len(given) != len(inputs):
                kinds = ", ".join(name.rpartition(".")[2] for name in inputs)
                raise OptionError(f"the edit of {tensor!r} takes {kinds}; got {len(given)} arrays")
            for i, name in enumerate(inputs):
                # An edit behind all that is read has been pruned.
                if name in self._inputs:
                    value = None if given is None else given[i]
                    operands[name] = self._operand(batch, name, value)
        return operands

    def _given(self, batch: Batch, given: Mapping[str, Array]) -> dict[str, Array]:
        inputs = self.instrumented.given_inputs
        if set(given) != set(inputs):
            raise OptionError(f"the plan is given {sorted(inputs)}, not {sorted(given)}")
        for tensor, value in given.items():
            if value.ndim != 3 or value.shape[:2] != batch.ids.shape:
                rows, tokens = batch.ids.shape
                raise OptionError(
                    f"{tensor!r} is given as {list(value.shape)}; "
                    f"it takes [{rows}, {tokens}, units]"
                )
        # A tap reads half precision as float32; the graph goes on in its own type.
        return {
            inputs[tensor]: np.asarray(value, dtype=self._operand_types[inputs[tensor]][0])
            for tensor, value in given.items()
        }

    def _operand(self, batch: Batch, name: str, value: Array | None) -> Array:
        dtype, units = self._operand_types[name]
        kind = name.rpartition(".")[2]
        if value is None:
            return np.full((1, 1, units), IDENTITY[kind], dtype=dtype)
        value = np.asarray(value, dtype=dtype)
        rows, tokens = batch.ids.shape
        fits = value.ndim == 3 and value.shape[0] in (1, rows) and value.shape[1] in (1, tokens)
        if not fits or value.shape[2] != units:
            raise OptionError(
                f"the {kind} of an edit has shape {list(value.shape)}; it takes "
                f"[{rows} or 1, {tokens} or 1, {units}]"
            )
        return value

    @cached_property
    def _operand_types(self) -> dict[str, tuple[str, int]]:
        """Dtype and units of each operand and given tensor, as onnxruntime has them."""
        names = {name for inputs in self.instrumented.edit_inputs.values() for name in inputs}
        names |= set(self.instrumented.given_inputs.values())
        return {
            value.name: (TYPES[value.type], value.shape[-1])
            for value in self._session.get_inputs()
            if value.name in names
        }
