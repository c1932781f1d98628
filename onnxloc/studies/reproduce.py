"""The paper's procedure from end to end on one model, with every control."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.graph.weights import UntrainOptions, untrain
from onnxloc.network import Network
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.overlap import overlap
from onnxloc.stimuli import StimulusSet, load_stimuli
from onnxloc.store import Run
from onnxloc.studies.ablate import AblateOptions, Ablation, ablate, rank_of_run
from onnxloc.studies.battery import gather_battery
from onnxloc.studies.effects import TaskScores
from onnxloc.studies.localize import LocalizeOptions, localize_into
from onnxloc.studies.profile import Profile, ProfileOptions, profile
from onnxloc.studies.reliability import ReliabilityOptions, reliability
from onnxloc.studies.reproduced import (
    Difference,
    GroupScores,
    KindScores,
    Located,
    Measured,
    Response,
    SizeEffect,
)
from onnxloc.tasks import Task, TaskInputs, load_task

__all__ = ["QUICK", "ReproduceOptions", "Reproduction", "reproduce"]

OTHERS = ("multiple-demand", "theory-of-mind")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """How much is done.

    Attributes
    ----------
    percents : tuple of float
        Sizes of the network, in percent of all units; the last is that of every other study.
    controls : int
        Networks of each kind of control, for each size.
    profile_controls : int
        Random networks beside the profile.
    limit : int
        Minimal pairs of each phenomenon that are scored, at most; 0 for all.
    sentences : int
        Sentences whose perplexity is taken, at most; 0 for all.
    splits : int
        Random halves of the stimuli.
    seed : int
        Of all draws.
    """

    percents: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    controls: int = 10
    profile_controls: int = 100
    limit: int = 10
    sentences: int = 20
    splits: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.percents or list(self.percents) != sorted(set(self.percents)):
            raise OptionError("sizes are given once each, the smallest first")
        if not all(0 < percent <= 100 for percent in self.percents):
            raise OptionError("every percentage of units lies in (0, 100]")
        if min(self.controls, self.profile_controls, self.splits) < 1:
            raise OptionError("controls and splits must be 1 or more")
        if min(self.limit, self.sentences, self.seed) < 0:
            raise OptionError("limit, sentences and seed must be 0 or more")


QUICK = ReproduceOptions(
    percents=(0.25, 1.0), controls=2, profile_controls=20, limit=1, sentences=5, splits=20
)


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What came out.

    Attributes
    ----------
    measured : Measured
        The numbers.
    ablation : Ablation
        Of the language network and its controls.
    profile : Profile
        Of the language network.
    options : ReproduceOptions
        How much was done.
    seconds : mapping of str to float
        How long each part took.
    threads : int
        Threads within an operator; 0: one for each core.
    """

    measured: Measured
    ablation: Ablation
    profile: Profile
    options: ReproduceOptions
    seconds: Mapping[str, float]
    threads: int


@dataclass(eq=False)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started


def reproduce(
    model: Model,
    options: ReproduceOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    language: StimulusSet | None = None,
    command: str = "",
    show_progress: bool = False,
) -> Reproduction:
    """Localize, ablate beside every kind of control, profile, and repeat in an untrained copy.

    Runs are kept in a temporary folder for the time that it takes.

    Parameters
    ----------
    model : Model
        A causal language model.
    options : ReproduceOptions, optional
        How much is done.
    runtime : RuntimeOptions, optional
        Provider and threads.
    language : StimulusSet, optional
        The language localizer, instead of the one that ships.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw bars, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model cannot do what is asked.
    """
    options = options or ReproduceOptions()
    runtime = runtime or RuntimeOptions()
    stimuli = language or load_stimuli("language")
    tasks = _tasks(stimuli, options)
    how = LocalizeOptions(selection=Selection(value=options.percents[-1]), agreement=False)
    clock = _Clock()
    show: dict[str, Any] = {"show_progress": show_progress}
    settings: dict[str, Any] = {"command": command, **show}
    with TemporaryDirectory(prefix="onnxloc-") as name:
        work = Path(name)
        with clock.time("localize"):
            run = _localized(work / "language", model, stimuli, how, runtime, settings)
        network = Network.load(run.folder)
        with clock.time("untrained copy"):
            untrain(model.bundle, model.graph, work / "copy", UntrainOptions(seed=options.seed))
            copy = Model.open(work / "copy")
            untrained = _localized(work / "untrained", copy, stimuli, how, runtime, settings)
        with clock.time("other localizers"):
            others = [
                _localized(work / other, model, load_stimuli(other), how, runtime, settings)
                for other in OTHERS
            ]
        with clock.time("reliability"):
            found = _located(run, stimuli.name, options, None, show_progress)
            copied = _located(untrained, "untrained", options, network, show_progress)
            rest = tuple(
                _located(other, str(other.localizer), options, network, show_progress)
                for other in others
            )
        with clock.time("profile"):
            response = profile(
                model,
                run,
                options=ProfileOptions(controls=options.profile_controls, seed=options.seed),
                runtime=runtime,
                **settings,
            )
        with clock.time("ablate"):
            battery = gather_battery(
                model, run, network, stimuli, shuffles=options.controls, seed=options.seed,
                runtime=runtime, untrained=untrained, **show,
            )  # fmt: skip
            ablation = ablate(
                model,
                network,
                tasks,
                AblateOptions(
                    controls=options.controls, percents=options.percents, seed=options.seed
                ),
                runtime,
                t=rank_of_run(run, network),
                battery=battery,
                **settings,
            )
    scored = ablation.summary["ablate"]["effects"]
    measured = Measured(
        model=model.bundle.info.name,
        model_hash=model.graph.hash,
        language=found,
        untrained=copied,
        others=rest,
        effects=tuple(_effect(entry) for entry in scored),
        groups=_groups(ablation.results[0], options.percents),
        responses=_responses(response),
        differences=_differences(response),
    )
    return Reproduction(measured, ablation, response, options, clock.seconds, runtime.threads)


def _tasks(stimuli: StimulusSet, options: ReproduceOptions) -> list[Task]:
    pairs = load_task("pairs")
    text = load_task("text", TaskInputs(stimuli.positive, f"the localizer {stimuli.name}"))
    return [
        pairs.limited(options.limit) if options.limit else pairs,
        text.limited(options.sentences) if options.sentences else text,
    ]


def _localized(
    folder: Path,
    model: Model,
    stimuli: StimulusSet,
    options: LocalizeOptions,
    runtime: RuntimeOptions,
    settings: Mapping[str, Any],
) -> Run:
    localize_into(folder, model, stimuli, options, runtime, **settings)
    return Run.open(folder)


def _located(
    run: Run, name: str, options: ReproduceOptions, language: Network | None, show: bool
) -> Located:
    network, summary = Network.load(run.folder), run.summary["localize"]
    halves = reliability(
        run, ReliabilityOptions(splits=options.splits, seed=options.seed), show_progress=show
    )
    blocks = np.zeros(1 + max(row["block"] or 0 for row in summary["by_site"]), np.int64)
    for row in summary["by_site"]:
        if row["block"] is not None:
            blocks[row["block"]] += row["selected"]
    met = None
    if language is not None:
        shared = int(np.intersect1d(network.flat, language.flat).size)
        met = overlap(network.n_units, network.size, language.size, shared)
    return Located(
        name=name,
        positive=summary["positive_label"],
        control=summary["control_label"],
        n_stimuli=summary["n_positive"] + summary["n_control"],
        n_units=network.n_units,
        k=network.size,
        n_significant=summary["n_significant"],
        blocks=tuple(blocks.tolist()),
        reliability=halves.interval("dice"),
        shuffled=halves.interval("dice", shuffled=True),
        chance=halves.chance,
        correlation=halves.interval("spearman_brown"),
        dice_language=None if met is None else met.dice,
        dice_language_chance=None if met is None else met.chance,
    )


def _effect(entry: Mapping[str, Any]) -> SizeEffect:
    """An effect, from an ablation's summary."""
    versus, text, rest = entry["vs_intact"], entry["perplexity"], entry["without_massive"]
    return SizeEffect(
        task=entry["task"],
        metric=entry["metric"],
        size=entry["size"],
        units=entry["n_network_units"],
        n_items=entry["n_items"],
        intact=float(entry["intact"]),
        network=float(entry["network"]),
        difference=versus["difference"],
        low=versus["low"],
        high=versus["high"],
        kinds=tuple(
            KindScores(
                kind=kind["kind"],
                scores=tuple(kind["scores"]),
                as_harmful=len(kind["as_harmful"]),
                p=kind["p_empirical"],
                perplexity=tuple(kind["perplexity"]) if kind["perplexity"] else None,
            )
            for kind in entry["kinds"]
        ),
        without_massive=None if rest is None else float(rest["score"]),
        intact_perplexity=text["intact"] if text else None,
        network_perplexity=text["network"] if text else None,
    )


def _groups(result: TaskScores, percents: Sequence[float]) -> tuple[GroupScores, ...]:
    """Accuracy by phenomenon: intact, without the network, and without the controls."""
    groups = np.array([item.group for item in result.task.items])
    rows = list(enumerate(result.conditions))
    kinds = list(dict.fromkeys(c.kind for _, c in rows))
    largest = percents[-1]
    out = []
    for group in dict.fromkeys(groups.tolist()):
        own = result.scores[:, groups == group].mean(axis=1)
        out.append(
            GroupScores(
                group=group,
                n_items=int((groups == group).sum()),
                intact=float(own[0]),
                network={c.size: float(own[i]) for i, c in rows if c.kind == "network"},
                controls={
                    kind: float(
                        np.median([own[i] for i, c in rows if (c.kind, c.size) == (kind, largest)])
                    )
                    for kind in kinds
                    if kind not in ("intact", "network", "without-massive")
                },
            )
        )
    return tuple(out)


def _responses(found: Profile) -> tuple[Response, ...]:
    names = (
        "condition", "label", "n", "mean", "low", "high", "controls_median", "controls_low",
        "controls_high",
    )  # fmt: skip
    rows = found.of("network").to_dict("records")
    return tuple(Response(**{name: row[name] for name in names}) for row in rows)


def _differences(found: Profile) -> tuple[Difference, ...]:
    """Every ordered pair of conditions."""
    out = []
    for row in found.tests_of("network").to_dict("records"):
        one = Difference(
            a=row["a"],
            b=row["b"],
            difference=row["difference"],
            low=row["low"],
            high=row["high"],
            p=row["p_holm"],
            p_controls=row["p_controls"],
        )
        turned = Difference(
            a=one.b, b=one.a, difference=-one.difference, low=-one.high, high=-one.low,
            p=one.p, p_controls=one.p_controls,
        )  # fmt: skip
        out += [one, turned]
    return tuple(out)
