"""Mean activations of an intact model: what a unit is set to when it is ablated by its mean."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

__all__ = ["Replacement", "mean_activations"]

Replacement = Literal["zero", "mean"]


def mean_activations(
    model: Model,
    sites: Sequence[Site],
    sequences: Sequence[Sequence[int]],
    runtime: RuntimeOptions,
    *,
    batch_size: int,
    show_progress: bool = False,
) -> dict[str, NDArray[Any]]:
    """Mean of each unit over the tokens of all texts, the prefix token left out.

    Some units are thousands of times larger at the first token than anywhere else, so that it would
    rule the mean of the others.

    Parameters
    ----------
    model : Model
        The model.
    sites : sequence of Site
        The sites, which have units.
    sequences : sequence of sequence of int
        Token ids of each text behind a prefix token.
    runtime : RuntimeOptions
        Provider and threads.
    batch_size : int
        Rows run at a time.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    dict of str to ndarray, [1, 1, units]
        By tensor, in the site's own type. A site without tokens is averaged over texts.
    """
    session = model.compile(Plan(taps=tuple(Tap(site.tensor, "sum") for site in sites)), runtime)
    sums = {site.tensor: np.zeros(site.units) for site in sites}
    with Progress("averaging", len(sequences), show=show_progress) as progress:
        for batch in batches(sequences, max_rows=batch_size, pad=model.pad):
            for tap, values in session.taps(replace(batch, skip=1)).items():
                sums[tap.site] += values.sum(axis=0, dtype=np.float64)
            progress.add(len(batch.rows))
    tokens = sum(len(sequence) - 1 for sequence in sequences)
    return {
        site.tensor: (sums[site.tensor] / (tokens if site.has_tokens else len(sequences)))
        .astype(site.dtype)
        .reshape(1, 1, -1)
        for site in sites
    }
