"""How far bundles of one model are from each other: values, sites, networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

__all__ = ["Difference", "block_outputs", "canonical", "difference"]

ROWS = 32
CLOSE = 5e-3
# SmolLM2's first tokens carry values of 29,000, where float32 has steps of 0.002.
MASSIVE = 1000.0


@dataclass(frozen=True)
class Difference:
    """Largest differences of block outputs.

    Attributes
    ----------
    last : float
        Absolute, at the last token of each text, where the localizer reads.
    ordinary : float
        Absolute, at all tokens without a massive value.
    over : int
        Number of tokens without a massive value that differ by more than `CLOSE`.
    massive : float
        Absolute, at tokens where any block gives a massive value; 0 if there is none.
    massive_share : float
        There, of each token's difference as a share of its largest value.
    massive_tokens : int
        Number of these tokens.
    """

    last: float
    ordinary: float
    over: int
    massive: float
    massive_share: float
    massive_tokens: int


def canonical(model: Model) -> dict[str, Any]:
    """The canonical names of a model's sites, with the widths and the axes of each."""
    return {
        name: (site.units, site.axes)
        for site in model.sites
        for name in site.names
        if not name.startswith("op:")
    }


def block_outputs(
    model: Model, sequences: Sequence[Sequence[int]], threads: int = 2
) -> NDArray[np.float32]:
    """Every block's output at every real token, ``[blocks, tokens of all texts, width]``."""
    taps = tuple(Tap(site.tensor, "none") for site in model.sites.match(["block.*.out"]))
    session = model.compile(Plan(taps=taps), RuntimeOptions(threads=threads))
    parts = []
    for start in range(0, len(sequences), ROWS):
        some = sequences[start : start + ROWS]
        batch = Batch.of(some, range(len(some)), pad=0)
        values = session.taps(batch)
        parts.append(np.stack([values[tap] for tap in taps])[:, batch.mask.astype(bool)])
    return np.concatenate(parts, axis=1)


def difference(
    one: NDArray[np.float32], other: NDArray[np.float32], sequences: Sequence[Sequence[int]]
) -> Difference:
    """Compare two results of `block_outputs`."""
    last = np.cumsum([len(sequence) for sequence in sequences]) - 1
    apart = np.abs(one - other).max(axis=(0, 2))
    largest = np.abs(other).max(axis=(0, 2))
    massive = largest > MASSIVE
    return Difference(
        last=float(apart[last].max()),
        ordinary=float(apart[~massive].max()),
        over=int((apart[~massive] > CLOSE).sum()),
        massive=float(apart[massive].max(initial=0)),
        massive_share=float((apart / largest)[massive].max(initial=0)),
        massive_tokens=int(massive.sum()),
    )
