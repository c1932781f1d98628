"""Sessions of onnxruntime, made with one set of options: never on another provider in silence."""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxloc.errors import ModelError, RuntimeMissingError
from onnxloc.graph.walk import walk_tensors
from onnxloc.registry import one_line
from onnxloc.runtime.providers import RuntimeOptions, import_onnxruntime
from onnxloc.runtime.start import cuda_failure, start

__all__ = ["make_session", "placement", "run_session"]

Array = NDArray[Any]
LOGGER = logging.getLogger(__name__)
QUIET = 4
DEFAULT_SEVERITY = 2
DISABLED = "optimization.disable_specified_optimizers"
RECORD_PLACES = "session.record_ep_graph_assignment_info"


def make_session(
    proto: ModelProto, folder: Path, options: RuntimeOptions, *, optimise: bool = True
) -> Any:
    """An onnxruntime session of a model whose weights lie in `folder`.

    Without `optimise` the graph runs as it is and weights stay memory-mapped: quick to make, slow
    to run.

    Raises
    ------
    RuntimeMissingError
        If onnxruntime or the provider is missing, or the provider takes no part of the graph.
    ModelError
        If onnxruntime refuses the model.
    """
    ort = import_onnxruntime()
    began = time.perf_counter()
    started = start(options)
    settings = ort.SessionOptions()
    settings.log_severity_level = QUIET
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
    if options.provider == "cpu" and _half_weights(proto):
        # Its fused product has no kernel for half precision on the CPU; what mends that later ends
        # in a segmentation fault or a broken graph (onnxruntime 1.31).
        settings.add_session_config_entry(DISABLED, "MatmulTransposeFusion")
    if options.provider != "cpu":
        settings.add_session_config_entry(RECORD_PLACES, "1")
    if started.devices:
        settings.add_provider_for_devices(list(started.devices), started.options)
    try:
        content = proto.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise ModelError("the model is over 2 GiB; save its weights as external data") from error
    # A provider that cannot be loaded is told by the default logger, beside the error made of it.
    ort.set_default_logger_severity(QUIET)
    try:
        session = ort.InferenceSession(content, sess_options=settings, providers=started.providers)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise ModelError(f"onnxruntime refuses the model: {one_line(error)}") from error
    finally:
        ort.set_default_logger_severity(DEFAULT_SEVERITY)
    _require(ort, session, started.name, options)
    if optimise:
        LOGGER.info(
            "a session of %s on %s, %s, %s threads: made in %.2f s", folder, started.name,
            options.precision, options.threads or "all", time.perf_counter() - began,
        )  # fmt: skip
    return session


def _half_weights(proto: ModelProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in walk_tensors(proto.graph))


def _require(ort: Any, session: Any, name: str, options: RuntimeOptions) -> None:
    """Refuse a session that runs elsewhere than it was asked to."""
    found = session.get_providers()[0]
    if found != name:
        why = cuda_failure(ort) if options.provider == "cuda" else "check its installation"
        raise RuntimeMissingError(
            f"onnxruntime could not start {name} and fell back to {found}: {why}"
        )
    places = placement(session) if options.provider != "cpu" else {}
    if places and name not in places:
        raise RuntimeMissingError(
            f"{name} takes none of the graph's {sum(places.values())} operations, so all of it "
            f"would run on the CPU provider; use --provider cpu"
        )


def placement(session: Any) -> dict[str, int]:
    """How many operations run on each provider, by onnxruntime's name; empty if not recorded.

    It is recorded for every provider but cpu, by versions of onnxruntime that can.
    """
    options = session.get_session_options()
    try:
        recorded = options.get_session_config_entry(RECORD_PLACES) == "1"
    except RuntimeError:
        recorded = False
    if not recorded or not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def run_session(
    session: Any,
    names: Sequence[str],
    feeds: Mapping[str, Array],
    *,
    seconds: float | None = None,
) -> list[Any]:
    """Run an onnxruntime session, stopped after `seconds` if they are given.

    Raises
    ------
    ModelError
        If it fails, or is stopped.
    """
    settings, stop = None, None
    if seconds is not None:
        settings = import_onnxruntime().RunOptions()
        settings.log_severity_level = QUIET
        stop = Timer(seconds, setattr, (settings, "terminate", True))
        stop.daemon = True
        stop.start()
    try:
        return list(session.run(list(names), dict(feeds), settings))
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        if settings is not None and settings.terminate:
            raise ModelError(
                f"stopped after {seconds:g} seconds: a loop in the model may run for ever"
            ) from error
        raise ModelError(f"onnxruntime failed while running: {one_line(error)}") from error
    finally:
        if stop is not None:
            stop.cancel()
