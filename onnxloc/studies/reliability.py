"""Split-half reliability of a run's network, from its stored activations."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxloc.activations import Activations
from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.stats.halves import Halves, SubsetStatistics, draw_halves, subset_statistics
from onnxloc.stats.reliability import (
    Agreement,
    agreement,
    chance_dice,
    percentiles,
    spearman_brown,
)
from onnxloc.stats.resample import Interval
from onnxloc.store import RELIABILITY_FILE, Run, finite
from onnxloc.studies.stored import Rows, kept_step, site_values
from onnxloc.whole_file import write_whole

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Reliability", "ReliabilityOptions", "reliability"]

# Values of three statistics and two halves that are held at once: 400 MB of float64.
HELD_VALUES = 50_000_000
MAX_SPLITS = 10_000


@dataclass(frozen=True, kw_only=True)
class ReliabilityOptions:
    """How the stimuli are split, and how large a network is.

    Attributes
    ----------
    splits : int
        How many times the stimuli are split into random halves.
    selection : Selection or None
        A percentage or number of units with the largest t; None for as many as the run's network
        has.
    magnitude : bool or None
        Absolute or signed activations; None for what the run did.
    seed : int
        Of the splits.

    Raises
    ------
    OptionError
        If an option is out of range.
    """

    splits: int = 100
    selection: Selection | None = None
    magnitude: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.splits <= MAX_SPLITS:
            raise OptionError(
                f"the number of splits lies between 1 and {MAX_SPLITS:,}, not at {self.splits}"
            )
        chosen = self.selection
        if chosen is not None and (chosen.how in ("fdr", "fwe") or chosen.within is not None):
            raise OptionError(
                "reliability is of the units with the largest t: give a percentage or a number"
            )


@dataclass(frozen=True)
class Reliability:
    """How well the network of one half of the stimuli is that of the other half.

    Attributes
    ----------
    k, n_units : int
        Units of a network, and of all searched sites.
    n_positive, n_control : int
        Stimuli of each condition.
    paired : bool
        Whether pairs were kept in one half.
    seed : int
        Of the splits.
    splits, shuffled : tuple of Agreement
        Each split of the true conditions, and of shuffled ones.
    """

    k: int
    n_units: int
    n_positive: int
    n_control: int
    paired: bool
    seed: int
    splits: tuple[Agreement, ...]
    shuffled: tuple[Agreement, ...]

    @property
    def chance(self) -> Interval:
        """Dice of two random networks of that size, from the hypergeometric distribution."""
        return chance_dice(self.n_units, self.k)

    def interval(self, name: str, *, shuffled: bool = False) -> Interval:
        """Median over splits and the interval that holds 95 % of them.

        Parameters
        ----------
        name : str
            A field of `Agreement`, or "spearman_brown".
        shuffled : bool
            Of the splits with shuffled conditions.
        """
        rows = self.shuffled if shuffled else self.splits
        if name == "spearman_brown":
            values = [spearman_brown(row.correlation) for row in rows]
        else:
            values = [getattr(row, name) for row in rows]
        return percentiles(np.array(values, dtype=np.float64))

    def plot(self) -> "Figure":
        """Draw the Dice of two halves over all splits, as a plotly figure."""
        from onnxloc.figures import splits_figure

        true, shuffled = (
            np.array([row.dice for row in rows], dtype=np.float64)
            for rows in (self.splits, self.shuffled)
        )
        return splits_figure(true, shuffled, self.chance.estimate)

    def _repr_html_(self) -> str:
        from onnxloc.notebook import table_html

        rows: list[tuple[str, float, float, float]] = []
        for name in (*Agreement.__dataclass_fields__, "spearman_brown"):
            held = self.interval(name)
            rows.append((name, held.estimate, held.low, held.high))
        return table_html(("over splits", "median", "low", "high"), rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        names = (*Agreement.__dataclass_fields__, "spearman_brown")
        return {
            "format": 1,
            "k": self.k,
            "n_units": self.n_units,
            "n_positive": self.n_positive,
            "n_control": self.n_control,
            "paired": self.paired,
            "seed": self.seed,
            "n_splits": len(self.splits),
            "chance_dice": asdict(self.chance),
            "median": {name: asdict(self.interval(name)) for name in names},
            "median_shuffled": {name: asdict(self.interval(name, shuffled=True)) for name in names},
            "splits": [asdict(row) for row in self.splits],
            "shuffled": [asdict(row) for row in self.shuffled],
        }

    def save(self, run: str | Path) -> Path:
        """Write ``reliability.json`` into the run folder, for its report.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        target = Path(run) / RELIABILITY_FILE
        text = json.dumps(finite(self.as_dict()), indent=2, allow_nan=False)
        write_whole(target, f"{text}\n")
        return target


def reliability(
    run: Run | str | Path,
    options: ReliabilityOptions | None = None,
    *,
    show_progress: bool = False,
) -> Reliability:
    """Split the stimuli of a run in halves again and again, and compare what they find.

    In each half units are ranked by Welch's t. The same is done with conditions that were shuffled
    over the stimuli. No half is run through the model: the run must have kept its activations.

    Parameters
    ----------
    run : Run or path
        A run of ``localize --keep-activations``.
    options : ReliabilityOptions, optional
        How the stimuli are split.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the run has no activations, they are damaged, a condition has fewer
        than four stimuli, or there are no units to compare.
    """
    options = options or ReliabilityOptions()
    run = run if isinstance(run, Run) else Run.open(run)
    activations = Activations.open(run)
    n_units = sum(activations.sites.values())
    k = _size(run, options.selection, n_units)
    magnitude = options.magnitude
    if magnitude is None:
        magnitude = bool(kept_step(run).parameters.get("magnitude", True))
    rows = Rows.of(activations)
    true, shuffled = (
        draw_halves(
            rows.is_positive, options.splits, options.seed, paired=rows.paired, shuffled=shuffle
        )
        for shuffle in (False, True)
    )
    step = max(1, HELD_VALUES // (6 * n_units))
    blocks = [slice(i, min(i + step, options.splits)) for i in range(0, options.splits, step)]
    found: list[list[Agreement]] = []
    total = 2 * len(blocks) * len(activations.sites)
    with Progress("splitting", total, show=show_progress, unit="site") as progress:
        for halves in (true, shuffled):
            own: list[Agreement] = []
            for block in blocks:
                both = _halves(activations, rows, halves, block, magnitude, progress)
                own += [agreement(*both, row, k) for row in range(block.stop - block.start)]
            found.append(own)
    return Reliability(
        k=k,
        n_units=n_units,
        n_positive=rows.positive.size,
        n_control=rows.control.size,
        paired=rows.paired,
        seed=options.seed,
        splits=tuple(found[0]),
        shuffled=tuple(found[1]),
    )


def _size(run: Run, selection: Selection | None, n_units: int) -> int:
    k = Network.load(run.folder).size if selection is None else selection.count(n_units)
    if not k:
        raise OptionError("the run's network has no units; say how many with --top or --units")
    return k


def _halves(
    activations: Activations,
    rows: Rows,
    halves: Halves,
    block: slice,
    magnitude: bool,
    progress: Progress,
) -> tuple[SubsetStatistics, SubsetStatistics]:
    """Statistics of all units in both halves of some of the splits."""
    n_splits, n_units = block.stop - block.start, sum(activations.sites.values())
    both = tuple(
        SubsetStatistics(*(np.empty((n_splits, n_units)) for _ in range(3))) for _ in range(2)
    )
    left = 0
    for site, units in activations.sites.items():
        values = site_values(activations, site, rows.all, magnitude=magnitude)
        for half, whole in enumerate(both):
            part = subset_statistics(values, *halves.subsets(half, block))
            for name in ("t", "d", "difference"):
                getattr(whole, name)[:, left : left + units] = getattr(part, name)
        left += units
        progress.add(1)
    return both[0], both[1]
