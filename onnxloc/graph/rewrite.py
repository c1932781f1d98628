"""Turning a plan into a graph: taps, edits and heads are spliced in, the rest is pruned.

The new operations are written with onnx-graphsurgeon into a fragment of their own, and the fragment
is spliced into the protobuf here: carried through graphsurgeon, the model itself would lose its
nodes' metadata and fail on optional types. The weights are neither copied nor read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.fragment import Fragment, Layout
from onnxloc.graph.fused import is_shown, show
from onnxloc.graph.heads import HeadWriter, head_outputs
from onnxloc.graph.lift import Lifter
from onnxloc.graph.load import PREFIX, Graph
from onnxloc.graph.narrow import INDICES, LAST_INDEX, narrow_plan
from onnxloc.graph.plan import Edit, Head, Plan, Tap
from onnxloc.graph.prune import keep_outputs, prune
from onnxloc.graph.sites import Axis, Site, SiteTable
from onnxloc.graph.subgraphs import Body
from onnxloc.graph.turns import inner_site, operand_of_turn

__all__ = ["Instrumented", "instrument"]

TOKEN_MASK = f"{PREFIX}token_mask"
# What half precision is read as: numpy has no bfloat16, and onnxruntime computes little in it.
READ_AS_SINGLE = ("float16", "bfloat16")


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
        "replace" and "whole", ``(mask, scale, shift)`` for "affine".
    given_inputs : mapping of str to str
        For each given tensor, the input that takes it.
    whole : mapping of str to int or None
        Outputs that carry a tensor as it is, for it has no units; and where its batch axis is.
    kept : mapping of str to str
        For each output of the original graph that the plan keeps, the output that carries it.
    """

    graph: Graph
    plan: Plan
    proto: ModelProto
    tap_outputs: Mapping[Tap, str]
    edit_inputs: Mapping[str, tuple[str, ...]]
    given_inputs: Mapping[str, str]
    whole: Mapping[str, int | None]
    kept: Mapping[str, str]

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
    show(proto, {tap.site for tap in plan.taps if is_shown(tap.site)})
    writer = _Writer(graph, proto, sites, narrow_plan(proto, sites, plan, graph.inputs))
    edit_inputs = {edit.site: writer.edit(edit) for edit in plan.edits}
    given_inputs = {name: writer.give(i, name) for i, name in enumerate(plan.given)}
    tap_outputs = {tap: writer.tap(tap) for tap in plan.taps}
    for head in plan.heads:
        writer.head(head)
    kept = {name: writer.keep(name) for name in plan.outputs}
    writer.splice()
    heads = [out for head in plan.heads for out in head_outputs(head)]
    outputs = [*tap_outputs.values(), *heads, *kept.values()]
    keep_outputs(proto, outputs, writer.output_types)
    prune(proto)
    return Instrumented(
        graph, plan, proto, tap_outputs, edit_inputs, given_inputs, writer.whole, kept
    )


class _Writer:
    """Writes the new operations of one plan, then splices them into the model."""

    def __init__(
        self,
        graph: Graph,
        proto: ModelProto,
        sites: SiteTable,
        narrowed: Mapping[str, frozenset[str]],
    ) -> None:
        self.graph = graph
        self.proto = proto
        self.sites = sites
        self.output_types: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.narrowed = narrowed
        # One fragment for what is given, one for what follows the nodes of the model, and one for
        # each edit, which must stand right behind the node whose output it changes.
        self.front = Fragment(graph.opset, "front")
        self.tail = Fragment(graph.opset, "tail")
        self.edits: dict[str, Fragment] = {}
        self.inputs: dict[str, tuple[int, list[int | str]]] = {}
        self.heads = HeadWriter(self.tail, graph.opset, self.inputs)
        for index, tensors in narrowed.items():
            if tensors:
                self.inputs[index] = INDICES[index]
        self.whole: dict[str, int | None] = {}
        self.outputs = {value.name: value for value in graph.proto.graph.output}

    @cached_property
    def lifter(self) -> Lifter:
        """What carries tensors out of bodies; made when the first is wanted, behind narrowing."""
        return Lifter(self.proto, self.front, self.sizes)

    def sizes(self) -> str:
        """Batch and length, for what stands in for a branch that does not run."""
        ids = (TensorProto.INT32, TensorProto.INT64)
        if any(len(spec.dims) == 2 and spec.dtype in ids for spec in self.graph.inputs):
            return self.counts(self.front)
        # A model of no text takes no token mask. Its first axes are the batch, all others of no
        # fixed size are as long as each other: so it was probed.
        return self.front.once("sizes", "Concat", [self.size(0), self.size(1)], axis=0)

    def size(self, axis: int) -> str:
        """The size of one axis of the inputs; 1 if none has it."""
        for spec in self.graph.inputs:
            if len(spec.dims) > axis and not isinstance(spec.dims[axis], int):
                shape = self.front.once(f"shape of {spec.name}", "Shape", [spec.name])
                ends = [self.front.ints([axis]), self.front.ints([axis + 1])]
                return self.front.once(f"size {axis}", "Slice", [shape, *ends])
        fixed = [d for spec in self.graph.inputs for d in spec.dims[axis : axis + 1]]
        return self.front.ints([size if isinstance(size := next(iter(fixed), 1), int) else 1])

    # --- edits ---------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> tuple[str, ...]:
        site = self.sites.tensor(edit.site)
        if is_shown(site.tensor):
            raise ModelError(
                f"{site.name} can be read and not changed: attention is one operation, and nothing "
                "reads the probabilities that it puts out; export the model with attention written "
                "out to change them"
            )
        if edit.form == "whole":
            return self.edit_whole(site)
        if not site.units:
            raise ModelError(f"the site {site.name} has no units and cannot be edited")
        number = len(self.edits)
        fragment = Fragment(self.graph.opset, f"edit{number}")
        raw = f"{PREFIX}edit.{number}.raw"
        self.renamed[site.tensor] = raw
        self.edits[site.tensor] = fragment
        # The few operations here are not worth a type that onnxruntime has almost none for.
        name = "float32" if site.dtype == "bfloat16" else site.dtype
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(name))
        loops = self.loops(site)
        inner = inner_site(site, loops)
        layout = Layout(fragment, inner, self.token_counts(fragment, inner))

        def operand(kind: str, elem_type: int) -> tuple[str, str]:
            full = f"{PREFIX}edit.{number}.{kind}"
            dims: list[int | str] = [f"{full}.batch", f"{full}.tokens", site.units]
            self.inputs[full] = (elem_type, dims)
            return full, operand_of_turn(self.front, fragment, full, site, loops)

        x = raw
        if name != site.dtype:
            x = fragment.op("Cast", [x], to=dtype)
        row = len(inner.axes) > len(site.axes) - len(loops)
        if row:
            x = fragment.op("Unsqueeze", [x, fragment.ints([0])])
        x = layout.to_rows(x)
        mask, chosen = operand("mask", TensorProto.BOOL)
        if edit.form == "replace":
            value, new = operand("value", dtype)
            y = fragment.op("Where", [chosen, new, x])
            used: tuple[str, ...] = (mask, value)
        else:
            (scale, factor), (shift, term) = operand("scale", dtype), operand("shift", dtype)
            zero = fragment.constant(np.zeros((), dtype=name))
            scaled = fragment.op("Mul", [x, factor])
            y = fragment.op("Add", [fragment.op("Where", [chosen, zero, scaled]), term])
            used = (mask, scale, shift)
        y = layout.from_rows(y)
        if row:
            y = fragment.op("Squeeze", [y, fragment.ints([0])])
        if name != site.dtype:
            y = fragment.op("Cast", [y], to=TensorProto.BFLOAT16)
        fragment.op("Identity", [y], out=site.tensor)
        return used

    def edit_whole(self, site: Site) -> tuple[str, ...]:
        """An edit whose operands have the tensor's own axes: of these only the number is needed."""
        number = len(self.edits)
        fragment = Fragment(self.graph.opset, f"edit{number}")
        x = self.renamed[site.tensor] = f"{PREFIX}edit.{number}.raw"
        self.edits[site.tensor] = fragment
        half = site.dtype == "bfloat16"
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype("float32" if half else site.dtype))
        rank = len(site.axes) - len(self.loops(site))
        mask, value = (f"{PREFIX}edit.{number}.{kind}" for kind in ("mask", "value"))
        for name, elem_type in ((mask, TensorProto.BOOL), (value, dtype)):
            self.inputs[name] = (elem_type, [f"{name}.{axis}" for axis in range(rank)])
        if half:
            x = fragment.op("Cast", [x], to=dtype)
        y = fragment.op("Where", [mask, value, x])
        to = TensorProto.BFLOAT16 if half else dtype
        fragment.op("Cast", [y], out=site.tensor, to=to)
        return mask, value

    def loops(self, site: Site) -> tuple[Body, ...]:
        """The loops that a site lies in, the outermost first."""
        if not site.body:
            return ()
        return tuple(body for body in self.lifter.body(site).chain if body.is_loop)

    # --- given tensors -------------------------------------------------------------------------

    def give(self, number: int, tensor: str) -> str:
        site = self.sites.tensor(tensor)
        if site.body or site.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
            raise ModelError(f"{site.name} is not [batch, tokens, features] and cannot be given")
        name = f"{PREFIX}given.{number}"
        half = site.dtype == "bfloat16"
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype("float32" if half else site.dtype))
        self.inputs[name] = (dtype, ["onnxloc.batch", "onnxloc.tokens", site.units])
        to = TensorProto.BFLOAT16 if half else dtype
        self.front.op("Cast", [name], out=self.renamed.get(tensor, tensor), to=to)
        # What the graph computes there is left to be pruned.
        self.renamed[tensor] = f"{name}.unused"
        return name

    # --- taps ----------------------------------------------------------------------------------

    def tap(self, tap: Tap) -> str:
        site = self.sites.tensor(tap.site)
        if not site.units and tap.pool != "none":
            raise ModelError(
                f"the site {site.name} has no units and cannot be pooled; it can be read whole, "
                "with the pooling 'none'"
            )
        out = f"{PREFIX}tap.{len(self.output_types)}"
        source = self.single(site)
        if site.units:
            source = self.pool(tap, site, source)
        else:
            self.whole[out] = site.axes.index(Axis.BATCH) if Axis.BATCH in site.axes else None
        self.tail.op("Identity", [source], out=out)
        wide = site.dtype == "float64"
        self.output_types[out] = TensorProto.DOUBLE if wide else TensorProto.FLOAT
        return out

    def single(self, site: Site) -> str:
        """A site in the model's own graph, with at least single precision."""
        if site.body:
            return self.lifter.lift(site)
        if site.dtype in READ_AS_SINGLE:
            return self.tail.op("Cast", [site.tensor], to=TensorProto.FLOAT)
        return site.tensor

    def pool(self, tap: Tap, site: Site, source: str) -> str:
        fragment = self.tail
        if site.tensor in self.narrowed[LAST_INDEX]:
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
        fragment = self.tail
        self.inputs[LAST_INDEX] = INDICES[LAST_INDEX]
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
        return self.counts(fragment)

    def counts(self, fragment: Fragment) -> str:
        """A tensor that holds batch and length."""
        self.inputs[TOKEN_MASK] = (TensorProto.BOOL, ["onnxloc.batch", "onnxloc.tokens"])
        return fragment.once("shape", "Shape", [TOKEN_MASK])

    # --- heads ---------------------------------------------------------------------------------

    def head(self, head: Head) -> None:
        site = self.sites.tensor(head.logits)
        source = self.lifter.lift(site) if site.body else site.tensor
        self.output_types |= self.heads.write(head, site, source, self.narrowed)

    # --- kept outputs --------------------------------------------------------------------------

    def keep(self, name: str) -> str:
        """The output that carries an output of the model: bfloat16, which numpy lacks, as single.

        A tensor that is an input, too, is what is fed.
        """
        known = self.outputs.get(name)
        if known is None or known.type.tensor_type.elem_type != TensorProto.BFLOAT16:
            return name
        out = f"{PREFIX}kept.{len(self.output_types)}"
        self.tail.op("Cast", [name], out=out, to=TensorProto.FLOAT)
        self.output_types[out] = TensorProto.FLOAT
        return out

    # --- splicing ------------------------------------------------------------------------------

    def splice(self) -> None:
        edited = {self.sites.tensor(name).body for name in self.edits} - {""}
        # The innermost first: what is put into a graph anew is a copy.
        for name in sorted(edited, key=lambda name: -len(self.lifter.bodies[name].chain)):
            self.put_edits(self.lifter.bodies[name].graph)
        body = self.proto.graph
        self.put_edits(body, self.front)
        self.tail.append_to(body)
        for name, (elem_type, dims) in self.inputs.items():
            body.input.append(helper.make_tensor_value_info(name, elem_type, dims))

    def put_edits(self, graph: GraphProto, front: Fragment | None = None) -> None:
        """Put each edit behind the node whose output it changes, and `front` before all nodes."""
        nodes = list(graph.node)
        del graph.node[:]
        if front is not None:
            front.append_to(graph)
        for node in nodes:
            changed = [name for name in node.output if name in self.edits]
            for i, name in enumerate(node.output):
                node.output[i] = self.renamed.get(name, name)
            graph.node.append(node)
            for name in changed:
                self.edits[name].append_to(graph)
