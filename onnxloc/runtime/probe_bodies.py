"""Probing what lies in branches and loop bodies: sizes, numbers of turns, and what turns follow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from onnxloc.errors import ModelError
from onnxloc.graph.body_report import Seen, Slot, add_reports, read_report
from onnxloc.graph.fragment import Fragment
from onnxloc.graph.lift import Lifter
from onnxloc.graph.load import PREFIX, Graph
from onnxloc.graph.sites import Axis, Site, Trace, find_sites
from onnxloc.graph.subgraphs import Body, body_floats, dependent, find_bodies, is_free
from onnxloc.graph.topology import Topology

__all__ = ["BodyProbe", "Change"]

Feeds = dict[str, NDArray[Any]]
# Runs a model on some feeds: the values of the outputs that are named.
Runner = Callable[[ModelProto, Sequence[str], Sequence[Feeds]], list[list[Any]]]
# Branches that do not run by themselves are made to, in at most so many further sessions.
MAX_FORCED = 8


@dataclass(frozen=True)
class Change:
    """Feeds that differ from the first probing run's in one place.

    Attributes
    ----------
    row : Feeds or None
        In the last row; None if there is only one.
    token : Feeds or None
        In the last token of every row.
    """

    row: Feeds | None
    token: Feeds | None


class BodyProbe:
    """Finds what the tensors in a graph's branches and loops look like.

    Parameters
    ----------
    graph : Graph
        The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._bodies = find_bodies(graph.proto)
        dynamic = dependent(graph.proto) if self._bodies else frozenset()
        self._dtypes = {name: body_floats(body, dynamic) for name, body in self._bodies.items()}
        self._valued: frozenset[str] = frozenset()
        if self._bodies:
            self._valued = dependent(graph.proto, by_value=True)

    def attach(self, proto: ModelProto) -> dict[str, list[Slot]]:
        """Give a copy of the graph outputs that report on its bodies; their names and contents."""
        if not any(self._dtypes.values()):
            return {}
        return add_reports(proto, self._dtypes)

    def traces(
        self,
        reports: Mapping[str, list[Slot]],
        runs: Sequence[Mapping[str, NDArray[np.int64]]],
        sizes: Sequence[tuple[int, int]],
        feeds: Sequence[Feeds],
        change: Change,
        runner: Runner,
    ) -> dict[str, Trace]:
        """What the probing showed, by tensor.

        Parameters
        ----------
        reports
            As `attach` gave them.
        runs
            The reports of each run.
        sizes, feeds
            Batch and length of each run, and what it was fed.
        change
            Feeds like those of the first run, with changes.
        runner
            Runs further copies of the model.
        """
        if not reports:
            return {}
        views: list[list[Mapping[str, Seen]]] = [[_read(reports, run) for run in runs]]
        views += self._forced(views[0], feeds, runner)
        loops = {
            name: _loop_axis(body, _first(views, name), sizes, self._valued)
            for name, body in self._bodies.items()
            if body.is_loop
        }
        found: dict[str, Trace] = {}
        by_force: set[str] = set()
        for name, body in self._bodies.items():
            for tensor, dtype in self._dtypes[name].items():
                trace = self._trace(tensor, dtype, body, views, loops)
                if trace is not None:
                    found[tensor] = trace
                    if not all(run[tensor].ran for run in views[0]):
                        by_force.add(tensor)
        return self._settled(found, by_force, sizes, feeds[0], change, runner)

    def _trace(
        self,
        tensor: str,
        dtype: str,
        body: Body,
        views: Sequence[Sequence[Mapping[str, Seen]]],
        loops: Mapping[str, Axis],
    ) -> Trace | None:
        turning = [one.name for one in body.chain if one.is_loop]
        for view in views:
            if not all(run[tensor].ran for run in view):
                continue
            shapes: list[tuple[int, ...] | None] = []
            for run in view:
                parts = [run[name].values for name in (*turning, tensor)]
                whole = [size for part in parts if part is not None for size in part]
                shapes.append(None if None in parts else tuple(whole))
            return Trace(dtype, tuple(shapes), True, tuple(loops[name] for name in turning))
        return None

    # --- branches that did not run -------------------------------------------------------------

    def _forced(
        self, seen: Sequence[Mapping[str, Seen]], feeds: Sequence[Feeds], runner: Runner
    ) -> list[list[Mapping[str, Seen]]]:
        """Run the branches that no run took, as far as the model runs with them."""
        unseen = [
            body
            for name, body in self._bodies.items()
            if any(not run[tensor].ran for tensor in self._dtypes[name] for run in seen)
        ]
        views: list[list[Mapping[str, Seen]]] = []
        for _ in range(MAX_FORCED):
            if not unseen:
                break
            choice: dict[str, bool] = {}
            chosen = []
            for body in unseen:
                wanted = {_key(one): _is_then(one) for one in body.chain if not one.is_loop}
                if all(choice.get(key, taken) == taken for key, taken in wanted.items()):
                    choice |= wanted
                    chosen.append(body)
            first = {_key(one): _is_then(one) for one in unseen[0].chain if not one.is_loop}
            for attempt in (choice, first):
                try:
                    views.append(self._run_forced(attempt, feeds, runner))
                except ModelError:
                    # A branch may not fit such inputs, which is why the model does not take it.
                    continue
                unseen = [body for body in unseen if attempt is choice and body not in chosen]
                break
            else:
                unseen = [body for body in unseen if unseen[0] not in body.chain]
        return views

    def _run_forced(
        self, choice: Mapping[str, bool], feeds: Sequence[Feeds], runner: Runner
    ) -> list[Mapping[str, Seen]]:
        proto = ModelProto()
        proto.CopyFrom(self._graph.proto)
        names = {}
        for taken in (False, True):
            names[taken] = f"{PREFIX}forced.{taken}"
            constant = numpy_helper.from_array(np.array(taken), names[taken])
            proto.graph.initializer.append(constant)
        for body in find_bodies(proto).values():
            if _key(body) in choice and not body.is_loop:
                body.node.input[0] = names[choice[_key(body)]]
        reports = self.attach(proto)
        outputs = list(reports)
        return [
            _read(reports, dict(zip(outputs, values, strict=True)))
            for values in runner(proto, outputs, feeds)
        ]

    # --- what turns and merged axes follow -----------------------------------------------------

    def _settled(
        self,
        found: dict[str, Trace],
        by_force: set[str],
        sizes: Sequence[tuple[int, int]],
        feeds: Feeds,
        change: Change,
        runner: Runner,
    ) -> dict[str, Trace]:
        """Traces whose loops' axes and merged axes have been held against changed inputs."""
        sites = [
            site
            for site in find_sites(Topology(self._graph.proto), found, sizes)
            if site.tensor in found and _in_question(site, found[site.tensor])
        ]
        if not sites:
            return found
        asked = [
            site for site in sites if site.tensor not in by_force and Axis.OTHER not in site.axes
        ]
        try:
            values = self._values(asked, sizes[0], feeds, change, runner)
        except ModelError:
            # What cannot be shown is not claimed.
            values = {}
        follows: dict[str, bool] = {}
        merged: dict[str, bool] = {}
        for site in asked:
            rows, tokens = values.get(site.tensor, (None, None))
            for j, loop in enumerate(self._loops(site)):
                axis = found[site.tensor].loops[j]
                shown = rows if axis is Axis.BATCH else tokens if axis is Axis.TOKEN else None
                if shown is not None:
                    follows[loop] = follows.get(loop, False) or _only_last(shown, j)
            if Axis.MERGED in site.axes:
                merged[site.tensor] = rows is not None and _last_rows(rows, site, sizes[0])
        for site in sites:
            trace = found[site.tensor]
            axes = tuple(
                Axis.OTHER
                if axis in (Axis.BATCH, Axis.TOKEN) and not follows.get(loop, False)
                else axis
                for axis, loop in zip(trace.loops, self._loops(site), strict=True)
            )
            together = Axis.MERGED not in site.axes or merged.get(site.tensor, False)
            found[site.tensor] = replace(trace, loops=axes, batch_first=together)
        return found

    def _loops(self, site: Site) -> list[str]:
        return [body.name for body in self._bodies[site.body].chain if body.is_loop]

    def _values(
        self,
        sites: Sequence[Site],
        size: tuple[int, int],
        feeds: Feeds,
        change: Change,
        runner: Runner,
    ) -> dict[str, tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]]:
        """Where each site changes with the last row, and with the last token of each row."""
        proto = ModelProto()
        proto.CopyFrom(self._graph.proto)
        front = Fragment(self._graph.opset, "probe")
        lifter = Lifter(proto, front, lambda: front.ints(size))
        names = [lifter.lift(site) for site in sites]
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        front.append_to(proto.graph)
        proto.graph.node.extend(nodes)
        proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        changed = [one for one in (change.row, change.token) if one is not None]
        before, *after = runner(proto, names, [feeds, *changed])
        places = {id(one): values for one, values in zip(changed, after, strict=True)}
        found = {}
        for k, site in enumerate(sites):
            rows, tokens = (
                None if one is None else _differs(before[k], places[id(one)][k])
                for one in (change.row, change.token)
            )
            found[site.tensor] = (rows, tokens)
        return found


def _read(
    reports: Mapping[str, list[Slot]], values: Mapping[str, NDArray[np.int64]]
) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for name, slots in reports.items():
        found |= read_report(slots, values[name])
    return found


def _first(views: Iterable[Sequence[Mapping[str, Seen]]], name: str) -> list[Seen]:
    """What the first view says in which a loop was reached in every run."""
    for view in views:
        # A loop without a site is not reported on.
        seen = [run.get(name, Seen(False, None)) for run in view]
        if all(one.ran for one in seen):
            return seen
    return []


def _loop_axis(
    body: Body, seen: Sequence[Seen], sizes: Sequence[tuple[int, int]], valued: frozenset[str]
) -> Axis:
    """What the turns of a loop run over, by their number alone."""
    counts = [one.values[0] for one in seen if one.values]
    if len(counts) < max(len(seen), 1) or is_free(body, valued):
        return Axis.OTHER
    if len(set(counts)) == 1:
        return Axis.ITERATION
    if counts == [tokens for _, tokens in sizes]:
        return Axis.TOKEN
    return Axis.BATCH if counts == [rows for rows, _ in sizes] else Axis.OTHER


def _in_question(site: Site, trace: Trace) -> bool:
    return Axis.MERGED in site.axes or not {Axis.BATCH, Axis.TOKEN}.isdisjoint(trace.loops)


def _differs(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (before != after) & ~(np.isnan(before) & np.isnan(after))
    return found


def _only_last(differs: NDArray[np.bool_], axis: int) -> bool:
    """Whether all that differs is in the last place along an axis."""
    rest = tuple(i for i in range(differs.ndim) if i != axis)
    places = np.atleast_1d(differs.any(axis=rest))
    return bool(places[-1]) and not places[:-1].any()


def _last_rows(differs: NDArray[np.bool_], site: Site, size: tuple[int, int]) -> bool:
    """Whether what follows the last row of the batch stands at the end of a merged axis."""
    rows, tokens = size
    axis = site.axes.index(Axis.MERGED)
    rest = tuple(i for i in range(differs.ndim) if i != axis)
    places = np.atleast_1d(differs.any(axis=rest))
    return bool(places.any()) and not places[: (rows - 1) * tokens].any()


def _key(body: Body) -> str:
    """What names the node of a body."""
    return body.name.rpartition("/")[0]


def _is_then(body: Body) -> bool:
    return body.name.endswith("/then")
