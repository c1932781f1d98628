"""The stimuli that belong to a run."""

from onnxloc.errors import StimulusError
from onnxloc.stimuli import StimulusSet, load_stimuli
from onnxloc.store import Run

__all__ = ["stimuli_of"]

DEFAULT = "language"


def stimuli_of(run: Run | None, localizer: str | None) -> StimulusSet:
    """Load the stimuli that a localizer or a run names.

    Parameters
    ----------
    run : Run or None
        A run in which units were localized.
    localizer : str or None
        What to load instead of the run's own; without either it is the language localizer.

    Raises
    ------
    StimulusError
        If the stimuli cannot be loaded, or are no longer those of the run.
    """
    if localizer is not None:
        return load_stimuli(localizer)
    if run is None or run.localizer is None:
        return load_stimuli(DEFAULT)
    try:
        stimuli = load_stimuli(run.localizer)
    except StimulusError as error:
        raise StimulusError(
            f"{error}; it is the run's localizer, name one with --localizer"
        ) from error
    if stimuli.hash != run.stimuli_hash:
        raise StimulusError(
            f"the localizer {run.localizer} is no longer what it was in the run {run.folder}; name "
            "one with --localizer"
        )
    return stimuli
