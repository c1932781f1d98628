"""What comparing runs found, as tables, and the files that they are written to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from onnxloc.errors import OptionError
from onnxloc.store import Manifest, Step, package_versions, write_json, write_table
from onnxloc.studies.unit_agreement import UnitAgreement

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["CompareOptions", "Comparison"]

MAX_PERMUTATIONS = 100_000
FORMAT = 1
JSON_FILE = "compare.json"
SITES_FILE = "compare.parquet"
PAIRS_FILE = "compare.csv"
VERSIONED = ("onnxloc", "numpy", "scipy", "pandas", "zarr")

_KEY = ("a", "b")
_ENDS = ("site_a", "site_b", "depth_a", "depth_b")
# Columns of each table, so that an empty one has them too.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "pairs": (
        *_KEY,
        "sites",
        *UnitAgreement.columns(),
        "depth_distance",
        "depth_p",
        "cka_same_site",
        "cka_debiased_same_site",
        "rsa_same_site",
        "cka_debiased_best",
        "best_depth_spearman",
    ),
    "sites": (*_KEY, "site", *UnitAgreement.columns()),
    "depth": ("run", "block", "depth_from", "depth_to", "units", "chosen", "share_of_network"),
    "representations": (*_KEY, *_ENDS, "cka", "cka_debiased", "p_cka", "rsa", "p_rsa"),
    "best": (*_KEY, *_ENDS, "cka_debiased", "p_best", "rsa"),
}
SCATTER = (*_KEY, "t_a", "t_b", "chosen_a", "chosen_b")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What of the runs is compared.

    Attributes
    ----------
    sites : tuple of str or None
        Patterns of the sites whose representations are compared; None for the blocks' outputs, or
        all sites of a run that has none.
    representations : bool or None
        Whether representations are compared: None for where both runs kept their activations of
        the same stimuli; True makes it an error where that is not so.
    permutations : int
        Draws for p-values; 0 for none.
    seed : int
        Of the permutations, and of the units that are drawn in a scatter plot.

    Raises
    ------
    OptionError
        If an option is out of range.
    """

    sites: tuple[str, ...] | None = None
    representations: bool | None = None
    permutations: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.permutations <= MAX_PERMUTATIONS:
            raise OptionError(
                f"the number of permutations lies between 0 and {MAX_PERMUTATIONS:,}, not at "
                f"{self.permutations}"
            )
        if self.seed < 0:
            raise OptionError("a seed is 0 or more")
        if self.sites is not None and self.representations is False:
            raise OptionError("--sites names representations: leave out --no-representations")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What comparing runs found. In each table a pair of runs is named by `a` and `b`.

    Attributes
    ----------
    options : CompareOptions
        What was asked.
    runs : DataFrame
        One row a run.
    pairs : DataFrame
        One row a pair of runs: agreement of t and of the networks over all aligned units, distance
        in depth, and summaries of representations. What could not be compared is missing.
    sites : DataFrame
        One row for each pair of runs and aligned site: the same agreement at that site.
    depth : DataFrame
        One row a block of a run: units searched and chosen.
    representations : DataFrame
        One row for each pair of runs and pair of sites: CKA and RSA.
    best : DataFrame
        One row for each pair of runs and site of `a`: the most similar site of `b`.
    scatter : DataFrame
        t of both runs, for at most 3,000 units of each pair, drawn at random.
    notes : tuple of str
        What keeps runs from being compared fully, or asks for care.
    """

    options: CompareOptions
    runs: "DataFrame"
    pairs: "DataFrame"
    sites: "DataFrame"
    depth: "DataFrame"
    representations: "DataFrame"
    best: "DataFrame"
    scatter: "DataFrame"
    notes: tuple[str, ...]

    @classmethod
    def of_rows(
        cls,
        options: CompareOptions,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        scatter: "DataFrame | None",
        notes: tuple[str, ...],
    ) -> Self:
        """Make tables of rows."""
        import pandas as pd

        tables = {
            name: pd.DataFrame(list(rows.get(name, ())), columns=columns)
            for name, columns in COLUMNS.items()
        }
        return cls(
            options=options,
            runs=pd.DataFrame(list(rows.get("runs", ()))),
            scatter=pd.DataFrame(columns=SCATTER) if scatter is None else scatter,
            notes=notes,
            **tables,
        )

    def plot(self) -> "Figure":
        """Draw how deep each run's network lies, as a plotly figure."""
        from onnxloc.figures import depth_figure

        return depth_figure(self.depth)

    def _repr_html_(self) -> str:
        from onnxloc.notebook import table_html

        names = [str(name) for name in self.pairs if self.pairs[name].notna().any()]
        return table_html(names, self.pairs[names].to_numpy(dtype=object).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the scatter, as JSON takes it once numbers are made finite."""
        tables = ("runs", "pairs", "sites", "depth", "representations", "best")
        return {
            "format": FORMAT,
            "options": asdict(self.options),
            "notes": list(self.notes),
            **{name: _records(getattr(self, name)) for name in tables},
        }

    def by_site(self) -> "DataFrame":
        """Agreement of units and of representations in one table, a row a pair of sites."""
        units = self.sites.rename(columns={"site": "site_a"})
        units.insert(3, "site_b", units["site_a"])
        keys = ["a", "b", "site_a", "site_b"]
        return units.merge(self.representations, on=keys, how="outer", sort=False)

    def write(self, folder: Path, name: str, command: str = "", seconds: float = 0.0) -> None:
        """Write tables and record into a folder; the page is `onnxloc.report`'s.

        Parameters
        ----------
        folder : Path
            An empty folder.
        name : str
            Title of the comparison.
        command : str
            The command line to put on record.
        seconds : float
            How long it took.
        """
        write_json(folder / JSON_FILE, self.as_dict())
        write_table(folder, SITES_FILE, self.by_site())
        self.pairs.to_csv(folder / PAIRS_FILE, index=False)
        step = Step(
            step="compare",
            command=command,
            parameters={**asdict(self.options), "runs": self.runs["folder"].tolist()},
            hashes={},
            versions=package_versions(VERSIONED),
            seconds={"run": seconds},
            provider="",
            threads=0,
        )
        Manifest(name=name, steps=(step,)).write(folder)


def _records(table: "DataFrame") -> list[dict[str, Any]]:
    import pandas as pd

    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
