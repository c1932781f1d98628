"""Networks: sets of units to compare and save."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import NetworkError
from onnxloc.notebook import facts_html, table_html

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Network", "network_from_flat", "site_starts"]

Indices = NDArray[np.int64]

FORMAT = 1
FILE_NAME = "network.parquet"
META_KEY = b"onnxloc"
KEYS = {"format", "model_hash", "how", "sites"}
# Files of earlier versions lack it.
HASH_KEY = "content_sha256"
MAX_FILE_BYTES = 1 << 28
MAX_CHOSEN = 1 << 25
MAX_UNITS = 1 << 31


@dataclass(frozen=True, eq=False)
class Network:
    """A set of units of one model.

    Attributes
    ----------
    units : mapping of str to array
        For each site that has any, in the order of `sites`, the sorted unit indices.
    sites : mapping of str to int
        Every site that was searched, in order, and its number of units.
    model_hash : str
        Hash of the model that the units are of.
    how : mapping of str to str, int or float
        How the units were chosen.

    Raises
    ------
    NetworkError
        If the parts do not fit each other.
    """

    units: Mapping[str, Indices]
    sites: Mapping[str, int]
    model_hash: str
    how: Mapping[str, str | int | float]

    def __post_init__(self) -> None:
        if not isinstance(self.model_hash, str) or not self.model_hash.isprintable():
            raise NetworkError("the model hash of a network must be printable text")
        sites = {_name(site): _width(site, width) for site, width in self.sites.items()}
        if sum(sites.values()) > MAX_UNITS:
            raise NetworkError(f"a network cannot cover more than {MAX_UNITS} units")
        unknown = [site for site in self.units if site not in sites]
        if unknown:
            raise NetworkError(f"the network has units of {unknown[0]!r}, which was not searched")
        units = {
            site: chosen
            for site, width in sites.items()
            if (chosen := _checked_units(f"site {site!r}", self.units.get(site, ()), width)).size
        }
        how = {_name(key): _plain(key, value) for key, value in self.how.items()}
        for field, value in (("sites", sites), ("units", units), ("how", how)):
            object.__setattr__(self, field, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        return (
            self.model_hash == other.model_hash
            and list(self.sites.items()) == list(other.sites.items())
            and self.how == other.how
            and np.array_equal(self.flat, other.flat)
        )

    def __hash__(self) -> int:
        return hash((self.model_hash, tuple(self.sites.items()), self.flat.tobytes()))

    @property
    def size(self) -> int:
        """Number of chosen units."""
        return sum(map(len, self.units.values()))

    @property
    def n_units(self) -> int:
        """Number of units searched."""
        return sum(self.sites.values())

    @property
    def share(self) -> float:
        """Chosen units as a fraction of those searched; 0 if none were."""
        return self.size / self.n_units if self.n_units else 0.0

    @property
    def flat(self) -> Indices:
        """Sorted indices of the chosen units when all sites are laid end to end."""
        starts = site_starts(self.sites)
        parts = [units + starts[site] for site, units in self.units.items()]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def dice(self, other: "Network") -> float:
        """Overlap of two networks: 2|A and B| / (|A| + |B|); 1 if both are empty."""
        total = self.size + other.size
        shared = sum(
            np.intersect1d(units, other.units[site], assume_unique=True).size
            for site, units in self.units.items()
            if site in other.units
        )
        return 2 * shared / total if total else 1.0

    def _repr_html_(self) -> str:
        facts = {
            "Units": f"{self.size:,} of {self.n_units:,} ({100 * self.share:.3g} %)",
            "Sites": f"{len(self.units):,} of {len(self.sites):,}",
            "Model": self.model_hash[:12],
            **self.how,
        }
        by_site = sorted(self.units.items(), key=lambda item: -len(item[1]))
        rows = [(site, len(units), self.sites[site]) for site, units in by_site]
        return facts_html("Network", facts) + table_html(("site", "in the network", "units"), rows)

    def plot(self) -> "Figure":
        """Draw the share of each site's units that the network took, as a plotly figure."""
        from onnxloc.figures import share_figure

        return share_figure(self.sites, {site: len(units) for site, units in self.units.items()})

    def mask(self, site: str) -> NDArray[np.bool_]:
        """Which units of a site are chosen, shape [units].

        Raises
        ------
        NetworkError
            If the site was not searched.
        """
        if site not in self.sites:
            raise NetworkError(f"site {site!r} was not searched for this network")
        mask = np.zeros(self.sites[site], dtype=np.bool_)
        mask[self.units.get(site, [])] = True
        return mask

    def check_model(self, model_hash: str, force: bool = False) -> None:
        """Refuse a model that is not the one the units are of, unless forced.

        Raises
        ------
        NetworkError
            If the hashes differ and `force` is false.
        """
        if model_hash != self.model_hash and not force:
            raise NetworkError(
                f"the network is of model {self.model_hash[:12]}, not of this model "
                f"{model_hash[:12]}; use that model, or --force-model"
            )

    @property
    def _content_hash(self) -> str:
        """SHA-256 of all that a file holds of it."""
        text = json.dumps(
            [FORMAT, self.model_hash, sorted(self.how.items()), list(self.sites.items())]
        )
        return sha256(text.encode() + self.flat.astype("<i8").tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a Parquet file; equal networks give equal bytes.

        Raises
        ------
        NetworkError
            If the file cannot be written. Nothing half-written is left.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        meta = {
            "format": FORMAT,
            "model_hash": self.model_hash,
            "how": dict(sorted(self.how.items())),
            "sites": dict(self.sites),
            HASH_KEY: self._content_hash,
        }
        codes = np.repeat(
            np.arange(len(self.units), dtype=np.int32), [len(u) for u in self.units.values()]
        )
        names = pa.array(list(self.units), pa.string())
        unit = np.concatenate([*self.units.values(), np.empty(0, dtype=np.int64)])
        table = pa.table(
            {
                "site": pa.DictionaryArray.from_arrays(codes, names).cast(pa.string()),
                "unit": pa.array(unit, pa.int64()),
            }
        ).replace_schema_metadata({META_KEY: json.dumps(meta, ensure_ascii=False).encode()})
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
            partial.replace(path)
        except OSError as error:
            raise NetworkError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote, or the one in a run folder.

        Raises
        ------
        NetworkError
            If there is no such file, or it is not a network.
        """
        path = Path(path)
        file = path / FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise NetworkError(f"there is no network at {file}; name a run folder or its file")
        try:
            meta, units = _read(file)
            found = cls(units, meta["sites"], meta["model_hash"], meta["how"])
            found._check_content(meta.get(HASH_KEY, found._content_hash))
        except NetworkError as error:
            raise NetworkError(f"{file} is not a network file: {error}") from error
        return found

    def _check_content(self, expected: object) -> None:
        # Parquet's checksums are of the units alone, not of what stands in the footer.
        if expected != self._content_hash:
            raise NetworkError("it was changed or damaged since it was written")


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise NetworkError(f"{value!r} is not the name of a site or setting")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NetworkError(f"{value!r} is not valid text") from error
    return value


def _width(site: str, width: object) -> int:
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 0:
        raise NetworkError(f"{width!r} is not a number of units for site {site!r}")
    return int(width)


def _plain(key: str, value: object) -> str | int | float:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | int | float):
        raise NetworkError(f"{key} of a network must be text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise NetworkError(f"{key} of a network must be finite, not {value}")
    return _name(value) if isinstance(value, str) and value else value


def _checked_units(where: str, units: ArrayLike, width: int) -> Indices:
    array = np.asarray(units)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise NetworkError(f"units of {where} must be a list of whole numbers")
    if array.min() < 0 or array.max() >= width:
        raise NetworkError(f"units of {where} must lie in 0 to {width - 1}")
    if (array[1:] <= array[:-1]).any():
        raise NetworkError(f"units of {where} must be sorted and without repeats")
    own = array.astype(np.int64)
    own.setflags(write=False)
    return own


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Indices]]:
    """Read the metadata and units of a file, which may hold anything."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise NetworkError(f"it has {size} bytes, more than a network can")
        footer = pq.read_metadata(file)
        meta = _read_meta((footer.metadata or {}).get(META_KEY))
        columns = [(column.name, str(column.type)) for column in footer.schema.to_arrow_schema()]
        if columns != [("site", "string"), ("unit", "int64")]:
            raise NetworkError("its columns must be site (string) and unit (int64)")
        if footer.num_rows > MAX_CHOSEN:
            raise NetworkError(f"it has more than {MAX_CHOSEN} units")
        # As a dictionary, a long name that is repeated for every unit takes its space once.
        with pq.ParquetFile(
            file, read_dictionary=["site"], page_checksum_verification=True
        ) as parquet:
            table = parquet.read().unify_dictionaries()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NetworkError(str(error).partition("\n")[0] or "it cannot be read") from error
    if any(column.null_count for column in table.columns):
        raise NetworkError("it has empty cells")
    site = table["site"].combine_chunks()
    codes = site.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    used, first = np.unique(codes[order], return_index=True)
    parts = np.split(table["unit"].to_numpy()[order], first[1:])
    names = site.dictionary.to_pylist()
    units = {names[code]: part for code, part in zip(used, parts, strict=False)}
    if len(units) != len(used):
        raise NetworkError("it names a site twice")
    return meta, units


def _read_meta(text: bytes | None) -> dict[str, Any]:
    if text is None:
        raise NetworkError("it was not written by onnxloc")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NetworkError("its metadata is not JSON") from error
    if not isinstance(meta, dict) or set(meta) - {HASH_KEY} != KEYS:
        raise NetworkError("its metadata lacks a part or has one too many")
    if meta["format"] != FORMAT:
        raise NetworkError(f"its format is {meta['format']!r}, not {FORMAT}")
    if not isinstance(meta["sites"], dict) or not isinstance(meta["how"], dict):
        raise NetworkError("its metadata has a part of the wrong type")
    return meta


def site_starts(sites: Mapping[str, int]) -> dict[str, int]:
    """Where each site begins when all are laid end to end."""
    return dict(zip(sites, accumulate(sites.values(), initial=0), strict=False))


def network_from_flat(
    indices: ArrayLike,
    sites: Mapping[str, int],
    model_hash: str,
    how: Mapping[str, str | int | float],
) -> Network:
    """Make a network from sorted indices into all sites laid end to end.

    Raises
    ------
    NetworkError
        If the indices are not sorted, repeat, or lie outside the sites.
    """
    flat = _checked_units("the model", indices, sum(sites.values()))
    units = {}
    for site, start in site_starts(sites).items():
        first, last = np.searchsorted(flat, [start, start + sites[site]])
        units[site] = flat[first:last] - start
    return Network(units, sites, model_hash, how)
