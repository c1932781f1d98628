"""The errors that onnxloc raises for a cause outside its own code.

Every one carries a message of one line that says what is wrong and what to do about it. The
command line prints that line and exits with status 2.
"""

__all__ = [
    "AnatomyError",
    "BundleError",
    "ExportError",
    "FetchError",
    "ModelError",
    "NetworkError",
    "OnnxlocError",
    "OptionError",
    "RunError",
    "RuntimeMissingError",
    "StimulusError",
    "TaskError",
]


class OnnxlocError(Exception):
    """Base of all errors that a user can cause and can mend."""


class OptionError(OnnxlocError):
    """An option or a combination of options makes no sense."""


class ModelError(OnnxlocError):
    """A model is missing, corrupt, or uses something that cannot be handled."""


class BundleError(ModelError):
    """A bundle lacks a part that was asked for, or its parts do not fit."""


class AnatomyError(ModelError):
    """A site pattern matches nothing in the model."""


class RuntimeMissingError(OnnxlocError):
    """No onnxruntime is installed, or it lacks the provider that was asked for."""


class ExportError(OnnxlocError):
    """A source model cannot be turned into a bundle."""


class FetchError(OnnxlocError):
    """A file could not be fetched, or is not the file that was promised."""


class StimulusError(OnnxlocError):
    """A stimulus set is malformed."""


class TaskError(OnnxlocError):
    """A task file is malformed."""


class NetworkError(OnnxlocError):
    """A network file is malformed, or belongs to another model."""


class RunError(OnnxlocError):
    """A run folder is missing, incomplete, or in the way."""
