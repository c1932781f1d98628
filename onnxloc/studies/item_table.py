"""What a user says of each stimulus of a run: a CSV with a column for each property."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import StimulusError
from onnxloc.registry import did_you_mean
from onnxloc.stimuli.tables import read_text

__all__ = ["ItemTable"]

KEYS = ("row", "text")


@dataclass(frozen=True)
class ItemTable:
    """Properties of the stimuli of a run.

    Attributes
    ----------
    path : Path
        Where they were read.
    columns : mapping of str to list
        For each property the cell of each stimulus: None where it has no line or an empty cell.
    lines : list of int
        The line of each stimulus in the file; 0 where it has none.
    """

    path: Path
    columns: dict[str, list[str | None]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path, texts: Sequence[str]) -> "ItemTable":
        """Read a CSV with a header.

        One column says which stimulus a line is about: `row`, counted from 0 in the order of the
        run's ``stimuli.parquet``, or `text`, the stimulus itself. Stimuli may be left out.

        Parameters
        ----------
        path : Path
            The file.
        texts : sequence of str
            The stimuli of the run.

        Raises
        ------
        StimulusError
            If the file has no such column or no other, names a stimulus that the run has not, or
            one twice.
        """
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        try:
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
        except csv.Error as error:
            raise StimulusError(f"{path}:{reader.line_num}: {error}") from error
        head = lines[0][1] if lines else []
        key = next((name for name in KEYS if name in head), None)
        properties = [name for name in head if name not in KEYS]
        if key is None or not properties or len(set(head)) < len(head):
            raise StimulusError(
                f"{path} must be a CSV whose header names row or text, and one or more properties, "
                "each once"
            )
        columns: dict[str, list[str | None]] = {name: [None] * len(texts) for name in properties}
        found = [0] * len(texts)
        places = _places(key, texts)
        for line, cells in lines[1:]:
            where = f"{path}:{line}"
            if len(cells) != len(head):
                raise StimulusError(f"{where}: {len(cells)} cells, but the header has {len(head)}")
            values = dict(zip(head, cells, strict=True))
            row = places.get(values[key].strip() if key == "row" else values[key])
            if row is None:
                raise StimulusError(f"{where}: the run has no stimulus {key} {values[key][:60]!r}")
            if found[row]:
                raise StimulusError(
                    f"{where}: the stimulus stands at line {found[row]} already; where texts "
                    "repeat in the run, name them by row"
                )
            found[row] = line
            for name in properties:
                columns[name][row] = values[name].strip() or None
        return cls(path, columns, found)

    def column(self, name: str) -> list[str | None]:
        """The cells of a property.

        Raises
        ------
        StimulusError
            If there is no such column.
        """
        if name not in self.columns:
            raise StimulusError(
                f"{self.path} has no column {name!r}{did_you_mean(name, self.columns)} "
                f"(it has {', '.join(self.columns)})"
            )
        return self.columns[name]

    def rows(self, name: str, value: str) -> NDArray[np.int64]:
        """The stimuli with that value of a property.

        Raises
        ------
        StimulusError
            If there is no such column, or no stimulus has the value.
        """
        cells = self.column(name)
        rows = np.array([i for i, cell in enumerate(cells) if cell == value], dtype=np.int64)
        if not rows.size:
            known = sorted({cell for cell in cells if cell is not None})
            raise StimulusError(
                f"{self.path}: no stimulus has {value!r} in column {name!r}"
                f"{did_you_mean(value, known)}"
            )
        return rows

    def numbers(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The stimuli that have a number in a property, and their numbers.

        Raises
        ------
        StimulusError
            If there is no such column, or a cell is no finite number.
        """
        rows, numbers = [], []
        for row, cell in enumerate(self.column(name)):
            if cell is None:
                continue
            try:
                number = float(cell)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise StimulusError(
                    f"{self.path}:{self.lines[row]}: {name} is {cell[:40]!r}, not a number"
                )
            rows.append(row)
            numbers.append(number)
        return np.array(rows, dtype=np.int64), np.array(numbers, dtype=np.float64)


def _places(key: str, texts: Sequence[str]) -> dict[str, int]:
    if key == "row":
        return {str(row): row for row in range(len(texts))}
    places: dict[str, int] = {}
    for row, text in enumerate(texts):
        places.setdefault(text, row)
    return places
