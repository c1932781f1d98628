"""Stimulus sets: the texts of two conditions, shipped with onnxloc or read from a user's files."""

from onnxloc.stimuli.localizers import LOCALIZERS, load_stimuli
from onnxloc.stimuli.model import StimulusSet

__all__ = ["LOCALIZERS", "StimulusSet", "load_stimuli"]
