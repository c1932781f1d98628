"""Stimulus sets: the texts of two or more conditions, shipped with onnxloc or read from files."""

from onnxloc.stimuli.localizers import LOCALIZERS, load_conditions, load_stimuli
from onnxloc.stimuli.model import Condition, ConditionSet, StimulusSet

__all__ = [
    "LOCALIZERS",
    "Condition",
    "ConditionSet",
    "StimulusSet",
    "load_conditions",
    "load_stimuli",
]
