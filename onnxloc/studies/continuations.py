"""Continuing prompts: what a model writes when it is intact, and with a network ablated."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.runtime.generate import (
    Generated,
    Sampling,
    WindowEdits,
    generate,
    generation_plan,
)
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import EditValues
from onnxloc.runtime.tokens import Tokens
from onnxloc.studies.edit_texts import Patch
from onnxloc.studies.edit_values import NetworkEdits, PlannedEdit, TextForm, gather_facts
from onnxloc.studies.edits import EditInputs, Facts, UnitEdit, as_edit
from onnxloc.studies.masks import unit_masks

__all__ = ["Continuation", "Continuations", "ContinueOptions", "continue_prompts"]


@dataclass(frozen=True, kw_only=True)
class ContinueOptions:
    """How prompts are continued.

    Attributes
    ----------
    sampling : Sampling
        How tokens are chosen, and how many.
    replacement : str or UnitEdit
        What becomes of an ablated unit: "zero", "mean" (over the tokens of the prompts in the
        intact model), or any other edit; see `as_edit`.
    tokens : str or Tokens
        At which tokens: "all", "prompt", "generated", "last" (that of the prompt), or positions in
        the prompt such as "0,3,-1", counted from its first token behind a BOS token.
    bos : bool or None
        Whether a BOS token stands in front; None for what the model's metadata says.
    batch_size : int
        Rows run at a time; both conditions of a prompt are rows.
    """

    sampling: Sampling = field(default_factory=Sampling)
    replacement: str | UnitEdit = "zero"
    tokens: str | Tokens = "all"
    bos: bool | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        edit, tokens = self.edit, self.where
        if isinstance(edit, Patch) and edit.source_tokens(tokens).kind in ("all", "generated"):
            raise OptionError(
                "as many tokens are generated as it takes, so none can be patched one for one; "
                "choose prompt, last or positions, or a single token of the text to patch from"
            )
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")

    @cached_property
    def edit(self) -> UnitEdit:
        """What becomes of a unit."""
        return as_edit(self.replacement, EditInputs(seed=self.sampling.seed))

    @property
    def where(self) -> Tokens:
        """At which tokens."""
        return self.tokens if isinstance(self.tokens, Tokens) else Tokens.parse(self.tokens)


@dataclass(frozen=True)
class Continuation:
    """One continuation of one prompt.

    Attributes
    ----------
    prompt : str
        The prompt.
    condition : str
        "intact" or "network".
    text : str
        What was written behind the prompt.
    ids, logprobs, stopped
        As in `onnxloc.runtime.generate.Generated`.
    """

    prompt: str
    condition: str
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: str


@dataclass(frozen=True)
class Continuations:
    """Continuations, prompt by prompt and in each the intact one first, and how they came to be."""

    items: tuple[Continuation, ...]
    model: Mapping[str, Any]
    options: ContinueOptions

    @property
    def record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        edit = self.options.edit
        return {
            "format": 1,
            "model": dict(self.model),
            "sampling": asdict(self.options.sampling),
            "with": edit.label,
            "tokens": self.options.where.label,
            **edit.parameters,
            "bos": self.options.bos,
            "continuations": [asdict(item) for item in self.items],
        }


def continue_prompts(
    model: Model,
    prompts: Sequence[str],
    options: ContinueOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    network: Network | None = None,
    force_model: bool = False,
    show_progress: bool = False,
) -> Continuations:
    """Continue each prompt with the intact model and, given a network, with that ablated.

    Both conditions of a prompt are rows of one batch, and where tokens are drawn, they are drawn
    with the same random numbers: the texts differ by the ablation alone.

    Parameters
    ----------
    model : Model
        The model.
    prompts : sequence of str
        What is continued. Equal prompts are drawn apart.
    options : ContinueOptions, optional
        How.
    runtime : RuntimeOptions, optional
        Provider and threads.
    network : Network, optional
        The units to ablate.
    force_model : bool
        Use a network of another model.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the network and the prompts do not go together.
    """
    options, runtime = options or ContinueOptions(), runtime or RuntimeOptions()
    if not prompts:
        raise OptionError("there is no prompt to continue; give --prompt TEXT or --prompts FILE")
    info = model.bundle.info
    if network is not None:
        network.check_model(model.graph.hash, force_model)
    bos = info.add_bos if options.bos is None else options.bos
    encoded = model.encode(list(prompts), bos=bos)
    masks = {} if network is None else unit_masks(model, [None, network])
    edit = options.edit
    span = {} if network is None else network.sites
    planned = PlannedEdit(edit, options.where, tuple(masks), span)
    session = model.compile(generation_plan(model, planned.plan_edits), runtime)
    facts = Facts()
    if network is not None:
        (facts,) = gather_facts(
            model,
            [planned],
            TextForm(lambda texts: model.encode(texts, bos=bos), int(bos)),
            runtime,
            sequences=model.encode_scored(list(prompts)) if edit.needs else (),
            batch_size=options.batch_size,
            show_progress=show_progress,
        )
    edits = NetworkEdits(planned, facts, masks)
    conditions = ("intact",) if network is None else ("intact", "network")
    # A row for each prompt and condition, and which of equal prompts it is.
    rows = [(i, condition) for i in range(len(prompts)) for condition in conditions]
    draws = [encoded[:i].count(encoded[i]) for i, _ in rows]
    eos = [] if info.eos_token_id is None else [info.eos_token_id]
    done: list[Generated] = []
    total = len(rows) * options.sampling.max_new_tokens
    step = max(1, options.batch_size // len(conditions)) * len(conditions)
    with Progress("generating", total, show=show_progress) as progress:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            # The first of the masks takes no unit, the second is the network.
            which = np.array([condition == "network" for _, condition in part], dtype=np.int64)
            done += generate(
                session,
                [encoded[i] for i, _ in part],
                options.sampling,
                edits=_operands(edits, which),
                front=int(bos),
                eos=eos,
                pad=model.pad,
                limit=info.max_tokens,
                draws=draws[start : start + step],
                watch=progress.add,
            )
    items = tuple(
        Continuation(prompts[i], condition, _text(model, encoded[i], one.ids), *_parts(one))
        for (i, condition), one in zip(rows, done, strict=True)
    )
    return Continuations(items, model.description, options)


def _operands(edits: NetworkEdits, which: NDArray[np.int64]) -> EditValues | WindowEdits:
    """What `generate` takes: operands that hold at every token, or what gives them."""
    if edits.planned.everywhere or not edits.masks:
        return edits.operands(which, None)
    return lambda window: edits.operands(which[window.rows], window)


def _parts(one: Generated) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    return one.ids, one.logprobs, one.stopped


def _text(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What the new tokens say behind the prompt.

    Some tokenizers drop the blank in front of a text, so the new tokens are not decoded alone.
    """
    decode = model.bundle.tokenizer.decode
    front, whole = decode(list(prompt)), decode([*prompt, *ids])
    return str(whole[len(front) :] if whole.startswith(front) else decode(list(ids)))
