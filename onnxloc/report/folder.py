"""What a run folder holds, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxloc.errors import RunError
from onnxloc.report.schema import build
from onnxloc.report.units import Units, read_units
from onnxloc.store import UNITS_FILE, Manifest, read_json

__all__ = [
    "Ablated",
    "Compared",
    "Comparison",
    "Effect",
    "GroupEffect",
    "KindEffect",
    "Localized",
    "NetworkFacts",
    "Run",
    "Summary",
    "read_run",
]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that was studied."""

    name: str
    hash: str | None = None
    framework: str | None = None
    blocks: int | None = None


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """How far a run agrees with float32 on the CPU."""

    n_stimuli: int
    largest_t_difference: float | None = None
    site: str | None = None
    unit: int | None = None
    largest_t: float | None = None
    dice: float | None = None


@dataclass(frozen=True, kw_only=True)
class Localized:
    """What the localizer did and found."""

    localizer: str
    n_sites: int
    n_units: int
    n_selected: int
    positive_label: str = "positive"
    control_label: str = "control"
    n_positive: int | None = None
    n_control: int | None = None
    pool: str | None = None
    max_tokens: int | None = None
    bos: bool | None = None
    magnitude: bool = True
    test: str = "welch"
    permutations: int = 0
    selection: Mapping[str, object] = field(default_factory=dict)
    smallest_t: float | None = None
    n_undefined: int | None = None
    n_significant: int | None = None
    of_arrays: bool = False
    agreement: Agreed | None = None

    @property
    def how(self) -> str:
        """How units were chosen: top, units, fdr or fwe."""
        return str(self.selection.get("how", ""))

    @property
    def drawn(self) -> bool:
        """Whether units were drawn at random from a range of percentiles of t."""
        return self.selection.get("within") not in (None, "0-0", "100-100")

    @property
    def least(self) -> bool:
        """Whether the units with the smallest t were taken: the range of percentiles 0-0."""
        return self.selection.get("within") == "0-0"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The network minus something else, with a 95 % bootstrap interval and Cohen's d_z."""

    difference: float | None = None
    low: float | None = None
    high: float | None = None
    d: float | None = None


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexities of the conditions of a text task."""

    intact: float | None = None
    network: float | None = None
    controls: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupEffect:
    """Scores of one group of items, such as a phenomenon."""

    group: str
    n_items: int
    intact: float | None = None
    network: float | None = None
    controls: tuple[float | None, ...] = ()
    control_mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class Compared(Comparison):
    """One condition minus another, over paired items."""

    of: str
    against: str


@dataclass(frozen=True, kw_only=True)
class KindEffect:
    """Scores of the controls of one kind."""

    kind: str
    names: tuple[str, ...]
    scores: tuple[float | None, ...]
    as_harmful: tuple[str, ...] = ()
    p_empirical: float | None = None
    perplexity: tuple[float | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class WithoutMassive:
    """Score of the network without its massive units."""

    score: float | None = None
    perplexity: float | None = None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What ablating the network and its controls did to one task, at one size (% of units)."""

    task: str
    kind: str
    size: float
    n_items: int
    intact: float | None
    network: float | None
    controls: tuple[float | None, ...] = ()
    metric: str = ""
    chance: float | None = None
    n_network_units: int | None = None
    control_mean: float | None = None
    control_median: float | None = None
    control_min: float | None = None
    control_max: float | None = None
    rank: int | None = None
    p_empirical: float | None = None
    vs_intact: Comparison | None = None
    vs_controls: Comparison | None = None
    perplexity: Perplexity | None = None
    groups: tuple[GroupEffect, ...] = ()
    fields: tuple[GroupEffect, ...] = ()
    phenomena: tuple[GroupEffect, ...] = ()
    comparisons: tuple[Compared, ...] = ()
    kinds: tuple[KindEffect, ...] = ()
    without_massive: WithoutMassive | None = None

    @property
    def scored(self) -> tuple[float, ...]:
        """Scores of the controls that have one."""
        return tuple(value for value in self.controls if value is not None)

    @property
    def p(self) -> float | None:
        """The empirical p; None where it is undefined or a control has no score."""
        return self.p_empirical if len(self.scored) == len(self.controls) else None

    @property
    def finite_perplexity(self) -> Perplexity | None:
        """The perplexities, if every condition has one: an infinite one is written as null."""
        shown = self.perplexity
        if shown is None or len(shown.controls) != len(self.controls):
            return None
        values = (shown.intact, shown.network, *shown.controls)
        return shown if all(value is not None and value > 0 for value in values) else None


@dataclass(frozen=True, kw_only=True)
class MassiveUnit:
    """A unit with a very large mean |activation|, as a multiple of its site's median."""

    site: str
    unit: int
    multiple: float | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What is known of one of the networks that were ablated."""

    condition: str
    size: float
    kind: str
    n_units: int
    n_shared: int = 0
    n_massive: int = 0
    massive: tuple[MassiveUnit, ...] = ()
    match_median: float | None = None
    match_largest: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """The ablation study. ``with`` is a keyword, so its key is read apart."""

    match: str | None = None
    n_controls: int = 0
    battery: bool = False
    networks: tuple[NetworkFacts, ...] = ()
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``summary.json``."""

    format: int
    model: Model
    localize: Localized | None = None
    ablate: Ablated | None = None


@dataclass(frozen=True)
class Run:
    """A run folder as read.

    Attributes
    ----------
    replacement : str
        What the ablation did to a unit ("zero", "mean", "scale=0.5", …); empty if none was run.
    tokens : str
        At which tokens of a text ("all", "0,3,-2").
    """

    manifest: Manifest
    summary: Summary
    units: Units | None
    replacement: str
    tokens: str = "all"


def read_run(path: Path) -> Run:
    """Read and check a run folder.

    Raises
    ------
    RunError
        If `path` is no run folder, or one of its files is damaged or missing.
    """
    if not path.is_dir():
        raise RunError(f"there is no run folder at {path}")
    for name in ("manifest.json", "summary.json"):
        if not (path / name).is_file():
            raise RunError(f"{path} is not a run folder: it holds no {name}")
    manifest = build(Manifest, read_json(path / "manifest.json"), f"{path / 'manifest.json'}: run")
    raw = read_json(path / "summary.json")
    summary = build(Summary, raw, f"{path / 'summary.json'}: run")
    for file, version in (("manifest", manifest.format), ("summary", summary.format)):
        if version != FORMAT:
            raise RunError(
                f"{path / file}.json has format {version}, this version reads {FORMAT}; "
                "make the run again"
            )
    for effect in summary.ablate.effects if summary.ablate else ():
        _check_kinds(effect, path)
        if not 0 < effect.size <= 100:
            raise RunError(
                f"{path / 'summary.json'}: size {effect.size} of task {effect.task!r} is no "
                "percentage above 0; make the run again"
            )
    ablate = raw.get("ablate")
    replacement = str(ablate.get("with") or "") if isinstance(ablate, dict) else ""
    tokens = str(ablate.get("tokens") or "all") if isinstance(ablate, dict) else "all"
    units = None
    if summary.localize is not None:
        units = read_units(path / UNITS_FILE)
        if not len(units.t):
            raise RunError(f"{path / UNITS_FILE} holds no units; make the run again")
        if len(units.t) != summary.localize.n_units:
            raise RunError(
                f"{path / 'units.parquet'} has {len(units.t)} units, summary.json says "
                f"{summary.localize.n_units}; make the run again"
            )
    return Run(manifest, summary, units, replacement, tokens)


def _check_kinds(effect: Effect, path: Path) -> None:
    for kind in effect.kinds:
        n = len(kind.names)
        if len(kind.scores) != n or (kind.perplexity is not None and len(kind.perplexity) != n):
            raise RunError(
                f"{path / 'summary.json'}: the {kind.kind!r} controls of task {effect.task!r} have "
                "more or fewer scores than names; make the run again"
            )
