"""Run folders with seeded made-up data, of the shape that the studies write."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["fake_run", "rewrite_summary"]


def fake_run(
    folder: Path,
    *,
    seed: int = 0,
    blocks: int = 30,
    width: int = 576,
    roles: tuple[str, ...] = ("out",),
    ops: int = 0,
    percent: float = 1.0,
    steps: tuple[str, ...] = ("localize", "ablate"),
    sizes: tuple[float, ...] = (1.0,),
    tasks: tuple[str, ...] = ("pairs", "text"),
    groups: tuple[str, ...] = ("agreement", "anaphora", "islands", "polarity"),
    items: int = 50,
    n_controls: int = 10,
    harm: float = 0.3,
    control_harm: float = 0.02,
    scatter: float = 0.01,
    name: str = "made-up-135m",
    prefix: str = "",
) -> Path:
    """Write a run folder.

    `harm` and `control_harm` are the drops of accuracy under the network and under a typical
    control; `scatter` is the controls' spread. `items` counts the items of one group. `prefix`
    goes in front of every name that a user or a model could choose.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    summary: dict[str, Any] = {
        "format": 1,
        "model": {"name": prefix + name, "hash": "ab" * 32, "framework": "gguf", "blocks": blocks},
        "localize": None,
        "ablate": None,
    }
    n_units = blocks * width * len(roles) + ops * width
    if "localize" in steps:
        units, summary["localize"] = _localize(rng, blocks, width, roles, ops, percent, prefix)
        units.to_parquet(folder / "units.parquet", index=False)
        chosen = units.loc[units["selected"], ["site", "unit"]]
        chosen.to_parquet(folder / "network.parquet", index=False)
    if "ablate" in steps:
        rows: list[pd.DataFrame] = []
        effects = []
        for task in tasks:
            for size in sizes:
                drops = rng.normal(control_harm, scatter, n_controls).clip(0) * size / max(sizes)
                frame = _items(
                    rng,
                    task,
                    [prefix + group for group in groups],
                    items,
                    [harm * math.sqrt(size / max(sizes)), *drops],
                )
                frame["size"] = np.where(frame["condition"] == "intact", 0.0, size)
                frame["task"] = prefix + task
                rows.append(frame)
                effects.append(_effect(rng, frame, task, prefix, size, n_units))
        pd.concat(rows).to_parquet(folder / "effects.parquet", index=False)
        summary["ablate"] = {
            "with": "zero",
            "match": "site",
            "n_controls": n_controls,
            "effects": effects,
        }
    _write(folder / "summary.json", summary)
    _write(folder / "manifest.json", _manifest(steps, prefix))
    return folder


def rewrite_summary(folder: Path, change: Any) -> None:
    """Apply `change` to the parsed summary and write it back."""
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    _write(folder / "summary.json", summary)


def _localize(
    rng: np.random.Generator,
    blocks: int,
    width: int,
    roles: tuple[str, ...],
    ops: int,
    percent: float,
    prefix: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    sites = [(f"{prefix}block.{b}.{role}", role, b, "Add") for b in range(blocks) for role in roles]
    sites += [(f"op:/{prefix}node_{i}", "", None, ("Mul", "MatMul")[i % 2]) for i in range(ops)]
    n = len(sites) * width
    which = np.repeat(np.arange(len(sites)), width)
    depth = np.array([0.5 if s[2] is None else s[2] / max(1, blocks - 1) for s in sites])[which]
    t = rng.standard_t(6, n) * (3 + 3 * np.sin(np.pi * depth)) + 1.5 * depth
    broken = rng.choice(n, size=n // 5000, replace=False)
    t[broken] = np.nan
    selected = np.zeros(n, dtype=bool)
    order = np.argsort(np.where(np.isnan(t), -np.inf, -t * -1))[::-1]
    selected[order[: round(n * percent / 100)]] = True
    p = np.exp(-0.5 * np.abs(t))
    control = rng.gamma(2.0, 0.2, n)
    frame = pd.DataFrame(
        {
            "site": pd.Categorical.from_codes(which, [s[0] for s in sites]),
            "unit": np.tile(np.arange(width), len(sites)),
            "role": pd.Categorical.from_codes(
                *(lambda words: (pd.factorize(words)[0][which], pd.unique(words)))(
                    np.array([s[1] for s in sites], dtype=object)
                )
            ),
            "block": pd.array([s[2] for s in sites], dtype="Int64")[which],
            "op_type": np.array([s[3] for s in sites])[which],
            "mean_positive": control + t * 0.02,
            "mean_control": control,
            "t": t,
            "df": np.full(n, 470.0),
            "p": p,
            "q": np.minimum(1, p * 2),
            "d": t / 11,
            "selected": selected,
        }
    )
    n_selected = int(selected.sum())
    record = {
        "localizer": prefix + "language",
        "positive_label": prefix + "sentences",
        "control_label": prefix + "nonwords",
        "n_positive": 240,
        "n_control": 240,
        "pool": "last",
        "max_tokens": 12,
        "bos": False,
        "magnitude": True,
        "n_sites": len(sites),
        "n_units": n,
        "n_selected": n_selected,
        "selection": {"how": "top", "percent": percent},
        "smallest_t": float(t[selected].min()) if n_selected else None,
        "n_undefined": len(broken),
        "n_significant": int((frame["q"].le(0.05) & frame["t"].gt(0)).sum()),
        "by_site": [
            {
                "site": site,
                "block": block,
                "role": role,
                "units": width,
                "selected": int(selected[which == i].sum()) if n <= 100_000 else 0,
            }
            for i, (site, role, block, _) in enumerate(sites)
        ],
    }
    return frame, record


def _items(
    rng: np.random.Generator, task: str, groups: list[str], items: int, drops: list[float]
) -> pd.DataFrame:
    """Scores of each condition: intact, the network, the controls."""
    same = np.random.default_rng(len(groups))  # the intact model is one, whatever the size
    base = np.repeat(same.uniform(0.7, 0.95, len(groups)), items)
    luck = same.uniform(size=len(base))
    names = ["intact", "network", *(f"control-{i:02d}" for i in range(len(drops) - 1))]
    frames = []
    for name, drop in zip(names, [0.0, *drops], strict=True):
        if task == "text":
            values = -5.9 - 3 * (1 - base) - 12 * drop + 0.3 * (luck - 0.5)
            values = values + (rng.normal(0, 0.05, len(base)) if drop else 0.0)
        else:
            values = (luck < np.maximum(base - drop, 0.5)).astype(float)
        frames.append(
            pd.DataFrame(
                {
                    "group": np.repeat(groups, items),
                    "item": np.arange(len(base)),
                    "condition": name,
                    "score": values,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _effect(
    rng: np.random.Generator,
    frame: pd.DataFrame,
    task: str,
    prefix: str,
    size: float,
    n_units: int,
) -> dict[str, Any]:
    table = frame.pivot(index="item", columns="condition", values="score")
    controls = table.filter(like="control-")
    means = [float(value) for value in controls.mean()]
    network = float(table["network"].mean())
    rank = sum(value <= network for value in means)

    def versus(other: pd.Series) -> dict[str, float]:
        difference = (table["network"] - other).to_numpy()
        draws = difference[rng.integers(len(difference), size=(500, len(difference)))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return {
            "difference": float(difference.mean()),
            "low": float(low),
            "high": float(high),
            "d": float(difference.mean() / (difference.std() or 1.0)),
        }

    by_group = frame.groupby(["group", "condition"], sort=False)["score"].mean().unstack()
    counts = frame[frame["condition"] == "intact"].groupby("group", sort=False).size()
    return {
        "task": prefix + task,
        "kind": "text" if task == "text" else "pairs",
        "metric": "log-probability" if task == "text" else "accuracy",
        "chance": None if task == "text" else 0.5,
        "size": size,
        "n_network_units": round(n_units * size / 100),
        "n_items": len(table),
        "intact": float(table["intact"].mean()),
        "network": network,
        "controls": means,
        "control_mean": float(np.mean(means)) if means else None,
        "control_median": float(np.median(means)) if means else None,
        "control_min": min(means, default=None),
        "control_max": max(means, default=None),
        "rank": rank,
        "p_empirical": (rank + 1) / (len(means) + 1),
        "vs_intact": versus(table["intact"]),
        "vs_controls": versus(controls.mean(axis=1)) if means else None,
        "perplexity": {
            "intact": math.exp(-float(table["intact"].mean())),
            "network": math.exp(-network),
            "controls": [math.exp(-value) for value in means],
        }
        if task == "text"
        else None,
        "groups": [
            {
                "group": group,
                "n_items": int(counts[group]),
                "intact": float(row["intact"]),
                "network": float(row["network"]),
                "controls": [float(value) for value in row.filter(like="control-")],
                "control_mean": float(row.filter(like="control-").mean()) if means else None,
            }
            for group, row in by_group.iterrows()
        ],
    }


def _manifest(steps: tuple[str, ...], prefix: str) -> dict[str, Any]:
    return {
        "format": 1,
        "onnxloc": "0.1.0",
        "name": prefix + "run-1",
        "created": "2025-01-02T03:04:05+00:00",
        "steps": [
            {
                "step": step,
                "command": f"onnxloc {step} 'smollm2-135m' --top 1 -o {prefix}run-1",
                "parameters": {
                    "sites": [prefix + "block.*.out"],
                    "pool": "last",
                    "top": 1.0,
                    "bos": False,
                    "seed": None,
                },
                "versions": {"onnxruntime": "1.31.1", "numpy": "2.4.6"},
                "hashes": {"model": "ab" * 32, "plan": "cd" * 32},
                "seconds": {"load": 1.04, "run": 8.21, "total": 9.9},
                "provider": "CPUExecutionProvider",
                "threads": 2,
            }
            for step in steps
        ],
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
