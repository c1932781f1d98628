"""Continuing prompts: what a model writes when it is intact, and with a network ablated."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Edit
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.runtime.generate import Generated, Sampling, generate, generation_plan
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.studies.masks import unit_masks
from onnxloc.studies.means import Replacement, mean_activations

__all__ = ["Continuation", "Continuations", "ContinueOptions", "continue_prompts"]


@dataclass(frozen=True, kw_only=True)
class ContinueOptions:
    """How prompts are continued.

    Attributes
    ----------
    sampling : Sampling
        How tokens are chosen, and how many.
    replacement : {"zero", "mean"}
        What an ablated unit becomes, at every token: 0, or its mean over the tokens of the prompts
        in the intact model.
    bos : bool or None
        Whether a BOS token stands in front; None for what the model's metadata says.
    batch_size : int
        Rows run at a time; both conditions of a prompt are rows.
    """

    sampling: Sampling = field(default_factory=Sampling)
    replacement: Replacement = "zero"
    bos: bool | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.replacement not in get_args(Replacement):
            raise OptionError(f"a unit is replaced by zero or mean, not by {self.replacement!r}")
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")


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
        options = asdict(self.options)
        return {
            "format": 1,
            "model": dict(self.model),
            "sampling": options["sampling"],
            "with": options["replacement"],
            "bos": options["bos"],
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
    masks = {} if network is None else unit_masks(model, [network])
    plan = generation_plan(model, [Edit(site.tensor) for site in masks])
    session = model.compile(plan, runtime)
    if options.replacement == "mean" and masks:
        values = mean_activations(
            model,
            tuple(masks),
            model.encode_scored(list(prompts)),
            runtime,
            batch_size=options.batch_size,
            show_progress=show_progress,
        )
    else:
        values = {site.tensor: np.zeros((1, 1, site.units), site.dtype) for site in masks}
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
            ablated = np.array([condition == "network" for _, condition in part])[:, None, None]
            edits = {
                site.tensor: (ablated & mask, values[site.tensor]) for site, mask in masks.items()
            }
            done += generate(
                session,
                [encoded[i] for i, _ in part],
                options.sampling,
                edits=edits,
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


def _parts(one: Generated) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    return one.ids, one.logprobs, one.stopped


def _text(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What the new tokens say behind the prompt.

    Some tokenizers drop the blank in front of a text, so the new tokens are not decoded alone.
    """
    decode = model.bundle.tokenizer.decode
    front, whole = decode(list(prompt)), decode([*prompt, *ids])
    return str(whole[len(front) :] if whole.startswith(front) else decode(list(ids)))
