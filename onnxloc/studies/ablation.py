"""What an ablation did, and the run folder that it is written to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxloc.errors import OptionError
from onnxloc.folder import new_folder
from onnxloc.network import Network
from onnxloc.notebook import effects_html, facts_html
from onnxloc.registry import did_you_mean
from onnxloc.store import (
    EFFECTS_FILE,
    NETWORK_FILE,
    UNITS_FILE,
    Manifest,
    Run,
    Step,
    write_summary,
    write_table,
)
from onnxloc.studies.effects import Condition, TaskScores, effects_table

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = ["Ablation"]


@dataclass(frozen=True, eq=False)
class Ablation:
    """What an ablation did.

    Attributes
    ----------
    results : tuple of TaskScores
        Scores of every item, task by task.
    networks : mapping of Condition to Network
        What was ablated; "intact" is not among them.
    summary : mapping
        The run's ``summary.json``.
    step : Step
        The run's record.
    """

    results: tuple[TaskScores, ...]
    networks: Mapping[Condition, Network]
    summary: Mapping[str, Any]
    step: Step

    def _repr_html_(self) -> str:
        ablated = self.summary["ablate"]
        facts = {
            "Units": ablated.get("with"),
            "Tokens": ablated.get("tokens"),
            "Controls": ablated.get("n_controls"),
        }
        return facts_html("Ablation", facts) + effects_html(ablated.get("effects"))

    def plot(self, task: str | None = None) -> "Figure":
        """Draw the scores of a task, every control as a point, as a plotly figure.

        Parameters
        ----------
        task : str, optional
            Its name; the first task if not given.

        Raises
        ------
        OptionError
            If the run has no task of that name.
        """
        from onnxloc.figures import effect_figure

        effects = self.summary["ablate"]["effects"]
        names = list(dict.fromkeys(effect["task"] for effect in effects))
        if task is None:
            task = names[0]
        if task not in names:
            raise OptionError(f"there is no task {task!r}{did_you_mean(task, names)}")
        return effect_figure([effect for effect in effects if effect["task"] == task])

    def effects(self) -> "DataFrame":
        """One row an item and condition: the table ``effects.parquet``."""
        return effects_table(self.results)

    def write(self, folder: Path) -> None:
        """Write the tables of this step into a run folder."""
        write_table(folder, EFFECTS_FILE, self.effects())
        largest = max((c for c in self.networks if c.name == "network"), key=lambda c: c.size)
        if not (folder / NETWORK_FILE).exists():
            self.networks[largest].save(folder / NETWORK_FILE)

    def save(self, path: str | Path, *, localized: Run | None = None, force: bool = False) -> None:
        """Write a run folder, whole or not at all.

        Parameters
        ----------
        path : Path
            The new run folder.
        localized : Run, optional
            The run that found the network; its units and its record are carried along.
        force : bool
            Replace a run that stands at `path`.

        Raises
        ------
        RunError
            If `path` is taken or cannot be written.
        """
        path = Path(path)
        with new_folder(path, force=force) as staging:
            self.write_run(staging, path.name, localized)

    def write_run(self, folder: Path, name: str, localized: Run | None = None) -> None:
        """Write everything into a folder that is to become the run `name`; see `save`."""
        summary, steps = dict(self.summary), [self.step]
        if localized is not None and "localize" in localized.summary:
            for file in (UNITS_FILE, NETWORK_FILE):
                (folder / file).write_bytes((localized.folder / file).read_bytes())
            summary["localize"] = localized.summary["localize"]
            steps = [s for s in localized.manifest.steps if s.step == "localize"] + steps
        self.write(folder)
        write_summary(folder, summary)
        Manifest(name=name, steps=tuple(steps)).write(folder)
