"""Carrying tensors out of branches and loop bodies, so that they can be read."""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxloc.errors import ModelError
from onnxloc.graph.carry import branch_output, pad_outputs, turn_output
from onnxloc.graph.fragment import Fragment
from onnxloc.graph.load import PREFIX
from onnxloc.graph.sites import Axis, Site
from onnxloc.graph.subgraphs import Body, find_bodies

__all__ = ["Lifter"]


class Lifter:
    """Carries tensors of bodies up into the model's own graph.

    A loop stacks them over its turns. A branch that does not run gives NaN in their shape.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model; changed in place.
    front : Fragment
        Operations that will stand in front of the model's own.
    counts : callable
        Gives the name of a tensor that holds batch and length, when it is needed.
    """

    def __init__(self, proto: ModelProto, front: Fragment, counts: Callable[[], str]) -> None:
        self.bodies = find_bodies(proto)
        self._front = front
        self._counts = counts
        self._done: dict[str, str] = {}

    def body(self, site: Site) -> Body:
        """The body that a site lies in."""
        return self.bodies[site.body]

    def lift(self, site: Site) -> str:
        """The name of the tensor in the model's own graph; half precision has become single.

        Raises
        ------
        ModelError
            If the site lies in a branch and its size cannot be told when the branch does not run.
        """
        if site.tensor not in self._done:
            self._done[site.tensor] = self._lift(site)
        return self._done[site.tensor]

    def _lift(self, site: Site) -> str:
        dtype = TensorProto.DOUBLE if site.dtype == "float64" else TensorProto.FLOAT
        chain = self.body(site).chain
        number, first = len(self._done), sum(body.is_loop for body in chain)
        name = f"{PREFIX}lift.{number}"
        node = helper.make_node("Cast", [site.tensor], [name], name=name, to=dtype)
        self.body(site).graph.node.append(node)
        for level, body in reversed(list(enumerate(chain))):
            axes, dims = site.axes[first:], site.shape[first:]
            out = f"{PREFIX}lift.{number}.{level}"
            if body.is_loop:
                turn_output(body, name, out, dtype, dims)
                first -= 1
            else:
                pad_outputs(body)
                branch_output(body.graph, name, dtype, None)
                shape = self._shape(site, axes, dims)
                for other in body.siblings:
                    filler = f"{out}.filler"
                    inputs = [self._nan(dtype), shape]
                    node = helper.make_node("Expand", inputs, [filler], name=filler)
                    other.node.append(node)
                    branch_output(other, filler, dtype, None)
                body.node.output.append(out)
            name = out
        return name

    def _nan(self, dtype: int) -> str:
        value = np.array(np.nan, dtype=helper.tensor_dtype_to_np_dtype(dtype))
        # A fragment holds only the constants that its own operations read.
        return self._front.once(f"nan {dtype}", "Identity", [self._front.constant(value)])

    def _shape(self, site: Site, axes: tuple[Axis, ...], dims: tuple[int | None, ...]) -> str:
        """A tensor that holds the shape of these axes."""
        if Axis.OTHER in axes:
            raise ModelError(
                f"the site {site.name} lies in a branch and has an axis that follows neither batch "
                "nor tokens: it cannot be read, for its size is not known where the branch does "
                "not run"
            )
        front = self._front
        parts = [
            front.ints([size]) if size is not None else self._count(axis)
            for axis, size in zip(axes, dims, strict=True)
        ]
        if not parts:
            return front.once("scalar", "Identity", [front.ints([])])
        return front.once(f"shape {parts}", "Concat", parts, axis=0)

    def _count(self, axis: Axis) -> str:
        front, counts = self._front, self._counts()
        if axis is Axis.MERGED:
            inputs = [self._count(Axis.BATCH), self._count(Axis.TOKEN)]
            return front.once("merged", "Mul", inputs)
        place = int(axis is Axis.TOKEN)
        inputs = [counts, front.ints([place]), front.ints([place + 1])]
        return front.once(f"count {place}", "Slice", inputs)
