"""A graph as the anatomist sees it: which tensor carries data from which, and what makes it."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from onnx import NodeProto

from onnxloc.graph.sites import Site
from onnxloc.graph.topology import Topology

__all__ = ["NONLINEAR", "PASS", "SHAPE_OPS", "View"]

PASS = frozenset({"Identity", "Cast", "CastLike", "Dropout"})
SHAPE_OPS = PASS | {"Reshape", "Transpose", "Expand", "Unsqueeze", "Squeeze", "Flatten"}
NONLINEAR = frozenset({
    "Relu", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Erf", "Tanh", "Sigmoid", "Swish", "Silu",
    "Elu", "Celu", "Selu", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Mish", "Softplus",
    "Softsign", "ThresholdedRelu", "Clip", "Max",
})  # fmt: skip
INTEGER_PRODUCTS = frozenset({"MatMulInteger"})
# Position of the weight among the inputs, for products of one tensor with a weight.
PRODUCTS = {
    "MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "TransposeMatMul": 1, "Einsum": 1, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "MatMulNBits": 1, "MatMulBnb4": 1,
    "QLinearMatMul": 3,
}  # fmt: skip


class View:
    """The top-level graph with what carries only shapes left out.

    A tensor's shape often steers the reshaping of another; followed as if it were data, it would
    tie together parts that have nothing to do with each other.
    """

    def __init__(self, sites: Mapping[str, Site], topology: Topology) -> None:
        self.sites = sites
        self.topology = topology
        self.nodes = topology.nodes
        self.producer = topology.producer

    @cached_property
    def graph_inputs(self) -> tuple[str, ...]:
        """Inputs of the graph that are not overridable initializers."""
        return tuple(
            v.name for v in self.topology.proto.graph.input if v.name in self.topology.dynamic
        )

    @cached_property
    def data(self) -> frozenset[str]:
        """Tensors that carry values computed from an input, not only from its shape."""
        found = set(self.graph_inputs)
        for i, node in enumerate(self.nodes):
            if not found.isdisjoint(self._values(i)):
                found.update(name for name in node.output if name)
        return frozenset(found)

    def _values(self, node: int) -> tuple[str, ...]:
        """What a node reads not only for its shape or its type."""
        proto, read = self.nodes[node], self.topology.reads[node]
        if proto.op_type in ("Shape", "Size"):
            return ()
        if proto.op_type == "CastLike":
            return tuple(name for name in read if name == proto.input[0])
        return tuple(read)

    @cached_property
    def _inputs(self) -> tuple[tuple[str, ...], ...]:
        return tuple(
            tuple(name for name in self._values(i) if name in self.data)
            for i in range(len(self.nodes))
        )

    def inputs(self, node: int) -> tuple[str, ...]:
        """The tensors with data that a node reads, each once."""
        return self._inputs[node]

    def consumers(self, tensor: str) -> tuple[int, ...]:
        """The nodes that read a tensor's values."""
        found = self.topology.consumers.get(tensor, ())
        return tuple(i for i in found if tensor in self._inputs[i])

    def maker(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor."""
        i = self.producer.get(tensor)
        return None if i is None else self.nodes[i]

    def like(self, a: str, b: str) -> bool:
        """Whether two tensors have the same axes and sizes."""
        x, y = self.sites.get(a), self.sites.get(b)
        return x is not None and y is not None and (x.axes, x.shape) == (y.axes, y.shape)

    # --- ancestry ------------------------------------------------------------------------------

    @cached_property
    def _masks(self) -> list[int]:
        """For each node, a bit for each node that it depends on, itself included."""
        first = len(self.nodes)
        bits = {name: 1 << (first + i) for i, name in enumerate(self.graph_inputs)}
        masks: list[int] = []
        for i in range(first):
            mask = 1 << i
            for name in self._inputs[i]:
                j = self.producer.get(name)
                mask |= masks[j] if j is not None else bits.get(name, 0)
            masks.append(mask)
        return masks

    def depends(self, later: str, earlier: str) -> bool:
        """Whether `later` is computed from `earlier` or from another output of its node."""
        i, j = self.producer.get(later), self.producer.get(earlier)
        if i is None or i == j:
            return False
        if j is None:
            if earlier not in self.graph_inputs:
                return False
            j = len(self.nodes) + self.graph_inputs.index(earlier)
        return bool(self._masks[i] >> j & 1)

    def above(self, tensor: str, stop: Iterable[str] = ()) -> frozenset[str]:
        """The tensor and all it is computed from, not looking past those in `stop`, which are in.

        The tensor itself is looked past even if it is in `stop`.
        """
        barrier = frozenset(stop)
        found, stack = {tensor}, [tensor]
        while stack:
            i = self.producer.get(stack.pop())
            for name in self._inputs[i] if i is not None else ():
                if name not in found:
                    found.add(name)
                    if name not in barrier:
                        stack.append(name)
        return frozenset(found)

    def region(self, end: str, start: Iterable[str], barriers: Iterable[str]) -> frozenset[str]:
        """Tensors on the way from `start` to `end`: `end` is in, `barriers` and `start` are not."""
        start, barrier = frozenset(start), frozenset(barriers)
        above = self.above(end, start | barrier)
        inside = sorted(
            (self.producer[n], n) for n in above - start - barrier if n in self.producer
        )
        reached: set[str] = set()
        for i, name in inside:
            if any(x in reached or x in start for x in self._inputs[i]):
                reached.add(name)
        return frozenset(reached)

    def root(self, tensor: str) -> str:
        """The tensor whose values these are, behind casts, dropout and merging of axes."""
        while (i := self.producer.get(tensor)) is not None and self.is_copy(i):
            tensor = self._inputs[i][0]
        return tensor

    def is_copy(self, node: int) -> bool:
        """Whether a node gives on the values that it reads, batch and tokens merged or parted."""
        if len(self._inputs[node]) != 1:
            return False
        (source,), proto = self._inputs[node], self.nodes[node]
        return proto.op_type in PASS or (
            proto.op_type == "Reshape" and self._same_units(source, proto.output[0])
        )

    def _same_units(self, a: str, b: str) -> bool:
        x, y = self.sites.get(a), self.sites.get(b)
        if x is None or y is None or not (x.has_tokens and y.has_tokens):
            return False
        sizes = [[n for n in site.shape if n is not None] for site in (x, y)]
        return x.units > 0 and sizes[0] == sizes[1]

    # --- constants and weights -----------------------------------------------------------------

    @cached_property
    def _constant_shapes(self) -> dict[str, tuple[int, ...]]:
        graph = self.topology.proto.graph
        shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in graph.value_info
            if v.name not in self.data and v.type.tensor_type.HasField("shape")
        }
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        shapes[node.output[0]] = tuple(attribute.t.dims)
                    elif attribute.name in ("value_float", "value_int"):
                        shapes[node.output[0]] = ()
        shapes.update({t.name: tuple(t.dims) for t in graph.initializer})
        return shapes

    def constant_shape(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a constant; None if it is not known."""
        return self._constant_shapes.get(tensor)

    def is_scalar(self, tensor: str) -> bool:
        """Whether a constant is known to hold one number."""
        shape = self.constant_shape(tensor)
        return shape is not None and all(size == 1 for size in shape)

    def is_weight_product(self, node: int | None) -> bool:
        """Whether a node multiplies one tensor with data by a weight."""
        if node is None or self.nodes[node].op_type not in PRODUCTS:
            return False
        weight = PRODUCTS[self.nodes[node].op_type]
        operands = [
            self.nodes[node].input[k] for k in (0, weight) if k < len(self.nodes[node].input)
        ]
        return sum(name in self.data for name in operands) == 1

    def is_mix(self, node: int) -> bool:
        """Whether a node multiplies two tensors with data."""
        product = self.nodes[node].op_type in {"MatMul", "FusedMatMul", "Einsum"}
        return product and sum(name in self.data for name in self.nodes[node].input[:2]) == 2

    def product_input(self, node: int) -> str:
        """The tensor that a weight product reads: where it is quantised first, before that."""
        weight = PRODUCTS[self.nodes[node].op_type]
        operands = [
            self.nodes[node].input[k] for k in (0, weight) if k < len(self.nodes[node].input)
        ]
        tensor = next(name for name in operands if name in self.data)
        quantiser = self.maker(tensor)
        if quantiser is not None and quantiser.op_type in (
            "DynamicQuantizeLinear",
            "QuantizeLinear",
        ):
            return quantiser.input[0]
        return tensor

    def product_of(self, tensor: str) -> int | None:
        """The weight product that ends in `tensor`, its bias and dequantisation included.

        None if `tensor` is anything else, a reshaped product too.
        """
        i = self.producer.get(tensor)
        if i is None or i not in self._products:
            return None
        return self._products[i]

    @cached_property
    def _products(self) -> dict[int, int]:
        """The last node of each weight product, to the product itself."""
        found: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            if self.is_weight_product(i):
                found[i] = i
            elif node.op_type == "Add" and len(self._inputs[i]) == 1:
                # A bias; sometimes the product's axes are parted before it is added.
                product = self.producer.get(self._back(self._inputs[i][0], PASS | {"Reshape"}))
                if product in found and not any(self.is_scalar(n) for n in node.input):
                    found[i] = found[product]
            elif node.op_type == "Mul" and len(self._inputs[i]) == 2:
                for name in self._inputs[i]:
                    product = self.producer.get(self._back(name, PASS))
                    if product is not None and self.nodes[product].op_type in INTEGER_PRODUCTS:
                        found[i] = product
        return found

    def _back(self, tensor: str, through: frozenset[str]) -> str:
        while (i := self.producer.get(tensor)) is not None and len(self._inputs[i]) == 1:
            if self.nodes[i].op_type not in through:
                break
            tensor = self._inputs[i][0]
        return tensor

    def back(self, tensor: str, through: frozenset[str] = SHAPE_OPS) -> str:
        """Walk up through nodes of one data input whose operator is in `through`."""
        return self._back(tensor, through)
