"""Residual streams: chains of sums, each adding a branch that was computed from the stream."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from onnxloc.graph.anatomy_norms import SKIP_NORMS, norms_of
from onnxloc.graph.anatomy_view import View

__all__ = ["Step", "Stream", "find_streams", "parted"]

# Stands for a sum that no tensor holds.
HIDDEN = "\0sum of node "


@dataclass(frozen=True)
class Step:
    """One addition to a residual stream.

    Attributes
    ----------
    before, after : str
        The stream before it and after it: after the norm, where the norm's output goes on (BERT).
        `after` may be no tensor, where a fused operator keeps the sum to itself.
    total : str
        The sum itself.
    branches : tuple of str
        What is added.
    whole : bool
        Whether the branches are all that is added; a fused operator may add a bias too.
    """

    before: str
    after: str
    total: str
    branches: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Stream:
    """A residual stream.

    Attributes
    ----------
    view : View
        The graph that it lies in.
    steps : tuple of Step
        At least one.
    """

    view: View
    steps: tuple[Step, ...]

    @property
    def start(self) -> str:
        """Where it begins."""
        return self.steps[0].before

    @property
    def end(self) -> str:
        """Where it ends."""
        return self.steps[-1].after

    @cached_property
    def points(self) -> frozenset[str]:
        """The stream's tensors and the outputs of the norms that read them."""
        trunk = [self.start, *(name for s in self.steps for name in (s.total, s.after))]
        return frozenset(trunk) | {n for name in trunk for n in _norms(self.view, name)}

    @cached_property
    def final_norm(self) -> str | None:
        """The one norm behind the last sum, if it is not part of the stream."""
        found = [name for name in _norms(self.view, self.end) if name != self.end]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class _Sum:
    operands: tuple[str, ...]
    out: str
    whole: bool


def _norms(view: View, tensor: str) -> tuple[str, ...]:
    if tensor.startswith(HIDDEN):
        return (view.nodes[int(tensor.removeprefix(HIDDEN))].output[0],)
    return norms_of(view, tensor)


def _sums(view: View) -> Iterator[_Sum]:
    for i, node in enumerate(view.nodes):
        if node.op_type in ("Add", "Sum"):
            operands, out, whole = tuple(view.inputs(i)), node.output[0], True
            like = out
            if len(operands) != len(node.input):
                continue
        elif node.op_type in SKIP_NORMS:
            operands = tuple(name for name in node.input[:2] if name in view.data)
            # The sum is the last output, if anything needs it.
            out = node.output[3] if len(node.output) > 3 and node.output[3] else f"{HIDDEN}{i}"
            like = node.output[0]
            bias = SKIP_NORMS[node.op_type]
            whole = len(node.input) <= bias or not node.input[bias]
        else:
            continue
        site = view.sites.get(like)
        if len(operands) < 2 or site is None or not site.units:
            continue
        if all(view.like(name, like) or name in view.graph_inputs for name in operands):
            yield _Sum(operands, out, whole)


def find_streams(view: View) -> list[Stream]:
    """The residual streams of a graph: every chain of sums, however short."""
    steps: list[Step] = []
    parents: list[int | None] = []
    made: dict[str, int] = {}
    for total in _sums(view):
        operands = {view.root(name): name for name in total.operands}
        if len(operands) != len(total.operands) or all(name in made for name in operands):
            continue
        trunk = _trunk(view, steps, made, operands)
        if trunk is None:
            continue
        parents.append(made.get(trunk))
        made[total.out] = len(steps)
        # Where the norm's output goes on, the stream goes on with it.
        made.update({name: len(steps) for name in _norms(view, total.out)})
        branches = tuple(name for root, name in operands.items() if root != trunk)
        steps.append(Step(trunk, total.out, total.out, branches, total.whole))
    return [
        Stream(view, _in_parallel(view, _linked(view, [steps[i] for i in chain])))
        for chain in _chains(parents)
    ]


def _trunk(
    view: View, steps: list[Step], made: dict[str, int], operands: dict[str, str]
) -> str | None:
    """The operand that is the stream: all others are computed from it."""
    found = [
        one
        for one in operands
        if all(view.depends(other, one) for other in operands if other != one)
    ]
    if not found:
        # The second of two parallel branches, added to the sum of the stream and the first.
        found = [
            one
            for one in operands
            if one in made
            and one == steps[made[one]].total
            and all(view.depends(x, steps[made[one]].before) for x in operands if x != one)
        ]
    return found[0] if len(found) == 1 else None


def _chains(parents: list[int | None]) -> Iterator[list[int]]:
    """The longest chain of each tree of steps; none where two are as long."""
    depth: list[int] = []
    roots: list[int] = []
    for i, parent in enumerate(parents):
        depth.append(1 if parent is None else depth[parent] + 1)
        roots.append(i if parent is None else roots[parent])
    for root in dict.fromkeys(roots):
        members = [i for i, other in enumerate(roots) if other == root]
        longest = max(depth[i] for i in members)
        leaves = [i for i in members if depth[i] == longest]
        if len(leaves) > 1:
            continue
        chain: list[int] = []
        at: int | None = leaves[0]
        while at is not None:
            chain.append(at)
            at = parents[at]
        yield chain[::-1]


def _linked(view: View, steps: list[Step]) -> list[Step]:
    """Steps whose `after` is where the next one begins."""
    linked = [replace(step, after=following.before) for step, following in pairwise(steps)]
    last = steps[-1]
    norms = _norms(view, last.total)
    # A post-norm network ends behind a norm as each of its steps does.
    if linked and all(step.after != step.total for step in linked) and len(norms) == 1:
        last = replace(last, after=norms[0])
    return [*linked, last]


def _in_parallel(view: View, steps: list[Step]) -> tuple[Step, ...]:
    """Steps, those made one that add branches which read the same point of the stream."""
    out: list[Step] = []
    for step in steps:
        if out and not any(view.depends(branch, out[-1].after) for branch in step.branches):
            previous = out.pop()
            step = replace(
                step,
                before=previous.before,
                branches=previous.branches + step.branches,
                whole=previous.whole and step.whole,
            )
        out.append(step)
    return tuple(out)


def parted(view: View, branch: str) -> tuple[str, ...]:
    """The summands of a branch that is itself a sum of like tensors."""
    root = view.root(branch)
    i = view.producer.get(root)
    if i is None or view.nodes[i].op_type not in ("Add", "Sum"):
        return (branch,)
    read = view.inputs(i)
    whole = len(read) == len(view.nodes[i].input) > 1
    return read if whole and all(view.like(name, root) for name in read) else (branch,)
