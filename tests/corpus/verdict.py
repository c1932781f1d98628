"""What must hold of every model: reading all sites and editing none of them changes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from corpus.case import Case, difference, plain_session
from numpy.typing import NDArray
from onnx import ModelProto

from onnxloc.bundle import Bundle
from onnxloc.errors import ModelError, OnnxlocError
from onnxloc.graph.load import Graph, load_graph
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.graph.rewrite import TOKEN_MASK, Instrumented, instrument
from onnxloc.graph.sites import Site, SiteTable, find_sites
from onnxloc.graph.topology import Topology
from onnxloc.runtime.engine import make_session, run_session
from onnxloc.runtime.probe import trace
from onnxloc.runtime.providers import RuntimeOptions

__all__ = ["Verdict", "examine"]

Array = NDArray[Any]
Outcome = Literal["passed", "refused", "failed", "excluded"]
OPTIONS = RuntimeOptions(threads=2)
# Of a size that no axis has.
NO_SIZE = (-1, -1)
# What a site is filled with to see whether it matters: few tensors hold one of these throughout,
# none holds both.
FILLS = (0.37, -2.5)
# What an edit takes that is to change nothing.
NOTHING = {"mask": False, "value": 0.0, "scale": 1.0, "shift": -0.0}


@dataclass(frozen=True)
class Verdict:
    """What came out for one model.

    Attributes
    ----------
    name, group : str
        The case.
    outcome : {"passed", "refused", "failed", "excluded"}
        "refused": onnxloc said what is wrong. "failed": an output changed that must not, or the
        other way round, or something broke. "excluded": onnxruntime itself does not run the model,
        or not to the outputs that are expected.
    reason : str
        Why it did not pass.
    sites, unread : int
        How many sites it has, and how many of these onnxloc says that it cannot read.
    exposed, kept : bool
        Whether the outputs were the same with all sites read, and with all sites open to edits that
        are not fed.
    changed, tried : int
        How many sites were changed one at a time, and how many of these changed an output.
    """

    name: str
    group: str
    outcome: Outcome
    reason: str = ""
    sites: int = 0
    unread: int = 0
    exposed: bool = False
    kept: bool = False
    changed: int = 0
    tried: int = 0


class _Differs(Exception):  # noqa: N818
    """An output is not what it was."""


def examine(case: Case, folder: Path) -> Verdict:
    """Do everything to one model; `folder` is empty and takes a copy of it."""
    verdict = Verdict(case.name, case.group, "excluded")
    names = [value.name for value in _proto(case).graph.output]
    try:
        expected = _reference(case, names)
    except _Differs as error:
        return replace(verdict, reason=str(error))
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        return replace(verdict, reason=f"onnxruntime: {_short(error)}")
    try:
        return _examined(case, verdict, _stored(case, folder), names, expected)
    except OnnxlocError as error:
        reason = _short(error).replace(f"{folder}/", "")
        return replace(verdict, outcome="refused", reason=reason)
    except Exception as error:  # whatever escapes is a finding, and must not end the run
        return replace(verdict, outcome="failed", reason=f"{type(error).__name__}: {_short(error)}")


def _proto(case: Case) -> ModelProto:
    if isinstance(case.model, ModelProto):
        return case.model
    return onnx.load(case.model, load_external_data=False)


def _stored(case: Case, folder: Path) -> Path:
    if isinstance(case.model, Path):
        return case.model
    path = folder / "model.onnx"
    path.write_bytes(case.model.SerializeToString())
    return path


def _short(error: object) -> str:
    return " ".join(str(error).split())[:200]


def _reference(case: Case, names: Sequence[str]) -> list[list[Any]]:
    """The untouched model's outputs in each run, from onnxruntime alone."""
    session = plain_session(case.reference or case.model)
    found = [session.run(list(names), dict(run)) for run in case.runs]
    if case.expected is not None:
        from onnx.backend.test.runner import Runner

        try:
            wanted, given = list(_flat(case.expected)), list(_flat(found[0]))
            Runner.assert_similar_outputs(wanted, given, case.rtol, case.atol)
        except AssertionError as error:
            raise _Differs("onnxruntime gives something else than the case expects") from error
    again = session.run(list(names), dict(case.runs[0]))
    _compare("onnxruntime gives something else each time", case, names, found[0], again)
    return found


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """What sequences hold, one after another; what an optional lacks is left out."""
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        elif value is not None:
            yield np.asarray(value)


def _compare(
    what: str, case: Case, names: Sequence[str], expected: Sequence[Any], found: Sequence[Any]
) -> None:
    for name, a, b in zip(names, expected, found, strict=True):
        apart = difference(a, b, half=name in case.half)
        if apart:
            raise _Differs(f"{what}: {name}: {apart}")


# --- the three checks --------------------------------------------------------------------------


def _examined(
    case: Case, verdict: Verdict, path: Path, names: Sequence[str], expected: list[list[Any]]
) -> Verdict:
    graph = load_graph(Bundle.open(path))
    topology = Topology(graph.proto)
    # Without sizes nothing is taken for a batch or for tokens: every axis is of fixed size.
    sizes = case.sizes or (NO_SIZE,) * len(case.runs)
    runs = trace(graph, topology, given=list(zip(case.runs, sizes, strict=True)))
    table = SiteTable(find_sites(topology, runs.traces, runs.sizes))
    taps = _readable(graph, table)
    outputs = tuple(names)
    verdict = replace(verdict, outcome="failed", sites=len(table), unread=len(table) - len(taps))
    whole = tuple(Edit(site.tensor, "whole") for site in table)
    units = tuple(Edit(site.tensor, "affine") for site in table if site.units)
    try:
        reading = _Opened(case, graph, table, Plan(taps=taps, outputs=outputs))
        reading.compare("all sites read", expected)
        verdict = replace(verdict, exposed=True)
        editing = _Opened(case, graph, table, Plan(edits=whole, outputs=outputs))
        editing.compare("edits not fed", expected)
        if units:
            by_units = _Opened(case, graph, table, Plan(edits=units, outputs=outputs))
            by_units.compare("edits of units not fed", expected)
        verdict = replace(verdict, kept=True)
    except _Differs as error:
        return replace(verdict, reason=str(error))
    return _controlled(verdict, editing, expected[0])


def _readable(graph: Graph, table: SiteTable) -> tuple[Tap, ...]:
    """Taps of every site but those which onnxloc says that it cannot read."""
    taps = tuple(Tap(site.tensor, "none") for site in table)
    if not any(site.body for site in table):
        return taps
    found = []
    for tap in taps:
        try:
            instrument(graph, table, Plan(taps=(tap,)))
        except ModelError:
            continue
        found.append(tap)
    return tuple(found)


class _Opened:
    """A plan's session, run on a case's feeds."""

    def __init__(self, case: Case, graph: Graph, table: SiteTable, plan: Plan) -> None:
        self.case = case
        self.table = table
        self.built: Instrumented = instrument(graph, table, plan)
        self.session = make_session(self.built.proto, graph.folder, OPTIONS)
        self._ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        self._identity = {
            name: self._operand(site, name, NOTHING[name.rpartition(".")[2]])
            for site in table
            for name in self.built.edit_inputs.get(site.tensor, ())
            if name in self.built.input_names
        }

    def _operand(self, site: Site, name: str, value: float) -> Array:
        shape = [1, 1, site.units]
        if Edit(site.tensor, "whole") in self.built.plan.edits:
            shape = [1] * self._ranks[name]
        half = "float32" if site.dtype == "bfloat16" else site.dtype
        return np.full(shape, value, dtype=np.bool_ if name.endswith(".mask") else half)

    def run(self, i: int, edits: dict[str, Array] | None = None) -> list[Any]:
        """The model's own outputs in one of the case's runs; what is tapped is computed, too."""
        needed = self.built.input_names
        feeds = {name: value for name, value in self.case.runs[i].items() if name in needed}
        if TOKEN_MASK in needed:
            feeds[TOKEN_MASK] = np.ones(self.case.sizes[i], dtype=np.bool_)
        taps = list(self.built.tap_outputs.values())
        names = [*taps, *(self.built.kept[name] for name in self.built.plan.outputs)]
        found = run_session(self.session, names, feeds | self._identity | (edits or {}))
        return found[len(taps) :]

    def compare(self, what: str, expected: Sequence[Sequence[Any]]) -> None:
        """Raise if the outputs of any run are not those expected."""
        names = self.built.plan.outputs
        for i, want in enumerate(expected):
            _compare(what, self.case, names, want, self.run(i))

    def changes(self, site: Site, expected: Sequence[Any]) -> bool:
        """Whether an output changes when a site is filled with another value."""
        inputs = self.built.edit_inputs[site.tensor]
        if not self.built.input_names.issuperset(inputs):
            return False
        mask, value = inputs
        for fill in FILLS:
            edit = {mask: self._operand(site, mask, True), value: self._operand(site, value, fill)}
            try:
                _compare("", self.case, self.built.plan.outputs, expected, self.run(0, edit))
            except (_Differs, OnnxlocError):
                # With such a value the model may not run on: the edit did reach it.
                return True
        return False


def _controlled(verdict: Verdict, editing: _Opened, expected: Sequence[Any]) -> Verdict:
    """Change one site at a time; one that is an output itself must change it."""
    outputs = dict(zip(editing.built.plan.outputs, expected, strict=True))
    table = editing.table
    step = max(1, -(-len(table) // editing.case.controls))
    tried = [site for i, site in enumerate(table) if i % step == 0 or site.tensor in outputs]
    alive = {site.tensor for site in tried if editing.changes(site, expected)}
    verdict = replace(verdict, tried=len(tried), changed=len(alive))
    for site in tried:
        if site.tensor in outputs and site.tensor not in alive and outputs[site.tensor].size:
            return replace(verdict, reason=f"an edit of the output {site.tensor} does not show")
    return replace(verdict, outcome="passed")
