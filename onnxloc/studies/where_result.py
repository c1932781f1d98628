"""Where a network lies, as tables, and the files that they are written to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxloc.errors import OptionError
from onnxloc.folder import new_folder
from onnxloc.stats.permute import MAX_PERMUTATIONS
from onnxloc.store import Manifest, Step, package_versions, write_json

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["Where", "WhereOptions"]

FORMAT = 1
JSON_FILE = "where.json"
GROUPS_FILE = "where.csv"
VERSIONED = ("onnxloc", "numpy", "scipy", "pandas", "zarr")
MAX_CONTROLS = 1_000
MAX_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class WhereOptions:
    """What of a network's place is tested, and how.

    Attributes
    ----------
    permutations : int
        Draws for the p-values over sites; 0 for none.
    controls : int
        Random networks that a prediction from activations is compared with.
    folds : int
        Folds of the stimuli of such a prediction.
    seed : int
        Of all draws.

    Raises
    ------
    OptionError
        If an option is out of range.
    """

    permutations: int = 10_000
    controls: int = 50
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for what, count, least, most in (
            ("permutations", self.permutations, 0, MAX_PERMUTATIONS),
            ("controls", self.controls, 0, MAX_CONTROLS),
            ("folds", self.folds, 2, MAX_FOLDS),
        ):
            if not least <= count <= most:
                raise OptionError(
                    f"the number of {what} lies between {least} and {most:,}, not at {count}"
                )
        if self.seed < 0:
            raise OptionError("a seed is 0 or more")


@dataclass(frozen=True, eq=False, kw_only=True)
class Where:
    """Which operations, parts and blocks hold a network beyond their share of units.

    Attributes
    ----------
    options : WhereOptions
        What was asked.
    about : mapping
        The run, its model, and how many of its units and sites are distinct.
    groups : DataFrame
        One row a group: `by` ("op type", "part" or "block"), `group`, `units` and `chosen` (all
        units with a t), `ratio_all`, and of distinct units `distinct`, `distinct_chosen`,
        `expected`, `ratio`, `p_units`, `p_units_holm`, `p_sites`, `p_sites_holm`.
    depth : mapping
        Mean relative depth of the network and of all units, with a p; empty without blocks.
    blocks : DataFrame
        If another network was to be predicted: the share of both networks in each block.
    prediction : mapping
        If so: the rank correlation over blocks, and the prediction over held-out stimuli.
    notes : tuple of str
        What asks for care.
    """

    options: WhereOptions
    about: Mapping[str, Any]
    groups: "DataFrame"
    depth: Mapping[str, float]
    blocks: "DataFrame"
    prediction: Mapping[str, Any]
    notes: tuple[str, ...]

    def by(self, what: str) -> "DataFrame":
        """The rows of `groups` by "op type", "part" or "block"."""
        return self.groups[self.groups["by"] == what].reset_index(drop=True)

    def plot(self, what: str | None = None) -> "Figure":
        """Draw what each group holds over its share of units, as a plotly figure.

        Parameters
        ----------
        what : {"op type", "part", "block"}, optional
            The groups; the first of these that the run has if not given.

        Raises
        ------
        OptionError
            If the run has no such groups.
        """
        from onnxloc.figures import ratio_figure

        kinds = list(dict.fromkeys(self.groups["by"]))
        if what is None:
            what = kinds[0]
        if what not in kinds:
            raise OptionError(f"groups are by {', '.join(kinds)}, not by {what!r:.40}")
        return ratio_figure(self.by(what), what)

    def _repr_html_(self) -> str:
        from onnxloc.notebook import table_html

        names = ("by", "group", "distinct", "distinct_chosen", "ratio", "p_sites_holm")
        head = ("by", "group", "distinct units", "chosen", "over its share", "p over sites")
        return table_html(head, self.groups[list(names)].to_numpy(dtype=object).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it once numbers are made finite."""
        return {
            "format": FORMAT,
            "options": asdict(self.options),
            **self.about,
            "notes": list(self.notes),
            "groups": self.groups.to_dict("records"),
            "depth": dict(self.depth),
            "blocks": self.blocks.to_dict("records"),
            "prediction": dict(self.prediction),
        }

    def write(self, folder: Path, name: str, command: str = "", seconds: float = 0.0) -> None:
        """Write tables and record into an empty folder; the page is `onnxloc.report`'s.

        Parameters
        ----------
        folder : Path
            The folder.
        name : str
            Title.
        command : str
            The command line to put on record.
        seconds : float
            How long it took.
        """
        write_json(folder / JSON_FILE, self.as_dict())
        self.groups.to_csv(folder / GROUPS_FILE, index=False)
        step = Step(
            step="where",
            command=command,
            parameters={**asdict(self.options), "run": self.about["run"],
                        "predict": self.prediction.get("run")},
            hashes={"model": self.about["model_hash"]},
            versions=package_versions(VERSIONED),
            seconds={"run": seconds},
            provider="",
            threads=0,
        )  # fmt: skip
        Manifest(name=name, steps=(step,)).write(folder)

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
