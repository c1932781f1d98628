"""The part of the page on the response profile of the network, if the run holds one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxloc.errors import RunError
from onnxloc.report.folder import Run
from onnxloc.report.part import Part
from onnxloc.report.profile_charts import profile_chart
from onnxloc.report.schema import build
from onnxloc.report.words import count
from onnxloc.store import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PROFILE_FILE", "StoredProfile", "profile_part", "read_profile"]

PROFILE_FILE = "profile.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How responses were measured."""

    response: str
    controls: int = 0
    match: str = ""


@dataclass(frozen=True, kw_only=True)
class _Network:
    """Whose profile it is."""

    size: int
    n_units: int
    model_hash: str


@dataclass(frozen=True, kw_only=True)
class _Stimuli:
    """What was shown."""

    name: str


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The response of some units to one condition."""

    source: str
    kind: str
    condition: str
    label: str
    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    controls_median: float | None = None
    controls_low: float | None = None
    controls_high: float | None = None
    p_controls: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredProfile:
    """``profile.json``, as `onnxloc profile` writes it."""

    format: int
    options: _Options
    network: _Network
    stimuli: _Stimuli
    rows: tuple[_Row, ...]
    halves: bool = False
    notes: tuple[str, ...] = ()

    @property
    def conditions(self) -> "DataFrame":
        """One row a set of units and condition."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows])
        names = ("mean", "low", "high", "controls_median", "controls_low", "controls_high",
                 "p_controls")  # fmt: skip
        return frame.astype(dict.fromkeys(names, float))

    def of(self, source: str = "network") -> "DataFrame":
        """The rows of one set of units."""
        table = self.conditions
        return table[table["source"] == source].reset_index(drop=True)


def read_profile(file: Path) -> StoredProfile:
    """Read and check ``profile.json``.

    Raises
    ------
    RunError
        If it is missing or damaged.
    """
    raw = read_json(file)
    if "conditions" in raw:
        raw["rows"] = raw["conditions"]
    found = build(StoredProfile, raw, f"{file}: profile")
    if found.format != FORMAT:
        raise RunError(f"{file} has format {found.format}, this version reads {FORMAT}")
    own = [row.condition for row in found.rows if row.source == "network"]
    if not own or len(set(own)) != len(own):
        raise RunError(f"{file} has no response of the network, or two of one condition")
    if any(row.mean is None for row in found.rows if row.source == "network"):
        raise RunError(f"{file} has a condition without a response; make the profile again")
    if not {row.condition for row in found.rows} <= set(own):
        raise RunError(f"{file} has conditions without a response of the network")
    return found


def profile_part(folder: Path, _: Run) -> Part | None:
    """Show what the network responds to, beside random networks.

    Raises
    ------
    RunError
        If ``profile.json`` is damaged.
    """
    file = folder / PROFILE_FILE
    if not file.is_file():
        return None
    found = read_profile(file)
    held = (
        " Units were chosen on halves of the localizer's texts and measured on the others."
        if found.halves
        else ""
    )
    return Part(
        id="profile",
        title="What the network responds to",
        short="Profile",
        text=(
            f"The mean response of {count(found.network.size, 'unit')} to the conditions of "
            f"{found.stimuli.name}, beside {count(found.options.controls, 'random network')}."
            f"{held}",
        ),
        warnings=found.notes,
        charts=(profile_chart(found),),
        caption="Mean response to each condition, with its 95 % interval over texts.",
    )
