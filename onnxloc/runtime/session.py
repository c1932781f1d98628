"""One compiled plan: an onnxruntime session and the feeds that its taps, edits and heads need."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.heads import TARGETS, head_outputs
from onnxloc.graph.narrow import LAST_INDEX, POSITIONS
from onnxloc.graph.plan import Entropy, Head, Tap, TargetLogProbs, TopLogits
from onnxloc.graph.rewrite import TOKEN_MASK, Instrumented
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.binding import Held, run_bound
from onnxloc.runtime.engine import make_session, placement, run_session
from onnxloc.runtime.feeds import model_feeds
from onnxloc.runtime.operands import EditValues, Operands
from onnxloc.runtime.parts import Part, join, parts
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.readings import Positions, Reading, Top
from onnxloc.runtime.whole import join_whole

__all__ = ["EditValues", "Session", "make_session", "run_session"]

Array = NDArray[Any]
At = Sequence[Sequence[int]] | None


class Session:
    """A compiled plan.

    Parameters
    ----------
    instrumented : Instrumented
        The graph with the plan built in.
    options : RuntimeOptions
        Provider and threads.

    Raises
    ------
    RuntimeMissingError
        If onnxruntime or the provider is missing.
    ModelError
        If onnxruntime refuses the graph.
    """

    def __init__(self, instrumented: Instrumented, options: RuntimeOptions) -> None:
        self.instrumented = instrumented
        self.plan = instrumented.plan
        self.options = options
        self._session = make_session(instrumented.proto, instrumented.graph.folder, options)
        self._inputs = instrumented.input_names
        self._specs = [spec for spec in instrumented.graph.inputs if spec.name in self._inputs]

    @property
    def provider(self) -> str:
        """Onnxruntime's name of the provider in use."""
        return str(self._session.get_providers()[0])

    @property
    def placement(self) -> dict[str, int]:
        """How many operations run on which provider; empty for cpu alone."""
        return placement(self._session)

    @property
    def handle(self) -> Any:
        """The session as onnxruntime has it."""
        return self._session

    def taps(
        self,
        batch: Batch | ArrayBatch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
    ) -> dict[Tap, Array]:
        """The pooled activations of a batch: for each tap, ``[rows, units]``.

        Parameters
        ----------
        batch : Batch or ArrayBatch
            What is run.
        edits : mapping of str to tuple of ndarray, optional
            For each site that is changed, by its tensor, the operands of the plan's edit: ``(mask,
            value)`` or ``(mask, scale, shift)``, each ``[rows or 1, tokens or 1, units]``; of a
            "whole" edit with the tensor's own axes. Edits of the plan that are not given change
            nothing.
        given : mapping of str to ndarray or Held, optional
            The plan's given tensors, ``[rows, tokens, features]``.

        Raises
        ------
        OptionError
            If `edits` names a site that the plan does not edit, or an operand does not fit.
        ModelError
            If the model fails, or cannot take the batch.
        """
        names = [self.instrumented.tap_outputs[tap] for tap in self.plan.taps]
        return dict(zip(self.plan.taps, self._run(names, batch, edits, given), strict=True))

    def target_logprobs(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
        at: At = None,
    ) -> list[NDArray[np.float64]]:
        """For each row, the log-probability of each token after the first, given those before it.

        Each array is one shorter than its row; of a head at given positions it has the tokens
        behind these. Parameters and errors are those of `read`.
        """
        head = self._head(TargetLogProbs, "log-probabilities")
        return [found for (found,) in self._of_head(head, batch, edits, given, at)]

    def top(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
        at: At = None,
    ) -> list[Top]:
        """For each row, the largest logits at the positions of the plan's head.

        At the last token a row has one position. Parameters and errors are those of `read`.
        """
        head = self._head(TopLogits, "the largest logits")
        return [_top(*found) for found in self._of_head(head, batch, edits, given, at)]

    def entropy(
        self,
        batch: Batch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
        at: At = None,
    ) -> list[NDArray[np.float64]]:
        """For each row, the entropy in nats at the positions of the plan's head.

        At the last token a row has one position. Parameters and errors are those of `read`.
        """
        head = self._head(Entropy, "the entropy")
        return [found for (found,) in self._of_head(head, batch, edits, given, at)]

    def read(
        self,
        batch: Batch | ArrayBatch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
        at: At = None,
    ) -> Reading:
        """All that the plan reads, in one run.

        Parameters
        ----------
        batch, edits, given
            As those of `taps`.
        at : sequence of sequences of int, optional
            For a plan with heads at given positions: those of each row, 0 for its first token. By
            default all of each row; where a target is scored, all but its last token.

        Raises
        ------
        OptionError
            As `taps`, or if the positions do not fit.
        ModelError
            As `taps`.
        """
        plan, made = self.plan, self.instrumented
        names = [made.tap_outputs[tap] for tap in plan.taps]
        names += [made.kept[name] for name in plan.outputs]
        names += [name for head in plan.heads for name in head_outputs(head)]
        found = iter(self._run(names, batch, edits, given, at))
        taps = {tap: next(found) for tap in plan.taps}
        outputs = {name: next(found) for name in plan.outputs}
        by_head: dict[type[Head], list[list[Array]]] = {}
        for head in plan.heads:
            values = [next(found) for _ in head_outputs(head)]
            by_head[type(head)] = self._rows(head, values, batch, at)
        scored, top, entropy = (by_head.get(k) for k in (TargetLogProbs, TopLogits, Entropy))
        return Reading(
            taps,
            outputs,
            None if scored is None else tuple(one for (one,) in scored),
            None if top is None else tuple(_top(*one) for one in top),
            None if entropy is None else tuple(one for (one,) in entropy),
        )

    def _head(self, kind: type[Head], what: str) -> Head:
        for head in self.plan.heads:
            if isinstance(head, kind):
                return head
        raise OptionError(f"the plan has no head for {what}")

    def _of_head(
        self,
        head: Head,
        batch: Batch,
        edits: EditValues | None,
        given: Mapping[str, Array | Held] | None,
        at: At,
    ) -> list[list[Array]]:
        found = self._run(list(head_outputs(head)), batch, edits, given, at)
        return self._rows(head, found, batch, at)

    def _rows(
        self, head: Head, values: list[Array], batch: Batch | ArrayBatch, at: At
    ) -> list[list[Array]]:
        """What a head gave, row by row."""
        text = _text(batch)
        if text is None:
            raise ModelError("a head reads the logits of texts, and these arrays are no tokens")
        n_rows = text.shape[0]
        wide = [value if value.dtype.kind == "i" else value.astype(np.float64) for value in values]
        if head.at == "given":
            positions = self._positions(text, at)
            split = [positions.by_row(value, n_rows) for value in wide]
            return [list(row) for row in zip(*split, strict=True)]
        if head.at == "last":
            return [[value[row] for value in wide] for row in range(n_rows)]
        counts = text.lengths - isinstance(head, TargetLogProbs)
        return [[value[row, :count] for value in wide] for row, count in enumerate(counts)]

    def _positions(self, text: Batch, at: At) -> Positions:
        scored = any(isinstance(h, TargetLogProbs) and h.at == "given" for h in self.plan.heads)
        return Positions.of(text, at, scored=scored)

    @cached_property
    def _at_positions(self) -> frozenset[str]:
        """The outputs that have an axis of given positions."""
        heads = [head for head in self.plan.heads if head.at == "given"]
        return frozenset(name for head in heads for name in head_outputs(head))

    def outputs(
        self,
        batch: Batch | ArrayBatch,
        edits: EditValues | None = None,
        given: Mapping[str, Array | Held] | None = None,
    ) -> dict[str, Array]:
        """The kept outputs of the original graph. Parameters and errors are those of `taps`."""
        names = [self.instrumented.kept[name] for name in self.plan.outputs]
        found = self._run(names, batch, edits, given)
        return dict(zip(self.plan.outputs, found, strict=True))

    def held(self, batch: Batch) -> Array | Held:
        """The plan's only tap, left in the provider's memory where sessions are bound to it.

        Parameters and errors are those of `taps`.
        """
        (tap,) = self.plan.taps
        whole = self.options.binds and [part.batch for part in self._parts(batch)] == [batch]
        if not whole:
            return self.taps(batch)[tap]
        rows = tuple(range(batch.shape[0]))
        feeds = self._feeds(Part(rows, batch), None) | self.operands(batch, {})
        names = [self.instrumented.tap_outputs[tap]]
        (found,) = run_bound(self._session, names, feeds, self.options, hold=True)
        return cast(Held, found)

    def _run(
        self,
        names: list[str],
        batch: Batch | ArrayBatch,
        edits: EditValues | None,
        given: Mapping[str, Array | Held] | None,
        at: At = None,
    ) -> list[Array]:
        text, positions = _text(batch), None
        if self._at_positions and text is not None:
            positions = self._positions(text, at)
        elif at is not None:
            raise OptionError("positions are given, and the plan has no head at given positions")
        operands = self.operands(batch, edits or {}) | self._operands.of_given(batch, given or {})
        done: list[tuple[Part, list[Array]]] = []
        for part in self._parts(batch):
            feeds = self._feeds(part, positions)
            for name, value in operands.items():
                whole = part.batch is batch
                if name in self._operands.whole and not whole:
                    raise OptionError(
                        "a whole edit can be made only where all rows run at once, and this model "
                        "runs them in parts; edit one text at a time"
                    )
                feeds[name] = _part_of(part, value, whole=whole)
            try:
                if self.options.binds:
                    results = run_bound(self._session, names, feeds, self.options)
                else:
                    results = run_session(self._session, names, _on_host(feeds))
            except ModelError as error:
                rows, tokens = part.batch.shape
                what = "" if _text(part.batch) is None else f" of {tokens} tokens"
                raise ModelError(f"{error} (on {rows} rows{what})") from error
            done.append((part, results))
        joined = []
        for i, name in enumerate(names):
            results = [(part, values[i]) for part, values in done]
            if name in self._at_positions and positions is not None:
                joined.append(positions.joined(results))
            elif name in self.instrumented.whole:
                joined.append(join_whole(results, self.instrumented.whole[name]))
            else:
                joined.append(join(batch, results, by_token=self._by_token(name, results)))
        return joined

    def _parts(self, batch: Batch | ArrayBatch) -> Iterator[Part]:
        return parts(batch, self.instrumented.graph.inputs)

    def _feeds(self, part: Part, positions: Positions | None) -> dict[str, Array | Held]:
        """What the graph's own inputs take, and those of taps and heads."""
        batch = part.batch
        feeds: dict[str, Array | Held] = {}
        if isinstance(batch, ArrayBatch):
            # onnxruntime has written into callers' arrays: each run gets its own.
            for spec in self._specs:
                feeds[spec.name] = np.array(batch.feeds[spec.name], order="C")
        else:
            feeds.update(model_feeds(self._specs, batch))
        added = self._inputs & {LAST_INDEX, TOKEN_MASK, TARGETS, POSITIONS}
        text = _text(batch)
        if added and text is None:
            raise ModelError(
                "the model has no tokens to pool over; read its sites as Model.shown(...) finds "
                "them on the arrays"
            )
        if text is not None:
            if LAST_INDEX in added:
                feeds[LAST_INDEX] = text.lengths - 1
            if TOKEN_MASK in added:
                feeds[TOKEN_MASK] = text.pooled.copy()
            if TARGETS in added:
                feeds[TARGETS] = np.pad(text.ids[:, 1:], ((0, 0), (0, 1)))
            if positions is not None:
                own, _ = positions.within(part)
                feeds[POSITIONS] = own.fed
                if any(isinstance(h, TargetLogProbs) and h.at == "given" for h in self.plan.heads):
                    feeds[TARGETS] = own.targets(text.ids)
        return feeds

    def _by_token(self, name: str, results: Sequence[tuple[Part, Array]]) -> bool:
        """Whether the second axis of a result runs over tokens."""
        if name in self._tap_outputs:
            return results[0][1].ndim == 3
        if name in self._last_outputs:
            return False
        return all(v.ndim > 1 and v.shape[1] == p.batch.shape[1] for p, v in results)

    @cached_property
    def _last_outputs(self) -> frozenset[str]:
        heads = [head for head in self.plan.heads if head.at == "last"]
        return frozenset(name for head in heads for name in head_outputs(head))

    @cached_property
    def _tap_outputs(self) -> frozenset[str]:
        return frozenset(self.instrumented.tap_outputs.values())

    def operands(self, batch: Batch | ArrayBatch, edits: EditValues) -> dict[str, Array]:
        """Every operand of every edit, by the graph's input; edits and errors are as in `taps`."""
        return self._operands.of_edits(batch, edits)

    @cached_property
    def _operands(self) -> Operands:
        return Operands(self.instrumented, self._session)


def _text(batch: Batch | ArrayBatch) -> Batch | None:
    """The tokens of a batch, if it has any."""
    return batch if isinstance(batch, Batch) else batch.text


def _top(values: Array, ids: Array, mean: Array, variance: Array, total: Array) -> Top:
    """The outputs of `TopLogits`, in their order."""
    return Top(ids, values, mean, variance, total)


def _part_of(part: Part, value: Array | Held, *, whole: bool) -> Array | Held:
    if isinstance(value, Held):
        if whole:
            return value
        value = value.numpy()
    # onnxruntime has written into callers' arrays: each run gets its own.
    return value.copy() if whole else part.operand(value).copy()


def _on_host(feeds: Mapping[str, Array | Held]) -> dict[str, Array]:
    return {
        name: value.numpy() if isinstance(value, Held) else value for name, value in feeds.items()
    }
