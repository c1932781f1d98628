"""What a run folder holds, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxloc.errors import RunError
from onnxloc.report.schema import build
from onnxloc.store import UNITS_FILE, Manifest, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Ablated",
    "Comparison",
    "Effect",
    "GroupEffect",
    "KindEffect",
    "Localized",
    "NetworkFacts",
    "Run",
    "Summary",
    "Units",
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
class Units:
    """The statistics of all units, as columns of equal length.

    Attributes
    ----------
    sites : tuple of str
        Distinct sites, in the file's order.
    site : int array, [units]
        Index into `sites`.
    unit : int array, [units]
        Index along the site's feature axis.
    t, q, d, mean_positive, mean_control : float array, [units]
        NaN where undefined.
    selected : bool array, [units]
        Whether the unit is in the network.
    block : tuple of int or None
        For each site.
    role, op_type : tuple of str
        For each site; empty where unknown.
    """

    sites: tuple[str, ...]
    site: "NDArray[np.int64]"
    unit: "NDArray[np.int64]"
    t: "NDArray[np.float64]"
    q: "NDArray[np.float64]"
    d: "NDArray[np.float64]"
    mean_positive: "NDArray[np.float64]"
    mean_control: "NDArray[np.float64]"
    selected: "NDArray[np.bool_]"
    block: tuple[int | None, ...]
    role: tuple[str, ...]
    op_type: tuple[str, ...]


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
        units = _read_units(path / UNITS_FILE)
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


def _read_units(file: Path) -> Units:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not file.is_file():
        raise RunError(f"{file} is missing; make the run again")
    words = ("site", "role", "op_type")
    numbers = ("t", "q", "d", "mean_positive", "mean_control")
    kinds = dict.fromkeys(words, pa.string()) | dict.fromkeys(numbers, pa.float64())
    kinds |= {"unit": pa.int64(), "block": pa.int64(), "selected": pa.bool_()}
    try:
        have = pq.read_schema(file).names
        missing = [name for name in kinds if name not in have]
        if missing:
            raise RunError(f"{file} has no column {missing[0]!r}; make the run again")
        table = pq.read_table(file, columns=list(kinds))
        column: dict[str, Any] = {
            name: table[name].cast(kind).combine_chunks() for name, kind in kinds.items()
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{file} cannot be read ({reason}); make the run again") from error
    for name in ("site", "unit", "selected"):
        if column[name].null_count:
            raise RunError(f"{file}: column {name!r} has empty cells; make the run again")

    codes = pc.dictionary_encode(column["site"])
    site = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # Role, block and op type belong to the site: the first row of each says them.
    first = np.unique(site, return_index=True)[1]
    blocks = column["block"].take(pa.array(first)).to_pylist()
    words_at = {
        name: tuple(word or "" for word in column[name].take(pa.array(first)).to_pylist())
        for name in ("role", "op_type")
    }

    def floats(name: str) -> "NDArray[np.float64]":
        values = column[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.isfinite(values), values, np.nan)

    return Units(
        sites=tuple(codes.dictionary.to_pylist()),
        site=site,
        unit=column["unit"].to_numpy(zero_copy_only=False),
        t=floats("t"),
        q=floats("q"),
        d=floats("d"),
        mean_positive=floats("mean_positive"),
        mean_control=floats("mean_control"),
        selected=column["selected"].to_numpy(zero_copy_only=False),
        block=tuple(blocks),
        role=words_at["role"],
        op_type=words_at["op_type"],
    )
