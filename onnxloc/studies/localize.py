"""Localizing: which units respond more to one condition than to the other."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.folder import new_folder
from onnxloc.graph.plan import Plan, Pool, Tap
from onnxloc.graph.sites import Site
from onnxloc.network import Network, network_from_flat
from onnxloc.progress import Progress
from onnxloc.runtime.batches import batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session
from onnxloc.stats.contrast import Contrast, welch
from onnxloc.stats.moments import Moments
from onnxloc.stats.multiple import benjamini_hochberg
from onnxloc.stimuli import LOCALIZERS, StimulusSet
from onnxloc.store import (
    NETWORK_FILE,
    UNITS_FILE,
    VERSIONED,
    Manifest,
    Step,
    package_versions,
    write_summary,
    write_table,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Localization", "LocalizeOptions", "Selection", "localize", "response_moments"]

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class LocalizeOptions:
    """What is read and how units are chosen.

    Attributes
    ----------
    sites : tuple of str
        Patterns of sites.
    pool : {"last", "mean", "sum", "max"}
        How a text's tokens are pooled.
    max_tokens : int or None
        Texts are cut to that many tokens, a BOS token counted; 0 for no cut, None for the stimulus
        set's own value.
    bos : bool or None
        Whether a BOS token is put in front; None for what the model's metadata says.
    magnitude : bool
        Compare absolute activations, as the paper's code does; else signed ones.
    selection : Selection
        Which units are chosen.
    batch_size : int
        Texts run at a time.
    seed : int
        Of a random draw, where `selection` makes one.
    """

    sites: tuple[str, ...] = ("block.*.out",)
    pool: Pool = "last"
    max_tokens: int | None = None
    bos: bool | None = None
    magnitude: bool = True
    selection: Selection = field(default_factory=Selection)
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pool == "none" or self.pool not in get_args(Pool):
            raise OptionError(f"a localizer pools by last, mean, sum or max, not {self.pool!r}")
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise OptionError("the number of tokens must be 0 (no cut) or more")


@dataclass(frozen=True, eq=False)
class Localization:
    """What a localizer found.

    Attributes
    ----------
    sites : tuple of Site
        The sites that were read.
    contrast : Contrast
        Statistics of every unit, site after site.
    q : ndarray of float64, [units]
        Benjamini-Hochberg adjusted p-values.
    network : Network
        The chosen units.
    summary : mapping
        The run's ``summary.json``.
    step : Step
        The run's record.
    """

    sites: tuple[Site, ...]
    contrast: Contrast
    q: NDArray[np.float64]
    network: Network
    summary: Mapping[str, Any]
    step: Step

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each site begins among the units, and the end: ``[sites + 1]``."""
        return np.cumsum([0, *(site.units for site in self.sites)])

    def units(self) -> "DataFrame":
        """One row a unit: the table ``units.parquet``."""
        import pandas as pd

        counts = [site.units for site in self.sites]

        def column(values: Sequence[str]) -> object:
            kinds = list(dict.fromkeys(values))
            codes = np.repeat([kinds.index(value) for value in values], counts)
            return pd.Categorical.from_codes(codes.tolist(), categories=pd.Index(kinds))

        blocks = np.array([-1 if s.block is None else s.block for s in self.sites], np.int32)
        block = pd.arrays.IntegerArray(np.repeat(blocks, counts), np.repeat(blocks < 0, counts))
        c = self.contrast
        return pd.DataFrame(
            {
                "site": column([site.name for site in self.sites]),
                "unit": np.concatenate([np.arange(n, dtype=np.int32) for n in counts]),
                "role": column([site.role for site in self.sites]),
                "block": block,
                "op_type": column([site.op_type for site in self.sites]),
                "mean_positive": c.mean_positive,
                "mean_control": c.mean_control,
                "t": c.t,
                "df": c.df,
                "p": c.p,
                "q": self.q,
                "d": c.d,
                "selected": np.concatenate([self.network.mask(s.name) for s in self.sites]),
            }
        )

    def write(self, folder: Path) -> None:
        """Write the tables of this step into a run folder."""
        write_table(folder, UNITS_FILE, self.units())
        self.network.save(folder / NETWORK_FILE)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a run folder, whole or not at all.

        Raises
        ------
        RunError
            If `path` is taken or cannot be written.
        """
        path = Path(path)
        with new_folder(path, force=force) as staging:
            self.write(staging)
            write_summary(staging, self.summary)
            Manifest(name=path.name, steps=(self.step,)).write(staging)


def localize(
    model: Model,
    stimuli: StimulusSet,
    options: LocalizeOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    command: str = "",
    show_progress: bool = False,
) -> Localization:
    """Find the units that respond more to the positive condition than to the control.

    Each text is run through the model, the tokens of each site are pooled inside the graph, and the
    two conditions are compared for each unit by Welch's t-test on streaming moments: memory does
    not grow with the number of texts.

    Parameters
    ----------
    model : Model
        What is localized in.
    stimuli : StimulusSet
        The two conditions.
    options : LocalizeOptions, optional
        What is read and how units are chosen.
    runtime : RuntimeOptions, optional
        Provider and threads.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the stimuli and the options do not go together.
    """
    options = options or LocalizeOptions()
    runtime = runtime or RuntimeOptions()
    started = time.perf_counter()
    sites = model.sites.match(options.sites)
    # Found wrong only after the run, it would cost the run.
    options.selection.count(sum(site.units for site in sites))
    bos = model.bundle.info.add_bos if options.bos is None else options.bos
    cut = stimuli.max_tokens if options.max_tokens is None else options.max_tokens
    texts = [*stimuli.positive, *stimuli.control]
    sequences = model.encode(texts, bos=bos, max_tokens=cut)
    plan = Plan(taps=tuple(Tap(site.tensor, options.pool) for site in sites))
    session = model.compile(plan, runtime)
    loaded = time.perf_counter()
    positive, control = response_moments(
        session,
        [site.units for site in sites],
        sequences,
        np.arange(len(texts)) < len(stimuli.positive),
        options,
        pad=model.pad,
        show_progress=show_progress,
    )
    contrast = welch(positive, control)
    q = benjamini_hochberg(contrast.p)
    chosen = options.selection.choose(contrast.t, q, options.seed)
    network = network_from_flat(
        chosen,
        {site.name: site.units for site in sites},
        model.graph.hash,
        _how(options),
    )
    done = time.perf_counter()
    step = Step(
        step="localize",
        command=command,
        parameters={
            "model": model.bundle.info.name,
            "localizer": _lasting(stimuli.source),
            "sites": list(options.sites),
            "pool": options.pool,
            "max_tokens": cut,
            "bos": bos,
            "magnitude": options.magnitude,
            **_how(options),
            "batch_size": options.batch_size,
            "seed": options.seed,
        },
        hashes={"model": model.graph.hash, "stimuli": stimuli.hash, "plan": plan.hash},
        versions=package_versions(VERSIONED),
        seconds={"load": loaded - started, "run": done - loaded},
        provider=session.provider,
        threads=runtime.threads,
    )
    summary = {
        "format": 1,
        "model": model.description,
        "localize": _summary(stimuli, options, cut, bos, sites, contrast, q, network),
    }
    return Localization(sites, contrast, q, network, summary, step)


def response_moments(
    session: Session,
    widths: Sequence[int],
    sequences: Sequence[Sequence[int]],
    is_positive: NDArray[np.bool_],
    options: LocalizeOptions,
    *,
    pad: int,
    show_progress: bool = False,
) -> tuple[Moments, Moments]:
    """Moments of every unit of every tap in the positive and in the control condition."""
    ups = [Moments(width) for width in widths]
    downs = [Moments(width) for width in widths]
    with Progress("localizing", len(sequences), show=show_progress) as progress:
        for batch in batches(sequences, max_rows=options.batch_size, pad=pad):
            values = session.taps(batch).values()
            positive = is_positive[batch.rows]
            for streams, rows in ((ups, positive), (downs, ~positive)):
                if not rows.any():
                    continue
                whole = bool(rows.all())
                for stream, value in zip(streams, values, strict=True):
                    some = value if whole else value[rows]
                    stream.update(np.abs(some) if options.magnitude else some)
            progress.add(len(batch.rows))
    return Moments.joined(ups), Moments.joined(downs)


def _lasting(source: str) -> str:
    """What finds the stimuli again from any folder."""
    path = Path(source)
    return str(path.resolve()) if source not in LOCALIZERS and path.exists() else source


def _how(options: LocalizeOptions) -> dict[str, str | int | float]:
    selection = options.selection
    how: dict[str, str | int | float] = {"how": selection.how, "value": selection.value}
    if selection.within is not None:
        how["within"] = "{:g}-{:g}".format(*selection.within)
        how["seed"] = options.seed
    return how


def _summary(
    stimuli: StimulusSet,
    options: LocalizeOptions,
    cut: int,
    bos: bool,
    sites: tuple[Site, ...],
    contrast: Contrast,
    q: NDArray[np.float64],
    network: Network,
) -> dict[str, Any]:
    chosen_t = np.concatenate([np.zeros(0), *_split(contrast.t, sites, network)])
    return {
        "localizer": stimuli.name,
        "localizer_version": stimuli.version,
        "positive_label": stimuli.positive_label,
        "control_label": stimuli.control_label,
        "n_positive": contrast.n_positive,
        "n_control": contrast.n_control,
        "pool": options.pool,
        "max_tokens": cut,
        "bos": bos,
        "magnitude": options.magnitude,
        "n_sites": len(sites),
        "n_units": contrast.t.size,
        "n_selected": network.size,
        "selection": _how(options),
        "smallest_t": float(chosen_t.min()) if chosen_t.size else None,
        "n_undefined": contrast.n_undefined,
        "n_significant": int(((q <= ALPHA) & (contrast.t > 0)).sum()),
        "by_site": [
            {
                "site": site.name,
                "block": site.block,
                "role": site.role,
                "units": site.units,
                "selected": len(network.units.get(site.name, ())),
            }
            for site in sites
        ],
    }


def _split(
    values: NDArray[np.float64], sites: tuple[Site, ...], network: Network
) -> list[NDArray[np.float64]]:
    bounds = np.cumsum([site.units for site in sites])[:-1]
    parts = np.split(values, bounds)
    return [
        part[network.units[site.name]]
        for site, part in zip(sites, parts, strict=True)
        if site.name in network.units
    ]
