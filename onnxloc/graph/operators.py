"""What operators are given, checked where the native code that reads it does not.

Without these checks some nodes that are wrong end the process, or keep it busy for ever: in onnx
while types are inferred, or in a kernel of onnxruntime.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxloc.errors import ModelError
from onnxloc.graph.walk import attribute_graphs

__all__ = ["settle_operators"]

EQUATION = re.compile(rb"[A-Za-z.,\s]*(->[A-Za-z.\s]*)?")
# Beyond this no attribute counts, sizes or places anything; a few may say "to the end" so.
MAX_NUMBER = 2**31
ANY_NUMBER = {("Constant", "value_int"), ("Constant", "value_ints"), ("Shape", "end")}
DEFAULT = ("", "ai.onnx")


def settle_operators(proto: ModelProto) -> None:
    """Drop the omitted inputs at the end of each node, and check what is left.

    An input is omitted where its name is empty. At the end of the list that says nothing, but not
    every kernel of onnxruntime knows.

    Raises
    ------
    ModelError
        If a node omits an input that its operator needs, or has an attribute that cannot be meant.
        Operators that onnx does not know are passed over.
    """
    _settle(proto.graph, {entry.domain: entry.version for entry in proto.opset_import})


def _settle(graph: GraphProto, versions: Mapping[str, int]) -> None:
    for node in graph.node:
        least, optional = _inputs(node.op_type, versions.get(node.domain, 0), node.domain)
        if least is not None:
            while len(node.input) > least and not node.input[-1]:
                del node.input[-1]
            for i, name in enumerate(node.input):
                if not name and i not in optional:
                    raise _damaged(node, f"lacks its input {i}")
        if node.domain in DEFAULT:
            for attribute in node.attribute:
                _check(node, attribute)
        for inner in attribute_graphs(node):
            _settle(inner, versions)


@lru_cache(maxsize=1024)
def _inputs(op: str, version: int, domain: str) -> tuple[int | None, frozenset[int]]:
    """The least number of inputs, None of an unknown operator, and which may be omitted."""
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except (onnx.defs.SchemaError, TypeError):
        # TypeError: a version that does not fit 32 bits.
        return None, frozenset()
    kind = onnx.defs.OpSchema.FormalParameterOption
    places = [i for i, one in enumerate(schema.inputs) if one.option == kind.Optional]
    return int(schema.min_input), frozenset(places)


def _check(node: NodeProto, attribute: AttributeProto) -> None:
    kind, name, number = node.op_type, attribute.name, attribute.i
    if (kind, name) not in ANY_NUMBER:
        wide = [n for n in (number, *attribute.ints) if not -MAX_NUMBER <= n <= MAX_NUMBER]
        if wide:
            raise _damaged(node, f"has {name!r:.100} = {wide[0]}")
    try:
        attribute.s.decode()
    except UnicodeDecodeError as error:
        raise _damaged(node, f"has {name!r:.100}, which is not UTF-8") from error
    if (kind, name) == ("Einsum", "equation") and not EQUATION.fullmatch(attribute.s):
        raise _damaged(node, f"has the equation {attribute.s!r:.100}")
    # A number that says how long a list is, beside that length.
    counts = {
        ("Scan", "num_scan_inputs"): range(1, len(node.input) + 1),
        ("Split", "num_outputs"): range(len(node.output), len(node.output) + 1),
    }
    if number not in counts.get((kind, name), (number,)):
        raise _damaged(
            node,
            f"has {name!r} = {number} with {len(node.input)} inputs and {len(node.output)} outputs",
        )


def _damaged(node: NodeProto, what: str) -> ModelError:
    label = node.name or next(iter(node.output), "")
    return ModelError(f"the model is damaged: {node.op_type} {label!r:.100} {what}")
