"""Turning a plan into a graph: taps, edits and heads are spliced in, the rest is pruned.

The new operations are written with onnx-graphsurgeon into a fragment of their own, and the fragment
is spliced into the protobuf here: carried through graphsurgeon, the model itself would lose its
nodes' metadata and fail on optional types. The weights are neither copied nor read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.fragment import Fragment, Layout
from onnxloc.graph.load import PREFIX, Graph
from onnxloc.graph.narrow import narrow
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.graph.topology import Topology
from onnxloc.registry import did_you_mean

__all__ = ["Instrumented", "instrument"]

LAST_INDEX = f"{PREFIX}last_index"
TOKEN_MASK = f"{PREFIX}token_mask"
TARGETS = f"{PREFIX}targets"
LOGPROBS = f"{PREFIX}logprobs"


@dataclass(frozen=True)
class Instrumented:
    """A graph with a plan built in.

    Attributes
    ----------
    graph : Graph
        The graph it was made from.
    plan : Plan
        The plan.
    proto : onnx.ModelProto
        The new model; its weights are still those in the folder of `graph`.
    tap_outputs : mapping of Tap to str
        The output that carries each tap.
    edit_inputs : mapping of str to tuple of str
        For each edited site's tensor, the inputs that its edit takes: ``(mask, value)`` for
        "replace", ``(mask, scale, shift)`` for "affine".
    given_inputs : mapping of str to str
        For each given tensor, the input that takes it.
    """

    graph: Graph
    plan: Plan
    proto: ModelProto
    tap_outputs: Mapping[Tap, str]
    edit_inputs: Mapping[str, tuple[str, ...]]
    given_inputs: Mapping[str, str]

    @property
    def input_names(self) -> frozenset[str]:
        """Every input that must be fed."""
        return frozenset(value.name for value in self.proto.graph.input)


def instrument(graph: Graph, sites: SiteTable, plan: Plan) -> Instrumented:
    """Build `plan` into `graph`.

    Raises
    ------
    ModelError
        If a site cannot be read or edited as the plan asks.
    AnatomyError
        If the plan names a site that the graph does not have.
    """
    proto = ModelProto()
    proto.CopyFrom(graph.proto)
    writer = _Writer(graph, proto, sites)
    writer.narrow(plan)
    edit_inputs = {edit.site: writer.edit(edit) for edit in plan.edits}
    given_inputs = {name: writer.give(i, name) for i, name in enumerate(plan.given)}
    tap_outputs = {tap: writer.tap(tap) for tap in plan.taps}
    if plan.head is not None:
        writer.target_logprobs(plan.head.logits)
    writer.splice()
    outputs = [*tap_outputs.values(), *([LOGPROBS] if plan.head else []), *plan.outputs]
    _keep_outputs(proto, outputs, writer.output_types)
    _prune(proto)
    return Instrumented(graph, plan, proto, tap_outputs, edit_inputs, given_inputs)


class _Writer:
    """Writes the new operations of one plan, then splices them into the model."""

    def __init__(self, graph: Graph, proto: ModelProto, sites: SiteTable) -> None:
        self.graph = graph
        self.proto = proto
        self.sites = sites
        self.output_types: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.narrowed: frozenset[str] = frozenset()
        # One fragment for what is given, one for what follows the nodes of the model, and one for
        # each edit, which must stand right behind the node whose output it changes.
        self.front = Fragment(graph.opset, "front")
        self.tail = Fragment(graph.opset, "tail")
        self.edits: dict[str, Fragment] = {}
        self.inputs: dict[str, tuple[int, list[int | str]]] = {}

    # --- narrowing -----------------------------------------------------------------------------

    def narrow(self, plan: Plan) -> None:
        """Compute only the last token of what only the last token is read of."""
        # Keys and values of earlier tokens have four axes, and a fixed number of heads there.
        inputs = [spec for spec in self.graph.inputs if len(spec.dims) != 4]
        if any(isinstance(size, int) for spec in inputs for size in spec.dims[1:2]):
            # Where the length is fixed, a constant may have a token axis: a table of positions.
            return
        last = {tap.site for tap in plan.taps if tap.pool == "last"}
        whole = {tap.site for tap in plan.taps if tap.pool != "last"}
        whole |= {edit.site for edit in plan.edits} | set(plan.outputs) | set(plan.given)
        if plan.head is not None:
            whole.add(plan.head.logits)
        self.narrowed = narrow(self.proto, self.sites, last, whole, LAST_INDEX)
        if self.narrowed:
            self.inputs[LAST_INDEX] = (TensorProto.INT64, ["onnxloc.batch"])

    # --- edits ---------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> tuple[str, ...]:
        site = self.sites.tensor(edit.site)
        if not site.units:
            raise ModelError(f"the site {site.name} has no units and cannot be edited")
        number = len(self.edits)
        fragment = Fragment(self.graph.opset, f"edit{number}")
        raw = f"{PREFIX}edit.{number}.raw"
        self.renamed[site.tensor] = raw
        self.edits[site.tensor] = fragment
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(site.dtype))
        layout = Layout(fragment, site, self.token_counts(fragment, site))

        def operand(name: str, elem_type: int) -> str:
            full = f"{PREFIX}edit.{number}.{name}"
            dims: list[int | str] = [f"{full}.batch", f"{full}.tokens", site.units]
            self.inputs[full] = (elem_type, dims)
            return full

        x = layout.to_rows(raw)
        mask = operand("mask", TensorProto.BOOL)
        if edit.form == "replace":
            value = operand("value", dtype)
            y = fragment.op("Where", [mask, value, x])
            used: tuple[str, ...] = (mask, value)
        else:
            scale, shift = operand("scale", dtype), operand("shift", dtype)
            zero = fragment.constant(np.zeros((), dtype=site.dtype))
            scaled = fragment.op("Mul", [x, scale])
            y = fragment.op("Add", [fragment.op("Where", [mask, zero, scaled]), shift])
            used = (mask, scale, shift)
        layout.from_rows(y, out=site.tensor)
        return used

    # --- given tensors -------------------------------------------------------------------------

    def give(self, number: int, tensor: str) -> str:
        site = self.sites.tensor(tensor)
        if site.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
            raise ModelError(f"{site.name} is not [batch, tokens, features] and cannot be given")
        name = f"{PREFIX}given.{number}"
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(site.dtype))
        self.inputs[name] = (dtype, ["onnxloc.batch", "onnxloc.tokens", site.units])
        self.front.op("Identity", [name], out=self.renamed.get(tensor, tensor))
        # What the graph computes there is left to be pruned.
        self.renamed[tensor] = f"{name}.unused"
        return name

    # --- taps ----------------------------------------------------------------------------------

    def tap(self, tap: Tap) -> str:
        site = self.sites.tensor(tap.site)
        if not site.units:
            raise ModelError(f"the site {site.name} has no units and cannot be pooled")
        out = f"{PREFIX}tap.{len(self.output_types)}"
        fragment = self.tail
        source = site.tensor
        wide = site.dtype == "float64"
        if site.dtype == "float16":
            source = fragment.op("Cast", [source], to=TensorProto.FLOAT)
        pooled = self.pool(tap, site, source)
        fragment.op("Identity", [pooled], out=out)
        self.output_types[out] = TensorProto.DOUBLE if wide else TensorProto.FLOAT
        return out

    def pool(self, tap: Tap, site: Site, source: str) -> str:
        fragment = self.tail
        if site.tensor in self.narrowed:
            return fragment.op("Reshape", [source, fragment.ints([0, site.units])])
        heads = (Axis.BATCH, Axis.FEATURE, Axis.TOKEN, Axis.FEATURE)
        if tap.pool == "last" and site.axes == heads:
            # Gathering inside the head axis spares a transpose of the whole tensor.
            index = self.last_index(heads=site.shape[1] or 1)
            rows = fragment.op("GatherND", [source, index], batch_dims=2)
            return fragment.op("Reshape", [rows, fragment.ints([0, site.units])])
        x = Layout(fragment, site, self.token_counts(fragment, site)).to_rows(source)
        if not site.has_tokens:
            return fragment.op("Reshape", [x, fragment.ints([0, site.units])])
        if tap.pool == "none":
            return x
        if tap.pool == "last":
            return fragment.op("GatherND", [x, self.last_index()], batch_dims=1)
        mask, count = self.token_mask(site.dtype)
        filler = -np.inf if tap.pool == "max" else 0.0
        dtype = "float64" if site.dtype == "float64" else "float32"
        kept = fragment.op("Where", [mask, x, fragment.constant(np.array(filler, dtype=dtype))])
        axis = fragment.ints([1])
        if tap.pool == "max":
            largest = self.largest(kept)
            # onnxruntime's maximum passes over a NaN that is not the first value.
            nan = fragment.op("Cast", [fragment.op("IsNaN", [kept])], to=TensorProto.FLOAT)
            found = fragment.op("Cast", [self.largest(nan)], to=TensorProto.BOOL)
            unknown = fragment.constant(np.array(np.nan, dtype=dtype))
            return fragment.op("Where", [found, unknown, largest])
        total = fragment.op("ReduceSum", [kept, axis], keepdims=0)
        return total if tap.pool == "sum" else fragment.op("Div", [total, count])

    def largest(self, tensor: str) -> str:
        fragment = self.tail
        if self.graph.opset >= 18:
            return fragment.op("ReduceMax", [tensor, fragment.ints([1])], keepdims=0)
        return fragment.op("ReduceMax", [tensor], axes=[1], keepdims=0)

    def last_index(self, heads: int | None = None) -> str:
        self.inputs[LAST_INDEX] = (TensorProto.INT64, ["onnxloc.batch"])
        fragment = self.tail
        rows = fragment.once("last", "Unsqueeze", [LAST_INDEX, fragment.ints([1])])
        if heads is None:
            return rows
        rows = fragment.once("last3", "Unsqueeze", [rows, fragment.ints([1])])
        shape = fragment.ints([1, heads, 1])
        return fragment.once(f"last.{heads}", "Expand", [rows, shape])

    def token_mask(self, dtype: str) -> tuple[str, str]:
        """The mask of real tokens ``[B, T, 1]`` and their number ``[B, 1]``."""
        self.inputs[TOKEN_MASK] = (TensorProto.BOOL, ["onnxloc.batch", "onnxloc.tokens"])
        fragment = self.tail
        mask = fragment.once("mask", "Unsqueeze", [TOKEN_MASK, fragment.ints([2])])
        to = TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT
        ones = fragment.once(f"ones.{to}", "Cast", [TOKEN_MASK], to=to)
        axis = fragment.ints([1])
        return mask, fragment.once(f"count.{to}", "ReduceSum", [ones, axis], keepdims=1)

    def token_counts(self, fragment: Fragment, site: Site) -> str | None:
        """Batch and length as a tensor, for sites in which both are one axis."""
        if Axis.MERGED not in site.axes:
            return None
        self.inputs[TOKEN_MASK] = (TensorProto.BOOL, ["onnxloc.batch", "onnxloc.tokens"])
        return fragment.once("shape", "Shape", [TOKEN_MASK])

    # --- heads ---------------------------------------------------------------------------------

    def target_logprobs(self, logits: str) -> None:
        site = self.sites.tensor(logits)
        if site.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
            raise ModelError(f"{site.name} is not [batch, tokens, vocabulary]")
        self.inputs[TARGETS] = (TensorProto.INT64, ["onnxloc.batch", "onnxloc.tokens"])
        fragment = self.tail
        source = site.tensor
        if site.dtype == "float16":
            source = fragment.op("Cast", [source], to=TensorProto.FLOAT)
        logprobs = fragment.op("LogSoftmax", [source], axis=-1)
        targets = fragment.op("Unsqueeze", [TARGETS, fragment.ints([2])])
        chosen = fragment.op("GatherElements", [logprobs, targets], axis=2)
        fragment.op("Squeeze", [chosen, fragment.ints([2])], out=LOGPROBS)
        wide = site.dtype == "float64"
        self.output_types[LOGPROBS] = TensorProto.DOUBLE if wide else TensorProto.FLOAT

    # --- splicing ------------------------------------------------------------------------------

    def splice(self) -> None:
        body = self.proto.graph
        nodes = list(body.node)
        del body.node[:]
        self.front.append_to(body)
        for node in nodes:
            changed = [name for name in node.output if name in self.edits]
            for i, name in enumerate(node.output):
                node.output[i] = self.renamed.get(name, name)
            body.node.append(node)
            for name in changed:
                self.edits[name].append_to(body)
        self.tail.append_to(body)
        for name, (elem_type, dims) in self.inputs.items():
            body.input.append(helper.make_tensor_value_info(name, elem_type, dims))


def _keep_outputs(proto: ModelProto, names: Sequence[str], types: Mapping[str, int]) -> None:
    known = {value.name: value for value in proto.graph.output}
    kept: list[ValueInfoProto] = []
    for name in names:
        if name in types:
            kept.append(helper.make_tensor_value_info(name, types[name], None))
        elif name in known:
            kept.append(known[name])
        else:
            hint = did_you_mean(name, known)
            raise ModelError(f"the model has no output {name!r}{hint}")
    del proto.graph.output[:]
    proto.graph.output.extend(kept)


def _prune(proto: ModelProto) -> None:
    """Drop nodes, inputs and weights that no output needs."""
    topology = Topology(proto)
    wanted = [value.name for value in proto.graph.output]
    needed = topology.ancestors(wanted) | set(wanted)
    body = proto.graph
    nodes = [node for node in topology.nodes if needed.intersection(node.output)]
    inputs = [value for value in body.input if value.name in needed]
    weights = [tensor for tensor in body.initializer if tensor.name in needed]
    sparse = [tensor for tensor in body.sparse_initializer if tensor.values.name in needed]
    del body.node[:], body.input[:], body.initializer[:], body.sparse_initializer[:]
    body.node.extend(nodes)
    body.input.extend(inputs)
    body.initializer.extend(weights)
    body.sparse_initializer.extend(sparse)
    # Sizes inferred before the edits would be wrong behind them, and nothing reads them.
    del body.value_info[:]
