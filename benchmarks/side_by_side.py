"""Measuring several ways to do one thing in one run, in turns, and telling what was seen."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxloc.graph.plan import Plan
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.runtime.session import Session

RECIPE = "smollm2-135m"
PACKAGES = ("onnxloc", "onnxruntime", "numpy", "torch", "transformers")

Times = dict[str, list[float]]
Side = Callable[[], float]


def arguments(what: str, **defaults: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="thread counts, each on its own"
    )
    parser.add_argument("--repeats", type=int, default=defaults.get("repeats", 7))
    parser.add_argument("--quick", action="store_true", help="few texts, two rounds: a trial")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser


def rounds(options: argparse.Namespace) -> int:
    return 2 if options.quick else options.repeats


def in_worker(script: str, worker: int, arguments: Sequence[str], threads: int) -> Any:
    """Run a script again as a worker, in a fresh process, and read what it prints last."""
    env = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, script, "--worker", str(worker), *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(work: Callable[[], object]) -> Side:
    def side() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return side


def in_turns(sides: Mapping[str, Side], repeats: int) -> Times:
    """Seconds of each side in each round, after one round that does not count.

    The order turns by one place from round to round, so that none always follows the same one.
    """
    names = list(sides)
    times: Times = {name: [] for name in names}
    for number in range(repeats + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = sides[name]()
            if number:
                times[name].append(seconds)
        print(f"round {number} of {repeats}", file=sys.stderr, flush=True)
    return times


def times_table(times: Times, unit: str = "s") -> str:
    lines = [f"| side | median {unit} | lowest | highest |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {median(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
        for name, values in times.items()
    ]
    return "\n".join(lines)


def ratio_table(times: Times, bars: Sequence[tuple[str, str, float | None]]) -> str:
    """One line for each (side, peer, bar): how long the side takes, the peer taken as 1."""
    lines = [
        "| side | peer | ratio of medians | median of the rounds' ratios | bar |",
        "|---|---|---|---|---|",
    ]
    for side, peer, bar in bars:
        of_medians = median(times[side]) / median(times[peer])
        of_rounds = median(a / b for a, b in zip(times[side], times[peer], strict=True))
        wanted = "" if bar is None else f"<= {bar:g}"
        lines.append(f"| {side} | {peer} | {of_medians:.3f} | {of_rounds:.3f} | {wanted} |")
    return "\n".join(lines)


def machine() -> str:
    """The machine and the versions, for the head of a report."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text() if info.exists() else "").splitlines()
        if line.startswith("model name")
    ]
    cpu = names[0] if names else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores, load at the start {load:.2f}; {', '.join(versions)}"


def loaded_model() -> "Model":
    """SmolLM2, with sessions that are kept: asked for a plan again, loading takes no time."""
    from onnxloc.recipes import fetch
    from onnxloc.runtime.model import Model

    class Loaded(Model):
        def compile(self, plan: "Plan", options: "RuntimeOptions") -> "Session":
            kept: dict[Any, Session] = self.__dict__.setdefault("kept", {})
            if (plan, options) not in kept:
                kept[plan, options] = super().compile(plan, options)
            return kept[plan, options]

    return Loaded.open(fetch(RECIPE))


def torch_model(threads: int) -> Any:
    """The same model in torch, read from the same GGUF."""
    import torch

    torch.set_num_threads(threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM

    from onnxloc.download import Digest, Source, get_file
    from onnxloc.recipes import home, load_recipe

    recipe = load_recipe(RECIPE)
    path = get_file(
        Source.parse(recipe.source),
        home() / "downloads",
        file=Digest(recipe.sha256, recipe.size),
        archive=Digest(recipe.archive_sha256, recipe.archive_size),
        report=lambda *_: None,
    )
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, attn_implementation="eager", dtype=torch.float32
    ).eval()
