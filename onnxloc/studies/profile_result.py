"""What a profile asks and finds: the response of a network to each condition, as tables."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from onnxloc.controls import Match
from onnxloc.errors import OptionError
from onnxloc.folder import new_folder
from onnxloc.graph.plan import Pool
from onnxloc.network import Network
from onnxloc.stats.permute import MAX_PERMUTATIONS
from onnxloc.store import Manifest, Step, write_json, write_table

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["Profile", "ProfileOptions", "Response", "Source"]

Response = Literal["z", "raw"]
Kind = Literal["network", "control", "block", "network in block"]

FORMAT = 1
JSON_FILE = "profile.json"
ITEMS_FILE = "profile.parquet"
CONDITIONS_FILE = "profile.csv"
TESTS_FILE = "tests.csv"
MAX_CONTROLS = 1_000
MAX_SPLITS = 1_000
MAX_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What a response is, and what it is compared with.

    Attributes
    ----------
    response : {"z", "raw"}
        "z": each unit's values are standardised over all items of the profile, then averaged over
        the network's units, so that every unit counts the same. "raw": averaged as they are.
    pool, max_tokens, bos, magnitude
        How texts are read; None for what the run that found the network did.
    controls : int
        Number of random networks.
    match : {"site", "count", "norm"}
        How these are drawn; "norm" by mean |activation| over the items of the profile.
    splits : int
        How often the localizer's stimuli are split into halves, where the profile shows some of
        them.
    resamples : int
        Bootstrap draws for intervals.
    permutations : int
        Draws for the permutation tests between conditions.
    batch_size : int
        Texts run at a time.
    seed : int
        Of all draws.

    Raises
    ------
    OptionError
        If an option is out of range.
    """

    response: Response = "z"
    pool: Pool | None = None
    max_tokens: int | None = None
    bos: bool | None = None
    magnitude: bool | None = None
    controls: int = 100
    match: Match = "site"
    splits: int = 10
    resamples: int = 2_000
    permutations: int = 10_000
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("response", self.response, get_args(Response)),
            ("match", self.match, get_args(Match)),
        ):
            if value not in allowed:
                raise OptionError(f"{name} is one of {', '.join(allowed)}, not {value!r:.40}")
        if self.pool == "none" or self.pool not in (None, *get_args(Pool)):
            raise OptionError(f"a profile pools by last, mean, sum or max, not {self.pool!r}")
        for what, count, least, most in (
            ("controls", self.controls, 0, MAX_CONTROLS),
            ("splits", self.splits, 1, MAX_SPLITS),
            ("resamples", self.resamples, 1, MAX_RESAMPLES),
            ("permutations", self.permutations, 1, MAX_PERMUTATIONS),
        ):
            if not least <= count <= most:
                raise OptionError(
                    f"the number of {what} lies between {least} and {most:,}, not at {count}"
                )
        if self.max_tokens is not None and self.max_tokens < 0:
            raise OptionError("the number of tokens must be 0 (no cut) or more")
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")
        if self.seed < 0:
            raise OptionError("a seed is 0 or more")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Some units whose mean response is a column of the items.

    Attributes
    ----------
    name : str
        The column: "network", "control-000", "block-3", "block-3-network".
    kind : {"network", "control", "block", "network in block"}
        What the units are.
    block : int or None
        Which block.
    units : float
        How many there are; a mean where halves chose different numbers.
    """

    name: str
    kind: Kind
    block: int | None
    units: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile:
    """The response of a network to each condition, beside random networks and whole blocks.

    Attributes
    ----------
    options : ProfileOptions
        What was asked, with nothing left to a default of the run.
    network : Network
        The network as the run has it; where `halves` is true, networks of halves were measured.
    sources : tuple of Source
        The sets of units that were measured.
    items : DataFrame
        One row an item: `condition`, `item`, `text`, `in_localizer`, and the response of each
        source.
    conditions : DataFrame
        One row a source and condition: `source`, `kind`, `block`, `units`, `condition`, `label`,
        `n`, `mean`, `sd`, `low`, `high` (bootstrap over items, 95 %); for the network also the
        median of the controls' means, their middle 95 %, and its place among them
        (`p_controls`).
    tests : DataFrame
        One row a source and pair of conditions: `source`, `kind`, `block`, `a`, `b`, `difference`
        (a minus b), `low`, `high`, Welch's `t`, `df`, `p`, `p_holm` (over the pairs of a source),
        `d`; for the network also `p_permutation`, `p_permutation_holm`, `controls_median` and
        `p_controls`.
    halves : bool
        Whether units were chosen on halves of the localizer's stimuli and measured on the rest.
    about : mapping
        The model, the stimuli, and how items are held out.
    notes : tuple of str
        What asks for care.
    step : Step
        The record.
    """

    options: ProfileOptions
    network: Network
    sources: tuple[Source, ...]
    items: "DataFrame"
    conditions: "DataFrame"
    tests: "DataFrame"
    halves: bool
    about: Mapping[str, Any]
    notes: tuple[str, ...]
    step: Step

    def of(self, source: str = "network") -> "DataFrame":
        """The rows of `conditions` of one source.

        Raises
        ------
        OptionError
            If there is no such source.
        """
        return self._rows(self.conditions, source)

    def tests_of(self, source: str = "network") -> "DataFrame":
        """The rows of `tests` of one source; errors are those of `of`."""
        return self._rows(self.tests, source)

    def _rows(self, table: "DataFrame", source: str) -> "DataFrame":
        if source not in {one.name for one in self.sources}:
            raise OptionError(f"the profile has no source {source!r:.40}")
        return table[table["source"] == source].reset_index(drop=True)

    def plot(self) -> "Figure":
        """Draw the response to each condition, random networks beside it, as a plotly figure."""
        from onnxloc.figures import profile_figure

        return profile_figure(self.conditions, self.options.response)

    def _repr_html_(self) -> str:
        from onnxloc.notebook import table_html

        head = ("condition", "items", "mean", "low", "high", "random networks, median", "p")
        names = ("label", "n", "mean", "low", "high", "controls_median", "p_controls")
        return table_html(head, self.of()[list(names)].to_numpy(dtype=object).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Everything but items and the tests of random networks, as JSON takes it once finite."""
        tests = self.tests[self.tests["kind"] != "control"]
        return {
            "format": FORMAT,
            "options": asdict(self.options),
            **self.about,
            "network": {
                "size": self.network.size,
                "n_units": self.network.n_units,
                "how": dict(self.network.how),
                "model_hash": self.network.model_hash,
            },
            "halves": self.halves,
            "notes": list(self.notes),
            "conditions": _records(self.conditions),
            "tests": _records(tests),
        }

    def write(self, folder: Path, name: str) -> None:
        """Write tables and record into an empty folder; the page is `onnxloc.report`'s."""
        write_json(folder / JSON_FILE, self.as_dict())
        write_table(folder, ITEMS_FILE, self.items)
        self.conditions.to_csv(folder / CONDITIONS_FILE, index=False)
        self.tests.to_csv(folder / TESTS_FILE, index=False)
        Manifest(name=name, steps=(self.step,)).write(folder)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a folder of tables, whole or not at all.

        Raises
        ------
        RunError
            If `path` is taken or cannot be written.
        """
        path = Path(path)
        with new_folder(path, force=force) as staging:
            self.write(staging, path.name)


def _records(table: "DataFrame") -> list[dict[str, Any]]:
    import pandas as pd

    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
