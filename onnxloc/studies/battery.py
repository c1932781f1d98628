"""The battery of controls: what ranks units when labels are shuffled, or a model is untrained."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import ACTIVATIONS_FILE, Activations
from onnxloc.choose import Selection, generator
from onnxloc.errors import OptionError
from onnxloc.graph.weights import UntrainOptions, untrain
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.compare import Test, compare
from onnxloc.stimuli import StimulusSet
from onnxloc.store import Run, Step
from onnxloc.studies.ablate import rank_of_run
from onnxloc.studies.conditions import Battery
from onnxloc.studies.localize import LocalizeOptions, localize
from onnxloc.studies.stored import Rows, check_test, site_values

__all__ = ["gather_battery", "shuffled_t"]

Floats = NDArray[np.float64]


def gather_battery(
    model: Model,
    run: Run,
    network: Network,
    stimuli: StimulusSet,
    *,
    shuffles: int,
    seed: int = 0,
    runtime: RuntimeOptions | None = None,
    untrained: Run | None = None,
    force_model: bool = False,
    show_progress: bool = False,
) -> Battery:
    """Localize again as a run did: with shuffled labels, and in an untrained copy of the model.

    Shuffled labels need every stimulus's activations: those that the run kept, or else one forward
    pass of its stimuli into a temporary folder. The untrained copy is written to a temporary folder
    as well, and takes as much space as the model.

    Parameters
    ----------
    model : Model
        The trained model.
    run : Run
        A run of ``localize`` on it.
    network : Network
        The run's network.
    stimuli : StimulusSet
        The run's stimuli.
    shuffles : int
        How often the labels are shuffled.
    seed : int
        Of the shuffles and of the untrained copy.
    runtime : RuntimeOptions, optional
        Provider and threads.
    untrained : Run, optional
        A run of ``localize`` on an untrained copy, instead of a new one.
    force_model : bool
        Use a network of another model.
    show_progress : bool
        Draw bars, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the run is of no localizer, or what it is given do not go together.
    """
    if shuffles < 1:
        raise OptionError("a battery needs one control of each kind or more; raise --controls")
    runtime = runtime or RuntimeOptions()
    step = _localized(run)
    network.check_model(model.graph.hash, force_model)
    t = rank_of_run(run, network)
    if untrained is not None and _localized(untrained).hashes.get("model") == network.model_hash:
        raise OptionError(
            f"{untrained.folder} is of the trained model itself; give a run on an untrained copy"
        )
    options = _options(step.parameters, network)
    started = time.perf_counter()
    with _activations(model, run, stimuli, options, runtime, show_progress) as activations:
        if list(activations.sites.items()) != list(network.sites.items()):
            raise OptionError(f"the activations of {run.folder} are not of the network's units")
        shuffled = shuffled_t(
            activations,
            options.test,
            magnitude=options.magnitude,
            shuffles=shuffles,
            seed=seed,
            show_progress=show_progress,
        )
    between = time.perf_counter()
    if untrained is not None:
        other = rank_of_run(untrained, network)
    else:
        other = _untrained_t(model, network, stimuli, options, runtime, seed, show_progress)
    return Battery(
        t=t,
        shuffled=shuffled,
        untrained=other,
        about={
            "activations": "kept by the run" if _kept(run) else "a forward pass",
            "untrained": f"shuffle, seed {seed}" if untrained is None else str(untrained.folder),
        },
        seconds={
            "battery_shuffled": between - started,
            "battery_untrained": time.perf_counter() - between,
        },
    )


def shuffled_t(
    activations: Activations,
    test: Test,
    *,
    magnitude: bool,
    shuffles: int,
    seed: int,
    show_progress: bool = False,
) -> Floats:
    """The statistic of every unit after the labels of the stimuli were shuffled.

    For the paired test the two stimuli of a pair are exchanged at random; else the labels of all
    stimuli are permuted. All units see the same shuffles.

    Parameters
    ----------
    activations : Activations
        Of the run.
    test : {"welch", "student", "paired", "mannwhitney"}
        As in `compare`.
    magnitude : bool
        Compare absolute values, or signed ones.
    shuffles : int
        How many.
    seed : int
        Equal seeds give equal shuffles; the i-th is the same however many there are.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    array, shape [shuffles, units]
    """
    rows = Rows.of(activations)
    check_test(test, rows)
    orders = [_order(generator(seed, 1, i), rows, test) for i in range(shuffles)]
    found = np.empty((shuffles, sum(activations.sites.values())))
    left = 0
    with Progress("shuffling", len(activations.sites), show=show_progress, unit="site") as bar:
        for site, units in activations.sites.items():
            values = site_values(activations, site, rows.all, magnitude=magnitude)
            for row, order in zip(found, orders, strict=True):
                row[left : left + units] = compare(values[order], rows.is_positive, test).t
            left += units
            bar.add(1)
    return found


def _order(rng: np.random.Generator, rows: Rows, test: Test) -> NDArray[np.int64]:
    """Which stimulus stands in the place of which."""
    n = rows.positive.size
    if test != "paired":
        return rng.permutation(n + rows.control.size)
    exchanged = np.where(rng.random(n) < 0.5, n, 0)
    first = np.arange(n)
    return np.concatenate([first + exchanged, first + n - exchanged])


def _localized(run: Run) -> Step:
    steps = {step.step: step for step in run.manifest.steps}
    if "localize" not in steps or "contrast" in steps:
        raise OptionError(
            f"{run.folder} is no run of onnxloc localize, whose stimuli a battery shows again"
        )
    return steps["localize"]


def _options(parameters: Mapping[str, Any], network: Network) -> LocalizeOptions:
    """As the run localized, for as many units as the network has."""
    return LocalizeOptions(
        sites=tuple(parameters["sites"]),
        pool=parameters["pool"],
        max_tokens=parameters["max_tokens"],
        bos=parameters["bos"],
        magnitude=parameters["magnitude"],
        test=parameters.get("test", "welch"),
        selection=Selection(how="units", value=network.size),
        agreement=False,
    )


def _kept(run: Run) -> bool:
    return (run.folder / ACTIVATIONS_FILE).is_file()


@contextmanager
def _activations(
    model: Model,
    run: Run,
    stimuli: StimulusSet,
    options: LocalizeOptions,
    runtime: RuntimeOptions,
    show_progress: bool,
) -> Iterator[Activations]:
    """Those that the run kept, or new ones that last as long as the context."""
    if _kept(run):
        yield Activations.open(run)
        return
    with TemporaryDirectory(prefix="onnxloc-") as name:
        folder = Path(name)
        localize(model, stimuli, options, runtime, keep=folder, show_progress=show_progress)
        yield Activations.in_folder(folder)


def _untrained_t(
    model: Model,
    network: Network,
    stimuli: StimulusSet,
    options: LocalizeOptions,
    runtime: RuntimeOptions,
    seed: int,
    show_progress: bool,
) -> Floats:
    with TemporaryDirectory(prefix="onnxloc-") as name:
        folder = Path(name) / "untrained"
        untrain(model.bundle, model.graph, folder, UntrainOptions(seed=seed))
        copy = Model.open(folder)
        keep = Path(name) / "activations" if options.needs_values else None
        if keep is not None:
            keep.mkdir()
        found = localize(copy, stimuli, options, runtime, keep=keep, show_progress=show_progress)
    if list(found.network.sites.items()) != list(network.sites.items()):
        raise OptionError("the untrained copy has other sites than the network")
    return found.contrast.t
