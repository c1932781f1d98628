"""Numbers for units: one for all, one for each unit of a site, or of each site its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError, RunError
from onnxloc.graph.sites import Site
from onnxloc.network import site_starts
from onnxloc.registry import one_line
from onnxloc.store import UNITS_FILE, Run

__all__ = ["CONTRAST", "Vector", "cast"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
CONTRAST = "contrast"
MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Vector:
    """A number for each unit that is edited.

    Attributes
    ----------
    values : float, array or mapping of str to array
        One number for every unit. Or ``[units]``, the same at each site, each of which has so many
        units. Or ``[searched units]``: all sites that a network was searched in, end to end in its
        order. Or, by site, ``[units]``.
    label : str
        What messages and records call it.

    Raises
    ------
    OptionError
        If a value is no finite real number, or an array has another number of axes.
    """

    values: ArrayLike | Mapping[str, ArrayLike]
    label: str = "vector"

    def __post_init__(self) -> None:
        values: Any
        if isinstance(self.values, Mapping):
            values = {str(k): self._checked(v, (1,)) for k, v in self.values.items()}
        else:
            values = self._checked(self.values, (0, 1))
        object.__setattr__(self, "values", values)

    def _checked(self, values: ArrayLike, axes: tuple[int, ...]) -> Floats:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu" or array.ndim not in axes:
            raise OptionError(
                f"{self.label} must hold real numbers along one axis, not {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise OptionError(f"{self.label} holds numbers that are not finite")
        array.setflags(write=False)
        return array

    @classmethod
    def of(cls, values: "float | ArrayLike | Mapping[str, ArrayLike] | Vector") -> "Vector":
        """A vector of whatever a caller has."""
        if isinstance(values, Vector):
            return values
        label = f"{values:g}" if isinstance(values, int | float) else "vector"
        return cls(values, label)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a ``.npy`` file.

        Raises
        ------
        OptionError
            If there is none, or it does not hold finite numbers along one axis.
        """
        path = Path(path)
        # A pipe or a device would block or never end.
        if path.exists() and not path.is_file():
            raise OptionError(f"cannot read {path} as a .npy file: it is not a file")
        try:
            # Mapped, so that a header that promises more than the file holds is found out.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged header raises whatever its parsers do
            raise OptionError(f"cannot read {path} as a .npy file: {one_line(error)}") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise OptionError(f"{path} holds several arrays; save one with numpy.save")
        if array.nbytes > MAX_BYTES:
            raise OptionError(f"{path} is larger than any vector of units can be")
        # A file name may hold bytes that are no text.
        return cls(array, path.name.encode(errors="backslashreplace").decode())

    @classmethod
    def contrast(cls, run: Run | None) -> Self:
        """The difference of the two conditions' means in a run of ``onnxloc localize``.

        Raises
        ------
        OptionError
            If there is no run, or it did not compare signed activations, token by token.
        RunError
            If the run's units cannot be read.
        """
        if run is None:
            raise OptionError(
                "steering along the contrast takes the means of a run: give --network the folder "
                "of a run of onnxloc localize"
            )
        steps = [step for step in run.manifest.steps if step.step == "localize"]
        if not steps:
            raise OptionError(f"{run.folder} has no contrast: no units were localized in it")
        asked = steps[0].parameters
        if asked.get("magnitude") is not False or asked.get("pool") not in ("last", "mean"):
            raise OptionError(
                f"{run.folder} compared absolute activations, or their sum or maximum, and so "
                "gives no direction to steer in; run onnxloc localize --signed --pool last or mean"
            )
        units = run.table(UNITS_FILE)
        if not {"site", "mean_positive", "mean_control"} <= set(units.columns):
            raise RunError(f"{run.folder / UNITS_FILE} lacks the means of the conditions")
        try:
            means = [units[f"mean_{c}"].to_numpy(np.float64) for c in ("positive", "control")]
        except (TypeError, ValueError) as error:
            raise RunError(f"{run.folder / UNITS_FILE} is damaged: {one_line(error)}") from error
        gap = means[0] - means[1]
        # A unit without a mean was never chosen, and so is not moved.
        units = units.assign(gap=np.nan_to_num(gap, nan=0.0, posinf=0.0, neginf=0.0))
        by_site = units.groupby("site", sort=False, observed=True)["gap"]
        return cls({str(site): part.to_numpy() for site, part in by_site}, CONTRAST)

    def at(self, site: Site, span: Mapping[str, int]) -> Floats:
        """The numbers of a site's units, ``[units]``.

        Parameters
        ----------
        site : Site
            The site.
        span : mapping of str to int
            The sites that a network was searched in, in order, and their numbers of units.

        Raises
        ------
        OptionError
            If it has none for them.
        """
        names = (*site.names, site.tensor)
        values: Any = self.values
        if isinstance(values, Mapping):
            found = next((values[name] for name in names if name in values), None)
            if found is None:
                raise OptionError(f"{self.label} has no numbers for the units of {site.name}")
            values = found
        elif values.ndim == 0:
            return np.full(site.units, float(values))
        elif values.size != site.units and values.size == sum(span.values()):
            name = next((name for name in names if name in span), None)
            if name is None:
                raise OptionError(f"{site.name} is none of the sites that {self.label} is of")
            start = site_starts(span)[name]
            values = values[start : start + span[name]]
        if values.size != site.units:
            whole = sum(span.values())
            both = f" and the sites of the network {whole:,} together" if whole else ""
            raise OptionError(
                f"{self.label} has {values.size:,} numbers; {site.name} has {site.units:,} "
                f"units{both}"
            )
        return np.asarray(values, dtype=np.float64)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the record of a run says of it beside its label."""
        values: Any = self.values
        if isinstance(values, Mapping):
            parts = [part for site in sorted(values) for part in (site.encode(), values[site])]
        elif values.ndim:
            parts = [values]
        else:
            return {}
        digest = sha256()
        for part in parts:
            digest.update(part if isinstance(part, bytes) else part.astype("<f8").tobytes())
        return {"vector_sha256": digest.hexdigest()}


def cast(values: Array, site: Site, what: str) -> Array:
    """Numbers in a site's own type.

    Raises
    ------
    OptionError
        If one is too large for it.
    """
    with np.errstate(over="ignore"):
        found = values.astype(site.dtype)
    if not np.isfinite(found).all():
        raise OptionError(f"{what} needs larger numbers than {site.dtype} has, as {site.name} is")
    return found
