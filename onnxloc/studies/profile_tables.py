"""The tables of a profile, from the response of every source to every item."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.stats.groups import GroupMeans, group_means, pair_tests, permuted_p
from onnxloc.stats.resample import empirical_p
from onnxloc.stimuli import ConditionSet
from onnxloc.studies.profile_result import ProfileOptions, Source

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["condition_tables"]

Floats = NDArray[np.float64]


def condition_tables(
    condition: "Series[str]",
    columns: Floats,
    sources: Sequence[Source],
    stimuli: ConditionSet,
    options: ProfileOptions,
) -> tuple["DataFrame", "DataFrame"]:
    """Means of all conditions, and tests between them.

    Parameters
    ----------
    condition : Series of str, [items]
        The condition of each item.
    columns : array, shape [items, sources]
        The responses.
    sources : sequence of Source
        What they are of: the network first.
    stimuli : ConditionSet
        The conditions, in their order.
    options : ProfileOptions
        Draws and seed.

    Returns
    -------
    conditions, tests : DataFrame
        As `Profile` describes them.

    Raises
    ------
    OptionError
        If a condition has fewer than three items left.
    """
    import pandas as pd

    groups = [columns[(condition == name).to_numpy()] for name in stimuli.names]
    means = group_means(groups, resamples=options.resamples, seed=options.seed)
    controls = np.array([source.kind == "control" for source in sources])
    conditions = _conditions(groups, means, sources, stimuli, controls)
    tests = _tests(groups, means, sources, stimuli, controls, options)
    return pd.DataFrame(conditions), pd.DataFrame(tests)


def _about(source: Source) -> dict[str, Any]:
    return {"source": source.name, "kind": source.kind, "block": source.block}


def _conditions(
    groups: Sequence[Floats],
    means: GroupMeans,
    sources: Sequence[Source],
    stimuli: ConditionSet,
    controls: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    rows = []
    for column, source in enumerate(sources):
        for place, condition in enumerate(stimuli.conditions):
            row = {
                **_about(source),
                "units": source.units,
                "condition": condition.name,
                "label": condition.label,
                "n": len(groups[place]),
                "mean": means.mean[place, column],
                "sd": means.sd[place, column],
                "low": means.low[place, column],
                "high": means.high[place, column],
            }
            if source.kind == "network":
                row |= _beside(means.mean[place, column], means.mean[place, controls])
            rows.append(row)
    return rows


def _beside(value: float, controls: Floats) -> dict[str, float]:
    """The place of a value among those of the controls."""
    known = controls[np.isfinite(controls)]
    if not known.size:
        names = ("controls_median", "controls_low", "controls_high", "p_controls")
        return dict.fromkeys(names, float("nan"))
    low, median, high = np.quantile(known, [0.025, 0.5, 0.975])
    return {
        "controls_median": float(median),
        "controls_low": float(low),
        "controls_high": float(high),
        "p_controls": empirical_p(float(value), known),
    }


def _tests(
    groups: Sequence[Floats],
    means: GroupMeans,
    sources: Sequence[Source],
    stimuli: ConditionSet,
    controls: NDArray[np.bool_],
    options: ProfileOptions,
) -> list[dict[str, Any]]:
    pairs = pair_tests(groups)
    # The network is the first source.
    permuted = permuted_p(
        [values[:, 0] for values in groups], permutations=options.permutations, seed=options.seed
    )
    intervals = [means.difference(pair.a, pair.b) for pair in pairs]
    rows = []
    for column, source in enumerate(sources):
        for place, pair in enumerate(pairs):
            difference = means.mean[pair.a] - means.mean[pair.b]
            row = {
                **_about(source),
                "a": stimuli.names[pair.a],
                "b": stimuli.names[pair.b],
                "difference": difference[column],
                "low": intervals[place][0][column],
                "high": intervals[place][1][column],
                "t": pair.t[column],
                "df": pair.df[column],
                "p": pair.p[column],
                "p_holm": pair.p_holm[column],
                "d": pair.d[column],
            }
            if source.kind == "network":
                row |= {
                    "p_permutation": permuted["p"][place],
                    "p_permutation_holm": permuted["p_holm"][place],
                    **_beside(difference[column], difference[controls]),
                }
            rows.append(row)
    return rows
