"""Pooled activations of a list of texts, each different text read once, and standardised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Plan, Pool, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

__all__ = ["Readings", "TextRows", "read_rows"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
# Values held at once: 4 GB as float32.
MAX_VALUES = 1 << 30


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts as the model reads them, each different sequence of tokens once.

    Attributes
    ----------
    sequences : tuple of sequences of int
        The rows.
    rows : mapping of str to array of int
        For each list of texts, by its name, the row of each text.
    """

    sequences: tuple[Sequence[int], ...]
    rows: Mapping[str, Indices]

    @classmethod
    def of(
        cls, model: Model, texts: Mapping[str, Sequence[str]], *, bos: bool, max_tokens: int
    ) -> "TextRows":
        """Tokenize lists of texts; two texts that are cut to the same tokens share a row.

        Raises
        ------
        OnnxlocError
            One of its kinds, if the model cannot take them.
        """
        known: dict[tuple[int, ...], int] = {}
        rows = {}
        for name, own in texts.items():
            encoded = model.encode(list(own), bos=bos, max_tokens=max_tokens)
            rows[name] = np.array(
                [known.setdefault(tuple(ids), len(known)) for ids in encoded], dtype=np.int64
            )
        return cls(tuple(known), rows)


@dataclass(frozen=True, eq=False)
class Readings:
    """What the units of some sites do in each row.

    Attributes
    ----------
    sites : tuple of Site
        The sites.
    values : tuple of array, each [rows, units]
        The activations of each site, absolute or signed.
    """

    sites: tuple[Site, ...]
    values: tuple[NDArray[np.floating[Any]], ...]

    def scaled(self, place: int, rows: Indices, *, z: bool) -> tuple[Floats, NDArray[np.bool_]]:
        """The values of a site in some rows, and which units count.

        Parameters
        ----------
        place : int
            Which site.
        rows : array of int
            Rows; one may be there more than once.
        z : bool
            Standardise each unit over these rows; one that does not vary in them does not count.

        Returns
        -------
        values : array, shape [rows, units]
            0 where a unit does not count.
        known : array of bool, shape [units]
            Which units count.
        """
        values = self.values[place][rows].astype(np.float64)
        known = np.asarray(np.isfinite(values).all(axis=0))
        values[:, ~known] = 0.0
        if z:
            known &= (values != values[0]).any(axis=0)
            values -= values.mean(axis=0)
            spread = values.std(axis=0)
            known &= spread > 0
            values[:, known] /= spread[known]
            values[:, ~known] = 0.0
        return values, known

    def magnitudes(self, rows: Indices) -> Floats:
        """Mean |activation| of every unit over some rows, site after site; NaN if not finite."""
        means = [np.abs(v[rows].astype(np.float64)).mean(axis=0) for v in self.values]
        flat = np.concatenate(means)
        return np.where(np.isfinite(flat), flat, np.nan)


def read_rows(
    model: Model,
    sites: Sequence[Site],
    rows: TextRows,
    pool: Pool,
    runtime: RuntimeOptions,
    *,
    magnitude: bool,
    batch_size: int,
    show_progress: bool = False,
) -> tuple[Readings, Plan, str]:
    """Run texts and keep the pooled activations of all units of the sites.

    Returns
    -------
    readings : Readings
        What was read.
    plan : Plan
        What was compiled.
    provider : str
        Onnxruntime's name of the provider.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model fails or there are too many values to hold.
    """
    n, units = len(rows.sequences), sum(site.units for site in sites)
    if n * units > MAX_VALUES:
        raise OptionError(
            f"{n:,} texts and {units:,} units are more than can be held at once; localize fewer "
            "sites, or profile fewer texts"
        )
    plan = Plan(taps=tuple(Tap(site.tensor, pool) for site in sites))
    session = model.compile(plan, runtime)
    # Sites of less than single precision hold their values exactly in float32.
    values = [np.empty((n, s.units), "f8" if s.dtype == "float64" else "f4") for s in sites]
    with Progress("profiling", n, show=show_progress) as progress:
        for batch in batches(rows.sequences, max_rows=batch_size, pad=model.pad):
            for into, read in zip(values, session.taps(batch).values(), strict=True):
                into[batch.rows] = np.abs(read) if magnitude else read
            progress.add(len(batch.rows))
    return Readings(tuple(sites), tuple(values)), plan, session.provider
