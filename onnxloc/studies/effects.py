"""What an ablation did: scores of items under each condition, and their summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxloc.stats.paired_items import mcnemar, perplexity_ratio
from onnxloc.stats.resample import cohens_d_paired, empirical_p, paired_bootstrap
from onnxloc.tasks import Task, perplexity

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CONTROL_KINDS", "Condition", "TaskScores", "effects_table", "summarise"]

Floats = NDArray[np.float64]

# In the order in which they are shown.
CONTROL_KINDS = ("count", "site", "norm", "least", "shuffled", "untrained")


@dataclass(frozen=True)
class Condition:
    """What one row of an ablation is run with.

    Attributes
    ----------
    name : str
        "intact", "network", or "control-00" and so on; controls of another kind than the main one
        have its name, as "shuffled-00" has.
    size : float
        Percentage of the searched units that are ablated; 0 for "intact".
    kind : str
        "intact", "network", "without-massive", or the kind of control: "count", "site", "norm",
        "least", "shuffled", "untrained".
    """

    name: str
    size: float
    kind: str


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
                "kind": np.repeat([c.kind for c in result.conditions], len(items)),
                "size": np.repeat([c.size for c in result.conditions], len(items)),
                "score": result.scores.ravel(),
            }
        )
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    names = ["task", "group", "item", "condition", "kind"]
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
        "fields": _groups(task, intact, network, controls, by="field"),
        "phenomena": _groups(task, intact, network, controls, by="term"),
        "notes": list(task.notes),
        "kinds": _kinds(result, size),
        "without_massive": _without_massive(result, size),
    }
    entry["comparisons"] = _comparisons(result, size, seed)
    entry["n_comparisons"] = len(entry["comparisons"])
    if task.kind == "text":
        counts = result.token_counts
        entry["perplexity"] = {
            "intact": perplexity(intact, counts),
            "network": perplexity(network, counts),
            "controls": [perplexity(scores, counts) for scores in controls],
        }
    return entry


def _kinds(result: TaskScores, size: float) -> list[dict[str, Any]]:
    """The network's place among the controls of each kind."""
    at = {c: i for i, c in enumerate(result.conditions) if c.size == size}
    network = result.scores[next(i for c, i in at.items() if c.kind == "network")].mean()
    kinds = dict.fromkeys(c.kind for c in at if c.kind in CONTROL_KINDS)
    out = []
    for kind in sorted(kinds, key=CONTROL_KINDS.index):
        rows = {c.name: result.scores[i] for c, i in at.items() if c.kind == kind}
        means = np.array([scores.mean() for scores in rows.values()])
        out.append(
            {
                "kind": kind,
                "names": list(rows),
                "scores": means.tolist(),
                "median": np.median(means),
                "min": means.min(),
                "max": means.max(),
                "as_harmful": [
                    name for name, mean in zip(rows, means, strict=True) if mean <= network
                ],
                "p_empirical": empirical_p(network, means, tail="less"),
                "perplexity": _perplexities(result, list(rows.values())),
            }
        )
    return out


def _without_massive(result: TaskScores, size: float) -> dict[str, Any] | None:
    """The network without its massive units, if that was run."""
    for condition, scores in zip(result.conditions, result.scores, strict=True):
        if condition.kind == "without-massive" and condition.size == size:
            values = _perplexities(result, [scores])
            return {"score": scores.mean(), "perplexity": values[0] if values else None}
    return None


def _perplexities(result: TaskScores, rows: Sequence[Floats]) -> list[float] | None:
    if result.task.kind != "text":
        return None
    return [perplexity(scores, result.token_counts) for scores in rows]


def _difference(a: Floats, b: Floats, seed: int) -> dict[str, float]:
    interval = paired_bootstrap(a, b, seed=seed)
    return {
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "d": cohens_d_paired(a, b),
    }


def _comparisons(result: TaskScores, size: float, seed: int) -> list[dict[str, Any]]:
    """Each condition against intact, then the network against each control; over paired items.

    Nothing is corrected for how many there are.
    """
    rows = {c: i for i, c in enumerate(result.conditions) if c.size in (0.0, size)}
    intact = next(c for c in rows if c.kind == "intact")
    network = next(c for c in rows if c.kind == "network")
    pairs = [(c, intact) for c in rows if c.kind != "intact"]
    pairs += [(network, c) for c in rows if c.kind in CONTROL_KINDS]
    return [
        {"of": a.name, "against": b.name, **_compared(result, rows[a], rows[b], seed)}
        for a, b in pairs
    ]


def _compared(result: TaskScores, one: int, other: int, seed: int) -> dict[str, Any]:
    """Difference of two conditions with its interval, and what fits the kind of the scores."""
    a, b = result.scores[one], result.scores[other]
    found: dict[str, Any] = {**_difference(a, b, seed), "mcnemar": None, "perplexity_ratio": None}
    if result.task.is_accuracy:
        test = mcnemar(a, b)
        found["mcnemar"] = {"only_of": test.only_a, "only_against": test.only_b, "p": test.p}
    if result.task.kind == "text":
        ratio = perplexity_ratio(a, b, result.token_counts, seed=seed)
        found["perplexity_ratio"] = {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
    return found


def _groups(
    task: Task,
    intact: Floats,
    network: Floats,
    controls: Floats,
    by: Literal["group", "field", "term"] = "group",
) -> list[dict[str, Any]]:
    """Mean scores of items that share a group, a field or a phenomenon; none if all share one."""
    names = np.array([getattr(item, by) for item in task.items])
    groups = [name for name in dict.fromkeys(names.tolist()) if name or by == "group"]
    if len(groups) <= 1:
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
