"""Find and ablate functional networks in any ONNX model.

Names are imported when they are first used, so that ``import onnxloc`` is quick and needs no
onnxruntime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxloc.activations import Activations
    from onnxloc.bundle import Bundle, BundleInfo
    from onnxloc.choose import Selection
    from onnxloc.errors import OnnxlocError
    from onnxloc.graph.plan import Edit, Entropy, Plan, Tap, TargetLogProbs, TopLogits
    from onnxloc.network import Network
    from onnxloc.recipes import fetch
    from onnxloc.report import write_report
    from onnxloc.runtime.batches import Batch
    from onnxloc.runtime.cut import Cut
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.runtime.tokens import Tokens
    from onnxloc.stimuli import StimulusSet, load_stimuli
    from onnxloc.stimuli.arrays import ArraySet, load_arrays
    from onnxloc.store import Run
    from onnxloc.studies.ablate import AblateOptions, Ablation, ablate, ablate_into
    from onnxloc.studies.battery import gather_battery
    from onnxloc.studies.compare import CompareOptions, Comparison, compare
    from onnxloc.studies.contrast import ContrastOptions, contrast
    from onnxloc.studies.correlation import CorrelateOptions, correlate_run
    from onnxloc.studies.edit_kinds import Force, Mean, Scale, Steer, Zero
    from onnxloc.studies.edit_texts import Noise, Patch
    from onnxloc.studies.interventions import EditedRun, run_with_edits
    from onnxloc.studies.localize import Localization, LocalizeOptions, localize, localize_into
    from onnxloc.studies.profile import Profile, ProfileOptions, profile
    from onnxloc.studies.reliability import Reliability, ReliabilityOptions, reliability
    from onnxloc.studies.robustness import Robustness, RobustnessOptions, robustness
    from onnxloc.studies.row_edits import Intervention
    from onnxloc.studies.vectors import Vector
    from onnxloc.studies.where import Where, WhereOptions, where
    from onnxloc.tasks import Item, Task, TaskInputs, load_task

__all__ = [
    "AblateOptions",
    "Ablation",
    "Activations",
    "ArraySet",
    "Batch",
    "Bundle",
    "BundleInfo",
    "CompareOptions",
    "Comparison",
    "ContrastOptions",
    "CorrelateOptions",
    "Cut",
    "Edit",
    "EditedRun",
    "Entropy",
    "Force",
    "Intervention",
    "Item",
    "Localization",
    "LocalizeOptions",
    "Mean",
    "Model",
    "Network",
    "Noise",
    "OnnxlocError",
    "Patch",
    "Plan",
    "Profile",
    "ProfileOptions",
    "Reliability",
    "ReliabilityOptions",
    "Robustness",
    "RobustnessOptions",
    "Run",
    "RuntimeOptions",
    "Scale",
    "Selection",
    "Steer",
    "StimulusSet",
    "Tap",
    "TargetLogProbs",
    "Task",
    "TaskInputs",
    "Tokens",
    "TopLogits",
    "Vector",
    "Where",
    "WhereOptions",
    "Zero",
    "ablate",
    "ablate_into",
    "compare",
    "contrast",
    "correlate_run",
    "fetch",
    "gather_battery",
    "load_arrays",
    "load_stimuli",
    "load_task",
    "localize",
    "localize_into",
    "profile",
    "reliability",
    "robustness",
    "run_with_edits",
    "where",
    "write_report",
]

_HOMES = {
    "onnxloc.graph.plan": (
        "Edit",
        "Entropy",
        "Plan",
        "Tap",
        "TargetLogProbs",
        "TopLogits",
    ),
    "onnxloc.runtime.cut": ("Cut",),
    "onnxloc.runtime.batches": ("Batch",),
    "onnxloc.studies.battery": ("gather_battery",),
    "onnxloc.studies.ablate": ("AblateOptions", "Ablation", "ablate", "ablate_into"),
    "onnxloc.activations": ("Activations",),
    "onnxloc.bundle": ("Bundle", "BundleInfo"),
    "onnxloc.choose": ("Selection",),
    "onnxloc.errors": ("OnnxlocError",),
    "onnxloc.recipes": ("fetch",),
    "onnxloc.studies.compare": ("CompareOptions", "Comparison", "compare"),
    "onnxloc.studies.contrast": ("ContrastOptions", "contrast"),
    "onnxloc.studies.correlation": ("CorrelateOptions", "correlate_run"),
    "onnxloc.studies.profile": ("Profile", "ProfileOptions", "profile"),
    "onnxloc.studies.reliability": ("Reliability", "ReliabilityOptions", "reliability"),
    "onnxloc.studies.edit_kinds": ("Force", "Mean", "Scale", "Steer", "Zero"),
    "onnxloc.studies.edit_texts": ("Noise", "Patch"),
    "onnxloc.studies.interventions": ("EditedRun", "run_with_edits"),
    "onnxloc.studies.robustness": ("Robustness", "RobustnessOptions", "robustness"),
    "onnxloc.studies.row_edits": ("Intervention",),
    "onnxloc.studies.vectors": ("Vector",),
    "onnxloc.studies.where": ("Where", "WhereOptions", "where"),
    "onnxloc.studies.localize": (
        "Localization",
        "LocalizeOptions",
        "localize",
        "localize_into",
    ),
    "onnxloc.network": ("Network",),
    "onnxloc.report": ("write_report",),
    "onnxloc.runtime.model": ("Model",),
    "onnxloc.runtime.providers": ("RuntimeOptions",),
    "onnxloc.runtime.tokens": ("Tokens",),
    "onnxloc.stimuli": ("StimulusSet", "load_stimuli"),
    "onnxloc.stimuli.arrays": ("ArraySet", "load_arrays"),
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
