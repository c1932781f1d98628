"""What the units of an intact model do: their means and deviations, what they are in one text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.moments import Moments

__all__ = ["mean_activations", "recorded", "unit_deviations"]


def mean_activations(
    model: Model,
    sites: Sequence[Site],
    sequences: Sequence[Sequence[int]],
    runtime: RuntimeOptions,
    *,
    batch_size: int,
    skip: int = 1,
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
        Token ids of each text, behind `skip` tokens in front.
    runtime : RuntimeOptions
        Provider and threads.
    batch_size : int
        Rows run at a time.
    skip : int
        Tokens at the start of each text that are left out.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    dict of str to ndarray, [1, 1, units]
        By tensor, in the site's own type. A site without tokens is averaged over texts.

    Raises
    ------
    OptionError
        If the texts have no tokens to average over.
    """
    tokens = _tokens(sequences, skip, "a mean", least=1)
    session = model.compile(Plan(taps=tuple(Tap(site.tensor, "sum") for site in sites)), runtime)
    sums = {site.tensor: np.zeros(site.units) for site in sites}
    with Progress("averaging", len(sequences), show=show_progress) as progress:
        for batch in batches(sequences, max_rows=batch_size, pad=model.pad):
            for tap, values in session.taps(replace(batch, skip=skip)).items():
                sums[tap.site] += values.sum(axis=0, dtype=np.float64)
            progress.add(len(batch.rows))
    return {
        site.tensor: (sums[site.tensor] / (tokens if site.has_tokens else len(sequences)))
        .astype(site.dtype)
        .reshape(1, 1, -1)
        for site in sites
    }


def unit_deviations(
    model: Model,
    sites: Sequence[Site],
    sequences: Sequence[Sequence[int]],
    runtime: RuntimeOptions,
    *,
    batch_size: int,
    skip: int = 1,
    show_progress: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Standard deviation of each unit over the tokens of all texts, with n - 1.

    Parameters and errors are those of `mean_activations`; a site without tokens varies over texts.

    Returns
    -------
    dict of str to ndarray of float64, [1, 1, units]
        By tensor. A unit that was NaN or infinite once has 0.
    """
    _tokens(sequences, skip, "a standard deviation", least=2)
    session = model.compile(Plan(taps=tuple(Tap(site.tensor, "none") for site in sites)), runtime)
    by_tensor = {site.tensor: site for site in sites}
    moments = {site.tensor: Moments(site.units) for site in sites}
    with Progress("measuring", len(sequences), show=show_progress) as progress:
        for batch in batches(sequences, max_rows=batch_size, pad=model.pad):
            batch = replace(batch, skip=skip)
            for tap, values in session.taps(batch).items():
                rows = values[batch.pooled] if by_tensor[tap.site].has_tokens else values
                moments[tap.site].update(rows)
            progress.add(len(batch.rows))
    found = {}
    for tensor, moment in moments.items():
        if moment.count < 2:
            raise OptionError(f"{by_tensor[tensor].name} varies over texts, and there is only one")
        deviation = np.sqrt(np.nan_to_num(moment.variance))
        found[tensor] = deviation.reshape(1, 1, -1)
    return found


def recorded(
    model: Model,
    sites: Sequence[Site],
    sequences: Sequence[Sequence[int]],
    runtime: RuntimeOptions,
    *,
    batch_size: int,
) -> list[dict[str, NDArray[Any]]]:
    """Activations of each text, by tensor, in the site's own type: ``[tokens or 1, units]``."""
    session = model.compile(Plan(taps=tuple(Tap(site.tensor, "none") for site in sites)), runtime)
    found: list[dict[str, NDArray[Any]]] = [{} for _ in sequences]
    for batch in batches(sequences, max_rows=batch_size, pad=model.pad):
        values = session.taps(batch)
        for place, row in enumerate(batch.rows):
            length = batch.lengths[place]
            for site in sites:
                one = values[Tap(site.tensor, "none")][place].astype(site.dtype)
                found[row][site.tensor] = one[:length] if site.has_tokens else one[None]
    return found


def _tokens(sequences: Sequence[Sequence[int]], skip: int, what: str, *, least: int) -> int:
    """How many tokens there are to measure at."""
    tokens = sum(max(0, len(sequence) - skip) for sequence in sequences)
    if tokens < least:
        raise OptionError(f"{what} takes texts with {least} tokens or more; these have {tokens}")
    return tokens
