"""Find and ablate functional networks in any ONNX model.

Names are imported when they are first used, so that ``import onnxloc`` is quick and needs no
onnxruntime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxloc.bundle import Bundle, BundleInfo
    from onnxloc.choose import Selection
    from onnxloc.errors import OnnxlocError
    from onnxloc.network import Network
    from onnxloc.recipes import fetch
    from onnxloc.report import write_report
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import StimulusSet, load_stimuli
    from onnxloc.store import Run
    from onnxloc.studies.ablate import AblateOptions, Ablation, ablate
    from onnxloc.studies.localize import Localization, LocalizeOptions, localize
    from onnxloc.tasks import Item, Task, TaskInputs, load_task

__all__ = [
    "AblateOptions",
    "Ablation",
    "Bundle",
    "BundleInfo",
    "Item",
    "Localization",
    "LocalizeOptions",
    "Model",
    "Network",
    "OnnxlocError",
    "Run",
    "RuntimeOptions",
    "Selection",
    "StimulusSet",
    "Task",
    "TaskInputs",
    "ablate",
    "fetch",
    "load_stimuli",
    "load_task",
    "localize",
    "write_report",
]

_HOMES = {
    "onnxloc.studies.ablate": ("AblateOptions", "Ablation", "ablate"),
    "onnxloc.bundle": ("Bundle", "BundleInfo"),
    "onnxloc.choose": ("Selection",),
    "onnxloc.errors": ("OnnxlocError",),
    "onnxloc.recipes": ("fetch",),
    "onnxloc.studies.localize": ("Localization", "LocalizeOptions", "localize"),
    "onnxloc.network": ("Network",),
    "onnxloc.report": ("write_report",),
    "onnxloc.runtime.model": ("Model",),
    "onnxloc.runtime.providers": ("RuntimeOptions",),
    "onnxloc.stimuli": ("StimulusSet", "load_stimuli"),
    "onnxloc.store": ("Run",),
    "onnxloc.tasks": ("Item", "Task", "TaskInputs", "load_task"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'onnxloc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
