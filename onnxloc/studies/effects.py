"""What an ablation did: scores of items under each condition, and their summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.stats.resample import cohens_d_paired, empirical_p, paired_bootstrap
from onnxloc.tasks import Task, perplexity

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Condition", "TaskScores", "effects_table", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """What one row of an ablation is run with.

    Attributes
    ----------
    name : str
        "intact", "network", or "control-00" and so on.
    size : float
        Percentage of the searched units that are ablated; 0 for "intact".
    """

    name: str
    size: float


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The scores of a task's items.

    Attributes
    ----------
    task : Task
        The task.
    conditions : tuple of Condition
        The first is "intact".
    scores : ndarray of float64, [conditions, items]
        What `Task.score` gave.
    token_counts : ndarray of int64, [items]
        Number of scored tokens of each item's first text.
    """

    task: Task
    conditions: tuple[Condition, ...]
    scores: Floats
    token_counts: NDArray[np.int64]


def effects_table(results: Sequence[TaskScores]) -> "DataFrame":
    """One row an item and condition: the table ``effects.parquet``."""
    import pandas as pd

    parts = []
    for result in results:
        items, n = result.task.items, len(result.conditions)
        part = pd.DataFrame(
            {
                "task": result.task.name,
                "group": [item.group for item in items] * n,
                "item": [item.id for item in items] * n,
                "condition": np.repeat([c.name for c in result.conditions], len(items)),
                "size": np.repeat([c.size for c in result.conditions], len(items)),
                "score": result.scores.ravel(),
            }
        )
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    names = ["task", "group", "item", "condition"]
    return table.astype(dict.fromkeys(names, "category"))


def summarise(
    result: TaskScores, network_units: dict[float, int], *, seed: int
) -> list[dict[str, Any]]:
    """Summary of one task: an entry for each size, in the order of the conditions.

    Parameters
    ----------
    result : TaskScores
        The scores.
    network_units : dict of float to int
        Number of ablated units, by size.
    seed : int
        Of the bootstrap.
    """
    return [_summary(result, size, units, seed) for size, units in network_units.items()]


def _summary(result: TaskScores, size: float, units: int, seed: int) -> dict[str, Any]:
    rows = {c.name: i for i, c in enumerate(result.conditions) if c.size in (0.0, size)}
    intact, network = result.scores[rows["intact"]], result.scores[rows["network"]]
    names = sorted(name for name in rows if name.startswith("control-"))
    controls = result.scores[[rows[name] for name in names]]
    means = controls.mean(axis=1) if names else np.zeros(0)
    task = result.task
    entry: dict[str, Any] = {
        "task": task.name,
        "source": task.source,
        "kind": task.kind,
        "metric": task.metric,
        "chance": task.chance,
        "size": size,
        "n_network_units": units,
        "n_items": len(task.items),
        "intact": intact.mean(),
        "network": network.mean(),
        "controls": means.tolist(),
        "control_mean": means.mean() if names else None,
        "control_median": np.median(means) if names else None,
        "control_min": means.min() if names else None,
        "control_max": means.max() if names else None,
        "rank": int((means <= network.mean()).sum()),
        # One-sided: the question is whether the network harms more than random units do.
        "p_empirical": empirical_p(network.mean(), means, tail="less") if names else None,
        "vs_intact": _difference(network, intact, seed),
        "vs_controls": _difference(network, controls.mean(axis=0), seed) if names else None,
        "perplexity": None,
        "groups": _groups(task, intact, network, controls),
    }
    if task.kind == "text":
        counts = result.token_counts
        entry["perplexity"] = {
            "intact": perplexity(intact, counts),
            "network": perplexity(network, counts),
            "controls": [perplexity(scores, counts) for scores in controls],
        }
    return entry


def _difference(a: Floats, b: Floats, seed: int) -> dict[str, float]:
    interval = paired_bootstrap(a, b, seed=seed)
    return {
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "d": cohens_d_paired(a, b),
    }


def _groups(task: Task, intact: Floats, network: Floats, controls: Floats) -> list[dict[str, Any]]:
    names = np.array([item.group for item in task.items])
    groups = list(dict.fromkeys(names.tolist()))
    if len(groups) == 1:
        return []
    out = []
    for group in groups:
        inside = names == group
        means = controls[:, inside].mean(axis=1)
        out.append(
            {
                "group": group,
                "n_items": int(inside.sum()),
                "intact": intact[inside].mean(),
                "network": network[inside].mean(),
                "controls": means.tolist(),
                "control_mean": means.mean() if means.size else None,
            }
        )
    return out
