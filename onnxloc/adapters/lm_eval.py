"""The model type ``onnxloc`` of lm-evaluation-harness: a model with or without a network ablated.

lm-evaluation-harness has no entry points for models: whoever imports this module has the type
registered. ``onnxloc lm-eval`` does so, and hands its arguments on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from onnxloc.errors import BundleError, OptionError
from onnxloc.graph.plan import Plan, TargetLogProbs, TopLogits
from onnxloc.network import Network
from onnxloc.registry import did_you_mean
from onnxloc.runtime.batches import batches
from onnxloc.runtime.generate import Sampling, WindowEdits, generate, generation_plan
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import EditValues, Session
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.store import Run
from onnxloc.studies.edit_values import NetworkEdits, PlannedEdit, TextForm, gather_facts
from onnxloc.studies.edits import EditInputs, as_edit
from onnxloc.studies.masks import unit_masks
from onnxloc.studies.scoring import require_causal
from onnxloc.studies.sentences import stimuli_of

__all__ = ["LMOptions", "OnnxlocLM"]

_MAX_TOKENS = 2048
_MAX_NEW = 256


@dataclass(frozen=True, kw_only=True)
class LMOptions:
    """What ``--model_args`` takes.

    Attributes
    ----------
    path : str
        The bundle.
    network : str or None
        A run of onnxloc localize, or a network file; none leaves the model intact.
    replacement : str
        What becomes of the network's units; written ``with=`` in ``--model_args``. What it needs to
        know of activations is measured on the texts that localized the network.
    tokens : str
        At which tokens; "prompt" is the context, "generated" what stands behind it.
    add_bos : bool or None
        Whether a BOS token stands in front of a context; None for what the bundle says.
    max_length : int or None
        Most tokens of a row; earlier ones are dropped. None for what the bundle says.
    batch_size : int or str
        Rows run at a time; "auto" is 16.
    provider, threads, precision
        As in `RuntimeOptions`.
    force_model : bool
        Use a network of another model.
    """

    path: str
    network: str | None = None
    replacement: str = "zero"
    tokens: str = "all"
    add_bos: bool | None = None
    max_length: int | None = None
    batch_size: int | str = 16
    provider: str = "cpu"
    threads: int = 0
    precision: str = "fp32"
    force_model: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> "LMOptions":
        """From what lm-evaluation-harness hands on.

        Raises
        ------
        OptionError
            If there is no path, or an argument that nothing knows.
        """
        # lm-evaluation-harness adds its own; a device is chosen by `provider` here.
        values = {k: v for k, v in given.items() if k not in ("device", "max_batch_size")}
        if "with" in values:
            values["replacement"] = str(values.pop("with"))
        if "tokens" in values:
            values["tokens"] = str(values["tokens"])
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                shown = ", ".join("with" if one == "replacement" else one for one in known)
                raise OptionError(
                    f"there is no model argument {name!r}{did_you_mean(name, known)} "
                    f"(known: {shown})"
                )
        if "path" not in values:
            raise OptionError("--model_args needs path=BUNDLE")
        if values.get("network") is None and {"replacement", "tokens"} & set(values):
            raise OptionError("with= and tokens= say what is done to a network; give network=")
        return cls(**values)

    @property
    def rows(self) -> int:
        """Rows run at a time.

        Raises
        ------
        OptionError
            If `batch_size` is no number of rows.
        """
        text = str(self.batch_size)
        if text.startswith("auto"):
            return 16
        if not text.isdecimal() or int(text) < 1:
            raise OptionError(f"batch_size is a number of 1 or more, or auto, not {text!r}")
        return int(text)


@register_model("onnxloc")
class OnnxlocLM(TemplateLM):  # type: ignore[misc]
    """A bundle as lm-evaluation-harness sees it; the arguments are those of `LMOptions`.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the arguments, the model and the network do not go together.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.options = options = LMOptions.of(given)
        self.batch_size = options.rows
        self.model = model = Model.open(options.path)
        info = model.bundle.info
        self._runtime = RuntimeOptions(
            provider=options.provider, threads=options.threads, precision=options.precision
        )
        bounds = [n for n in (options.max_length, info.max_tokens) if n is not None]
        self.max_length = min(bounds, default=_MAX_TOKENS)
        if self.max_length < 2:
            raise OptionError("max_length must be 2 or more")
        prefix = info.eos_token_id if info.bos_token_id is None else info.bos_token_id
        if prefix is None:
            raise BundleError(f"{options.path} names neither a BOS nor an EOS token")
        self._prefix = prefix
        self._bos = info.add_bos if options.add_bos is None else options.add_bos
        if self._bos and info.bos_token_id is None:
            raise BundleError(f"{options.path} has no BOS token; leave out add_bos")
        self._edits = self._prepare()
        self._sessions: dict[Plan, Session] = {}

    def _prepare(self) -> NetworkEdits | None:
        """The edit of the network, with all that it needs to know."""
        options, model = self.options, self.model
        if options.network is None:
            return None
        path = Path(options.network)
        run = Run.open(path) if path.is_dir() else None
        network = Network.load(path)
        network.check_model(model.graph.hash, options.force_model)
        edit = as_edit(options.replacement, EditInputs(run=run))
        masks = unit_masks(model, [network])
        planned = PlannedEdit(edit, Tokens.parse(options.tokens), tuple(masks), network.sites)
        sequences: list[list[int]] = []
        if edit.needs and not edit.measured_on:
            stimuli = stimuli_of(run, None)
            sequences = model.encode_scored([*stimuli.positive, *stimuli.control])
        (facts,) = gather_facts(
            model,
            [planned],
            TextForm(lambda texts: model.encode(texts, bos=self._bos), int(self._bos)),
            self._runtime,
            sequences=sequences,
            batch_size=self.batch_size,
        )
        return NetworkEdits(planned, facts, masks)

    def _session(self, plan: Plan) -> Session:
        if plan not in self._sessions:
            self._sessions[plan] = self.model.compile(plan, self._runtime)
        return self._sessions[plan]

    def _values(self, window: Window) -> EditValues:
        edits = self._edits
        return {} if edits is None else edits.operands(np.zeros(len(window.rows), int), window)

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token, or what stands in for it."""
        eos = self.model.bundle.info.eos_token_id
        return self._prefix if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: the BOS token, or the EOS token."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """A name for caches of requests."""
        return f"onnxloc-{self.model.graph.hash}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text; by default with a BOS token if the model takes one."""
        del kwargs
        ids = self.model.bundle.tokenizer.encode(string, add_special_tokens=False).ids
        front = self._bos if add_special_tokens is None else add_special_tokens
        return [self._prefix, *ids] if front else list(ids)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether each of its tokens is the likeliest."""
        del kwargs
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # An empty continuation is certain.
        places = [i for i, (_, _, end) in enumerate(requests) if end]
        if not places:
            return found
        texts, ends, fronts = [], [], []
        for place in places:
            _, context, end = requests[place]
            if len(end) >= self.max_length:
                raise OptionError(
                    f"a continuation has {len(end)} tokens, and the model takes "
                    f"{self.max_length} with the context"
                )
            whole = [*context, *end]
            texts.append(whole[-self.max_length :])
            ends.append(len(end))
            fronts.append(int(texts[-1] == whole and whole[0] == self._prefix))
        logits = self.model.logits.tensor
        edits = () if self._edits is None else self._edits.planned.plan_edits
        heads = (TargetLogProbs(logits, "given"), TopLogits(logits, 1, "given"))
        session = self._session(Plan(edits=edits, head=heads))
        require_causal(session, None, texts[0][0])
        # A window has one number of tokens in front, by which positions in its texts are counted.
        for front in sorted(set(fronts)):
            own = [i for i, one in enumerate(fronts) if one == front]
            chosen = [texts[i] for i in own]
            for batch in batches(chosen, max_rows=self.batch_size, pad=self.model.pad):
                rows = [own[row] for row in batch.rows.tolist()]
                starts = [len(texts[row]) - ends[row] for row in rows]
                window = Window.whole(
                    [texts[row] for row in rows], front=front, prompts=starts, rows=rows
                )
                at = [
                    list(range(start - 1, len(texts[row]) - 1))
                    for row, start in zip(rows, starts, strict=True)
                ]
                read = session.read(batch, self._values(window), None, at)
                scores, tops = read.target_logprobs or (), read.top or ()
                for row, score, top in zip(rows, scores, tops, strict=True):
                    greedy = bool((top.ids[:, 0] == texts[row][-ends[row] :]).all())
                    found[places[row]] = (float(score.sum()), greedy)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, in windows where it is too long for the model."""
        del disable_tqdm
        sums = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            sums.append(float(sum(score for score, _ in self._loglikelihood_tokens(parts))))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to the first of the stop texts."""
        del disable_tqdm
        edits = self._edits
        session = self._session(
            generation_plan(self.model, () if edits is None else edits.planned.plan_edits)
        )
        return [self._generated(session, *request.args) for request in requests]

    def _generated(self, session: Session, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [str(stop) for stop in until]
        drawn = bool(settings.get("do_sample", False))
        sampling = Sampling(
            max_new_tokens=int(settings.get("max_gen_toks", _MAX_NEW)),
            temperature=float(settings.get("temperature", 1.0)) if drawn else 0.0,
            top_k=int(settings.get("top_k", 0)) if drawn else 0,
            top_p=float(settings.get("top_p", 1.0)) if drawn else 1.0,
        )
        room = self.max_length - sampling.max_new_tokens
        if room < 1:
            raise OptionError(
                f"max_gen_toks is {sampling.max_new_tokens} and the model takes {self.max_length} "
                "tokens in all; lower it"
            )
        prompt = (self.tok_encode(context) or [self._prefix])[-room:]
        front = int(self._bos and prompt[0] == self._prefix)
        edits: WindowEdits | EditValues = self._values if self._edits is not None else {}
        eos = self.model.bundle.info.eos_token_id
        (done,) = generate(
            session,
            [prompt],
            sampling,
            edits=edits,
            front=front,
            eos=[] if eos is None else [eos],
            pad=self.model.pad,
            limit=self.model.bundle.info.max_tokens,
        )
        ids = [token for token in done.ids if token != eos]
        decode = self.model.bundle.tokenizer.decode
        before, whole = decode(prompt), decode([*prompt, *ids])
        text = str(whole[len(before) :] if whole.startswith(before) else decode(ids))
        cuts = [text.index(stop) for stop in stops if stop and stop in text]
        return text[: min(cuts, default=len(text))]
