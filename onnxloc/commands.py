"""Command lines that do a study again."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxloc.runtime.model import Model
from onnxloc.stimuli import StimulusSet
from onnxloc.tasks import Task

if TYPE_CHECKING:
    from onnxloc.ablate import AblateOptions
    from onnxloc.localize import LocalizeOptions

__all__ = ["ablate_command", "localize_command"]


def localize_command(
    model: Model, stimuli: StimulusSet, options: "LocalizeOptions", *, cut: int, bos: bool
) -> str:
    """The command line of a localization, every choice spelt out."""
    selection = options.selection
    flag = {"top": "--top", "units": "--units", "fdr": "--fdr"}[selection.how]
    words = ["onnxloc", "localize", str(model.bundle.folder), "--localizer", stimuli.source]
    for pattern in options.sites:
        words += ["--sites", pattern]
    words += ["--pool", options.pool, "--max-tokens", str(cut), "--bos" if bos else "--no-bos"]
    words += ["--magnitude" if options.magnitude else "--signed", flag, f"{selection.value:g}"]
    if selection.within is not None:
        words += ["--range", "{:g}-{:g}".format(*selection.within)]
    words += ["--batch-size", str(options.batch_size), "--seed", str(options.seed), "-o", "RUN"]
    return shlex.join(words)


def ablate_command(model: Model, tasks: Sequence[Task], options: "AblateOptions") -> str:
    """The command line of an ablation, every choice spelt out."""
    words = ["onnxloc", "ablate", str(model.bundle.folder), "--network", "RUN"]
    for task in tasks:
        words += ["--task", task.source]
    words += ["--with", options.replacement, "--controls", str(options.controls)]
    words += ["--match", options.match]
    if options.percents:
        words += ["--percent", ",".join(f"{percent:g}" for percent in options.percents)]
    if options.limit:
        words += ["--limit", str(options.limit)]
    words += ["--batch-size", str(options.batch_size), "--seed", str(options.seed)]
    return shlex.join([*words, "-o", "ABLATION"])
