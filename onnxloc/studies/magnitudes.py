"""How large the activations of units are, on the texts that are scored."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.moments import Moments

__all__ = ["MAX_TEXTS", "mean_magnitudes", "spread_sample"]

MAX_TEXTS = 200
# Values of all sites, texts and tokens of a batch: 256 MB of float32.
HELD_VALUES = 1 << 26


def spread_sample(sequences: Sequence[list[int]], n: int = MAX_TEXTS) -> list[list[int]]:
    """At most `n` of the texts, evenly spread over them."""
    if len(sequences) <= n:
        return list(sequences)
    return [sequences[int(i)] for i in np.linspace(0, len(sequences) - 1, n).round()]


def mean_magnitudes(
    model: Model,
    sites: Sequence[Site],
    sequences: Sequence[list[int]],
    runtime: RuntimeOptions,
    *,
    batch_size: int,
    show_progress: bool = False,
) -> NDArray[np.float64]:
    """Mean |activation| of each unit over all tokens of all texts, the prefix token among them.

    The prefix token counts because an ablation edits it too, and because there the largest units of
    a language model are far larger than at any other token.

    Parameters
    ----------
    model : Model
        The model.
    sites : sequence of Site
        The sites, which have units.
    sequences : sequence of list of int
        Token ids of each text.
    runtime : RuntimeOptions
        Provider and threads.
    batch_size : int
        Rows run at a time, at most.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    array of float64, shape [units of all sites]
        Site after site; NaN for a unit that was NaN or infinite once.
    """
    # Two names of a network may stand for one tensor.
    by_tensor = {site.tensor: site for site in sites}
    session = model.compile(Plan(taps=tuple(Tap(tensor, "none") for tensor in by_tensor)), runtime)
    moments = {site.tensor: Moments(site.units) for site in sites}
    longest = max(len(sequence) for sequence in sequences)
    rows = HELD_VALUES // (longest * sum(site.units for site in by_tensor.values()))
    with Progress("measuring", len(sequences), show=show_progress) as progress:
        for batch in batches(sequences, max_rows=max(1, min(rows, batch_size)), pad=model.pad):
            for tap, values in session.taps(batch).items():
                found = values[batch.pooled] if by_tensor[tap.site].has_tokens else values
                moments[tap.site].update(np.abs(found))
            progress.add(len(batch.rows))
    return np.concatenate([moments[site.tensor].mean for site in sites])
