"""Response profiles: what a network does on conditions that did not find it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import NetworkError, OptionError, StimulusError
from onnxloc.network import Network
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.compare import TESTS, Test
from onnxloc.stimuli import ConditionSet, StimulusSet, load_conditions, load_stimuli
from onnxloc.store import NETWORK_FILE, VERSIONED, Run, Step, package_versions
from onnxloc.studies.profile_networks import (
    Arm,
    block_responses,
    controls_of,
    half_arms,
    responses,
)
from onnxloc.studies.profile_readings import Readings, TextRows, read_rows
from onnxloc.studies.profile_result import Profile, ProfileOptions, Source
from onnxloc.studies.profile_tables import condition_tables

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STIMULI", "Profile", "ProfileOptions", "profile"]

STIMULI = "profile"
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def profile(
    model: Model,
    network: Run | Network | str | Path,
    stimuli: ConditionSet | str | Path = STIMULI,
    options: ProfileOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    force_model: bool = False,
    command: str = "",
    show_progress: bool = False,
) -> Profile:
    """Measure the mean response of a network to each of several conditions.

    The same is measured of random networks that match it, of all units of each block, and of the
    network's units of each block. Where the profile shows texts that found the network, units are
    chosen anew on random halves of those texts, and each half is measured with the units of the
    other.

    Parameters
    ----------
    model : Model
        The model of the network.
    network : Run, Network or path
        A run folder, which says how its network was found, or a network (file) alone.
    stimuli : ConditionSet, str or path
        Two conditions or more; what is not a `ConditionSet` is given to `load_conditions`.
    options : ProfileOptions, optional
        What a response is, and what it is compared with.
    runtime : RuntimeOptions, optional
        Provider and threads.
    force_model : bool
        Use a network of another model, if it has the same sites.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the network, the stimuli and the options do not go together.
    """
    options = options or ProfileOptions()
    runtime = runtime or RuntimeOptions()
    if not isinstance(stimuli, ConditionSet):
        stimuli = load_conditions(stimuli)
    started = time.perf_counter()
    found = _Found.of(network)
    found.network.check_model(model.graph.hash, force_model)
    if not found.network.size:
        raise OptionError("the network has no units, so there is nothing to measure")
    options = found.settled(options, stimuli, model)
    sites = [model.sites.find(name) for name in found.network.sites]
    for site in sites:
        if site.units != found.network.sites[site.name]:
            raise NetworkError(f"{site.name} has {site.units} units, unlike in the network")
    if options.match != "norm":
        # Found wrong only after the run, it would cost the run.
        controls_of(found.network, [], min(options.controls, 1), options.match, 0, None)
    localizer, notes = found.stimuli()
    texts = {condition.name: condition.texts for condition in stimuli.conditions}
    rows, items, shared = _rows(model, texts, localizer, options)
    readings, plan, provider = read_rows(
        model,
        sites,
        rows,
        options.pool or "last",
        runtime,
        magnitude=bool(options.magnitude),
        batch_size=options.batch_size,
        show_progress=show_progress,
    )
    measured = time.perf_counter()
    arms = [Arm(found.network, np.ones(items.size))]
    if shared.any():
        arms = half_arms(
            found.rechosen(),
            readings,
            rows.rows[_POSITIVE],
            rows.rows[_CONTROL],
            items,
            found.test,
            paired=localizer is not None and localizer.paired,
            splits=options.splits,
            seed=options.seed,
        )
    total = np.sum([arm.weight for arm in arms], axis=0)
    usable = total > 0
    if not usable.all():
        notes.append(
            f"{int((~usable).sum())} items are left out: each stands in the localizer more than "
            "once, and no split had all of its copies in one half"
        )
    table = _items(stimuli, shared)
    sources, columns = _columns(
        found.network, readings, items[usable], [_kept(arm, usable) for arm in arms], options
    )
    table = table[usable].reset_index(drop=True)
    conditions, tests = condition_tables(table["condition"], columns, sources, stimuli, options)
    step = Step(
        step="profile",
        command=command,
        parameters={
            "model": model.bundle.info.name,
            "network": found.place,
            "stimuli": stimuli.source or stimuli.name,
            **asdict(options),
            "precision": runtime.precision,
        },
        hashes={"model": model.graph.hash, "stimuli": stimuli.hash, "plan": plan.hash},
        versions=package_versions(VERSIONED),
        seconds={"load and run": measured - started, "rest": time.perf_counter() - measured},
        provider=provider,
        threads=runtime.threads,
    )
    return Profile(
        options=options,
        network=found.network,
        sources=sources,
        items=_joined(table, sources, columns),
        conditions=conditions,
        tests=tests,
        halves=bool(shared.any()),
        about={
            "model": model.description,
            "stimuli": {
                "name": stimuli.name,
                "version": stimuli.version,
                "hash": stimuli.hash,
                "localizer": found.localizer,
                "in_localizer": int(shared.sum()),
            },
        },
        notes=tuple(notes),
        step=step,
    )


# Names of lists of texts that no condition can have.
_POSITIVE, _CONTROL = " positive", " control"


@dataclass(frozen=True, eq=False)
class _Found:
    """A network, with what its run says of how it was found."""

    network: Network
    run: Run | None
    place: str

    @classmethod
    def of(cls, network: Run | Network | str | Path) -> "_Found":
        if isinstance(network, Network):
            return cls(network, None, "")
        folder = network.folder if isinstance(network, Run) else Path(network)
        place = str(folder.resolve())
        if isinstance(network, Run) or (folder / "manifest.json").is_file():
            run = network if isinstance(network, Run) else Run.open(folder)
            return cls(Network.load(folder / NETWORK_FILE), run, place)
        return cls(Network.load(folder), None, place)

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the run's summary says of its localizer."""
        said = self.run.summary.get("localize") if self.run else None
        return said if isinstance(said, dict) else {}

    @property
    def localizer(self) -> str | None:
        return self.run.localizer if self.run else None

    @property
    def test(self) -> Test:
        said = self.summary.get("test")
        return next((test for test in TESTS if test == said), "welch")

    def settled(
        self, options: ProfileOptions, stimuli: ConditionSet, model: Model
    ) -> ProfileOptions:
        """The options with the run's way of reading texts where nothing else is said."""
        front = model.bundle.info.add_bos
        defaults = {
            "pool": stimuli.pool, "max_tokens": stimuli.max_tokens, "bos": front, "magnitude": True
        }  # fmt: skip
        kinds: dict[str, type] = {"pool": str, "max_tokens": int, "bos": bool, "magnitude": bool}
        for key, kind in kinds.items():
            # What a summary says is only believed if it is of the right type.
            if type(self.summary.get(key)) is kind:
                defaults[key] = self.summary[key]
        missing = {key: v for key, v in defaults.items() if getattr(options, key) is None}
        return replace(options, **missing)  # type: ignore[arg-type]

    def stimuli(self) -> tuple[StimulusSet | None, list[str]]:
        """The stimuli that found the network, if they can be read again, and what to note."""
        if self.run is None or not self.run.localizer:
            return None, [
                "the network comes without a run, so whether these texts took part in finding it "
                "is not known"
            ]
        try:
            loaded = load_stimuli(self.run.localizer)
        except (StimulusError, OptionError):
            loaded = None
        if loaded is None or loaded.hash != self.run.stimuli_hash:
            return None, [
                f"the stimuli {self.run.localizer} that found the network are gone or have "
                "changed, so whether these texts took part in finding it is not known"
            ]
        return loaded, []

    def rechosen(self) -> Network:
        """The network, if units can be chosen anew as it was.

        Raises
        ------
        OptionError
            If they cannot.
        """
        why = ""
        if "within" in self.network.how:
            why = "its units were drawn from a range of percentiles"
        elif self.run is None or self.run.manifest.steps[0].step != "localize":
            why = "the run is none of localize"
        elif any(step.step in ("contrast", "correlate") for step in self.run.manifest.steps):
            why = "it was found by another comparison of stored activations"
        if why:
            raise OptionError(
                "the profile shows texts that found the network, so its units must be chosen anew "
                f"on halves of them, but {why}; profile other texts with --stimuli"
            )
        return self.network


def _rows(
    model: Model,
    texts: Mapping[str, Sequence[str]],
    localizer: StimulusSet | None,
    options: ProfileOptions,
) -> tuple[TextRows, Indices, NDArray[np.bool_]]:
    """Rows to run, the row of each item, and which items are texts of the localizer.

    The localizer's other texts are run only where some of its texts are shown: then units are
    chosen anew.
    """
    bos, cut = bool(options.bos), options.max_tokens or 0
    alone = TextRows.of(model, texts, bos=bos, max_tokens=cut)
    items = np.concatenate([alone.rows[name] for name in texts])
    nothing = np.zeros(items.size, dtype=np.bool_)
    if localizer is None:
        return alone, items, nothing
    more = {**texts, _POSITIVE: localizer.positive, _CONTROL: localizer.control}
    both = TextRows.of(model, more, bos=bos, max_tokens=cut)
    # Equal once cut is equal to the model.
    shared = np.isin(items, np.concatenate([both.rows[_POSITIVE], both.rows[_CONTROL]]))
    return (both, items, shared) if shared.any() else (alone, items, nothing)


def _kept(arm: Arm, usable: NDArray[np.bool_]) -> Arm:
    return Arm(arm.network, arm.weight[usable])


def _items(stimuli: ConditionSet, shared: NDArray[np.bool_]) -> "DataFrame":
    import pandas as pd

    rows = [
        (condition.name, item, text)
        for condition in stimuli.conditions
        for item, text in enumerate(condition.texts)
    ]
    table = pd.DataFrame(rows, columns=["condition", "item", "text"])
    table["in_localizer"] = shared
    return table


def _columns(
    network: Network,
    readings: Readings,
    items: Indices,
    arms: Sequence[Arm],
    options: ProfileOptions,
) -> tuple[tuple[Source, ...], Floats]:
    """Every source, and its response to each item: ``[items, sources]``."""
    z = options.response == "z"
    magnitudes = readings.magnitudes(items) if options.match == "norm" else None
    controls = controls_of(network, arms, options.controls, options.match, options.seed, magnitudes)
    chosen = responses(readings, items, [arm.network for arm in arms], z=z)
    weights = np.stack([arm.weight for arm in arms], axis=1)
    sources = [Source(name="network", kind="network", block=None, units=network.size)]
    columns = [_weighted(chosen.mean, weights)]
    if not np.isfinite(columns[0]).all():
        raise OptionError(
            "no unit of the network has a response: none varies over the texts, or none is a number"
        )
    if controls:
        random = responses(readings, items, controls, z=z).mean
        for i, control in enumerate(controls):
            sources.append(
                Source(name=f"control-{i:03d}", kind="control", block=None, units=control.size)
            )
            columns.append(random[:, i])
    sizes = _block_sizes(readings, arms)
    for block, (values, units) in block_responses(readings, items, z=z).items():
        sources.append(Source(name=f"block-{block}", kind="block", block=block, units=units))
        columns.append(values)
        if sizes[block]:
            name = f"block-{block}-network"
            sources.append(
                Source(name=name, kind="network in block", block=block, units=sizes[block])
            )
            columns.append(_weighted(chosen.by_block[block], weights))
    return tuple(sources), np.stack(columns, axis=1)


def _weighted(values: Floats, weights: Floats) -> Floats:
    """Mean over arms, ``[items]``; an arm that has no such units counts for nothing."""
    known = np.where(np.isfinite(values), weights, 0.0)
    total = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = (np.nan_to_num(values) * known).sum(axis=1) / total
    return mean


def _block_sizes(readings: Readings, arms: Sequence[Arm]) -> dict[int, float]:
    """Mean number of chosen units in each block."""
    sizes: dict[int, float] = {}
    for site in readings.sites:
        if site.block is not None:
            own = np.mean([len(arm.network.units.get(site.name, ())) for arm in arms])
            sizes[site.block] = sizes.get(site.block, 0.0) + float(own)
    return sizes


def _joined(table: "DataFrame", sources: Sequence[Source], columns: Floats) -> "DataFrame":
    import pandas as pd

    own = pd.DataFrame(columns, columns=[source.name for source in sources])
    return pd.concat([table, own], axis=1)
