"""The units of a run, as its table has them, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxloc.errors import RunError
from onnxloc.registry import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Units", "read_units"]


@dataclass(frozen=True)
class Units:
    """The statistics of all units, as columns of equal length.

    Attributes
    ----------
    sites : tuple of str
        Distinct sites, in the file's order.
    site : int array, [units]
        Index into `sites`.
    unit : int array, [units]
        Index along the site's feature axis.
    t, q, d, mean_positive, mean_control : float array, [units]
        NaN where undefined.
    selected : bool array, [units]
        Whether the unit is in the network.
    block : tuple of int or None
        For each site.
    role, op_type : tuple of str
        For each site; empty where unknown.
    """

    sites: tuple[str, ...]
    site: "NDArray[np.int64]"
    unit: "NDArray[np.int64]"
    t: "NDArray[np.float64]"
    q: "NDArray[np.float64]"
    d: "NDArray[np.float64]"
    mean_positive: "NDArray[np.float64]"
    mean_control: "NDArray[np.float64]"
    selected: "NDArray[np.bool_]"
    block: tuple[int | None, ...]
    role: tuple[str, ...]
    op_type: tuple[str, ...]


def read_units(file: Path) -> Units:
    """Read and check ``units.parquet``.

    Raises
    ------
    RunError
        If it is missing, damaged, or lacks a column.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not file.is_file():
        raise RunError(f"{file} is missing; make the run again")
    words = ("site", "role", "op_type")
    numbers = ("t", "q", "d", "mean_positive", "mean_control")
    kinds = dict.fromkeys(words, pa.string()) | dict.fromkeys(numbers, pa.float64())
    kinds |= {"unit": pa.int64(), "block": pa.int64(), "selected": pa.bool_()}
    try:
        have = pq.read_schema(file).names
        missing = [name for name in kinds if name not in have]
        if missing:
            raise RunError(f"{file} has no column {missing[0]!r}; make the run again")
        table = pq.read_table(file, columns=list(kinds))
        column: dict[str, Any] = {
            name: table[name].cast(kind).combine_chunks() for name, kind in kinds.items()
        }
        for values in column.values():
            # That strings are UTF-8, too.
            values.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({one_line(error)}); make the run again") from error
    for name in ("site", "unit", "selected"):
        if column[name].null_count:
            raise RunError(f"{file}: column {name!r} has empty cells; make the run again")

    codes = pc.dictionary_encode(column["site"])
    site = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # Role, block and op type belong to the site: the first row of each says them.
    first = np.unique(site, return_index=True)[1]
    blocks = column["block"].take(pa.array(first)).to_pylist()
    words_at = {
        name: tuple(word or "" for word in column[name].take(pa.array(first)).to_pylist())
        for name in ("role", "op_type")
    }

    def floats(name: str) -> "NDArray[np.float64]":
        values = column[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.isfinite(values), values, np.nan)

    return Units(
        sites=tuple(codes.dictionary.to_pylist()),
        site=site,
        unit=column["unit"].to_numpy(zero_copy_only=False),
        t=floats("t"),
        q=floats("q"),
        d=floats("d"),
        mean_positive=floats("mean_positive"),
        mean_control=floats("mean_control"),
        selected=column["selected"].to_numpy(zero_copy_only=False),
        block=tuple(blocks),
        role=words_at["role"],
        op_type=words_at["op_type"],
    )
