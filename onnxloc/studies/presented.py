"""Stimuli as a model takes them: texts as tokens, arrays as they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.runtime.batches import ArrayBatch, Batch, batches
from onnxloc.runtime.feeds import array_batch, check_arrays
from onnxloc.runtime.model import Model
from onnxloc.stimuli import StimulusSet
from onnxloc.stimuli.arrays import ArraySet

__all__ = ["Presented", "present"]

# Two probing runs of 2 and 3 stimuli.
EXAMPLE_ROWS = 3


@dataclass(frozen=True, eq=False)
class Presented:
    """Stimuli of two conditions, ready to be run.

    Attributes
    ----------
    model : Model
        With its sites as they are on these stimuli.
    is_positive : ndarray of bool, [stimuli]
        Which are of the positive condition.
    names : list of str
        Each text, or where a stimulus stands in the file.
    batches : callable
        Takes the number of stimuli to run at a time, gives the batches.
    max_tokens : int or None
        What texts were cut to, 0 if they were not; None for arrays.
    bos : bool or None
        Whether a BOS token was put in front; None for arrays.
    paired : bool
        Whether each positive stimulus has its own control.
    """

    model: Model
    is_positive: NDArray[np.bool_]
    names: list[str]
    batches: Callable[[int], Iterator[Batch | ArrayBatch]]
    max_tokens: int | None = None
    bos: bool | None = None
    paired: bool = False

    def sites_or_all(self, patterns: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        """Every operation instead of the default patterns, for arrays and a model without blocks.

        Block outputs are no default for a model that has none.
        """
        no_blocks = self.max_tokens is None and not self.model.blocks
        return ("op:*",) if patterns == default and no_blocks else patterns


def present(
    model: Model,
    stimuli: StimulusSet | ArraySet,
    *,
    max_tokens: int | None = None,
    bos: bool | None = None,
) -> Presented:
    """Make stimuli ready for a model.

    Parameters
    ----------
    model : Model
        What they are shown to.
    stimuli : StimulusSet or ArraySet
        Texts or arrays.
    max_tokens : int or None
        Texts are cut to that many tokens; 0 for no cut, None for the stimulus set's own value.
    bos : bool or None
        Whether a BOS token is put in front of a text; None for what the model's metadata says.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model cannot take the stimuli.
    """
    if isinstance(stimuli, ArraySet):
        if max_tokens is not None or bos is not None:
            raise OptionError("--max-tokens and --bos are for texts, not for arrays")
        return _arrays(model, stimuli)
    front = model.bundle.info.add_bos if bos is None else bos
    cut = stimuli.max_tokens if max_tokens is None else max_tokens
    texts = [*stimuli.positive, *stimuli.control]
    sequences = model.encode(texts, bos=front, max_tokens=cut)
    return Presented(
        model=model,
        is_positive=np.arange(len(texts)) < len(stimuli.positive),
        names=texts,
        batches=lambda rows: batches(sequences, max_rows=rows, pad=model.pad),
        max_tokens=cut,
        bos=front,
        paired=stimuli.paired,
    )


def _arrays(model: Model, stimuli: ArraySet) -> Presented:
    specs = model.graph.inputs
    check_arrays(specs, {name: (one.dtype, one.shape) for name, one in stimuli.arrays.items()})

    def run(rows: int) -> Iterator[Batch | ArrayBatch]:
        for places, arrays in stimuli.batches(rows):
            yield array_batch(specs, places, arrays)

    return Presented(
        model=model.shown(stimuli.head(EXAMPLE_ROWS)),
        is_positive=stimuli.is_positive,
        names=[f"stimulus {i}" for i in range(len(stimuli))],
        batches=run,
    )
