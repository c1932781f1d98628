"""Localizing: which units respond more to one condition than to the other."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from onnxloc.activation_writer import ActivationWriter
from onnxloc.activations import Activations
from onnxloc.checkpoint import Checkpoint
from onnxloc.choose import Selection
from onnxloc.errors import OptionError
from onnxloc.folder import sha256_file
from onnxloc.graph.plan import Plan, Pool, Tap
from onnxloc.graph.sites import Site
from onnxloc.network import network_from_flat
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.compare import TESTS, Test
from onnxloc.stats.contrast import Contrast, student, welch
from onnxloc.stats.moments import Moments
from onnxloc.stats.multiple import benjamini_hochberg
from onnxloc.stimuli import LOCALIZERS, StimulusSet
from onnxloc.stimuli.arrays import ArraySet
from onnxloc.store import VERSIONED, Step, package_versions
from onnxloc.studies.agreement import agree
from onnxloc.studies.found import found_units
from onnxloc.studies.localization import Localization
from onnxloc.studies.presented import Presented, present
from onnxloc.studies.responses import moments_state, response_moments
from onnxloc.studies.stored import Rows, check_test, stored_contrast

__all__ = [
    "Localization",
    "LocalizeOptions",
    "Selection",
    "localize",
    "localize_into",
    "response_moments",
]

# The tests that can be made from sums alone, as texts arrive.
STREAMED = {"welch": welch, "student": student}
DEFAULT_SITES = ("block.*.out",)


@dataclass(frozen=True, kw_only=True)
class LocalizeOptions:
    """What is read and how units are chosen.

    Attributes
    ----------
    sites : tuple of str
        Patterns of sites. Where arrays are shown to a model without blocks, the default stands for
        every operation.
    pool : {"last", "mean", "sum", "max"} or None
        How a text's tokens are pooled; None for the stimulus set's own way.
    max_tokens : int or None
        Texts are cut to that many tokens, a BOS token counted; 0 for no cut, None for the stimulus
        set's own value.
    bos : bool or None
        Whether a BOS token is put in front; None for what the model's metadata says.
    magnitude : bool
        Compare absolute activations, as the paper's code does; else signed ones.
    test : {"welch", "student", "paired", "mannwhitney"}
        The test of each unit. The last two need the activations kept.
    permutations : int
        Number of permutations for family-wise p-values, 0 for none; they need the activations kept.
    selection : Selection
        Which units are chosen.
    batch_size : int
        Texts run at a time.
    seed : int
        Of the permutations, and of a random draw, where `selection` makes one.
    agreement : bool
        Whether a run on another provider than cpu, or in less than float32, is done again in
        float32 on the CPU, to report how far both agree.
    """

    sites: tuple[str, ...] = DEFAULT_SITES
    pool: Pool | None = None
    max_tokens: int | None = None
    bos: bool | None = None
    magnitude: bool = True
    test: Test = "welch"
    permutations: int = 0
    selection: Selection = field(default_factory=Selection)
    batch_size: int = 32
    seed: int = 0
    agreement: bool = True

    def __post_init__(self) -> None:
        if self.pool == "none" or self.pool not in (None, *get_args(Pool)):
            raise OptionError(f"a localizer pools by last, mean, sum or max, not {self.pool!r}")
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise OptionError("the number of tokens must be 0 (no cut) or more")
        if self.test not in TESTS:
            raise OptionError(f"a test is one of {', '.join(TESTS)}, not {self.test!r}")
        if self.selection.how == "fwe" and not self.permutations:
            raise OptionError("choosing by family-wise p needs permutations (--permutations)")

    @property
    def needs_values(self) -> bool:
        """Whether sums are not enough, and the activations must be kept."""
        return self.test not in STREAMED or self.permutations > 0


def localize_into(
    path: str | Path,
    model: Model,
    stimuli: StimulusSet | ArraySet,
    options: LocalizeOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    keep_activations: bool = True,
    command: str = "",
    show_progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> Localization:
    """Localize, and write a run folder.

    What is done is saved beside the run folder every few seconds, and a run that was stopped can be
    resumed: with the same result, to the last bit.

    Parameters that are not described here are those of `localize`.

    Parameters
    ----------
    path : str or Path
        The run folder to write, whole or not at all.
    force : bool
        Replace a run that stands there, and discard an unfinished one unless `resume`.
    resume : bool
        Go on with an unfinished run, if there is one.
    keep_activations : bool
        Keep the pooled activations of every stimulus in the run.
    report : callable, optional
        Told how much will be kept, before the model is run, and what is resumed.

    Raises
    ------
    OnnxlocError
        One of its kinds: as `localize`; if the folder cannot be written or the disk has not enough
        space; if the unfinished run is of something else.
    """
    path = Path(path)
    with Checkpoint(path, resume=resume, force=force, report=report) as checkpoint:
        with checkpoint.keeping() if keep_activations else nullcontext() as keep:
            found = localize(
                model,
                stimuli,
                options,
                runtime,
                command=command,
                show_progress=show_progress,
                keep=keep,
                report=report,
                checkpoint=checkpoint,
            )
        with checkpoint.writing() as staging:
            found.write_run(staging, path.name)
    return found


def localize(
    model: Model,
    stimuli: StimulusSet | ArraySet,
    options: LocalizeOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    command: str = "",
    show_progress: bool = False,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Localization:
    """Find the units that respond more to the positive condition than to the control.

    Each text is run through the model, the tokens of each site are pooled inside the graph, and the
    two conditions are compared for each unit. Welch's and Student's tests work on streaming
    moments: memory does not grow with the number of texts.

    Parameters
    ----------
    model : Model
        What is localized in.
    stimuli : StimulusSet or ArraySet
        The two conditions, as texts or as arrays.
    options : LocalizeOptions, optional
        What is read and how units are chosen.
    runtime : RuntimeOptions, optional
        Provider and threads.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw a bar, if standard error is a terminal.
    keep : Path, optional
        Folder where activations are to be kept, for `localize_into` to move into the run.
    report : callable, optional
        Told how much will be kept, before the model is run.
    checkpoint : Checkpoint, optional
        Where what is done is saved, and what is gone on with.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the stimuli and the options do not go together.
    """
    options = options or LocalizeOptions()
    runtime = runtime or RuntimeOptions()
    pool = options.pool or (stimuli.pool if isinstance(stimuli, StimulusSet) else "last")
    options = replace(options, pool=pool)
    started = time.perf_counter()
    shown = present(model, stimuli, max_tokens=options.max_tokens, bos=options.bos)
    model = shown.model
    patterns = shown.sites_or_all(options.sites, DEFAULT_SITES)
    sites = model.sites.match(patterns)
    # Found wrong only after the run, it would cost the run.
    options.selection.count(sum(site.units for site in sites))
    if options.needs_values and keep is None:
        raise OptionError(
            "permutations, the paired test and Mann and Whitney's need the activations: keep them "
            "(--keep-activations)"
        )
    plan = Plan(taps=tuple(Tap(site.tensor, pool) for site in sites))
    session = model.compile(plan, runtime)
    is_positive = shown.is_positive
    if options.test == "paired":
        check_test(
            "paired",
            Rows(np.flatnonzero(is_positive), np.flatnonzero(~is_positive), shown.paired),
        )
    writer = None
    if keep is not None:
        writer = ActivationWriter([(s.name, s.units, s.dtype) for s in sites], len(is_positive))
        if report is not None:
            report(writer.estimate)
    widths = [site.units for site in sites]
    hashes = {"model": model.graph.hash, "stimuli": stimuli.hash, "plan": plan.hash}
    part = None
    if checkpoint is not None:
        tokenizer = model.bundle.tokenizer_path
        part = checkpoint.begin(
            "localize",
            {
                **hashes,
                **asdict(options),
                **asdict(runtime),
                "tokenizer": tokenizer and sha256_file(tokenizer),
                "max_tokens": shown.max_tokens,
                "bos": shown.bos,
                "activations kept": writer is not None,
            },
            {
                **moments_state(*(Moments(sum(widths)) for _ in range(2))),
                **({} if writer is None else writer.fresh_state()),
            },
            total=len(is_positive),
            unit="stimuli",
        )
    if writer is not None and keep is not None:
        if part is None or part.saved is None:
            writer.start(keep)
        else:
            before = islice(shown.batches(options.batch_size), part.batches)
            writer.resume(keep, np.concatenate([batch.rows for batch in before]), part.saved)
    loaded = time.perf_counter()
    positive, control = response_moments(
        session,
        widths,
        shown.batches(options.batch_size),
        is_positive,
        magnitude=options.magnitude,
        show_progress=show_progress,
        writer=writer,
        part=part,
    )
    if part is not None and options.needs_values:
        part.finish()
    kept = {} if writer is None else writer.finish(is_positive, shown.names, paired=shown.paired)
    p_fwe = None
    if keep is not None and options.needs_values:
        stored = Activations.in_folder(keep)
        contrast, p_fwe = stored_contrast(
            stored,
            Rows.of(stored),
            options.test,
            magnitude=options.magnitude,
            permutations=options.permutations,
            seed=options.seed,
            show_progress=show_progress,
        )
    else:
        contrast = STREAMED[options.test](positive, control)
    q = benjamini_hochberg(contrast.p)
    chosen = options.selection.choose(contrast.t, q, options.seed, p_fwe)
    network = network_from_flat(
        chosen,
        {site.name: site.units for site in sites},
        model.graph.hash,
        options.selection.describe(options.seed),
    )
    done = time.perf_counter()
    compared: dict[str, Any] = {}
    seconds = {"load": loaded - started, "run": done - loaded}
    if checkpoint is not None:
        seconds |= checkpoint.earlier
    if not runtime.is_reference:
        compared["placement"] = session.placement
        if options.agreement:
            own = (positive, control)
            compared["agreement"] = _agreement(shown, sites, plan, options, runtime, own)
            seconds["agreement"] = time.perf_counter() - done
    step = Step(
        step="localize",
        command=command,
        parameters={
            "model": model.bundle.info.name,
            "localizer": _lasting(stimuli.source),
            "sites": list(patterns),
            "pool": _pool(options, sites),
            "max_tokens": shown.max_tokens,
            "bos": shown.bos,
            "magnitude": options.magnitude,
            "test": options.test,
            "permutations": options.permutations,
            **options.selection.describe(options.seed),
            "batch_size": options.batch_size,
            "seed": options.seed,
            "precision": runtime.precision,
        },
        hashes={**hashes, **kept},
        versions=package_versions(VERSIONED),
        seconds=seconds,
        provider=session.provider,
        threads=runtime.threads,
    )
    summary = {
        "format": 1,
        "model": model.description,
        "localize": {
            **_summary(stimuli, options, shown, sites, contrast),
            **found_units(sites, contrast.t, q, p_fwe, network),
            **compared,
        },
    }
    return Localization(sites, contrast, q, network, summary, step, p_fwe=p_fwe)


def _agreement(
    shown: Presented,
    sites: Sequence[Site],
    plan: Plan,
    options: LocalizeOptions,
    runtime: RuntimeOptions,
    own: tuple[Moments, Moments],
) -> dict[str, Any]:
    """Run everything again in float32 on the CPU, and compare.

    Tests that need the values of all stimuli are compared by Welch's t.
    """
    reference = response_moments(
        shown.model.compile(plan, RuntimeOptions(threads=runtime.threads)),
        [site.units for site in sites],
        shown.batches(options.batch_size),
        shown.is_positive,
        magnitude=options.magnitude,
    )
    test = STREAMED.get(options.test, welch)
    contrasts = [test(*moments) for moments in (own, reference)]
    networks = None
    if options.selection.how != "fwe":
        one, other = (
            network_from_flat(
                options.selection.choose(c.t, benjamini_hochberg(c.p), options.seed),
                {site.name: site.units for site in sites},
                shown.model.graph.hash,
                options.selection.describe(options.seed),
            )
            for c in contrasts
        )
        networks = (one, other)
    t, reference_t = (c.t for c in contrasts)
    return asdict(agree(t, reference_t, sites, networks, len(shown.is_positive)))


def _pool(options: LocalizeOptions, sites: Sequence[Site]) -> Pool | None:
    """How tokens are pooled; None where there are none."""
    return options.pool if any(site.has_tokens for site in sites) else None


def _lasting(source: str) -> str:
    """What finds the stimuli again from any folder."""
    path = Path(source)
    return str(path.resolve()) if source not in LOCALIZERS and path.exists() else source


def _summary(
    stimuli: StimulusSet | ArraySet,
    options: LocalizeOptions,
    shown: Presented,
    sites: Sequence[Site],
    contrast: Contrast,
) -> dict[str, Any]:
    return {
        "localizer": stimuli.name,
        "localizer_version": stimuli.version,
        "positive_label": stimuli.positive_label,
        "control_label": stimuli.control_label,
        "n_positive": contrast.n_positive,
        "n_control": contrast.n_control,
        "of_arrays": isinstance(stimuli, ArraySet),
        "pool": _pool(options, sites),
        "max_tokens": shown.max_tokens,
        "bos": shown.bos,
        "magnitude": options.magnitude,
        "test": options.test,
        "permutations": options.permutations,
        "selection": options.selection.describe(options.seed),
    }
