"""The network under choices that ought not to matter: which units stay, and what they do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.choose import Selection, top_units
from onnxloc.controls import draw_controls
from onnxloc.errors import AnatomyError, OptionError
from onnxloc.network import Network, network_from_flat
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.overlap import overlap
from onnxloc.stats.reliability import chance_dice, spearman
from onnxloc.stats.resample import Interval, paired_bootstrap
from onnxloc.stimuli import StimulusSet
from onnxloc.store import VERSIONED, Manifest, Step, package_versions, write_json
from onnxloc.studies.effects import Condition, TaskScores
from onnxloc.studies.localize import DEFAULT_SITES
from onnxloc.studies.network_scores import score_networks
from onnxloc.studies.variants import Reader, Way, ways
from onnxloc.tasks import Task, TaskInputs, load_task, perplexity

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["Robustness", "RobustnessOptions", "Variant", "robustness"]

FORMAT = 1
JSON_FILE = "robustness.json"
PAIRS_FILE = "robustness.csv"
NETWORKS = "networks"


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions:
    """What is read, how many units are chosen, and how their ablation is scored.

    Attributes
    ----------
    sites : tuple of str
        Patterns of sites.
    selection : Selection
        A percentage or a number of units with the largest t.
    effects : bool
        Whether the networks are ablated.
    limit : int
        Minimal pairs of each phenomenon that are scored, at most; 0 for all.
    sentences : int
        Sentences of the localizer whose perplexity is taken, at most; 0 for all.
    controls : int
        Random networks, matched by site to the default network, that are ablated beside.
    batch_size : int
        Texts run at a time.
    seed : int
        Of the halves, the controls and the bootstrap.
    """

    sites: tuple[str, ...] = DEFAULT_SITES
    selection: Selection = field(default_factory=Selection)
    effects: bool = True
    limit: int = 10
    sentences: int = 40
    controls: int = 5
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection.how not in ("top", "units") or self.selection.within is not None:
            raise OptionError(
                "robustness is of the units with the largest t: give a percentage or a number"
            )
        if min(self.limit, self.sentences, self.controls, self.seed) < 0 or self.batch_size < 1:
            raise OptionError(
                "limit, sentences, controls and seed are 0 or more, the batch size 1 or more"
            )


@dataclass(frozen=True, eq=False)
class Variant:
    """A network that was found in one way.

    Attributes
    ----------
    way : Way
        How.
    t : ndarray of float64, [units]
        What ranks the units, site after site.
    network : Network
        Those with the largest.
    n_positive, n_control : int
        Stimuli of each condition.
    """

    way: Way
    t: NDArray[np.float64]
    network: Network
    n_positive: int
    n_control: int


@dataclass(frozen=True, eq=False)
class Robustness:
    """What became of the network.

    Attributes
    ----------
    options : RobustnessOptions
        What was asked.
    model : mapping
        What the summary says of it.
    localizer : str
        Its name.
    variants : tuple of Variant
        The first is the default.
    scores : tuple of TaskScores
        Of each task: intact, with each variant's network ablated, and with random ones.
    notes : tuple of str
        What could not be tried.
    step : Step
        The record.
    """

    options: RobustnessOptions
    model: Mapping[str, Any]
    localizer: str
    variants: tuple[Variant, ...]
    scores: tuple[TaskScores, ...]
    notes: tuple[str, ...]
    step: Step

    @property
    def k(self) -> int:
        """Units of each network."""
        return self.variants[0].network.size

    @property
    def n_units(self) -> int:
        """Units that were searched."""
        return self.variants[0].network.n_units

    @property
    def names(self) -> tuple[str, ...]:
        """What the variants are called."""
        return tuple(variant.way.name for variant in self.variants)

    @property
    def chance(self) -> Interval:
        """Dice of two random networks of that size, from the hypergeometric distribution."""
        return chance_dice(self.n_units, self.k)

    @cached_property
    def dice(self) -> NDArray[np.float64]:
        """Overlap of the networks: ``[variants, variants]``."""
        networks = [variant.network for variant in self.variants]
        return np.array([[one.dice(other) for other in networks] for one in networks])

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Spearman's correlation of t over all units: ``[variants, variants]``."""
        n = len(self.variants)
        found = np.eye(n)
        for i, j in combinations(range(n), 2):
            found[i, j] = found[j, i] = spearman(self.variants[i].t, self.variants[j].t)
        return found

    @cached_property
    def pairs(self) -> "DataFrame":
        """One row a pair of variants: overlap beside chance, and rank correlation of t."""
        import pandas as pd

        rows = []
        for (i, a), (j, b) in combinations(enumerate(self.variants), 2):
            shared = int(np.intersect1d(a.network.flat, b.network.flat).size)
            met = overlap(self.n_units, self.k, self.k, shared)
            rows.append(
                {
                    "a": a.way.name,
                    "b": b.way.name,
                    "shared": shared,
                    "dice": met.dice,
                    "chance": met.chance,
                    "chance_low": met.chance_low,
                    "chance_high": met.chance_high,
                    "p": met.p,
                    "spearman": self.correlation[i, j],
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> "Figure":
        """Draw the overlap of each two variants' networks, as a plotly figure."""
        from onnxloc.figures import matrix_figure

        return matrix_figure(self.names, self.dice, "Dice")

    def _repr_html_(self) -> str:
        from onnxloc.notebook import table_html

        rows = list(
            zip(self.names, self.dice[0].tolist(), self.correlation[0].tolist(), strict=True)
        )
        return table_html(("variant", "Dice with the first", "rank correlation of t"), rows)

    @cached_property
    def effects(self) -> tuple[dict[str, Any], ...]:
        """One entry a task and condition: its score, and its difference from intact."""
        return tuple(
            entry
            for result in self.scores
            for entry in _effects(result, self.options.seed, len(self.variants))
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it once numbers are made finite."""
        chance = self.chance
        return {
            "format": FORMAT,
            "model": dict(self.model),
            "localizer": self.localizer,
            "units": self.n_units,
            "network": self.k,
            "chance_dice": {
                "expected": chance.estimate, "low": chance.low, "high": chance.high
            },
            "notes": list(self.notes),
            "variants": [
                {
                    "name": variant.way.name,
                    "about": variant.way.about,
                    "stimuli": variant.way.stimuli.name,
                    "n_positive": variant.n_positive,
                    "n_control": variant.n_control,
                    "bos": variant.way.bos,
                    "max_tokens": variant.way.max_tokens,
                    "pool": variant.way.pool,
                    "magnitude": variant.way.magnitude,
                    "test": variant.way.test,
                    "smallest_t": float(variant.t[variant.network.flat].min()),
                    "n_undefined": int(np.isnan(variant.t).sum()),
                }
                for variant in self.variants
            ],
            "dice": self.dice.tolist(),
            "spearman": self.correlation.tolist(),
            "effects": list(self.effects),
        }  # fmt: skip

    def write(self, folder: Path, name: str) -> None:
        """Write record, tables and networks into an empty folder; the page is the report's."""
        write_json(folder / JSON_FILE, self.as_dict())
        self.pairs.to_csv(folder / PAIRS_FILE, index=False)
        (folder / NETWORKS).mkdir()
        for i, variant in enumerate(self.variants):
            variant.network.save(folder / NETWORKS / f"{i:02d}.parquet")
        Manifest(name=name, steps=(self.step,)).write(folder)


def robustness(
    model: Model,
    stimuli: StimulusSet,
    options: RobustnessOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    second: StimulusSet | None = None,
    copy: Model | None = None,
    command: str = "",
    show_progress: bool = False,
) -> Robustness:
    """Find a network in the default way and in ways that differ in one choice each.

    Ways that show the same stimuli share their forward passes. Every network has as many units.

    Parameters
    ----------
    model : Model
        Where it is found.
    stimuli : StimulusSet
        The localizer.
    options : RobustnessOptions, optional
        What is read, and how the networks are ablated.
    runtime : RuntimeOptions, optional
        Provider and threads. With another provider than cpu, or less than float32, float32 on the
        CPU is one of the ways.
    second : StimulusSet, optional
        Another localizer of the same network.
    copy : Model, optional
        A copy of the model: in another precision, or through another exporter.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw bars, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, its copy, the stimuli and the options do not go together.
    """
    options = options or RobustnessOptions()
    runtime = runtime or RuntimeOptions()
    started = time.perf_counter()
    copy_name = None if copy is None else f"copy: {copy.bundle.info.name}"
    tried, notes = ways(
        model, stimuli, second=second, copy=copy_name, reference=not runtime.is_reference
    )
    names = [way.name for way in tried]
    names += ["intact", *(_control(i) for i in range(options.controls))]
    if len(set(names)) < len(names):
        raise OptionError("the second localizer has the name of another condition; rename it")
    reader = Reader(
        models={
            "model": (model, runtime),
            "copy": (copy or model, runtime),
            "reference": (model, RuntimeOptions(threads=runtime.threads)),
        },
        patterns=options.sites,
        batch_size=options.batch_size,
        seed=options.seed,
        show_progress=show_progress,
    )
    widths = {site.name: site.units for site in reader.sites("model")}
    k = options.selection.count(sum(widths.values()))
    assert k is not None  # noqa: S101 - the options allow no other selection
    tasks = _tasks(model, stimuli, options)
    found = {}
    for way, contrast in reader.contrasts(tried):
        network = network_from_flat(
            top_units(contrast.t, k),
            widths,
            model.graph.hash,
            {**options.selection.describe(options.seed), "variant": way.name},
        )
        found[way.name] = Variant(way, contrast.t, network, contrast.n_positive, contrast.n_control)
    between = time.perf_counter()
    variants = tuple(found[way.name] for way in tried)
    scores: tuple[TaskScores, ...] = ()
    if tasks:
        scores = score_networks(
            model, _ablated(variants, options), tasks, runtime, show_progress=show_progress
        )
    step = Step(
        step="robustness",
        command=command,
        parameters={
            "model": model.bundle.info.name,
            "localizer": stimuli.source or stimuli.name,
            "second": None if second is None else second.source or second.name,
            "copy": None if copy is None else str(copy.bundle.folder),
            "sites": list(options.sites),
            **options.selection.describe(options.seed),
            "tasks": [task.source for task in tasks],
            "controls": options.controls if tasks else 0,
            "seed": options.seed,
            "precision": runtime.precision,
        },
        hashes={
            "model": model.graph.hash,
            "stimuli": stimuli.hash,
            **({} if second is None else {"second": second.hash}),
            **({} if copy is None else {"copy": copy.graph.hash}),
            **{f"task {task.name}": task.hash for task in tasks},
        },
        versions=package_versions(VERSIONED),
        seconds={"localize": between - started, "ablate": time.perf_counter() - between},
        provider=runtime.provider,
        threads=runtime.threads,
    )
    return Robustness(options, model.description, stimuli.name, variants, scores, notes, step)


def _tasks(model: Model, stimuli: StimulusSet, options: RobustnessOptions) -> tuple[Task, ...]:
    """Minimal pairs, and the localizer's sentences."""
    if not options.effects:
        return ()
    try:
        # Found wrong only after the stimuli were run, it would cost their run.
        _ = model.logits
    except AnatomyError as error:
        raise OptionError(f"{error}; leave the ablations out with --no-effects") from error
    pairs = load_task("pairs")
    text = load_task("text", TaskInputs(stimuli.positive, f"the localizer {stimuli.name}"))
    return (
        pairs.limited(options.limit) if options.limit else pairs,
        text.limited(options.sentences) if options.sentences else text,
    )


def _ablated(variants: Sequence[Variant], options: RobustnessOptions) -> dict[Condition, Network]:
    """Each variant's network, and random ones."""
    default = variants[0].network
    size = 100.0 * default.share
    networks = {Condition(v.way.name, size, "network"): v.network for v in variants}
    for i, control in enumerate(draw_controls(default, options.controls, "site", options.seed)):
        networks[Condition(_control(i), size, "site")] = control
    return networks


def _control(i: int) -> str:
    return f"control-{i:02d}"


def _effects(result: TaskScores, seed: int, n_variants: int) -> list[dict[str, Any]]:
    intact = result.scores[0]
    out = []
    for row, (condition, scores) in enumerate(zip(result.conditions, result.scores, strict=True)):
        # Random networks are one sample, described by their range.
        change = paired_bootstrap(scores, intact, seed=seed) if 0 < row <= n_variants else None
        out.append(
            {
                "task": result.task.name,
                "metric": result.task.metric,
                "n_items": len(result.task.items),
                "condition": condition.name,
                "kind": condition.kind,
                "score": float(scores.mean()),
                "difference": None if change is None else change.estimate,
                "low": None if change is None else change.low,
                "high": None if change is None else change.high,
                "perplexity": (
                    perplexity(scores, result.token_counts) if result.task.kind == "text" else None
                ),
            }
        )
    return out
