"""Sites: the float tensors of a graph that can be read and edited, and what their axes mean."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np
from onnx import ModelProto

from onnxloc.errors import AnatomyError
from onnxloc.graph.topology import Topology
from onnxloc.registry import did_you_mean

__all__ = ["Axis", "Site", "SiteTable", "Trace", "candidate_tensors", "find_sites", "probe_sizes"]

FLOATS = ("float16", "float32", "float64", "bfloat16")


class Axis(StrEnum):
    """What one axis of a site runs over."""

    BATCH = "batch"
    TOKEN = "token"  # noqa: S105
    MERGED = "batch*token"
    FEATURE = "feature"
    OTHER = "other"


@dataclass(frozen=True)
class Trace:
    """What running the graph showed of one tensor: its dtype and its shape in each run.

    A shape is None where the tensor could not be read in that run.
    """

    dtype: str
    shapes: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Site:
    """One float tensor that depends on the graph's inputs.

    Attributes
    ----------
    tensor : str
        The tensor's name in the graph: the key of the site.
    names : tuple of str
        Canonical names, the one to show first; then ``op:<tensor>``.
    op_type : str
        The operator that makes it.
    dtype : str
        numpy's name of its element type.
    axes : tuple of Axis
        What each axis runs over.
    shape : tuple of int or None
        Fixed sizes; None where the size follows the batch or the tokens.
    block : int or None
        Index of the block that it belongs to.
    role : str
        Its part in the network without the block's number ("mlp.hidden"); "op" if it has none.
    scope : str
        The exporter's own name of the place, as a hint for people.
    """

    tensor: str
    names: tuple[str, ...]
    op_type: str
    dtype: str
    axes: tuple[Axis, ...]
    shape: tuple[int | None, ...]
    block: int | None = None
    role: str = "op"
    scope: str = ""

    @property
    def name(self) -> str:
        """The name to show."""
        return self.names[0]

    @property
    def has_tokens(self) -> bool:
        """Whether the site has an axis that runs over tokens."""
        return Axis.TOKEN in self.axes or Axis.MERGED in self.axes

    @cached_property
    def units(self) -> int:
        """Number of units: the product of the feature axes once tokens are pooled; 0 if none."""
        counts = [self.axes.count(axis) for axis in (Axis.BATCH, Axis.TOKEN, Axis.MERGED)]
        readable = counts in ([1, 0, 0], [1, 1, 0], [0, 0, 1]) and Axis.OTHER not in self.axes
        features = [
            size
            for size, axis in zip(self.shape, self.axes, strict=True)
            if axis is Axis.FEATURE and size is not None
        ]
        if not readable or not features:
            return 0
        return math.prod(features)


class SiteTable(Sequence[Site]):
    """The sites of a model, in the order of the graph, found by name or by pattern."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._sites = tuple(sites)
        self._by_name = {name: site for site in self._sites for name in site.names}
        self._by_name.update({site.tensor: site for site in self._sites})

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __getitem__(self, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        return self._sites[key]

    def find(self, name: str) -> Site:
        """The site of a canonical name, of ``op:<tensor>``, or of a tensor.

        Raises
        ------
        AnatomyError
            If there is none.
        """
        if name not in self._by_name:
            hint = did_you_mean(name, self._by_name)
            raise AnatomyError(f"the model has no site {name!r}{hint}")
        return self._by_name[name]

    def match(self, patterns: Iterable[str], *, with_units: bool = True) -> tuple[Site, ...]:
        """The sites that match any of `patterns`, in the order of the graph.

        In a pattern ``*`` stands for any characters but a dot, ``**`` for any characters, ``?`` for
        one character; behind ``op:`` the two stars mean the same. With `with_units`, sites without
        units are passed over.

        Raises
        ------
        AnatomyError
            If a pattern matches no site, or only sites without units.
        """
        chosen: dict[str, Site] = {}
        for pattern in patterns:
            expression = _glob(pattern)
            found = [s for s in self._sites if any(expression.fullmatch(n) for n in s.names)]
            if not found:
                known = sorted({site.name for site in self._sites if site.role != "op"})
                hint = did_you_mean(pattern, known)
                raise AnatomyError(
                    f"no site matches {pattern!r}{hint}; `onnxloc inspect` lists the sites"
                )
            usable = [site for site in found if site.units or not with_units]
            if not usable:
                raise AnatomyError(
                    f"the sites that match {pattern!r} have no units: their axes beside the "
                    "tokens are not of fixed size"
                )
            chosen.update({site.tensor: site for site in usable})
        return tuple(site for site in self._sites if site.tensor in chosen)


@lru_cache(maxsize=64)
def _glob(pattern: str) -> re.Pattern[str]:
    any_dot = pattern.startswith("op:")
    out = []
    for part in re.split(r"(\*\*|\*|\?)", pattern):
        if part == "**" or (part == "*" and any_dot):
            out.append(".*")
        elif part == "*":
            out.append("[^.]*" if not any_dot else ".*")
        elif part == "?":
            out.append("." if any_dot else "[^.]")
        else:
            out.append(re.escape(part))
    return re.compile("".join(out), re.DOTALL)


def candidate_tensors(proto: ModelProto, topology: Topology) -> tuple[str, ...]:
    """Tensors of the top-level graph that may be sites: input-dependent, not known to be no float.

    Types come from type inference; what it does not know is a candidate.
    """
    float_types = {1, 10, 11, 16}
    known = {
        v.name: v.type.tensor_type.elem_type
        for v in (*proto.graph.value_info, *proto.graph.output)
        if v.type.HasField("tensor_type")
    }
    other = {
        v.name
        for v in (*proto.graph.value_info, *proto.graph.output)
        if v.type.WhichOneof("value") not in (None, "tensor_type")
    }
    return tuple(
        name
        for node in topology.nodes
        for name in node.output
        if name
        and name in topology.dynamic
        and name not in other
        and known.get(name, 0) in float_types | {0}
    )


def probe_sizes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Batch and length of the two probing runs.

    No two of 2, 3, 5, 7, 10 and 21 change alike, so an axis that goes from 2 to 3 is the batch,
    from 5 to 7 the tokens, from 10 to 21 both merged, whatever other sizes the graph holds.
    """
    return (2, 5), (3, 7)


def find_sites(
    proto: ModelProto,
    topology: Topology,
    traces: Mapping[str, Trace],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[Site, ...]:
    """Sites of the top-level graph, with the meaning of their axes, from two runs of the graph.

    Parameters
    ----------
    proto, topology
        The model and its index.
    traces
        What the runs showed, by tensor.
    sizes
        Batch and length of each run; `probe_sizes` if not given.
    """
    sizes = probe_sizes() if sizes is None else sizes
    sites = []
    for node in topology.nodes:
        for tensor in node.output:
            trace = traces.get(tensor)
            if trace is None or trace.dtype not in FLOATS or None in trace.shapes:
                continue
            shapes = [shape for shape in trace.shapes if shape is not None]
            if len({len(shape) for shape in shapes}) != 1:
                continue
            axes = tuple(_axis(column, sizes) for column in zip(*shapes, strict=True))
            axes = _fixed_batch(axes, shapes, sizes)
            site = Site(
                tensor=tensor,
                names=(f"op:{tensor}",),
                op_type=node.op_type,
                dtype=trace.dtype,
                axes=axes,
                shape=tuple(
                    size if axis is Axis.FEATURE else None
                    for size, axis in zip(shapes[0], axes, strict=True)
                ),
                scope=_scope(node),
            )
            sites.append(site)
    return tuple(sites)


def _axis(column: tuple[int, ...], sizes: Sequence[tuple[int, int]]) -> Axis:
    batch = tuple(b for b, _ in sizes)
    token = tuple(t for _, t in sizes)
    merged = tuple(b * t for b, t in sizes)
    if column == merged and len(set(merged)) > 1 and 1 not in batch and 1 not in token:
        return Axis.MERGED
    if column == token and len(set(token)) > 1:
        return Axis.TOKEN
    if column == batch and len(set(batch)) > 1:
        return Axis.BATCH
    return Axis.FEATURE if len(set(column)) == 1 else Axis.OTHER


def _fixed_batch(
    axes: tuple[Axis, ...], shapes: list[tuple[int, ...]], sizes: Sequence[tuple[int, int]]
) -> tuple[Axis, ...]:
    """Where the graph fixes the batch, the first axis of that size is the batch."""
    batches = {b for b, _ in sizes}
    if len(batches) == 1 and axes and axes[0] is Axis.FEATURE and shapes[0][0] in batches:
        return (Axis.BATCH, *axes[1:])
    return axes


def _scope(node: object) -> str:
    for entry in getattr(node, "metadata_props", ()):
        if entry.key in ("pkg.torch.onnx.name_scopes", "onnxloc.scope"):
            return str(entry.value)
    name = str(getattr(node, "name", ""))
    return name.rpartition("/")[0] if "/" in name else ""


def named(site: Site, *, names: Iterable[str], block: int | None, role: str) -> Site:
    """The site with canonical names in front of ``op:<tensor>``."""
    return replace(site, names=(*names, f"op:{site.tensor}"), block=block, role=role)


def unit_indices(site: Site, units: Iterable[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Indices along the site's feature axes of each unit, ``[units, feature axes]``."""
    shape = [n for n in site.shape if n is not None]
    return np.stack(np.unravel_index(np.asarray(list(units), dtype=np.int64), shape), axis=1)
