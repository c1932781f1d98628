"""Giving branches and loop bodies one more output, and loops a number for each turn."""

from collections.abc import Sequence

from onnx import GraphProto, NodeProto, TensorProto, helper

from onnxloc.graph.subgraphs import Body

__all__ = ["branch_output", "pad_outputs", "turn_number", "turn_output"]


def branch_output(
    branch: GraphProto, tensor: str, dtype: int, dims: Sequence[int | str | None] | None
) -> None:
    """Hand a tensor of a branch out, behind what the branch hands out already."""
    branch.output.append(helper.make_tensor_value_info(tensor, dtype, dims))


def turn_output(
    body: Body, tensor: str, out: str, dtype: int, dims: Sequence[int | str | None]
) -> None:
    """Hand a tensor of a loop's body out, stacked over the turns under the name `out`.

    Parameters
    ----------
    body : Body
        Of a Loop or Scan.
    tensor : str
        The tensor; nothing else may hand it out under this name.
    out : str
        The name of ``[turns, *dims]``.
    dtype : int
        Element type.
    dims : sequence of int, str or None
        The shape of one turn's tensor. A loop of no turns gives zeros for what is no number.
    """
    pad_outputs(body)
    body.graph.output.append(helper.make_tensor_value_info(tensor, dtype, dims))
    body.node.output.append(out)
    if body.kind != "Scan":
        return
    attributes = {a.name: a for a in body.node.attribute}
    if "scan_output_axes" in attributes:
        attributes["scan_output_axes"].ints.append(0)
    backwards = _backwards(body.node)
    if "scan_output_directions" in attributes:
        attributes["scan_output_directions"].ints.append(int(backwards))
    elif backwards:
        stacked = len(body.graph.output) - _states(body)
        body.node.attribute.append(
            helper.make_attribute("scan_output_directions", [0] * (stacked - 1) + [1])
        )


def pad_outputs(body: Body) -> None:
    """Name the outputs at the end of a node that it leaves out."""
    made = len(body.graph.output) - (body.kind == "Loop")
    while len(body.node.output) < made:
        body.node.output.append(f"onnxloc.unused.{body.name}.{len(body.node.output)}")


def turn_number(body: Body) -> str:
    """The tensor of a loop's body that counts the turns from 0, as the places of `turn_output`.

    A Scan gets a state of its own for it.
    """
    if body.kind == "Loop":
        return body.graph.input[0].name
    name = f"onnxloc.turn.{body.name}"
    if any(value.name == name for value in body.graph.input):
        return name
    return _count(body, name)


def _count(body: Body, name: str) -> str:
    graph, node, holder, place = body.graph, body.node, body.holder, _states(body)
    start, step, after = (f"{name}.{end}" for end in ("start", "step", "next"))
    scalar = TensorProto.INT64
    if _backwards(node):
        # The first turn works on the last slice.
        sizes, axis, size = (f"{name}.{end}" for end in ("sizes", "axis", "size"))
        axes = _ints(node, "scan_input_axes") or [0]
        holder.initializer.append(helper.make_tensor(axis, scalar, [], [axes[0]]))
        before = [
            helper.make_node("Shape", [node.input[place]], [sizes], name=sizes),
            helper.make_node("Gather", [sizes, axis], [size], name=size),
            helper.make_node("Add", [size, step], [start], name=start),
        ]
        at = next(i for i, other in enumerate(holder.node) if other.output == node.output)
        for i, one in enumerate(before):
            holder.node.insert(at + i, one)
    else:
        holder.initializer.append(helper.make_tensor(start, scalar, [], [0]))
    turn = -1 if _backwards(node) else 1
    holder.initializer.append(helper.make_tensor(step, scalar, [], [turn]))
    graph.node.append(helper.make_node("Add", [name, step], [after], name=after))
    pad_outputs(body)
    node.input.insert(place, start)
    node.output.insert(place, f"{name}.last")
    graph.input.insert(place, helper.make_tensor_value_info(name, scalar, []))
    graph.output.insert(place, helper.make_tensor_value_info(after, scalar, []))
    return name


def _states(body: Body) -> int:
    """Number of states that a Scan hands from turn to turn."""
    scanned = next((a.i for a in body.node.attribute if a.name == "num_scan_inputs"), 0)
    return len(body.node.input) - scanned


def _backwards(node: NodeProto) -> bool:
    """Whether all that a Scan works on is taken from its end."""
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    directions = _ints(node, "scan_input_directions")
    return node.op_type == "Scan" and scanned > 0 and directions == [1] * scanned


def _ints(node: NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
