"""Ablating: what a model can still do without a network, and without random units instead."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.checkpoint import Checkpoint
from onnxloc.choose import count_for_percent, top_units
from onnxloc.controls import MASSIVE, Match
from onnxloc.errors import OptionError
from onnxloc.graph.plan import Head, Plan, TargetLogProbs, TopLogits
from onnxloc.network import Network, network_from_flat
from onnxloc.progress import Progress
from onnxloc.runtime.model import Model
from onnxloc.runtime.offsets import token_offsets
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.tokens import Tokens
from onnxloc.store import UNITS_FILE, VERSIONED, Run, Step, package_versions
from onnxloc.studies.ablation import Ablation
from onnxloc.studies.conditions import Battery, Drawn, conditions, described
from onnxloc.studies.edit_values import NetworkEdits, PlannedEdit, TextForm, gather_facts
from onnxloc.studies.edits import EditInputs, UnitEdit, as_edit
from onnxloc.studies.effects import Condition, TaskScores, summarise
from onnxloc.studies.magnitudes import mean_magnitudes, spread_sample
from onnxloc.studies.masks import unit_masks
from onnxloc.studies.scoring import Prefix, Scorer, require_causal
from onnxloc.tasks import Task

__all__ = ["AblateOptions", "Ablation", "ablate", "ablate_into", "rank_of_run"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """How units are ablated, and what that is compared with.

    Attributes
    ----------
    replacement : str or UnitEdit
        What becomes of an ablated unit: "zero", "mean" (over the scored tokens of the tasks' texts
        in the intact model), or any other edit; see `as_edit`.
    tokens : str or Tokens
        At which tokens of a text: "all", the prefix token among them, or positions such as
        "0,3,-2", counted from the first token behind the prefix token.
    controls : int
        Number of random control networks for each size.
    match : {"site", "count", "norm"}
        Controls have as many units in each site as the network has, or only as many in all, or in
        each site units of like mean |activation|; see `draw_control`.
    percents : tuple of float
        Sizes, in percent of the searched units; empty for the network as it is. The units with the
        largest t are taken.
    limit : int
        Items of each group that are scored, at most; 0 for all.
    batch_size : int
        Rows run at a time; several conditions share a batch.
    seed : int
        Of the controls, of the bootstrap, and of noise that is written as text.
    """

    replacement: str | UnitEdit = "zero"
    tokens: str | Tokens = "all"
    controls: int = 10
    match: Match = "site"
    percents: tuple[float, ...] = ()
    limit: int = 0
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.edit, self.where
        if self.match not in get_args(Match):
            raise OptionError(f"controls match by site, count or norm, not by {self.match!r}")
        if self.controls < 0 or self.limit < 0 or self.batch_size < 1:
            raise OptionError("controls and limit must be 0 or more, the batch size 1 or more")
        if any(not 0 < percent <= 100 for percent in self.percents):
            raise OptionError("every percentage of units lies in (0, 100]")
        if len(set(self.percents)) != len(self.percents):
            raise OptionError("every percentage of units is given once")

    @cached_property
    def edit(self) -> UnitEdit:
        """What becomes of a unit."""
        return as_edit(self.replacement, EditInputs(seed=self.seed))

    @property
    def where(self) -> Tokens:
        """At which tokens."""
        tokens = self.tokens if isinstance(self.tokens, Tokens) else Tokens.parse(self.tokens)
        if tokens.kind in ("prompt", "generated"):
            raise OptionError(
                f"the texts of a task have no {tokens.kind} tokens; choose all, or positions"
            )
        if tokens.kind == "last" or set(tokens.positions) == {-1}:
            raise OptionError(
                "no score depends on what is done at the last token of a text, since nothing is "
                "scored behind it; choose all, or positions such as -2"
            )
        return tokens


def rank_of_run(run: Run, network: Network) -> NDArray[np.float64]:
    """The t-values of a localize run, in the order of the network's sites: ``[units]``.

    Raises
    ------
    RunError
        If the run has no units.
    OptionError
        If its units are not those of the network.
    """
    units = run.table(UNITS_FILE)
    sizes = units.groupby("site", sort=False, observed=True).size()
    if dict(sizes) != dict(network.sites) or list(sizes.index) != list(network.sites):
        raise OptionError(f"the units of {run.folder} are not those that the network is of")
    return units["t"].to_numpy(np.float64)


def ablate_into(
    path: str | Path,
    model: Model,
    network: Network,
    tasks: Sequence[Task],
    options: AblateOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    t: NDArray[np.float64] | None = None,
    battery: Battery | None = None,
    localized: Run | None = None,
    force: bool = False,
    resume: bool = False,
    report: Callable[[str], None] | None = None,
    command: str = "",
    force_model: bool = False,
    show_progress: bool = False,
) -> Ablation:
    """Ablate, and write a run folder.

    What is done is saved beside the run folder every few seconds, and a run that was stopped can be
    resumed: with the same result, to the last bit.

    Parameters that are not described here are those of `ablate`.

    Parameters
    ----------
    path : str or Path
        The run folder to write, whole or not at all.
    localized : Run, optional
        The run that found the network; its units and its record are carried along.
    force : bool
        Replace a run that stands there, and discard an unfinished one unless `resume`.
    resume : bool
        Go on with an unfinished run, if there is one.
    report : callable, optional
        Told what is resumed.

    Raises
    ------
    OnnxlocError
        One of its kinds: as `ablate`; if the folder cannot be written; if the unfinished run is of
        something else.
    """
    path = Path(path)
    with Checkpoint(path, resume=resume, force=force, report=report) as checkpoint:
        done = ablate(
            model,
            network,
            tasks,
            options,
            runtime,
            t=t,
            battery=battery,
            command=command,
            force_model=force_model,
            show_progress=show_progress,
            checkpoint=checkpoint,
        )
        with checkpoint.writing() as staging:
            done.write_run(staging, path.name, localized)
    return done


def ablate(
    model: Model,
    network: Network,
    tasks: Sequence[Task],
    options: AblateOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    t: NDArray[np.float64] | None = None,
    battery: Battery | None = None,
    command: str = "",
    force_model: bool = False,
    show_progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Ablation:
    """Score tasks with the network ablated, with random controls ablated, and intact.

    All conditions run through one compiled session, each row of a batch with an edit of its own.

    Parameters
    ----------
    model : Model
        What is ablated.
    network : Network
        The units to ablate.
    tasks : sequence of Task
        What is scored; their names differ.
    options : AblateOptions, optional
        How units are ablated.
    runtime : RuntimeOptions, optional
        Provider and threads.
    t : ndarray of float64, [units], optional
        What ranks the units, needed for `options.percents`; see `rank_of_run`.
    battery : Battery, optional
        Run every kind of control beside the network; see `gather_battery`.
    command : str
        The command line to put on record.
    force_model : bool
        Use a network of another model.
    show_progress : bool
        Draw a bar, if standard error is a terminal.
    checkpoint : Checkpoint, optional
        Where the scores are saved, and what is gone on with.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the network and the tasks do not go together.
    """
    options = options or AblateOptions()
    runtime = runtime or RuntimeOptions()
    started = time.perf_counter()
    if not tasks:
        raise OptionError("there is no task to score")
    if len({task.name for task in tasks}) != len(tasks):
        raise OptionError("two tasks have the same name; give each once")
    network.check_model(model.graph.hash, force_model)
    if options.limit:
        tasks = [task.limited(options.limit) for task in tasks]
    if battery is not None and options.controls < 1:
        raise OptionError("a battery needs one control of each kind or more")
    sized = _sized(network, options, t)
    encoded = [model.encode_scored([x for i in task.items for x in i.texts]) for task in tasks]
    sequences = [sequence for some in encoded for sequence in some]
    magnitudes = None
    sample = spread_sample(sequences)
    if battery is not None or options.match == "norm":
        magnitudes = mean_magnitudes(
            model,
            [model.sites.find(name) for name in network.sites],
            sample,
            runtime,
            batch_size=options.batch_size,
            show_progress=show_progress,
        )
    networks = conditions(
        sized,
        Drawn(options.controls, options.match, options.seed),
        battery=battery,
        magnitudes=magnitudes,
    )
    run_with = (Condition("intact", 0.0, "intact"), *networks)
    masks = unit_masks(model, [networks.get(condition) for condition in run_with])
    prefix = Prefix.of(model, masks, runtime)
    edit, tokens = options.edit, options.where
    planned = PlannedEdit(edit, tokens, tuple(masks), network.sites)
    heads: tuple[Head, ...] = (TargetLogProbs(model.logits.tensor, "given"),)
    if any(task.greedy for task in tasks):
        heads += (TopLogits(model.logits.tensor, 1, "given"),)
    plan = Plan(
        edits=planned.plan_edits,
        head=heads,
        given=() if prefix is None else (prefix.tensor,),
    )
    session = model.compile(plan, runtime)
    require_causal(session, prefix, encoded[0][0][0])
    (facts,) = gather_facts(
        model,
        [planned],
        TextForm(model.encode_scored, 1),
        runtime,
        sequences=sequences,
        batch_size=options.batch_size,
        show_progress=show_progress,
    )
    edits = NetworkEdits(planned, facts, masks)
    scorer = Scorer(
        session,
        prefix,
        edits.operands,
        len(run_with),
        options.batch_size,
        model.pad,
        planned.everywhere,
    )
    hashes = {"model": model.graph.hash, "plan": plan.hash}
    key = {
        **hashes,
        **{one.name: getattr(options, one.name) for one in fields(options)},
        **asdict(runtime),
        "replacement": [edit.label, edit.parameters, edit.measured_on],
        "tokens": tokens.label,
        "networks": [
            (c.name, c.size, sha256(n.flat.tobytes()).hexdigest()) for c, n in networks.items()
        ],
    }
    loaded = time.perf_counter()
    total = len(run_with) * len(sequences)
    results = []
    with Progress("ablating", total, show=show_progress) as progress:
        for task, own in zip(tasks, encoded, strict=True):
            texts = [text for item in task.items for text in item.texts]
            offsets = token_offsets(model, texts) if task.has_spans else None
            begin = None
            if checkpoint is not None:
                ids = sha256(json.dumps(own).encode()).hexdigest()
                own_key = {**key, "task": task.hash, "token ids": ids}
                begin = partial(checkpoint.begin, f"task {task.name}", own_key, unit="rows")
            scores, counts = scorer.score(task, own, progress, offsets, begin)
            results.append(TaskScores(task, run_with, scores, counts))
    done = time.perf_counter()
    sizes = {size: whole.size for size, whole in sized.items()}
    summary = {
        "format": 1,
        "model": model.description,
        "ablate": {
            "with": edit.label,
            "tokens": tokens.label,
            "match": options.match,
            "n_controls": options.controls,
            "battery": battery is not None,
            **_measured(networks, magnitudes, len(sample)),
            "effects": [
                entry for result in results for entry in summarise(result, sizes, seed=options.seed)
            ],
        },
    }
    step = Step(
        step="ablate",
        command=command,
        parameters={
            "model": model.bundle.info.name,
            "tasks": [task.source for task in tasks],
            "with": edit.label,
            "tokens": tokens.label,
            **edit.parameters,
            "controls": options.controls,
            "match": options.match,
            "battery": None if battery is None else dict(battery.about),
            "percent": list(options.percents),
            "limit": options.limit,
            "prefix_token": encoded[0][0][0],
            "batch_size": options.batch_size,
            "seed": options.seed,
        },
        hashes={
            **hashes,
            **{f"task {task.name}": task.hash for task in tasks},
        },
        versions=package_versions(VERSIONED),
        seconds={
            **(battery.seconds if battery is not None else {}),
            "load": loaded - started,
            "run": done - loaded,
            **({} if checkpoint is None else checkpoint.earlier),
        },
        provider=session.provider,
        threads=runtime.threads,
    )
    return Ablation(tuple(results), networks, summary, step)


def _sized(
    network: Network, options: AblateOptions, t: NDArray[np.float64] | None
) -> dict[float, Network]:
    """The network in each size."""
    largest_t = "within" not in network.how and network.how.get("how") in ("top", "units", "fdr")
    if not options.percents:
        return {100.0 * network.share: network}
    if t is None:
        raise OptionError(
            "sizes in percent need the t-values of a run; give --network a run folder"
        )
    if not largest_t:
        raise OptionError(
            "--percent takes the units with the largest t, and this network was chosen otherwise; "
            "leave --percent out"
        )
    return {
        percent: network_from_flat(
            top_units(t, count_for_percent(t.size, percent)),
            network.sites,
            network.model_hash,
            {"how": "top", "value": percent},
        )
        for percent in options.percents
    }


def _measured(
    networks: Mapping[Condition, Network], magnitudes: NDArray[np.float64] | None, n_texts: int
) -> dict[str, Any]:
    """What the summary says of activations, where they were measured."""
    if magnitudes is None:
        return {}
    return {
        "magnitudes": {
            "of": "mean |activation| over all tokens of texts of the tasks, the prefix token "
            "among them",
            "n_texts": n_texts,
            "massive_above": MASSIVE,
        },
        "networks": described(networks, magnitudes),
    }
