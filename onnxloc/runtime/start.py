"""Starting a provider: what onnxruntime must be told before a session is made with it.

cpu
    Nothing.
cuda
    The CUDA libraries that come as Python packages are loaded first, since the system's loader does
    not look there.
openvino
    A plugin, a package of its own that is registered with onnxruntime once in a process. It ignores
    options that it does not know, takes bfloat16 by itself where the CPU has it, and takes bfloat16
    for float16 where the CPU lacks that; so what is asked for is always said, and said only where
    the device lists it.
"""

import contextlib
import ctypes
import io
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from onnxloc.errors import RuntimeMissingError
from onnxloc.registry import one_line
from onnxloc.runtime.providers import PROVIDERS, RuntimeOptions, import_onnxruntime

__all__ = [
    "Started",
    "cuda_failure",
    "openvino_devices",
    "openvino_precisions",
    "preload_cuda",
    "start",
]

OPENVINO = PROVIDERS["openvino"]
REGISTERED_AS = "onnxloc.openvino"
# OpenVINO's own names of precisions, as a hint for computing and as a device lists them.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
CAPABILITY = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_registering = threading.Lock()


@dataclass(frozen=True)
class Started:
    """What a session is made with.

    Attributes
    ----------
    name : str
        onnxruntime's name of the provider.
    providers : list or None
        The argument `providers` of a session; None where `devices` says it.
    devices : sequence
        Devices of a plugin, for the session's options.
    options : mapping of str to str
        The plugin's options.
    """

    name: str
    providers: list[Any] | None
    devices: Sequence[Any] = ()
    options: dict[str, str] = field(default_factory=dict)


def start(options: RuntimeOptions) -> Started:
    """Make a provider ready.

    Raises
    ------
    RuntimeMissingError
        If it is not installed, cannot be loaded, or has no device here.
    """
    ort = import_onnxruntime()
    provider = PROVIDERS[options.provider]
    if options.provider == "openvino":
        return _start_openvino(ort, options)
    if provider.ort_name not in ort.get_available_providers():
        raise RuntimeMissingError(
            f"the installed onnxruntime has no {options.provider} provider; run "
            f"pip install 'onnxloc[{provider.extra}]' in an environment without the other"
        )
    if options.provider == "cpu":
        return Started(provider.ort_name, [provider.ort_name])
    preload_cuda(ort)
    settings = {"use_tf32": str(int(options.precision == "tf32"))}
    fallback = PROVIDERS["cpu"].ort_name
    return Started(provider.ort_name, [(provider.ort_name, settings), fallback])


def preload_cuda(ort: ModuleType) -> list[str]:
    """Load the CUDA libraries that come as Python packages; the names of those not found."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    begin = "Failed to load "
    lines = [line for line in said.getvalue().splitlines() if line.startswith(begin)]
    return [line.removeprefix(begin).partition(":")[0] for line in lines]


def cuda_failure(ort: ModuleType) -> str:
    """Why the CUDA provider did not start, as well as can be told, and what to do."""
    missing = preload_cuda(ort)
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return (
            f"there is no NVIDIA driver here ({CUDA_DRIVER} cannot be loaded); use a machine with "
            "an NVIDIA GPU and its driver, or --provider cpu"
        )
    if missing:
        return (
            f"the CUDA libraries {', '.join(missing)} are missing; run pip install 'onnxloc[gpu]'"
        )
    return (
        "the driver is there and the CUDA libraries are; check with nvidia-smi that the GPU is "
        "free and the driver is new enough for them"
    )


def _start_openvino(ort: ModuleType, options: RuntimeOptions) -> Started:
    found = openvino_devices(ort)
    device = next((one for one in found if one.ep_metadata.get("ov_device") == "CPU"), None)
    if device is None:
        raise RuntimeMissingError(
            "OpenVINO's plugin finds no CPU here that it takes: it takes Intel's only; use "
            "--provider cpu"
        )
    if options.precision not in openvino_precisions(device):
        raise RuntimeMissingError(
            f"OpenVINO cannot compute in {options.precision} on this CPU "
            f"({device.ep_metadata.get('FULL_DEVICE_NAME', 'unnamed')}), only in "
            f"{' or '.join(openvino_precisions(device))}"
        )
    config = {"INFERENCE_PRECISION_HINT": HINTS[options.precision]}
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = str(options.threads)
    return Started(OPENVINO.ort_name, None, [device], {"load_config": json.dumps({"CPU": config})})


def openvino_precisions(device: Any) -> tuple[str, ...]:
    """What a device of OpenVINO's computes in by its own account."""
    listed = str(device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "FP32")).split()
    return tuple(name for name in OPENVINO.precisions if CAPABILITY[name] in listed)


def openvino_devices(ort: ModuleType) -> list[Any]:
    """The devices of OpenVINO's plugin, which is registered if it was not yet.

    Raises
    ------
    RuntimeMissingError
        If the plugin is not installed, or onnxruntime cannot load it.
    """
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as error:
        raise RuntimeMissingError(
            "OpenVINO's plugin is not installed; run pip install 'onnxloc[openvino]'"
        ) from error
    if not hasattr(ort, "register_execution_provider_library"):
        raise RuntimeMissingError(
            f"onnxruntime {ort.__version__} is too old for plugins; run "
            "pip install --upgrade 'onnxloc[openvino]'"
        )

    def devices() -> list[Any]:
        return [one for one in ort.get_ep_devices() if one.ep_name == OPENVINO.ort_name]

    with _registering:
        if known := devices():
            return known
        try:
            ort.register_execution_provider_library(REGISTERED_AS, plugin.get_library_path())
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            # Registered before, and there is no device that it takes.
            if "already registered" not in str(error):
                raise RuntimeMissingError(
                    f"onnxruntime {ort.__version__} cannot load OpenVINO's plugin "
                    f"{_version(OPENVINO.package)}: {one_line(error)}; run "
                    "pip install --upgrade onnxruntime onnxruntime-ep-openvino"
                ) from error
        return devices()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
