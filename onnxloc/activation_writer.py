"""Writing the pooled activations of a run while it goes on, in bounded memory."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activations import (
    ACTIVATIONS_FILE,
    ACTIVATIONS_FOLDER,
    DTYPES,
    HASH,
    STIMULI_FILE,
    Index,
    StoredSite,
    array_name,
)
from onnxloc.errors import OptionError, RunError
from onnxloc.folder import sha256_file
from onnxloc.store import write_json, write_table

__all__ = ["ActivationWriter", "check_space"]

# The SHA-256 of what was written of each site until then, [sites, bytes].
WRITTEN = "activations_sha256"
AFRESH = "--force starts afresh"

Array = NDArray[Any]

# Rows wait in memory until a chunk of all sites is whole.
BUFFER_BYTES = 256 << 20
# Room that is left for the run's tables and file system.
SPARE_BYTES = 64 << 20


class ActivationWriter:
    """Writes the activations of a run into its folder.

    Parameters
    ----------
    sites : sequence of (str, int, str)
        Name, units and dtype of each site. What is not float64 is stored as float32.
    n_rows : int
        Number of stimuli.

    Raises
    ------
    OptionError
        If there is nothing to write.
    """

    def __init__(self, sites: Sequence[tuple[str, int, str]], n_rows: int) -> None:
        if not sites or n_rows < 1:
            raise OptionError("there are no activations to keep")
        self._sites = [
            (name, units, "float64" if dtype == "float64" else "float32")
            for name, units, dtype in sites
        ]
        self._n_rows = n_rows
        row = sum(units * np.dtype(dtype).itemsize for _, units, dtype in self._sites)
        n_chunks = -(-n_rows // max(1, BUFFER_BYTES // row))
        self._chunk_rows = -(-n_rows // n_chunks)
        # The last chunk is stored at full size.
        self.nbytes = row * self._chunk_rows * (-(-n_rows // self._chunk_rows))
        self._order: list[int] = []
        self._filled = 0
        self._hashes = [hashlib.sha256() for _ in self._sites]
        self._arrays: list[Any] = []
        self._buffers: list[NDArray[Any]] = []
        self._folder = Path()

    @property
    def estimate(self) -> str:
        """How much will be written, for people."""
        units = sum(units for _, units, _ in self._sites)
        return (
            f"keeping activations: {self._n_rows:,} stimuli x {units:,} units, "
            f"{self.nbytes / 1e6:,.1f} MB"
        )

    def start(self, folder: Path) -> None:
        """Make the empty arrays in a run folder that is being written.

        Raises
        ------
        RunError
            If the disk has not enough space.
        """
        import zarr
        from zarr.storage import LocalStore

        check_space(folder, self.nbytes)
        self._folder = folder
        store = LocalStore(folder / ACTIVATIONS_FOLDER)
        names = {array_name(i): site for i, (site, _, _) in enumerate(self._sites)}
        root = zarr.create_group(store, zarr_format=3, attributes={"sites": names})
        for i, (site, units, dtype) in enumerate(self._sites):
            array = root.create_array(
                array_name(i),
                shape=(self._n_rows, units),
                chunks=(self._chunk_rows, units),
                dtype=dtype,
                filters=None,
                compressors=None,
                attributes={"site": site},
                dimension_names=("row", "unit"),
                # A chunk of zeros is data like any other.
                config={"write_empty_chunks": True},
            )
            self._arrays.append(array)
            self._buffers.append(np.zeros((self._chunk_rows, units), DTYPES[dtype]))

    def resume(self, folder: Path, rows: NDArray[np.int64], saved: Mapping[str, Array]) -> None:
        """Go on in a folder that another writer of the same sites and rows began.

        Parameters
        ----------
        folder : Path
            Where it wrote.
        rows : ndarray of int64
            The stimuli that it had taken, in that order, when the state was saved.
        saved : mapping of str to ndarray
            That state.

        Raises
        ------
        RunError
            If what lies there is not what was written.
        """
        self._folder = folder
        self._order = rows.tolist()
        self._filled = len(rows) % self._chunk_rows
        for i, (site, units, dtype) in enumerate(self._sites):
            at = folder / ACTIVATIONS_FOLDER / array_name(i)
            damaged = RunError(
                f"the activations of {site!r} at {at} are not those written; {AFRESH}"
            )
            try:
                self._reopen(i, at, units, dtype)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise damaged from error
            if self._digest(i) != saved[WRITTEN][i].tobytes():
                raise damaged

    def _reopen(self, site: int, at: Path, units: int, dtype: str) -> None:
        """Read what had come of a site: whole chunks into its hash, the rest into its buffer."""
        import zarr
        from zarr.storage import LocalStore

        array: Any = zarr.open_array(LocalStore(at), mode="r+", zarr_format=3)
        form = (array.shape, array.chunks, str(array.dtype))
        if form != ((self._n_rows, units), (self._chunk_rows, units), dtype):
            raise ValueError("it has another form")
        whole = len(self._order) - self._filled
        for start in range(0, whole, self._chunk_rows):
            values = array[start : start + self._chunk_rows]
            self._hashes[site].update(np.ascontiguousarray(values, DTYPES[dtype]).data)
        buffer = np.zeros((self._chunk_rows, units), DTYPES[dtype])
        buffer[: self._filled] = array[whole : len(self._order)]
        self._arrays.append(array)
        self._buffers.append(buffer)

    def fresh_state(self) -> dict[str, Array]:
        """The state before the first stimulus."""
        empty = hashlib.sha256().digest() * len(self._sites)
        return {WRITTEN: np.frombuffer(empty, np.uint8).reshape(len(self._sites), -1)}

    def state(self) -> dict[str, Array]:
        """Write all that has come, and say what `resume` needs to know."""
        stop = len(self._order)
        for array, buffer in zip(self._arrays, self._buffers, strict=True):
            if self._filled:
                array[stop - self._filled : stop] = buffer[: self._filled]
        found = b"".join(self._digest(i) for i in range(len(self._sites)))
        return {WRITTEN: np.frombuffer(found, np.uint8).reshape(len(self._sites), -1)}

    def _digest(self, site: int) -> bytes:
        """Of all that has come of a site."""
        digest = self._hashes[site].copy()
        digest.update(self._buffers[site][: self._filled].data)
        return digest.digest()

    def add(self, rows: NDArray[np.int64], values: Sequence[NDArray[Any]]) -> None:
        """Take the values of some stimuli: for each site ``[rows, units]``.

        Raises
        ------
        OptionError
            If the values are not of the sites, or there are more rows than there should be.
        """
        n = len(rows)
        if len(self._order) + n > self._n_rows or [v.shape for v in values] != [
            (n, units) for _, units, _ in self._sites
        ]:
            raise OptionError("the activations do not fit the sites and stimuli of the run")
        self._order += rows.tolist()
        done = 0
        while done < n:
            take = min(n - done, self._chunk_rows - self._filled)
            for buffer, value in zip(self._buffers, values, strict=True):
                buffer[self._filled : self._filled + take] = value[done : done + take]
            self._filled += take
            done += take
            if self._filled == self._chunk_rows:
                self._flush(len(self._order) - n + done)

    def _flush(self, stop: int) -> None:
        start = stop - self._filled
        for array, buffer, digest in zip(self._arrays, self._buffers, self._hashes, strict=True):
            values = buffer[: self._filled]
            array[start:stop] = values
            digest.update(values.data)
        self._filled = 0

    def finish(
        self,
        is_positive: NDArray[np.bool_],
        texts: Sequence[str] | None = None,
        *,
        paired: bool = False,
    ) -> dict[str, str]:
        """Write what is left, the index and the table of stimuli.

        Parameters
        ----------
        is_positive : array of bool, shape [stimuli]
            The condition of each stimulus.
        texts : sequence of str, optional
            Their texts, where they are texts.
        paired : bool
            Whether the i-th positive stimulus goes with the i-th control stimulus.

        Returns
        -------
        dict
            Hashes for the run's manifest.

        Raises
        ------
        OptionError
            If not every stimulus has come once.
        """
        import pandas as pd

        if sorted(self._order) != list(range(self._n_rows)) or len(is_positive) != self._n_rows:
            raise OptionError("activations are kept only of a run that saw every stimulus once")
        if self._filled:
            self._flush(self._n_rows)
        pair = np.empty(self._n_rows, dtype=np.int64)
        for rows in (is_positive, ~is_positive):
            pair[rows] = np.arange(rows.sum())
        stimuli = pd.DataFrame(
            {
                "condition": np.where(is_positive, "positive", "control"),
                "pair": pd.array(pair, dtype="Int64")
                if paired
                else pd.array([pd.NA] * self._n_rows, dtype="Int64"),
                "text": list(texts) if texts is not None else [""] * self._n_rows,
            }
        )
        write_table(self._folder, STIMULI_FILE, stimuli)
        index = Index(
            sites=tuple(
                StoredSite(site=site, units=units, dtype=dtype, sha256=digest.hexdigest())
                for (site, units, dtype), digest in zip(self._sites, self._hashes, strict=True)
            ),
            order=tuple(self._order),
            chunk_rows=self._chunk_rows,
            stimuli_sha256=sha256_file(self._folder / STIMULI_FILE),
        )
        file = self._folder / ACTIVATIONS_FILE
        write_json(file, asdict(index))
        return {HASH: sha256_file(file)}


def check_space(folder: Path, nbytes: int) -> None:
    """Refuse to start where the disk has not that much space.

    Raises
    ------
    RunError
        If that is so.
    """
    free = shutil.disk_usage(folder).free
    if free < nbytes + SPARE_BYTES:
        raise RunError(
            f"keeping activations needs {nbytes / 1e6:,.0f} MB and the disk of {folder.parent} has "
            f"{free / 1e6:,.0f} MB free; choose fewer sites or another disk"
        )
