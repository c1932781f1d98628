"""Stored activations: the pooled values of every stimulus and unit of a run, checked by hash.

A run keeps them in ``activations.zarr`` (Zarr format 3), one array a site, ``[stimuli, units]``,
without compression: activations are nearly random bits, of which zstd saved 6 % and Blosc with a
bit shuffle 9 % in SmolLM2's block outputs. A chunk is then a plain block of bytes of known size,
so that a hostile file cannot ask for more memory than it has bytes. ``activations.json`` lists the
sites with the SHA-256 of their values; the manifest holds the SHA-256 of that list.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import RunError
from onnxloc.folder import sha256_file
from onnxloc.registry import did_you_mean, one_line
from onnxloc.store import Run, read_json, read_table, record

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ACTIVATIONS_FILE",
    "ACTIVATIONS_FOLDER",
    "DTYPES",
    "HASH",
    "STIMULI_FILE",
    "Activations",
    "Index",
    "StoredSite",
    "array_name",
]

FORMAT = 1
ACTIVATIONS_FILE = "activations.json"
ACTIVATIONS_FOLDER = "activations.zarr"
STIMULI_FILE = "stimuli.parquet"
# Key of the index's hash in the manifest.
HASH = "activations"
# Little-endian on every machine, so that hashes are the same.
DTYPES = {"float32": "<f4", "float64": "<f8"}
COLUMNS = ("condition", "pair", "text")
CONDITIONS = ("positive", "control")
DAMAGED = "make the run again with --keep-activations"


@dataclass(frozen=True, kw_only=True)
class StoredSite:
    """One site as it is stored.

    Attributes
    ----------
    site : str
        Its name.
    units : int
        Number of units.
    dtype : {"float32", "float64"}
        Type of the values.
    sha256 : str
        Of the values, little-endian, stored row after stored row.
    """

    site: str
    units: int
    dtype: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What ``activations.json`` holds.

    Attributes
    ----------
    sites : tuple of StoredSite
        In the order of the run; the i-th lies in the array ``i``, with five digits.
    order : tuple of int
        The stimulus of each stored row. Rows are stored as they were computed, by length.
    chunk_rows : int
        Rows of a chunk.
    stimuli_sha256 : str
        Of the file ``stimuli.parquet``.
    """

    sites: tuple[StoredSite, ...]
    order: tuple[int, ...]
    chunk_rows: int
    stimuli_sha256: str
    format: int = FORMAT

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read and check an index.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        raw = read_json(file)
        if raw.get("format") != FORMAT:
            raise RunError(f"{file}: format {raw.get('format')!r:.40} is not {FORMAT}; {DAMAGED}")
        sites, order = raw.pop("sites", None), raw.pop("order", None)
        if not isinstance(sites, list) or not isinstance(order, list):
            raise RunError(f"{file} is damaged: sites or order is no list; {DAMAGED}")
        index = record(
            cls,
            {
                **raw,
                "sites": tuple(record(StoredSite, site, file) for site in sites),
                "order": tuple(order),
            },
            file,
        )
        index._check(file)
        return index

    def _check(self, file: Path) -> None:
        numbers = all(type(row) is int for row in self.order)
        if not numbers or sorted(self.order) != list(range(len(self.order))):
            raise RunError(f"{file} is damaged: order does not list every stimulus once; {DAMAGED}")
        if not self.order or not 1 <= self.chunk_rows <= len(self.order):
            raise RunError(f"{file} is damaged: the number of rows is wrong; {DAMAGED}")
        if len({site.site for site in self.sites}) != len(self.sites):
            raise RunError(f"{file} is damaged: it names a site twice; {DAMAGED}")
        if any(site.units < 1 or site.dtype not in DTYPES for site in self.sites):
            raise RunError(f"{file} is damaged: a site has wrong units or type; {DAMAGED}")


def array_name(position: int) -> str:
    """Name of the array of a site, by its place: sites' own names may hold anything."""
    return f"{position:05d}"


def _metadata(n_rows: int, chunk_rows: int, site: StoredSite) -> dict[str, Any]:
    """What ``zarr.json`` of a site must say: other codecs and shapes are not read."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_rows, site.units],
        "data_type": site.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [chunk_rows, site.units]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "storage_transformers": [],
    }


class Activations:
    """The stored activations of a run.

    Values are as the model gave them, with their sign; a site is checked against its hash when it
    is first read.

    Parameters
    ----------
    folder : Path
        The run's folder.
    index : Index
        Its index.
    stimuli : DataFrame
        Its table of stimuli: `condition`, `pair` and `text` of each.
    """

    def __init__(self, folder: Path, index: Index, stimuli: "DataFrame") -> None:
        self.folder = folder
        self.stimuli = stimuli
        self._index = index
        self._at = {site.site: i for i, site in enumerate(index.sites)}
        self._checked: set[str] = set()

    @classmethod
    def open(cls, run: Run | str | Path) -> Self:
        """Open the activations of a run; none is read yet.

        Raises
        ------
        RunError
            If the run has none, or its index or table of stimuli is damaged.
        """
        if not isinstance(run, Run):
            run = Run.open(run)
        file = run.folder / ACTIVATIONS_FILE
        if not file.is_file():
            raise RunError(
                f"the run {run.folder} has no stored activations; make it again with "
                "localize --keep-activations"
            )
        hashes = [step.hashes.get(HASH) for step in run.manifest.steps]
        if sha256_file(file) not in hashes:
            raise RunError(f"{file} is not the one that the run's manifest names; {DAMAGED}")
        return cls.in_folder(run.folder)

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Open what lies in a folder that is not yet a run, for want of a manifest.

        Raises
        ------
        RunError
            If the index or table of stimuli is damaged.
        """
        index = Index.read(folder / ACTIVATIONS_FILE)
        table = folder / STIMULI_FILE
        if not table.is_file() or sha256_file(table) != index.stimuli_sha256:
            raise RunError(f"{table} is missing or damaged; {DAMAGED}")
        stimuli = read_table(table)
        if tuple(stimuli.columns) != COLUMNS or not set(stimuli["condition"]) <= set(CONDITIONS):
            raise RunError(f"{table} is damaged: it has other columns or conditions; {DAMAGED}")
        if len(stimuli) != len(index.order):
            raise RunError(f"{table} has another number of stimuli than the index; {DAMAGED}")
        return cls(folder, index, stimuli)

    def __len__(self) -> int:
        return len(self._index.order)

    @property
    def sites(self) -> Mapping[str, int]:
        """Every site, in the order of the run, and its number of units."""
        return {site.site: site.units for site in self._index.sites}

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        per_row = sum(s.units * int(DTYPES[s.dtype][-1]) for s in self._index.sites)
        return per_row * len(self)

    @cached_property
    def is_positive(self) -> NDArray[np.bool_]:
        """Which stimuli are of the run's positive condition, shape [stimuli]."""
        return (self.stimuli["condition"] == "positive").to_numpy(dtype=np.bool_)

    @cached_property
    def is_paired(self) -> bool:
        """Whether the i-th positive stimulus goes with the i-th control stimulus."""
        pairs = self.stimuli["pair"]
        sides = [pairs[rows].tolist() for rows in (self.is_positive, ~self.is_positive)]
        return not pairs.isna().any() and sides[0] == sides[1]

    def read(self, site: str) -> NDArray[np.floating[Any]]:
        """The values of one site, in the order of the stimuli.

        Returns
        -------
        array of float32 or float64, shape [stimuli, units]

        Raises
        ------
        RunError
            If the run has no such site, or what is stored of it is damaged.
        """
        at = self._at.get(site)
        if at is None:
            raise RunError(
                f"the run {self.folder} has no activations of {site!r}"
                f"{did_you_mean(site, self._at)}"
            )
        stored = self._index.sites[at]
        values = self._read_array(array_name(at), stored)
        if site not in self._checked:
            if hashlib.sha256(values.data).hexdigest() != stored.sha256:
                raise self._damaged(stored, "its values have another hash")
            self._checked.add(site)
        in_order = np.empty_like(values)
        in_order[list(self._index.order)] = values
        return in_order

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
        """Every site's name and values; errors are those of `read`."""
        for site in self.sites:
            yield site, self.read(site)

    def _read_array(self, name: str, site: StoredSite) -> NDArray[np.floating[Any]]:
        import zarr
        from zarr.storage import LocalStore

        # Resolved once: what a link leads to is elsewhere, and is not read.
        folder = self.folder.resolve() / ACTIVATIONS_FOLDER / name
        n, chunk_rows = len(self), self._index.chunk_rows
        if (folder / "zarr.json").resolve() != folder / "zarr.json":
            raise self._damaged(site, "its zarr.json is a link")
        raw = read_json(folder / "zarr.json")
        for key, value in _metadata(n, chunk_rows, site).items():
            if raw.get(key, []) != value:
                raise self._damaged(site, f"its {key} is not what was written")
        # Zarr takes an absent chunk for zeros.
        size = chunk_rows * site.units * np.dtype(DTYPES[site.dtype]).itemsize
        for chunk in range(-(-n // chunk_rows)):
            file = folder / "c" / str(chunk) / "0"
            if file.resolve() != file or not file.is_file() or file.stat().st_size != size:
                raise self._damaged(site, f"its part {chunk} is missing or cut off")
        try:
            array = zarr.open_array(LocalStore(folder, read_only=True), mode="r", zarr_format=3)
            return np.ascontiguousarray(array[:], dtype=DTYPES[site.dtype])
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise self._damaged(site, one_line(error)) from error

    def _damaged(self, site: StoredSite, why: str) -> RunError:
        return RunError(
            f"the activations of {site.site!r} in {self.folder} are damaged: {why}; {DAMAGED}"
        )
