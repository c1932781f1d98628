"""Generating text, with edits that hold on the prompt, on the new tokens, or on both."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.cache import CachedRows, cache_pairs, takes_padding
from onnxloc.runtime.feeds import fixed_sizes
from onnxloc.runtime.model import Model
from onnxloc.runtime.sampling import Sampling, next_tokens
from onnxloc.runtime.session import EditValues, Session
from onnxloc.runtime.tokens import Window

__all__ = ["Generated", "Sampling", "WindowEdits", "generate", "generation_plan"]

Stopped = Literal["eos", "length"]
# Edits that depend on the tokens that are run; the operands have as many tokens as the window.
WindowEdits = Callable[[Window], EditValues]


@dataclass(frozen=True)
class Generated:
    """What was generated behind one prompt.

    Attributes
    ----------
    ids : tuple of int
        The new tokens; the one that ended the text is the last of them.
    logprobs : tuple of float
        The log-probability of each, under the (edited) model's own distribution.
    stopped : {"eos", "length"}
        Why there are no more: an end-of-text token came, or the most tokens were reached.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: Stopped


def generation_plan(model: Model, edits: Sequence[Edit] = ()) -> Plan:
    """The plan that `generate` needs: the last token's logits, the edits, the KV cache if any.

    Raises
    ------
    ModelError
        If the model has no logits, or keeps earlier tokens in a way that cannot be handled.
    """
    present = tuple(cache_pairs(model.graph).values())
    return Plan(taps=(Tap(model.logits.tensor, "last"),), edits=tuple(edits), outputs=present)


@dataclass(eq=False)
class _Row:
    """One text as it grows, and where its prompt stands among all."""

    place: int
    prompt: tuple[int, ...]
    generator: np.random.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: Stopped | None = None

    @property
    def text(self) -> tuple[int, ...]:
        """The prompt and what is behind it so far."""
        return (*self.prompt, *self.ids)


def generate(
    session: Session,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    *,
    edits: EditValues | WindowEdits | None = None,
    front: int = 0,
    eos: Collection[int] = (),
    pad: int = 0,
    limit: int | None = None,
    draws: Sequence[int] | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Continue prompts, all in one batch.

    With a KV cache where the plan keeps the outputs for it, else by running each text again for
    each token. Both give the same tokens, but for rounding. Only the logits of each row's last
    token leave the graph.

    Parameters
    ----------
    session : Session
        Compiled from a `generation_plan`.
    prompts : sequence of sequences of int
        Token ids; lengths may differ.
    sampling : Sampling, optional
        How tokens are chosen, and how many.
    edits : mapping of str to tuple of ndarray, or callable, optional
        As `Session.taps` takes them, each operand ``[prompts or 1, 1, units]``: the same at every
        token, those of the prompt and the new ones. Or a function that gives the operands for the
        tokens that are about to be run, each ``[rows or 1, tokens or 1, units]``. What it gives for
        a token must depend on the text up to that token alone: with a cache it is asked once, else
        again and again.
    front : int
        Tokens at the start of each prompt that are not its own (a BOS token), for such a function.
    eos : collection of int
        Tokens that end a text.
    pad : int
        Fills the ends of short rows; what it is does not matter.
    limit : int, optional
        Tokens of prompt and continuation together that the model takes.
    draws : sequence of int, optional
        Sets the random numbers of rows with equal prompts apart. By default 0 for the first, 1 for
        the second and so on. A row's random numbers depend on the seed, its prompt and this, so
        that its text does not depend on what else is in the batch.
    watch : callable, optional
        Called after each step with the number of tokens that it gave.

    Returns
    -------
    list of Generated
        One for each prompt.

    Raises
    ------
    OptionError
        If a prompt is empty or too long, or an edit does not fit.
    ModelError
        If the model fails, or cannot take the prompts.
    """
    sampling = sampling or Sampling()
    edits = {} if edits is None else edits
    if len(session.plan.taps) != 1 or session.plan.taps[0].pool != "last":
        raise OptionError("generating needs a plan from generation_plan: one tap, on the logits")
    _check_prompts(session, prompts, sampling, limit)
    if not callable(edits):
        _check_edits(edits, len(prompts))
    texts = [tuple(int(token) for token in prompt) for prompt in prompts]
    if draws is None:
        draws = [texts[:i].count(text) for i, text in enumerate(texts)]
    if len(draws) != len(texts) or any(draw < 0 for draw in draws):
        raise OptionError(f"{len(texts)} prompts take as many draws, 0 or more each")
    rows = [
        _Row(place, text, np.random.default_rng([sampling.seed, draw, *text]))
        for place, (text, draw) in enumerate(zip(texts, draws, strict=True))
    ]
    graph = session.instrumented.graph
    pairs = cache_pairs(graph)
    cached = bool(pairs) and set(pairs.values()) <= set(session.plan.outputs)
    if not cached:
        _advance(rows, _rerun(session, rows, edits, front, pad), sampling, eos, watch)
    else:
        for chosen in _groups(texts, together=takes_padding(graph)):
            group = [rows[i] for i in chosen]
            own = edits if callable(edits) else _rows_of(edits, chosen)
            steps = _continued(session, group, own, front, pad)
            _advance(group, steps, sampling, eos, watch)
    return [Generated(tuple(r.ids), tuple(r.logprobs), r.stopped or "length") for r in rows]


def _check_prompts(
    session: Session, prompts: Sequence[Sequence[int]], sampling: Sampling, limit: int | None
) -> None:
    _, fixed = fixed_sizes(session.instrumented.graph.inputs)
    bounds = [bound for bound in (limit, fixed) if bound is not None]
    if not prompts:
        raise OptionError("there is no prompt to continue")
    for number, prompt in enumerate(prompts, 1):
        if not len(prompt):
            raise OptionError(f"prompt {number} has no tokens, so there is nothing to continue")
        if any(token < 0 for token in prompt):
            raise OptionError(f"prompt {number} holds a negative token id")
        room = min(bounds) - len(prompt) if bounds else sampling.max_new_tokens
        if room < sampling.max_new_tokens:
            hint = f"lower --max-new-tokens to {room}" if room > 0 else "shorten it"
            raise OptionError(
                f"prompt {number} has {len(prompt)} tokens and {sampling.max_new_tokens} new ones "
                f"are asked for, but the model takes {min(bounds)} in all; {hint}"
            )


def _check_edits(edits: EditValues, rows: int) -> None:
    for site, operands in edits.items():
        for value in operands:
            if value.ndim != 3 or value.shape[0] not in (1, rows) or value.shape[1] != 1:
                raise OptionError(
                    f"an operand of the edit of {site!r} has shape {list(value.shape)}; generating "
                    f"takes [{rows} or 1, 1, units]"
                )


def _rows_of(edits: EditValues, rows: Sequence[int]) -> EditValues:
    """The edits of some of the rows."""
    return {
        site: tuple(v[list(rows)] if v.shape[0] > 1 else v for v in operands)
        for site, operands in edits.items()
    }


def _groups(texts: Sequence[Sequence[int]], *, together: bool) -> list[list[int]]:
    """Rows that can share a cache: all of them, or those of one length."""
    groups: dict[int, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(0 if together else len(text), []).append(row)
    return list(groups.values())


# Each step: the rows that want a token, and the logits behind them, [rows, vocabulary].
Steps = Iterator[tuple[list[_Row], NDArray[np.float32]]]


def _advance(
    rows: Sequence[_Row],
    steps: Steps,
    sampling: Sampling,
    eos: Collection[int],
    watch: Callable[[int], None] | None,
) -> None:
    """Give the rows token after token until each has stopped."""
    while any(row.stopped is None for row in rows):
        active, logits = next(steps)
        ids, logprobs = next_tokens(logits, sampling, [row.generator for row in active])
        for row, token, logprob in zip(active, ids.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token in eos:
                row.stopped = "eos"
            elif len(row.ids) == sampling.max_new_tokens:
                row.stopped = "length"
        if watch is not None:
            watch(len(active))


def _rerun(
    session: Session,
    rows: Sequence[_Row],
    edits: EditValues | WindowEdits,
    front: int,
    pad: int,
) -> Steps:
    """Each step runs the whole texts of the rows that have not stopped."""
    (tap,) = session.plan.taps
    while True:
        places = [i for i, row in enumerate(rows) if row.stopped is None]
        active = [rows[i] for i in places]
        batch = Batch.of([row.text for row in rows], places, pad=pad)
        if callable(edits):
            values = edits(_window(active, front, newest=False))
        else:
            values = _rows_of(edits, places)
        yield active, session.taps(batch, values)[tap]


def _continued(
    session: Session,
    rows: Sequence[_Row],
    edits: EditValues | WindowEdits,
    front: int,
    pad: int,
) -> Steps:
    """The first step runs the prompts, each later one the newest token of each row alone."""
    run = CachedRows(session, len(rows), None if callable(edits) else edits)
    batch = Batch.of([row.prompt for row in rows], range(len(rows)), pad=pad)
    ids, real = batch.ids, batch.mask
    newest = False
    while True:
        values = edits(_window(rows, front, newest=newest)) if callable(edits) else None
        logits = run.run(ids, real, values)
        active = [i for i, row in enumerate(rows) if row.stopped is None]
        yield [rows[i] for i in active], logits[active]
        # A row that has stopped stays in the batch, without tokens: taking it out would copy the
        # cache.
        going = [row.stopped is None for row in rows]
        real = np.array(going)[:, None]
        ids = np.array([row.ids[-1] for row in rows], dtype=np.int64)[:, None]
        newest = True


def _window(rows: Sequence[_Row], front: int, *, newest: bool) -> Window:
    """The whole texts of the rows, or the newest token of each."""
    texts = [row.text for row in rows]
    prompts = [len(row.prompt) for row in rows]
    places = [row.place for row in rows]
    window = Window.whole(texts, front=front, prompts=prompts, rows=places)
    return replace(window, first=window.lengths - 1, width=1) if newest else window
