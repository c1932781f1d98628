"""Sites: the float tensors of a graph that can be read and edited, and what their axes mean."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxloc.errors import AnatomyError
from onnxloc.graph.fused import attention_note
from onnxloc.graph.subgraphs import DTYPES, Body, bodies_of
from onnxloc.graph.topology import Topology
from onnxloc.registry import did_you_mean

__all__ = ["Axis", "Site", "SiteTable", "Trace", "candidate_tensors", "find_sites", "probe_sizes"]

FLOATS = frozenset(DTYPES.values())
# The number of a block in a canonical name.
BLOCK = re.compile(r"(?<=block\.)\d+")


class Axis(StrEnum):
    """What one axis of a site runs over."""

    BATCH = "batch"
    TOKEN = "token"  # noqa: S105
    MERGED = "batch*token"
    FEATURE = "feature"
    ITERATION = "iteration"
    OTHER = "other"


# The axes along which a site has units.
SIZED = (Axis.FEATURE, Axis.ITERATION)


@dataclass(frozen=True)
class Trace:
    """What running the graph showed of one tensor: its dtype and its shape in each run.

    A shape is None where the tensor could not be read in that run. `batch_first` is false of a
    tensor in whose merged axis the tokens of one row do not stand together. A tensor in loops has
    the number of turns of each in front of its shape, the outermost first; `loops` says what those
    axes run over.
    """

    dtype: str
    shapes: tuple[tuple[int, ...] | None, ...]
    batch_first: bool = True
    loops: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Site:
    """One float tensor that depends on the graph's inputs.

    A tensor in a loop is read with the turns stacked in front: ``[turns, ...]``. Where the number
    of turns is fixed, as of a loop over stacked layers, each turn has units of its own: those of
    the first turn come first. Where it follows the tokens or the batch, that axis is the token or
    batch axis. Where it is anything else, the site has no units; it can be read whole.

    A tensor in a branch that did not run is NaN throughout.

    Attributes
    ----------
    tensor : str
        The tensor's name in the graph: the key of the site. In a branch or loop the name says
        where: ``z/then/a``, ``z/else/a``, ``z/body/a`` for a node that makes ``z``.
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
    body : str
        The innermost branch or loop body that it lies in (``z/then``); empty if in none.
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
    body: str = ""

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
            if axis in SIZED and size is not None
        ]
        if not readable or not features:
            return 0
        return math.prod(features)


class SiteTable(Sequence[Site]):
    """The sites of a model, in the order of the graph, found by name or by pattern."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._sites = tuple(sites)
        self._by_tensor = {site.tensor: site for site in self._sites}
        # Where a tensor's own name is another site's canonical name, the canonical name wins.
        self._by_name = self._by_tensor | {n: site for site in self._sites for n in site.names}

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    @overload
    def __getitem__(self, key: int) -> Site: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Site, ...]: ...

    def __getitem__(self, key: int | slice) -> Site | tuple[Site, ...]:
        return self._sites[key]

    def tensor(self, name: str) -> Site:
        """The site of a tensor, by the tensor's own name and nothing else, as plans name it.

        Raises
        ------
        AnatomyError
            If there is none.
        """
        if name not in self._by_tensor:
            hint = did_you_mean(name, self._by_tensor)
            raise AnatomyError(f"the model has no site of a tensor {name!r}{hint}")
        return self._by_tensor[name]

    def find(self, name: str) -> Site:
        """The site of a canonical name, of ``op:<tensor>``, or of a tensor.

        Raises
        ------
        AnatomyError
            If there is none.
        """
        if name not in self._by_name:
            hint = did_you_mean(name, self._by_name)
            raise AnatomyError(self._fused(name) or f"the model has no site {name!r}{hint}")
        return self._by_name[name]

    def _fused(self, pattern: str) -> str:
        """Why there are no attention probabilities, if a pattern asks for them in vain."""
        note = attention_note(self._sites) if pattern.endswith("attn.probs") else ""
        return note and f"no site matches {pattern!r}: {note}"

    def match(self, patterns: Iterable[str], *, with_units: bool = True) -> tuple[Site, ...]:
        """The sites that match any of `patterns`, in the order of the graph.

        In a pattern ``*`` stands for any characters but a dot, ``**`` for any characters, ``?`` for
        one character but a dot. A pattern that begins with ``op:`` is held against ``op:<tensor>``
        of every site, and there a dot is like any other character; other patterns are held
        against the canonical names. With `with_units`, sites without units are passed over.

        Raises
        ------
        AnatomyError
            If a pattern matches no site, or only sites without units.
        """
        chosen: dict[str, Site] = {}
        for pattern in patterns:
            expression = _glob(pattern)
            op = pattern.startswith("op:")
            found = [
                site
                for site in self._sites
                if any(expression.fullmatch(n) for n in site.names if n.startswith("op:") == op)
            ]
            if not found:
                names = {n for s in self._sites for n in s.names if n.startswith("op:") == op}
                if "*" in pattern and not op:
                    names |= {BLOCK.sub("*", name) for name in names}
                hint = did_you_mean(pattern, sorted(names))
                raise AnatomyError(
                    self._fused(pattern)
                    or f"no site matches {pattern!r}{hint}; `onnxloc inspect` lists the sites"
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
    one = "." if pattern.startswith("op:") else "[^.]"
    meaning = {"**": ".*", "*": f"{one}*", "?": one}
    parts = re.split(r"(\*\*+|\*|\?)", pattern)
    return re.compile(
        "".join(
            meaning.get(part[:2] if "*" in part else part) or re.escape(part) for part in parts
        ),
        re.DOTALL,
    )


def candidate_tensors(proto: ModelProto, topology: Topology) -> tuple[str, ...]:
    """Tensors of the top-level graph that may be sites: input-dependent, not known to be no float.

    Types come from type inference; what it does not know is a candidate.
    """
    values = (*proto.graph.value_info, *proto.graph.output)
    excluded = {
        value.name
        for value in values
        if value.type.WhichOneof("value") not in (None, "tensor_type")
        or value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, *DTYPES)
    }
    return tuple(
        name
        for node in topology.nodes
        for name in node.output
        if name and name in topology.dynamic and name not in excluded
    )


def probe_sizes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Batch and length of the two probing runs.

    An axis that goes from 2 to 3 is the batch, from 5 to 7 the tokens, from 10 to 21 both merged. A
    size that the graph itself fixes is the same in both runs.
    """
    return (2, 5), (3, 7)


def find_sites(
    topology: Topology,
    traces: Mapping[str, Trace],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[Site, ...]:
    """Sites of a graph, with the meaning of their axes, from two runs of the graph.

    Where the graph fixes the batch or the length, running cannot tell which axes follow it: then
    the first axis is the batch if it has that size, and the first axis behind the batch that has
    that length is the tokens.

    Parameters
    ----------
    topology
        Index of the model's graph.
    traces
        What the runs showed, by tensor.
    sizes
        Batch and length of each run; `probe_sizes` if not given.
    """
    sizes = probe_sizes() if sizes is None else sizes
    sites = []
    for node, body in _nodes(topology.proto.graph, None):
        for tensor in node.output:
            trace = traces.get(tensor)
            if trace is None or trace.dtype not in FLOATS:
                continue
            shapes = [shape for shape in trace.shapes if shape is not None]
            if len(shapes) != len(trace.shapes) or len({len(shape) for shape in shapes}) != 1:
                continue
            turns = len(trace.loops)
            axes = (*trace.loops, *_axes(trace, [shape[turns:] for shape in shapes], sizes))
            site = Site(
                tensor=tensor,
                names=(f"op:{tensor}",),
                op_type=node.op_type,
                dtype=trace.dtype,
                axes=axes,
                shape=tuple(
                    size if axis in SIZED else None
                    for size, axis in zip(shapes[0], axes, strict=True)
                ),
                scope=_scope(node),
                body=body.name if body else "",
            )
            sites.append(site)
    return tuple(sites)


def _nodes(graph: GraphProto, parent: Body | None) -> Iterator[tuple[NodeProto, Body | None]]:
    """The nodes of a graph with the body that each stands in, those in bodies first."""
    for node in graph.node:
        for body in bodies_of(node, graph, parent):
            yield from _nodes(body.graph, body)
        yield node, parent


def _axes(
    trace: Trace, shapes: Sequence[tuple[int, ...]], sizes: Sequence[tuple[int, int]]
) -> tuple[Axis, ...]:
    batches, tokens = ({size[i] for size in sizes} for i in (0, 1))
    axes = [_axis(column, sizes) for column in zip(*shapes, strict=True)]
    if len(batches) == 1 and axes:
        if axes[0] is Axis.FEATURE and shapes[0][0] in batches:
            axes[0] = Axis.BATCH
        elif batches == {1} and axes[0] is Axis.TOKEN:
            # A batch of one may have been merged away.
            axes[0] = Axis.MERGED
    if len(tokens) == 1 and Axis.BATCH in axes:
        later = range(axes.index(Axis.BATCH) + 1, len(axes))
        same = [i for i in later if axes[i] is Axis.FEATURE and shapes[0][i] in tokens]
        if same:
            axes[same[0]] = Axis.TOKEN
    if not trace.batch_first:
        axes = [Axis.OTHER if axis is Axis.MERGED else axis for axis in axes]
    return tuple(axes)


def _axis(column: tuple[int, ...], sizes: Sequence[tuple[int, int]]) -> Axis:
    if len(set(column)) == 1:
        return Axis.FEATURE
    for axis, expected in (
        (Axis.TOKEN, [t for _, t in sizes]),
        (Axis.BATCH, [b for b, _ in sizes]),
        (Axis.MERGED, [b * t for b, t in sizes]),
    ):
        if list(column) == expected:
            return axis
    return Axis.OTHER


def _scope(node: NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key in ("pkg.torch.onnx.name_scopes", "onnxloc.scope"):
            return entry.value
    return node.name.rpartition("/")[0]


def named(site: Site, *, names: Iterable[str], block: int | None, role: str) -> Site:
    """The site with canonical names in front of ``op:<tensor>``."""
    return replace(site, names=(*names, f"op:{site.tensor}"), block=block, role=role)


def unit_indices(site: Site, units: Iterable[int]) -> NDArray[np.int64]:
    """Indices along the site's feature axes of each unit, ``[units, feature axes]``."""
    shape = [n for n in site.shape if n is not None]
    flat = np.asarray(list(units), dtype=np.int64)
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int64)
