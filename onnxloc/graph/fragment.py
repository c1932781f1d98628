"""New operations for a graph, written apart from it, and the layouts that they work in."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxloc.graph.load import PREFIX
from onnxloc.graph.sites import Axis, Site

__all__ = ["Fragment", "Layout"]


class Fragment:
    """New operations, written with graphsurgeon, under a prefix of their own.

    Parameters
    ----------
    opset : int
        Of the default domain.
    name : str
        What sets the names in this fragment apart from those of others.
    """

    def __init__(self, opset: int, name: str) -> None:
        self._graph = gs.Graph(opset=opset, name=name)
        self._name = name
        self._variables: dict[str, gs.Tensor] = {}
        self._shared: dict[str, str] = {}
        self._constants: dict[tuple[object, ...], str] = {}

    def _variable(self, name: str) -> gs.Tensor:
        if name not in self._variables:
            self._variables[name] = gs.Variable(name)
        return self._variables[name]

    def op(
        self,
        kind: str,
        inputs: list[str],
        *,
        out: str | None = None,
        more: tuple[str, ...] = (),
        **attrs: Any,
    ) -> str:
        """Add an operation, and give its first output's name; `more` names further outputs."""
        number = len(self._graph.nodes)
        out = out or f"{PREFIX}{self._name}.{number}"
        self._graph.nodes.append(
            gs.Node(
                op=kind,
                name=f"{PREFIX}{self._name}/{kind}.{number}",
                attrs=attrs,
                inputs=[self._variable(name) for name in inputs],
                outputs=[self._variable(name) for name in (out, *more)],
            )
        )
        return out

    def once(self, key: str, kind: str, inputs: list[str], **attrs: Any) -> str:
        """As `op`, but only the first time that `key` is asked for."""
        if key not in self._shared:
            self._shared[key] = self.op(kind, inputs, **attrs)
        return self._shared[key]

    def constant(self, value: NDArray[Any]) -> str:
        """A constant; equal ones are shared."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = f"{PREFIX}{self._name}.constant.{len(self._constants)}"
            self._constants[key] = name
            self._variables[name] = gs.Constant(name, value)
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> str:
        """A constant of whole numbers."""
        return self.constant(np.array(list(values), dtype=np.int64))

    def append_to(self, body: onnx.GraphProto) -> None:
        """Put the operations behind those that `body` has."""
        exported = gs.export_onnx(self._graph, do_type_check=False).graph
        body.node.extend(exported.node)
        body.initializer.extend(exported.initializer)


class Layout:
    """Brings a site into ``[batch, tokens, units]`` and back.

    Parameters
    ----------
    fragment : Fragment
        Where the operations go.
    site : Site
        The site.
    counts : str or None
        A tensor that holds batch and length, for a site in which both are one axis.
    """

    def __init__(self, fragment: Fragment, site: Site, counts: str | None) -> None:
        self._fragment = fragment
        self._site = site
        self._counts = counts
        axes = list(site.axes)
        lead = [axes.index(a) for a in (Axis.BATCH, Axis.TOKEN, Axis.MERGED) if a in axes]
        self._order = lead + [i for i in range(len(axes)) if i not in lead]
        self._transposed = self._order != sorted(self._order)
        sizes = [site.shape[i] for i in self._order[len(lead) :]]
        self._rest = [size for size in sizes if size is not None]

    def to_rows(self, tensor: str) -> str:
        """The tensor as ``[batch, tokens, units]``; ``[batch, 1, units]`` if it has no tokens."""
        fragment, units = self._fragment, self._site.units
        if self._transposed:
            tensor = fragment.op("Transpose", [tensor], perm=self._order)
        if self._counts is not None:
            shape = fragment.op("Concat", [self._counts, fragment.ints([units])], axis=0)
            return fragment.op("Reshape", [tensor, shape])
        if not self._site.has_tokens:
            return fragment.op("Reshape", [tensor, fragment.ints([0, 1, units])])
        if len(self._rest) == 1:
            return tensor
        return fragment.op("Reshape", [tensor, fragment.ints([0, 0, units])])

    def from_rows(self, rows: str) -> str:
        """Give ``[batch, tokens, units]`` the site's own shape."""
        fragment = self._fragment
        if self._counts is not None:
            rows = fragment.op("Reshape", [rows, fragment.ints([-1, *self._rest])])
        elif not self._site.has_tokens:
            # A feed with tokens must fail here and not be taken for more rows.
            rows = fragment.op("Squeeze", [rows, fragment.ints([1])])
            rows = fragment.op("Reshape", [rows, fragment.ints([0, *self._rest])])
        elif len(self._rest) != 1:
            rows = fragment.op("Reshape", [rows, fragment.ints([0, 0, *self._rest])])
        if self._transposed:
            inverse = [self._order.index(i) for i in range(len(self._order))]
            rows = fragment.op("Transpose", [rows], perm=inverse)
        return rows
