"""What the makers of stimuli share: seeded draws, the text of a CSV, and --check and --write."""

import argparse
import csv
import io
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from onnxloc.errors import OnnxlocError

__all__ = ["Draw", "read_texts", "run", "table_text"]

T = TypeVar("T")


class Draw:
    """Seeded draws.

    Of `random.Random` only the method `random` is used: its stream is the same in all versions.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._rng.random() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.between(0, len(items) - 1)]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in a random order."""
        return sorted(items, key=lambda _: self._rng.random())


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The text of a CSV file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def read_texts(path: Path, condition: str) -> list[str]:
    """The texts of one condition of a CSV file, in order."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file) if row["condition"] == condition]


def run(
    module: str,
    path: Path,
    seed: int,
    text: Callable[[Path], str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Check or write a stimulus file; the exit status is returned, 0 if all is well.

    Parameters
    ----------
    module : str
        The maker's name, for its help.
    path : Path
        The committed file; ``--file`` names another.
    seed : int
        For messages.
    text : callable
        Makes the text of the file. It is given the path, as parts of a file may be written by hand.
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare the file with the seed's")
    what.add_argument("--write", action="store_true", help="replace what is drawn")
    parser.add_argument("--file", type=Path, default=path, help="another stimulus file")
    options = parser.parse_args(arguments)
    file: Path = options.file
    try:
        made = text(file)
        if options.write:
            file.write_text(made, encoding="utf-8", newline="")
            print(f"wrote {file}")
            return 0
        same = file.read_bytes() == made.encode()
    except (OnnxlocError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if not same:
        print(f"{file} is not what seed {seed} gives; run with --write", file=sys.stderr)
        return 1
    print(f"{file} is what seed {seed} gives")
    return 0
