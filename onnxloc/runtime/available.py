"""What this machine can run graphs with, and what is missing for the rest."""

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import TensorProto, helper

from onnxloc.errors import RuntimeMissingError
from onnxloc.runtime.engine import make_session
from onnxloc.runtime.providers import PROVIDERS, Provider, RuntimeOptions, import_onnxruntime
from onnxloc.runtime.start import CUDA_DRIVER, openvino_devices, openvino_precisions

__all__ = ["Availability", "available_providers"]

NAME_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether one provider can be used here.

    Attributes
    ----------
    provider : str
        The name that ``--provider`` takes.
    usable : bool
        Whether a tiny graph ran on it just now.
    package, version : str
        The Python package that it comes in; its version, empty if it is not installed.
    devices : tuple of str
        The devices that it has here.
    precisions : tuple of str
        What ``--precision`` takes with it here.
    missing : str
        What is missing and what to do; empty if it is usable.
    install : str
        The command that installs it; empty if it is installed.
    """

    provider: str
    usable: bool
    package: str
    version: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    missing: str
    install: str


def available_providers() -> list[Availability]:
    """Try every provider on a tiny graph. Works without onnxruntime too."""
    return [_available(name, provider) for name, provider in PROVIDERS.items()]


def _available(name: str, provider: Provider) -> Availability:
    installed = _version(provider.package)
    if name == "cpu" and not installed:
        # Every build of onnxruntime has the CPU provider.
        installed = _version(PROVIDERS["cuda"].package)
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    missing = ""
    try:
        _try(name)
        ort = import_onnxruntime()
        devices = _DEVICES[name](ort)
        precisions = _precisions(name, ort)
    except RuntimeMissingError as error:
        missing = str(error)
    return Availability(
        provider=name,
        usable=not missing,
        package=provider.package,
        version=installed,
        devices=devices,
        precisions=precisions,
        missing=missing,
        install="" if installed else f"pip install 'onnxloc[{provider.extra}]'",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _try(name: str) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    make_session(model, Path.cwd(), RuntimeOptions(provider=name, threads=1))


def _precisions(name: str, ort: ModuleType) -> tuple[str, ...]:
    if name != "openvino":
        return PROVIDERS[name].precisions
    return openvino_precisions(_openvino_cpu(ort))


def _openvino_cpu(ort: ModuleType) -> Any:
    return next(d for d in openvino_devices(ort) if d.ep_metadata.get("ov_device") == "CPU")


def _cpu_devices(_: ModuleType) -> tuple[str, ...]:
    return (f"{platform.machine()}, {os.cpu_count()} threads",)


def _openvino_names(ort: ModuleType) -> tuple[str, ...]:
    return (str(_openvino_cpu(ort).ep_metadata.get("FULL_DEVICE_NAME", "CPU")),)


def _cuda_devices(_: ModuleType) -> tuple[str, ...]:
    """Names of the GPUs, as the driver has them."""
    driver = ctypes.CDLL(CUDA_DRIVER)
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    names = []
    for ordinal in range(count.value):
        device, text = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(text, NAME_BYTES, device)
        names.append(text.value.decode(errors="replace"))
    return tuple(names)


_DEVICES: dict[str, Callable[[ModuleType], tuple[str, ...]]] = {
    "cpu": _cpu_devices,
    "cuda": _cuda_devices,
    "openvino": _openvino_names,
}
