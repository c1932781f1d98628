"""Another contrast of a run's stored activations, without running the model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxloc.activations import HASH, Activations
from onnxloc.choose import Selection
from onnxloc.errors import OptionError, RunError
from onnxloc.folder import sha256_file
from onnxloc.network import network_from_flat
from onnxloc.stats.compare import Test
from onnxloc.stats.multiple import benjamini_hochberg
from onnxloc.store import VERSIONED, Run, Step, package_versions
from onnxloc.studies.found import found_units
from onnxloc.studies.item_table import ItemTable
from onnxloc.studies.localization import Localization
from onnxloc.studies.stored import (
    Rows,
    check_test,
    kept_step,
    stored_contrast,
    stored_sites,
    without_activations,
)

__all__ = ["ContrastOptions", "contrast"]


@dataclass(frozen=True, kw_only=True)
class ContrastOptions:
    """Which stimuli are compared, how, and which units are chosen.

    Attributes
    ----------
    items : Path or None
        A CSV that says more of the run's stimuli: a column `row` or `text`, and properties.
        Without it the run's own conditions are compared.
    column : str
        The property that holds the conditions.
    positive, control : str
        Its values that are compared; stimuli with other values, or none, are left out.
    test : {"welch", "student", "paired", "mannwhitney"}
        The test of each unit.
    magnitude : bool or None
        Compare absolute activations, or signed ones; None for what the run did.
    permutations : int
        Number of permutations for family-wise p-values; 0 for none.
    selection : Selection
        Which units are chosen.
    seed : int
        Of the permutations, and of a random draw of units.
    """

    items: Path | None = None
    column: str = "condition"
    positive: str = "positive"
    control: str = "control"
    test: Test = "welch"
    magnitude: bool | None = None
    permutations: int = 0
    selection: Selection = field(default_factory=Selection)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positive == self.control:
            raise OptionError("the positive and the control condition are the same")
        if self.selection.how == "fwe" and not self.permutations:
            raise OptionError("choosing by family-wise p needs permutations (--permutations)")
        if self.items is not None and self.test == "paired":
            raise OptionError("conditions of your own are not paired; choose another test")


def contrast(
    run: Run | str | Path,
    options: ContrastOptions | None = None,
    *,
    command: str = "",
    show_progress: bool = False,
) -> Localization:
    """Compare conditions of a run's stimuli anew, from its stored activations.

    Parameters
    ----------
    run : Run or path
        A run of ``localize --keep-activations``.
    options : ContrastOptions, optional
        What is compared, and how.
    command : str
        The command line to put on record.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    Localization
        As `localize` returns it; it can be saved as a run of its own.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the run has no activations, they are damaged, or the options do not go
        together.
    """
    options = options or ContrastOptions()
    started = time.perf_counter()
    run = run if isinstance(run, Run) else Run.open(run)
    activations = Activations.open(run)
    source = kept_step(run)
    before = run.summary.get("localize")
    if not isinstance(before, Mapping):
        raise RunError(f"{run.folder} has no localizer in its summary; make the run again")
    sites = stored_sites(run, activations)
    options.selection.count(sum(activations.sites.values()))
    magnitude = options.magnitude
    if magnitude is None:
        magnitude = bool(source.parameters.get("magnitude", True))
    rows = _rows(activations, options)
    check_test(options.test, rows)
    loaded = time.perf_counter()
    found, p_fwe = stored_contrast(
        activations,
        rows,
        options.test,
        magnitude=magnitude,
        permutations=options.permutations,
        seed=options.seed,
        show_progress=show_progress,
    )
    q = benjamini_hochberg(found.p)
    model_hash = source.hashes.get("model", "")
    how = options.selection.describe(options.seed)
    chosen = options.selection.choose(found.t, q, options.seed, p_fwe)
    network = network_from_flat(chosen, activations.sites, model_hash, how)
    done = time.perf_counter()
    labels = (
        {}
        if options.items is None
        else {"positive_label": options.positive, "control_label": options.control}
    )
    summary = {
        **before,
        **labels,
        "n_positive": found.n_positive,
        "n_control": found.n_control,
        "magnitude": magnitude,
        "test": options.test,
        "permutations": options.permutations,
        "selection": how,
        **found_units(sites, found.t, q, p_fwe, network),
    }
    parameters = {
        "run": str(run.folder.resolve()),
        "items": None if options.items is None else str(options.items.resolve()),
        "column": options.column,
        "positive": options.positive,
        "control": options.control,
        "test": options.test,
        "magnitude": magnitude,
        "permutations": options.permutations,
        **how,
        "seed": options.seed,
    }
    hashes = {"model": model_hash, "source_activations": source.hashes[HASH]}
    if options.items is not None:
        hashes["items"] = sha256_file(options.items)
    step = Step(
        step="contrast",
        command=command,
        parameters=parameters,
        hashes=hashes,
        versions=package_versions(VERSIONED),
        seconds={"load": loaded - started, "run": done - loaded},
        provider="",
        threads=0,
    )
    whole = {**run.summary, "localize": summary}
    whole.pop("ablate", None)
    return Localization(
        sites, found, q, network, whole, step, p_fwe=p_fwe, earlier=(without_activations(source),)
    )


def _rows(activations: Activations, options: ContrastOptions) -> Rows:
    if options.items is None:
        return Rows.of(activations)
    table = ItemTable.read(options.items, activations.stimuli["text"].tolist())
    return Rows(
        table.rows(options.column, options.positive), table.rows(options.column, options.control)
    )
