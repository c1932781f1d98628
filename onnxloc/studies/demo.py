"""The main job in one go: fetch a model, localize, ablate, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxloc.folder import check_free, new_folder
from onnxloc.recipes import fetch
from onnxloc.report import write_report
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stimuli import load_stimuli
from onnxloc.store import Manifest, write_summary
from onnxloc.studies.ablate import AblateOptions, Ablation, ablate
from onnxloc.studies.localize import Localization, localize
from onnxloc.tasks import TaskInputs, load_task

__all__ = ["DemoResult", "demo"]

RECIPE = "smollm2-135m"
PAIRS_PER_PHENOMENON = 20


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    localization, ablation
        The two studies.
    report : Path
        The page.
    """

    localization: Localization
    ablation: Ablation
    report: Path


def demo(
    output: Path,
    runtime: RuntimeOptions | None = None,
    *,
    limit: int = PAIRS_PER_PHENOMENON,
    force: bool = False,
    command: str = "",
    show_progress: bool = False,
) -> DemoResult:
    """Find the language network of SmolLM2-135M, ablate it beside ten random controls, report.

    Parameters
    ----------
    output : Path
        The run folder to write.
    runtime : RuntimeOptions, optional
        Provider and threads.
    limit : int
        Minimal pairs of each phenomenon that are scored; 0 for all 100.
    force : bool
        Replace a run that stands at `output`.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw bars, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model cannot be fetched or the output cannot be written.
    """
    check_free(output, force=force)
    model = Model.open(fetch(RECIPE))
    stimuli = load_stimuli("language")
    settings: dict[str, Any] = {"command": command, "show_progress": show_progress}
    found = localize(model, stimuli, None, runtime, **settings)
    pairs = load_task("pairs")
    tasks = [
        pairs.limited(limit) if limit else pairs,
        load_task("text", TaskInputs(stimuli.positive, f"the localizer {stimuli.name}")),
    ]
    done = ablate(model, found.network, tasks, AblateOptions(), runtime, **settings)
    with new_folder(output, force=force) as staging:
        found.write(staging)
        done.write(staging)
        write_summary(staging, {**found.summary, **done.summary})
        Manifest(name=output.name, steps=(found.step, done.step)).write(staging)
        write_report(staging)
    return DemoResult(found, done, output / "report.html")
