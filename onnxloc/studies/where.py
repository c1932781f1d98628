"""Where a network lies, and whether it tells where another lies."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import Activations
from onnxloc.controls import draw_controls
from onnxloc.errors import NetworkError, OptionError
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.stats.enrichment import enrichment, mean_shift_p
from onnxloc.stats.predict import fold_of, held_out_r2, shift_correlation
from onnxloc.stats.resample import empirical_p
from onnxloc.store import Run
from onnxloc.studies.compared_run import ComparedRun
from onnxloc.studies.representations import same_stimuli
from onnxloc.studies.where_result import Where, WhereOptions
from onnxloc.studies.where_units import OUTSIDE, Places, places

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Where", "WhereOptions", "where"]

Floats = NDArray[np.float64]
# Activations held at once: 1 GB.
MAX_VALUES = 1 << 27
# Fewer have no rank correlation to speak of.
MIN_BLOCKS = 3
# What predicts, and what is predicted, where one run holds both.
HIDDEN, OUT = "mlp.hidden", "out"
TESTED = (
    "expected", "ratio", "p_units", "p_units_holm", "p_sites", "p_sites_holm"
)  # fmt: skip
BLOCK_COLUMNS = ("block", "predictor", "target")
# Above this share of all units, copies are worth a warning.
MANY_COPIES = 0.1


def where(
    run: Run | str | Path,
    predict: Run | str | Path | None = None,
    options: WhereOptions | None = None,
    *,
    show_progress: bool = False,
) -> Where:
    """Say which operations, parts and blocks hold a run's network beyond their share of units.

    Parameters
    ----------
    run : Run or path
        A run of ``localize`` or ``contrast``.
    predict : Run or path, optional
        Another run of the same model: does the network of `run`, of hidden units say, tell where
        its network lies and what it does? Without it, a run that holds both kinds of sites is asked
        whether its hidden units predict its block outputs.
    options : WhereOptions, optional
        What is tested, and how.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if a run is damaged or of another step, its network is empty, or the two
        runs cannot be compared.
    """
    options = options or WhereOptions()
    opened = _open(run)
    found = places(opened)
    notes: list[str] = []
    copies = 1 - found.distinct.sum() / found.units.sum()
    if copies > MANY_COPIES:
        notes.append(
            f"{100 * copies:.0f} % of the units are copies of others "
            "(views, reshapes, repeated heads): shares are of distinct units"
        )
    if found.guessed:
        notes.append(
            f"{found.guessed} sites have no name in the anatomy; their block and part are those "
            "of the next site in the graph that has one"
        )
    groups, depth = _groups(found, opened.n_blocks, options)
    blocks, prediction = _predicted(opened, predict, options, notes, show_progress)
    return Where(
        options=options,
        about={
            "run": str(opened.run.folder.resolve()),
            "model": opened.model_name,
            "model_hash": opened.network.model_hash,
            "n_blocks": opened.n_blocks,
            "n_sites": len(opened.network.sites),
            "n_sites_copied": found.copied,
            "n_units": opened.network.n_units,
            "n_without_t": opened.network.n_units - int(found.units.sum()),
            "n_distinct": int(found.distinct.sum()),
            "n_chosen": opened.network.size,
            "n_distinct_chosen": int(found.distinct_chosen.sum()),
        },
        groups=groups,
        depth=depth,
        blocks=blocks,
        prediction=prediction,
        notes=tuple(notes),
    )


def _open(run: Run | str | Path) -> ComparedRun:
    folder = run.folder if isinstance(run, Run) else Path(run)
    return ComparedRun.open(folder, folder.resolve().name)


def _groups(
    found: Places, n_blocks: int | None, options: WhereOptions
) -> tuple["DataFrame", dict[str, float]]:
    """Enrichment by op type, part and block, and the depth of the network."""
    import pandas as pd

    n = n_blocks or 0
    ways: dict[str, tuple[Sequence[str], Sequence[str]]] = {}
    ways["op type"] = found.op_type, list(dict.fromkeys(found.op_type))
    if n:
        ways["part"] = found.part, list(dict.fromkeys(found.part))
        spots = [OUTSIDE if block is None else str(block) for block in found.block]
        known = [*map(str, range(n)), OUTSIDE]
        ways["block"] = spots, [name for name in known if name in set(spots)]
    rows: list[dict[str, Any]] = []
    depth: dict[str, float] = {}
    # Labels are not dealt to a site that only repeats others.
    own = found.distinct > 0
    for by, (words, names) in ways.items():
        at = {name: place for place, name in enumerate(names)}
        label = np.array([at[word] for word in words], dtype=np.int64)
        tested = enrichment(
            label[own],
            found.distinct[own],
            found.distinct_chosen[own],
            len(names),
            permutations=options.permutations,
            seed=options.seed,
        )
        whole = enrichment(label, found.units, found.chosen, len(names))
        rows += [
            {
                "by": by,
                "group": name,
                "sites": int((label == place).sum()),
                "units": int(whole.units[place]),
                "chosen": int(whole.chosen[place]),
                "ratio_all": float(whole.ratio[place]),
                "distinct": int(tested.units[place]),
                "distinct_chosen": int(tested.chosen[place]),
                **{key: float(getattr(tested, key)[place]) for key in TESTED},
            }
            for place, name in enumerate(names)
        ]
        if by == "block":
            inside = [place for place, name in enumerate(names) if name != OUTSIDE]
            chosen, searched, p = mean_shift_p(
                np.array([(int(names[place]) + 0.5) / n for place in inside]),
                tested.units[inside],
                tested.chosen[inside],
                permutations=options.permutations,
                seed=options.seed,
            )
            depth = {"network": chosen, "searched": searched, "p": p}
    return pd.DataFrame(rows), depth


def _predicted(
    run: ComparedRun,
    other: Run | str | Path | None,
    options: WhereOptions,
    notes: list[str],
    show_progress: bool,
) -> tuple["DataFrame", dict[str, Any]]:
    """What the network of one kind of sites says of that of another; nothing if there is none."""
    import pandas as pd

    if other is not None:
        target = _open(other)
        if target.run.folder.resolve() == run.run.folder.resolve():
            raise OptionError("a network is not predicted from itself: name another run")
        if target.network.model_hash != run.network.model_hash:
            raise NetworkError(
                f"{target.label} is of another model ({target.network.model_hash[:12]}, not "
                f"{run.network.model_hash[:12]}), so neither network predicts the other"
            )
        if set(target.network.sites) & set(run.network.sites):
            raise OptionError(
                f"{run.label} and {target.label} searched some of the same sites; a network is "
                "not predicted from itself"
            )
        sides = (run, run.network), (target, target.network)
    else:
        halves = [_part_of(run, role) for role in (HIDDEN, OUT)]
        if not all(part.size for part in halves):
            return pd.DataFrame(columns=BLOCK_COLUMNS), {}
        sides = (run, halves[0]), (run, halves[1])
    if not all(network.size for _, network in sides):
        raise OptionError("one of the two networks has no units, so there is nothing to predict")
    blocks, prediction = _over_blocks(sides)
    prediction["run"] = str(sides[1][0].run.folder.resolve())
    if len(blocks) < MIN_BLOCKS:
        notes.append("both networks have fewer than three blocks in common, too few to compare")
    why = _incomparable(sides)
    if why:
        notes.append(f"nothing is predicted over held-out stimuli: {why}")
    else:
        prediction |= _over_stimuli(sides, options, show_progress)
    return blocks, prediction


def _part_of(run: ComparedRun, role: str) -> Network:
    """The part of a run's network that lies in ``block.N.ROLE``."""
    names = {f"block.{block}.{role}" for block in range(run.n_blocks or 0)}
    sites = {name: units for name, units in run.network.sites.items() if name in names}
    units = {name: own for name, own in run.network.units.items() if name in sites}
    return Network(units, sites, run.network.model_hash, run.network.how)


Side = tuple[ComparedRun, Network]


def _over_blocks(sides: tuple[Side, Side]) -> tuple["DataFrame", dict[str, Any]]:
    """The share of each block's units that either network holds, and their correlation."""
    import pandas as pd

    shares = []
    for run, network in sides:
        n = run.n_blocks or 0
        searched, chosen = np.zeros((2, n))
        for site, units in network.sites.items():
            block = run.block[site]
            if block is not None:
                searched[block] += units
                chosen[block] += len(network.units.get(site, ()))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append(np.where(searched > 0, chosen / searched, np.nan))
    both = np.flatnonzero(np.isfinite(shares[0]) & np.isfinite(shares[1]))
    table = pd.DataFrame(
        {"block": both, "predictor": shares[0][both], "target": shares[1][both]},
        columns=BLOCK_COLUMNS,
    )
    if both.size < MIN_BLOCKS:
        return table, {"blocks": both.size, "spearman": float("nan"), "p_shift": float("nan")}
    correlation, p = shift_correlation(shares[0][both], shares[1][both])
    return table, {"blocks": both.size, "spearman": correlation, "p_shift": p}


def _incomparable(sides: tuple[Side, Side]) -> str:
    """Why activations of both sides cannot be compared; empty if they can."""
    for run, _ in sides:
        if not run.has_activations:
            return f"{run.label} kept no activations (localize --keep-activations)"
    (first, _), (second, _) = sides
    stored = [run.activations() for run in (first, second)]
    if not same_stimuli(*stored):
        return f"{first.label} and {second.label} are of different stimuli"
    return ""


def _over_stimuli(
    sides: tuple[Side, Side], options: WhereOptions, show_progress: bool
) -> dict[str, Any]:
    """How well the predictor's units tell the mean response of the target's, in new stimuli."""
    (first, predictor), (second, target) = sides
    activations = first.activations()
    condition = activations.is_positive
    fold = fold_of(condition, options.folds, options.seed)
    y = _response(second, second.activations(), target)
    controls: tuple[Network, ...] = ()
    if options.controls:
        try:
            controls = draw_controls(predictor, options.controls, "site", options.seed)
        except NetworkError as error:
            raise NetworkError(f"{error}, or ask for no random ones (--controls 0)") from error
    found = []
    with Progress("predicting", 1 + len(controls), show=show_progress, unit="network") as progress:
        columns = _Columns(first, activations, (predictor, *controls))
        for network in (predictor, *controls):
            found.append(held_out_r2(columns.of(network), y, condition, fold))
            progress.add(1)
    own, random = found[0], np.array(found[1:])
    return {
        "stimuli": condition.size,
        "r2": own,
        "r2_controls": random.tolist(),
        "r2_controls_median": float(np.median(random)) if random.size else float("nan"),
        "p_controls": empirical_p(own, random, tail="greater") if random.size else float("nan"),
    }


class _Columns:
    """Standardised activations of the units of some networks, read once."""

    def __init__(
        self, run: ComparedRun, activations: Activations, networks: Sequence[Network]
    ) -> None:
        sites = dict.fromkeys(site for network in networks for site in network.units)
        self._units = {
            site: np.unique(np.concatenate([one.units.get(site, []) for one in networks]))
            for site in sites
        }
        n = sum(units.size for units in self._units.values())
        if n * len(activations) > MAX_VALUES:
            raise OptionError(
                f"{n:,} units of {len(networks)} networks are too many to predict from; take "
                "fewer --controls, or a run of fewer units"
            )
        magnitude = bool(run.settings.get("magnitude", True))
        self._values = {
            site: _standard(activations.read(site)[:, units.astype(np.int64)], magnitude)
            for site, units in self._units.items()
        }

    def of(self, network: Network) -> Floats:
        """A network's units, ``[stimuli, units]``; those that do not vary are left out."""
        values = np.concatenate(
            [
                self._values[site][:, np.searchsorted(self._units[site], units)]
                for site, units in network.units.items()
            ],
            axis=1,
        )
        known: Floats = values[:, np.isfinite(values).all(axis=0)]
        return known


def _response(run: ComparedRun, activations: Activations, network: Network) -> Floats:
    """Mean standardised activation of a network, ``[stimuli]``."""
    found = _Columns(run, activations, [network]).of(network)
    if not found.shape[1]:
        raise OptionError(f"no unit of the network of {run.label} varies over the stimuli")
    mean: Floats = found.mean(axis=1)
    return mean


def _standard(values: NDArray[np.floating[Any]], magnitude: bool) -> Floats:
    """Each unit less its mean, over its standard deviation; NaN where it does not vary."""
    own = (np.abs(values) if magnitude else values).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = own.std(axis=0)
        scaled: Floats = (own - own.mean(axis=0)) / np.where(spread > 0, spread, np.nan)
    return scaled
