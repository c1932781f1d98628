"""Checking a model: that reading it, editing it and batching it do what they say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session

__all__ = ["Check", "check"]

Array = NDArray[Any]
TOLERANCE = {"float16": 1e-2}
DEFAULT_TOLERANCE = 1e-4
LENGTHS = (9, 4, 6, 1)
FEW_IDS = 8


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes
    ----------
    name : str
        What was compared.
    passed : bool
        Whether it holds.
    detail : str
        The largest difference beside the tolerance, or what failed.
    """

    name: str
    passed: bool
    detail: str


def check(
    model: Model,
    patterns: Sequence[str] = (),
    runtime: RuntimeOptions | None = None,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> list[Check]:
    """Check a model on random token ids.

    Parameters
    ----------
    model : Model
        A model that takes token ids.
    patterns : sequence of str
        The sites to read and to edit; those with a canonical name if there are none, else all.
    runtime : RuntimeOptions, optional
        Provider and threads.
    seed : int
        Of the token ids.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    ModelError
        If the model cannot be run, or has no float output.
    """
    runtime = runtime or RuntimeOptions()
    sites = _sites(model, patterns)
    batch = _batch(seed, _ids(model))
    names = _float_outputs(model)
    plain = model.compile(Plan(outputs=names), runtime)
    expected = plain.outputs(batch)
    compare = _Comparison(model, names, batch)
    tapped = model.compile(
        Plan(taps=tuple(Tap(site.tensor, "mean") for site in sites), outputs=names), runtime
    )
    edited = model.compile(
        Plan(edits=tuple(Edit(site.tensor) for site in sites), outputs=names), runtime
    )
    singles = [plain.outputs(_row(batch, row)) for row in range(len(LENGTHS))]
    return [
        compare.outputs("reading every site changes no output", expected, tapped.outputs(batch)),
        compare.outputs("edits that change nothing", expected, edited.outputs(batch)),
        compare.rows("a padded batch is its rows run singly", expected, singles),
        _edits_act(edited, sites, names, batch, show_progress),
    ]


def _sites(model: Model, patterns: Sequence[str]) -> tuple[Site, ...]:
    if patterns:
        return model.sites.match(patterns)
    found = tuple(site for site in model.sites if site.units and site.role != "op")
    return found or tuple(site for site in model.sites if site.units)


def _float_outputs(model: Model) -> tuple[str, ...]:
    tensors = {site.tensor for site in model.sites}
    names = tuple(v.name for v in model.graph.proto.graph.output if v.name in tensors)
    if not names:
        raise ModelError(f"{model.bundle.model_path} has no float output to compare")
    return names


def _ids(model: Model) -> int:
    """Token ids below this exist: as many as there are logits, or a few that any model has."""
    return next((site.units for site in model.sites if site.role == "logits"), FEW_IDS)


def _batch(seed: int, ids: int) -> Batch:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, ids, size=length).tolist() for length in LENGTHS]
    return Batch.of(sequences, range(len(sequences)), pad=0)


def _row(batch: Batch, row: int) -> Batch:
    return batch.take([row], int(batch.lengths[row]))


@dataclass(frozen=True)
class _Comparison:
    """Compares outputs where there are real tokens."""

    model: Model
    names: tuple[str, ...]
    batch: Batch

    def outputs(self, what: str, expected: dict[str, Array], found: dict[str, Array]) -> Check:
        pairs = [
            (name, self.real(name, expected[name], row), self.real(name, found[name], row))
            for name in self.names
            for row in range(len(self.batch.rows))
        ]
        return self.judged(what, pairs)

    def rows(
        self, what: str, expected: dict[str, Array], singles: Sequence[dict[str, Array]]
    ) -> Check:
        pairs = [
            (name, self.real(name, expected[name], row), single[name][0])
            for name in self.names
            for row, single in enumerate(singles)
        ]
        return self.judged(what, pairs)

    def real(self, name: str, values: Array, row: int) -> Array:
        real: Array = values[row]
        if self.model.sites.tensor(name).has_tokens:
            real = real[: self.batch.lengths[row]]
        return real

    def judged(self, what: str, pairs: Sequence[tuple[str, Array, Array]]) -> Check:
        worst, where, bound = 0.0, "", DEFAULT_TOLERANCE
        passed = True
        for name, a, b in pairs:
            tolerance = TOLERANCE.get(str(a.dtype), DEFAULT_TOLERANCE)
            difference = _relative(a, b)
            # A difference that is no number passes no bound.
            passed &= bool(difference <= tolerance)
            if not difference <= worst:
                worst, where, bound = difference, name, tolerance
        place = f" in {where}" if where else ""
        return Check(what, passed, f"largest relative difference {worst:.1e}{place} (<= {bound:g})")


def _relative(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    gap = np.abs(np.where(same, 0.0, x - y)).max(initial=0.0)
    return float(gap / max(np.abs(x[np.isfinite(x)]).max(initial=0.0), 1e-12)) if gap else 0.0


def _edits_act(
    session: Session,
    sites: Sequence[Site],
    names: Sequence[str],
    batch: Batch,
    show_progress: bool,
) -> Check:
    """Each row of a batch changes another site: every one must change an output."""
    row = _row(batch, 0)
    dead: list[str] = []
    with Progress("editing", len(sites), show=show_progress) as progress:
        for some in _chunks(sites, 32):
            rows = row.repeated(len(some) + 1)
            edits = {}
            for i, site in enumerate(some):
                mask = np.zeros((len(some) + 1, 1, site.units), dtype=np.bool_)
                mask[i + 1] = True
                # No plain number: a site may well hold zeros or ones.
                value = np.linspace(-1.7, 2.3, site.units, dtype=np.float64)
                edits[site.tensor] = (mask, value.astype(site.dtype).reshape(1, 1, -1))
            found = session.outputs(rows, edits)
            for i, site in enumerate(some):
                if all(_relative(found[n][0], found[n][i + 1]) == 0 for n in names):
                    dead.append(site.name)
            progress.add(len(some))
    detail = f"{len(sites) - len(dead)} of {len(sites)} sites change an output when edited"
    if dead:
        detail += f"; dead: {', '.join(dead[:5])}" + (" …" if len(dead) > 5 else "")
    return Check("an edit changes what follows", not dead, detail)


def _chunks(sites: Sequence[Site], size: int) -> Iterator[Sequence[Site]]:
    for start in range(0, len(sites), size):
        yield sites[start : start + size]
