"""Turning a plan into a graph: taps, edits and heads are spliced in, the rest is pruned.

The new operations are written with onnx-graphsurgeon into a fragment of their own, and the fragment
is spliced into the protobuf here: carried through graphsurgeon, the model itself would lose its
nodes' metadata and fail on optional types. The weights are neither copied nor read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.load import Graph, walk_tensors
from onnxloc.graph.narrow import narrow
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.graph.topology import Topology

__all__ = ["Instrumented", "instrument"]

PREFIX = "onnxloc."
LAST_INDEX = f"{PREFIX}last_index"
TOKEN_MASK = f"{PREFIX}token_mask"
TARGETS = f"{PREFIX}targets"
LOGPROBS = f"{PREFIX}logprobs"
MIN_FRAGMENT_OPSET = 13


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
    """

    graph: Graph
    plan: Plan
    proto: ModelProto
    tap_outputs: Mapping[Tap, str]
    edit_inputs: Mapping[str, tuple[str, ...]]

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
    if graph.opset < MIN_FRAGMENT_OPSET:
        proto = _converted(proto)
    writer = _Writer(graph, proto, sites)
    writer.narrow(plan)
    edit_inputs = {edit.site: writer.edit(edit) for edit in plan.edits}
    tap_outputs = {tap: writer.tap(tap) for tap in plan.taps}
    if plan.head is not None:
        writer.target_logprobs(plan.head.logits)
    writer.splice()
    outputs = [*tap_outputs.values(), *([LOGPROBS] if plan.head else []), *plan.outputs]
    _keep_outputs(proto, outputs, writer.output_types)
    _prune(proto)
    return Instrumented(graph, plan, proto, tap_outputs, edit_inputs)


def _converted(proto: ModelProto) -> ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, MIN_FRAGMENT_OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model's operator set is older than {MIN_FRAGMENT_OPSET} and cannot be raised: "
            f"{str(error).splitlines()[0]}"
        ) from error


class _Writer:
    """Writes the new operations of one plan, then splices them into the model."""

    def __init__(self, graph: Graph, proto: ModelProto, sites: SiteTable) -> None:
        self.graph = graph
        self.proto = proto
        self.sites = sites
        self.output_types: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.narrowed: frozenset[str] = frozenset()
        opset = max(graph.opset, MIN_FRAGMENT_OPSET)
        # One fragment for what follows the nodes of the model, one for each edit, which must stand
        # right behind the node whose output it changes.
        self.opset = opset
        self.tail = _Fragment(opset, "tail")
        self.edits: dict[str, _Fragment] = {}
        self.inputs: dict[str, tuple[int, list[int | str]]] = {}

    # --- narrowing -----------------------------------------------------------------------------

    def narrow(self, plan: Plan) -> None:
        """Compute only the last token of what only the last token is read of."""
        last = {self.sites.find(tap.site).tensor for tap in plan.taps if tap.pool == "last"}
        whole = {self.sites.find(tap.site).tensor for tap in plan.taps if tap.pool != "last"}
        whole |= {self.sites.find(edit.site).tensor for edit in plan.edits} | set(plan.outputs)
        if plan.head is not None:
            whole.add(self.sites.find(plan.head.logits).tensor)
        self.narrowed = narrow(self.proto, self.sites, last, whole, LAST_INDEX)
        if self.narrowed:
            self.inputs[LAST_INDEX] = (TensorProto.INT64, ["onnxloc.batch"])

    # --- edits ---------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> tuple[str, ...]:
        site = self.sites.find(edit.site)
        if not site.units:
            raise ModelError(f"the site {site.name} has no units and cannot be edited")
        number = len(self.edits)
        fragment = _Fragment(self.opset, f"edit{number}")
        raw = f"{PREFIX}edit.{number}.raw"
        self.renamed[site.tensor] = raw
        self.edits[site.tensor] = fragment
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(site.dtype))
        layout = _Layout(fragment, site, self.token_counts(fragment, site))

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
        layout.from_rows(y, raw, out=site.tensor)
        return used

    # --- taps ----------------------------------------------------------------------------------

    def tap(self, tap: Tap) -> str:
        site = self.sites.find(tap.site)
        if not site.units:
            raise ModelError(f"the site {site.name} has no units and cannot be pooled")
        out = f"{PREFIX}tap.{len(self.output_types)}"
        fragment = self.tail
        source = site.tensor
        wide = site.dtype == "float64"
        if site.dtype in ("float16", "bfloat16"):
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
        x = _Layout(fragment, site, self.token_counts(fragment, site)).to_rows(source)
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
            if self.opset >= 18:
                return fragment.op("ReduceMax", [kept, axis], keepdims=0)
            return fragment.op("ReduceMax", [kept], axes=[1], keepdims=0)
        total = fragment.op("ReduceSum", [kept, axis], keepdims=0)
        return total if tap.pool == "sum" else fragment.op("Div", [total, count])

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

    def token_counts(self, fragment: "_Fragment", site: Site) -> str | None:
        """Batch and length as a tensor, for sites in which both are one axis."""
        if Axis.MERGED not in site.axes:
            return None
        ids = next((i for i in self.graph.inputs if len(i.dims) == 2), None)
        if ids is None:
            raise ModelError(f"{site.name} merges batch and tokens, and no input tells them apart")
        return fragment.once("shape", "Shape", [ids.name])

    # --- heads ---------------------------------------------------------------------------------

    def target_logprobs(self, logits: str) -> None:
        site = self.sites.find(logits)
        if site.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
            raise ModelError(f"{site.name} is not [batch, tokens, vocabulary]")
        self.inputs[TARGETS] = (TensorProto.INT64, ["onnxloc.batch", "onnxloc.tokens"])
        fragment = self.tail
        source = site.tensor
        if site.dtype in ("float16", "bfloat16"):
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


class _Layout:
    """Brings a site into ``[batch, tokens, units]`` and back."""

    def __init__(self, fragment: "_Fragment", site: Site, counts: str | None) -> None:
        self.fragment = fragment
        self.site = site
        self.counts = counts
        axes = list(site.axes)
        lead = [axes.index(a) for a in (Axis.BATCH, Axis.TOKEN, Axis.MERGED) if a in axes]
        self.order = lead + [i for i in range(len(axes)) if i not in lead]
        self.transposed = self.order != sorted(self.order)
        self.rest = [site.shape[i] or 1 for i in self.order[len(lead) :]]

    def to_rows(self, tensor: str) -> str:
        fragment, site = self.fragment, self.site
        if self.transposed:
            tensor = fragment.op("Transpose", [tensor], perm=self.order)
        if self.counts is not None:
            units = fragment.ints([site.units])
            shape = fragment.op("Concat", [self.counts, units], axis=0)
            return fragment.op("Reshape", [tensor, shape])
        if not site.has_tokens:
            return fragment.op("Reshape", [tensor, fragment.ints([0, 1, site.units])])
        if len(self.rest) == 1:
            return tensor
        return fragment.op("Reshape", [tensor, fragment.ints([0, 0, site.units])])

    def from_rows(self, rows: str, original: str, *, out: str) -> None:
        fragment, site = self.fragment, self.site
        if self.counts is not None:
            shape = fragment.op("Shape", [original])
            fragment.op("Reshape", [rows, shape], out=out)
            return
        if not site.has_tokens:
            rows = fragment.op("Reshape", [rows, fragment.ints([0, *self.rest])])
        elif len(self.rest) != 1:
            rows = fragment.op("Reshape", [rows, fragment.ints([0, 0, *self.rest])])
        if self.transposed:
            inverse = [self.order.index(i) for i in range(len(self.order))]
            rows = fragment.op("Transpose", [rows], perm=inverse)
        fragment.op("Identity", [rows], out=out)


class _Fragment:
    """New operations, written with graphsurgeon, under a prefix of their own."""

    def __init__(self, opset: int, name: str) -> None:
        self.graph = gs.Graph(opset=opset, name=name)
        self.name = name
        self.variables: dict[str, gs.Variable] = {}
        self.shared: dict[str, str] = {}
        self.constants: dict[tuple[object, ...], str] = {}

    def _variable(self, name: str) -> gs.Tensor:
        if name not in self.variables:
            self.variables[name] = gs.Variable(name)
        return self.variables[name]

    def op(self, kind: str, inputs: list[str], *, out: str | None = None, **attrs: object) -> str:
        number = len(self.graph.nodes)
        out = out or f"{PREFIX}{self.name}.{number}"
        self.graph.nodes.append(
            gs.Node(
                op=kind,
                name=f"{PREFIX}{self.name}/{kind}.{number}",
                attrs=attrs,
                inputs=[self._variable(name) for name in inputs],
                outputs=[self._variable(out)],
            )
        )
        return out

    def once(self, key: str, kind: str, inputs: list[str], **attrs: object) -> str:
        if key not in self.shared:
            self.shared[key] = self.op(kind, inputs, **attrs)
        return self.shared[key]

    def constant(self, value: np.ndarray) -> str:  # type: ignore[type-arg]
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            name = f"{PREFIX}{self.name}.constant.{len(self.constants)}"
            self.constants[key] = name
            self.variables[name] = gs.Constant(name, value)
        return self.constants[key]

    def ints(self, values: Iterable[int]) -> str:
        return self.constant(np.array(list(values), dtype=np.int64))

    def append_to(self, body: onnx.GraphProto) -> None:
        exported = gs.export_onnx(self.graph, do_type_check=False).graph
        body.node.extend(exported.node)
        body.initializer.extend(exported.initializer)

    @cached_property
    def size(self) -> int:
        return len(self.graph.nodes)


def _keep_outputs(proto: ModelProto, names: list[str], types: Mapping[str, int]) -> None:
    known = {value.name: value for value in proto.graph.output}
    missing = [name for name in names if name not in known and name not in types]
    if missing:
        raise ModelError(f"the model has no output {missing[0]!r}")
    kept = []
    for name in names:
        if name in known:
            kept.append(known[name])
        else:
            kept.append(helper.make_tensor_value_info(name, types[name], None))
    del proto.graph.output[:]
    proto.graph.output.extend(kept)


def _prune(proto: ModelProto) -> None:
    """Drop nodes, inputs and weights that no output needs."""
    topology = Topology(proto)
    wanted = [value.name for value in proto.graph.output]
    needed = topology.ancestors(wanted) | set(wanted)
    used = [
        node
        for node in topology.nodes
        if any(name in needed for name in node.output)
    ]
    body = proto.graph
    del body.node[:]
    body.node.extend(used)
    inputs = [v for v in body.input if v.name in needed]
    del body.input[:]
    body.input.extend(inputs)
    weights = [t for t in body.initializer if t.name in needed]
    del body.initializer[:]
    body.initializer.extend(weights)
    # Sizes inferred before the edits would be wrong behind them, and nothing reads them.
    del body.value_info[:]


def external_weights(proto: ModelProto) -> bool:
    """Whether any weight lies outside the protobuf."""
    return any(t.data_location == TensorProto.EXTERNAL for t in walk_tensors(proto.graph))
