"""Damage to models: bytes of the file, and fields of the message."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["mutated"]

ODD_SIZES = (-1, 0, 1, 2, 3, 2**31 - 1, 2**40, -(2**63), 2**63 - 1)
OPERATORS = (
    "Add", "MatMul", "Gather", "Reshape", "Softmax", "Loop", "If", "Scan", "Concat", "Split",
    "Conv", "Where", "Cast", "Shape", "ConstantOfShape", "Expand", "Tile", "Resize", "TopK", "Nope",
    "SequenceAt", "LSTM", "Einsum", "Range", "Slice", "Pad", "OneHot", "QuantizeLinear",
)  # fmt: skip


def mutated(model: ModelProto, rng: random.Random) -> bytes:
    """The file of a model that has been damaged once or a few times."""
    if rng.random() < 0.3:
        return _bytes(model.SerializeToString(), rng)
    copy = ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(FIELDS)(copy, rng)
    content: bytes = copy.SerializeToString()
    return content


def _bytes(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, how = rng.randrange(len(damaged)), rng.randrange(4)
        if how == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            damaged[place] = rng.randrange(256)
        elif how == 2:
            del damaged[place : place + rng.randrange(1, 9)]
        else:
            damaged[place:place] = damaged[place : place + rng.randrange(1, 40)]
    return bytes(damaged)


# --- fields ------------------------------------------------------------------------------------


def _graphs(message: Message) -> Iterator[GraphProto]:
    for inner in _messages(message):
        if isinstance(inner, GraphProto):
            yield inner


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _messages(inner)


def _some(model: ModelProto, kind: type, rng: random.Random) -> Any:
    found = [one for one in _messages(model) if isinstance(one, kind)]
    return rng.choice(found) if found else None


def _names(model: ModelProto) -> list[str]:
    return [name for graph in _graphs(model) for node in graph.node for name in node.output]


def _rewire(model: ModelProto, rng: random.Random) -> None:
    node = _some(model, NodeProto, rng)
    names = [*_names(model), "", "nowhere"]
    field = rng.choice((node.input, node.input, node.output)) if node else None
    if field:
        field[rng.randrange(len(field))] = rng.choice(names)


def _resize_lists(model: ModelProto, rng: random.Random) -> None:
    node = _some(model, NodeProto, rng)
    field = rng.choice((node.input, node.output, node.attribute)) if node else None
    if field and rng.random() < 0.5:
        del field[rng.randrange(len(field))]
    elif node:
        node.input.append(rng.choice([*_names(model), ""]))


def _another_operator(model: ModelProto, rng: random.Random) -> None:
    node = _some(model, NodeProto, rng)
    if node:
        node.op_type = rng.choice(OPERATORS)


def _another_domain(model: ModelProto, rng: random.Random) -> None:
    node = _some(model, NodeProto, rng)
    if node:
        node.domain = rng.choice(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "nobody"))


def _sizes(model: ModelProto, rng: random.Random) -> None:
    tensor = _some(model, TensorProto, rng)
    if tensor and tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ODD_SIZES)
    elif tensor:
        tensor.dims.append(rng.choice(ODD_SIZES))


def _declared(model: ModelProto, rng: random.Random) -> None:
    values = [v for g in _graphs(model) for v in (*g.input, *g.output, *g.value_info)]
    if not values:
        return
    tensor = rng.choice(values).type.tensor_type
    how = rng.randrange(4)
    if how == 0:
        tensor.elem_type = rng.randrange(30)
    elif how == 1:
        tensor.shape.dim.add().dim_value = rng.choice(ODD_SIZES)
    elif how == 2 and tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_value = rng.choice(ODD_SIZES)
    else:
        tensor.Clear()


def _type_of_data(model: ModelProto, rng: random.Random) -> None:
    tensor = _some(model, TensorProto, rng)
    if tensor:
        tensor.data_type = rng.randrange(30)


def _data(model: ModelProto, rng: random.Random) -> None:
    tensor = _some(model, TensorProto, rng)
    if tensor and rng.random() < 0.5:
        tensor.raw_data = rng.randbytes(rng.choice((0, 1, 8, 64)))
    elif tensor:
        tensor.int64_data.append(rng.choice(ODD_SIZES))


def _attribute(model: ModelProto, rng: random.Random) -> None:
    one = _some(model, AttributeProto, rng)
    if one is None:
        return
    how = rng.randrange(6)
    if how == 0:
        one.type = rng.randrange(15)
    elif how == 1:
        one.i = rng.choice(ODD_SIZES)
    elif how == 2:
        one.ints.append(rng.choice(ODD_SIZES))
    elif how == 3 and one.ints:
        one.ints[rng.randrange(len(one.ints))] = rng.choice(ODD_SIZES)
    elif how == 4:
        one.name = rng.choice(("axis", "perm", "body", "value", "to", "then_branch", "nothing"))
    else:
        one.s = rng.randbytes(3)


def _nodes(model: ModelProto, rng: random.Random) -> None:
    graphs = [graph for graph in _graphs(model) if graph.node]
    if not graphs:
        return
    nodes = rng.choice(graphs).node
    how, place = rng.randrange(3), rng.randrange(len(nodes))
    if how == 0:
        del nodes[place]
    elif how == 1:
        nodes.append(nodes[place])
    else:
        nodes[place].CopyFrom(rng.choice(nodes))


def _values(model: ModelProto, rng: random.Random) -> None:
    graph = _some(model, GraphProto, rng)
    field = rng.choice((graph.input, graph.output, graph.initializer))
    if field and rng.random() < 0.5:
        del field[rng.randrange(len(field))]
    elif field:
        field[rng.randrange(len(field))].name = rng.choice([*_names(model), "", "nowhere"])


def _versions(model: ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.3 or not model.opset_import:
        model.ir_version = rng.choice((-1, 0, 1, 3, 99, 2**62))
    else:
        rng.choice(model.opset_import).version = rng.choice((-3, 0, 1, 6, 12, 23, 999, 2**62))


def _outside(model: ModelProto, rng: random.Random) -> None:
    tensor = _some(model, TensorProto, rng)
    if tensor:
        tensor.data_location = TensorProto.EXTERNAL
        place = rng.choice(("weights.bin", "../secret", "/etc/passwd", "", "*/_ORT_MEM_ADDR_/*"))
        tensor.external_data.add(key="location", value=place)
        tensor.external_data.add(key="offset", value=str(rng.choice(ODD_SIZES)))


FIELDS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _rewire, _rewire, _resize_lists, _another_operator, _another_domain, _sizes, _declared,
    _type_of_data, _data, _attribute, _nodes, _values, _versions, _outside,
)  # fmt: skip
