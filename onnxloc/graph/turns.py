"""Editing in branches and loop bodies: what each turn takes of an edit's operands."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxloc.graph.carry import turn_number
from onnxloc.graph.fragment import Fragment
from onnxloc.graph.sites import Axis, Site
from onnxloc.graph.subgraphs import Body

__all__ = ["inner_site", "operand_of_turn"]


def inner_site(site: Site, loops: Sequence[Body]) -> Site:
    """A site as its loops' innermost body has it: without the axes that run over turns.

    Where a turn works on one row of the batch, the batch has become an axis of one row.
    """
    axes, shape = site.axes[len(loops) :], site.shape[len(loops) :]
    if Axis.BATCH in site.axes[: len(loops)]:
        axes, shape = (Axis.BATCH, *axes), (None, *shape)
    return replace(site, axes=axes, shape=shape, body="")


def operand_of_turn(
    front: Fragment, fragment: Fragment, operand: str, site: Site, loops: Sequence[Body]
) -> str:
    """What one turn takes of an operand ``[batch or 1, tokens or 1, units]``.

    Parameters
    ----------
    front : Fragment
        Operations that stand in front of the model's own.
    fragment : Fragment
        Operations in the innermost body.
    operand : str
        The operand.
    site : Site
        The edited site.
    loops : sequence of Body
        The loops that it lies in, the outermost first.

    Returns
    -------
    str
        ``[batch or 1, tokens or 1, units of one turn]``, with one token or one row where a turn
        works on one.
    """
    lead = site.axes[: len(loops)]
    fixed = [size for size in site.shape[: len(loops)] if size is not None]
    if fixed:
        inner = site.units // math.prod(fixed)
        operand = front.op("Reshape", [operand, front.ints([0, 0, *fixed, inner])])
        turns = range(2, 2 + len(fixed))
        operand = front.op("Transpose", [operand], perm=[*turns, 0, 1, 2 + len(fixed)])
    left = len(fixed)
    scalar = fragment.constant(np.zeros(0, dtype=np.int64))
    for loop, axis in zip(loops, lead, strict=True):
        turn = fragment.op("Reshape", [turn_number(loop), scalar])
        if axis is Axis.ITERATION:
            operand = fragment.op("Gather", [operand, turn], axis=0)
            left -= 1
            continue
        place = left + int(axis is Axis.TOKEN)
        # One row or token of the operand stands for all.
        sizes = fragment.op("Shape", [operand])
        size = fragment.op("Gather", [sizes, fragment.constant(np.array(place))], axis=0)
        last = fragment.op("Sub", [size, fragment.constant(np.array(1))])
        index = fragment.op("Min", [turn, last])
        index = fragment.op("Reshape", [index, fragment.ints([1])])
        operand = fragment.op("Gather", [operand, index], axis=place)
    return operand
