"""One output that tells the shapes of all tensors in a branch or loop, and how often it ran.

What lies in a body cannot simply be made an output of the model: a branch may not run, and what a
loop makes may change its shape from one turn to the next. Shapes of shapes are always alike. So
each tensor's shape, filled up to `RANKS` numbers, is carried out: through an If beside a filler in
the other branch, through a loop as the largest and the smallest value of all turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxloc.graph.carry import branch_output, pad_outputs, turn_output
from onnxloc.graph.subgraphs import Body, bodies_of

__all__ = ["Seen", "Slot", "add_reports", "read_report"]

# More axes than this no tensor has; a tensor of more is passed over.
RANKS = 9
# Behind the last axis of a shape, and in place of what did not run.
NO_AXIS, NOT_RUN = -1, -(10**9)


@dataclass(frozen=True)
class Slot:
    """A part of a report: `width` largest values, then the negatives of as many smallest ones.

    `name` is a tensor's, or that of a loop's body, whose number of turns it is.
    """

    name: str
    width: int


@dataclass(frozen=True)
class Seen:
    """What a report says of one slot.

    Attributes
    ----------
    ran : bool
        Whether it was reached at all.
    values : tuple of int or None
        The shape, or the number of turns; None if it was not always the same.
    """

    ran: bool
    values: tuple[int, ...] | None


def add_reports(
    proto: ModelProto, tensors: Mapping[str, Mapping[str, str]]
) -> dict[str, list[Slot]]:
    """Give a model an output for each of its own nodes with bodies, which reports on them.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place.
    tensors : mapping of str to mapping
        For each body, by name, its tensors to report on.

    Returns
    -------
    dict of str to list of Slot
        For each new output, what it holds.
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    return _Reporter(tensors, opset).top(proto.graph)


def read_report(slots: list[Slot], values: NDArray[np.int64]) -> dict[str, Seen]:
    """What a report says, by tensor or loop body."""
    found: dict[str, Seen] = {}
    start = 0
    for slot in slots:
        largest = values[start : start + slot.width]
        smallest = -values[start + slot.width : start + 2 * slot.width]
        start += 2 * slot.width
        if largest[0] == NOT_RUN:
            found[slot.name] = Seen(False, None)
        elif (largest != smallest).any():
            found[slot.name] = Seen(True, None)
        else:
            found[slot.name] = Seen(True, tuple(int(v) for v in largest if v != NO_AXIS))
    return found


class _Reporter:
    def __init__(self, tensors: Mapping[str, Mapping[str, str]], opset: int) -> None:
        self._tensors = tensors
        self._opset = opset
        self._numbers = count()

    def top(self, graph: GraphProto) -> dict[str, list[Slot]]:
        outputs: dict[str, list[Slot]] = {}
        for name, slots in self._of_nodes(graph, None):
            outputs[name] = slots
            graph.output.append(helper.make_empty_tensor_value_info(name))
        return outputs

    def _of_nodes(self, graph: GraphProto, parent: Body | None) -> list[tuple[str, list[Slot]]]:
        """Report on every node with bodies; the new nodes stand behind all others."""
        found: list[tuple[str, list[Slot]]] = []
        for node in list(graph.node):
            bodies = tuple(bodies_of(node, graph, parent))
            if bodies:
                found += self._of_node(bodies)
        return found

    def _of_node(self, bodies: tuple[Body, ...]) -> list[tuple[str, list[Slot]]]:
        reports = [self._of_body(body) for body in bodies]
        if not any(slots for _, slots in reports):
            return []
        if bodies[0].is_loop:
            return [self._turns(bodies[0], *reports[0])]
        widths = [2 * sum(slot.width for slot in slots) for _, slots in reports]
        out = self._name()
        pad_outputs(bodies[0])
        for k, (body, (name, _)) in enumerate(zip(bodies, reports, strict=True)):
            parts = [
                self._filler(body.graph, [width]) if j != k else name
                for j, width in enumerate(widths)
                if width
            ]
            inner = self._op(body.graph, "Concat", parts, axis=0)
            branch_output(body.graph, inner, TensorProto.INT64, [sum(widths)])
        bodies[0].node.output.append(out)
        return [(out, [slot for _, slots in reports for slot in slots])]

    def _of_body(self, body: Body) -> tuple[str, list[Slot]]:
        graph = body.graph
        inner = self._of_nodes(graph, body)
        parts: list[str] = []
        slots: list[Slot] = []
        for tensor in self._tensors.get(body.name, ()):
            shape = self._op(graph, "Shape", [tensor])
            filled = self._op(
                graph, "Concat", [shape, self._ints(graph, [NO_AXIS] * RANKS)], axis=0
            )
            ends = [self._ints(graph, [0]), self._ints(graph, [RANKS])]
            lanes = self._op(graph, "Slice", [filled, *ends])
            parts += [lanes, self._op(graph, "Neg", [lanes])]
            slots.append(Slot(tensor, RANKS))
        for name, more in inner:
            parts.append(name)
            slots += more
        if not parts and body.is_loop:
            return "", []
        return (self._op(graph, "Concat", parts, axis=0) if parts else ""), slots

    def _turns(self, body: Body, name: str, slots: list[Slot]) -> tuple[str, list[Slot]]:
        """The largest values over all turns, and the number of turns."""
        width = 2 * sum(slot.width for slot in slots)
        stack = self._name()
        turn_output(body, name, stack, TensorProto.INT64, [width])
        holder = body.holder
        rows = self._op(holder, "Concat", [stack, self._filler(holder, [1, width])], axis=0)
        if self._opset >= 18:
            top = self._op(holder, "ReduceMax", [rows, self._ints(holder, [0])], keepdims=0)
        else:
            top = self._op(holder, "ReduceMax", [rows], axes=[0], keepdims=0)
        shape = self._op(holder, "Shape", [stack])
        turns = self._op(holder, "Slice", [shape, *(self._ints(holder, [i]) for i in (0, 1))])
        parts = [top, turns, self._op(holder, "Neg", [turns])]
        return self._op(holder, "Concat", parts, axis=0), [*slots, Slot(body.name, 1)]

    def _name(self) -> str:
        return f"onnxloc.report.{next(self._numbers)}"

    def _op(self, graph: GraphProto, kind: str, inputs: list[str], **attributes: Any) -> str:
        out = self._name()
        graph.node.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def _ints(self, graph: GraphProto, values: list[int]) -> str:
        return self._constant(graph, np.array(values, dtype=np.int64))

    def _filler(self, graph: GraphProto, shape: list[int]) -> str:
        return self._constant(graph, np.full(shape, NOT_RUN, dtype=np.int64))

    def _constant(self, graph: GraphProto, value: NDArray[np.int64]) -> str:
        out = self._name()
        node: NodeProto = helper.make_node(
            "Constant", [], [out], name=out, value=numpy_helper.from_array(value, f"{out}.value")
        )
        graph.node.append(node)
        return out
