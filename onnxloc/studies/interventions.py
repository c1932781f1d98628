"""Running texts with edits, each text with its own, and reading what comes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Plan, Pool, Tap, TargetLogProbs
from onnxloc.progress import Progress
from onnxloc.runtime.batches import Batch, batches
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session
from onnxloc.studies.edit_values import TextForm
from onnxloc.studies.row_edits import Intervention, RowEdits, prepare_rows
from onnxloc.studies.scoring import require_causal

__all__ = ["EditedRun", "run_with_edits"]

Array = NDArray[Any]
Text = str | Sequence[int]


@dataclass(frozen=True, eq=False)
class EditedRun:
    """What `run_with_edits` read.

    Attributes
    ----------
    taps : mapping of str to ndarray
        By the site's name, ``[texts, units]``; with the pooling "none" ``[texts, tokens, units]``,
        NaN behind a text's end.
    logits : ndarray of float, [texts, vocabulary], or None
        Of the token behind each text.
    target_logprobs : tuple of ndarray of float64
        For each text, the log-probability of each token of its target, given all before it.
    tokens : tuple of tuple of int
        Token ids of each text as it was run, a BOS token among them, its target not.
    """

    taps: Mapping[str, Array]
    logits: Array | None
    target_logprobs: tuple[NDArray[np.float64], ...]
    tokens: tuple[tuple[int, ...], ...]


def run_with_edits(
    model: Model,
    texts: Sequence[Text],
    edits: Sequence[Intervention] | Sequence[Sequence[Intervention]] = (),
    *,
    taps: Sequence[str] = (),
    pool: Pool = "last",
    logits: bool = False,
    targets: Sequence[Text] = (),
    bos: bool | None = None,
    batch_size: int = 64,
    runtime: RuntimeOptions | None = None,
    show_progress: bool = False,
) -> EditedRun:
    """Run texts with edits, each text with its own, and read activations, logits or targets.

    Parameters
    ----------
    model : Model
        The model.
    texts : sequence of str or of sequence of int
        The texts, or their token ids.
    edits : sequence of Intervention, or of sequence of Intervention
        Those of every text; or a list for each text, empty for none. Edits of one site are done in
        their order, each to what the one before leaves. Means and deviations are taken over the
        texts, unless an edit names others; patched values come from the intact model.
    taps : sequence of str
        Patterns of the sites to read.
    pool : {"last", "mean", "sum", "max", "none"}
        How their tokens are pooled.
    logits : bool
        Read the logits of the token behind each text.
    targets : sequence of str or of sequence of int
        One for each text: what may stand behind it, and whose log-probability is read. It is put
        there as it is, so mind the blank: " Paris". It is not among what `taps` and `logits` read.
    bos : bool, optional
        Whether a BOS token is put in front of texts; what the model's metadata says by default.
        Token ids stay as they are.
    batch_size : int
        Texts run at a time.
    runtime : RuntimeOptions, optional
        Provider and threads.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    EditedRun
        In the order of the texts.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the texts and the edits do not go together.
    """
    runtime = runtime or RuntimeOptions()
    if isinstance(texts, str) or isinstance(targets, str) or not texts:
        raise OptionError("texts and targets are lists, and there must be a text")
    if not (taps or logits or targets):
        raise OptionError("nothing is to be read; ask for taps, logits or targets")
    if batch_size < 1:
        raise OptionError("the batch size must be 1 or more")
    if targets and len(targets) != len(texts):
        raise OptionError(f"{len(texts)} texts take as many targets, not {len(targets)}")
    front = model.bundle.info.add_bos if bos is None else bos
    form = TextForm(lambda some: model.encode(some, bos=front), int(front))
    windows = [form.window(text) for text in texts]
    prompts = [list(window.texts[0]) for window in windows]
    sites = model.sites.match([taps] if isinstance(taps, str) else taps) if taps else ()
    row_edits = prepare_rows(
        model,
        _by_row(edits, len(texts)),
        windows,
        form,
        runtime,
        batch_size=batch_size,
        show_progress=show_progress,
    )
    run = _Run(row_edits, model.pad, batch_size, show_progress)
    read = {site.name: Tap(site.tensor, pool) for site in sites}
    head = Tap(model.logits.tensor, "last") if logits else None
    wanted = dict.fromkeys([*read.values(), *([head] if head else [])])
    values: dict[Tap, Array] = {}
    if wanted:
        session = model.compile(Plan(taps=tuple(wanted), edits=row_edits.plan_edits), runtime)
        values = run.taps(session, prompts)
    logprobs: tuple[NDArray[np.float64], ...] = ()
    if targets:
        bare = TextForm(lambda some: model.encode(some, bos=False), 0)
        ends = [bare.window(target).texts[0] for target in targets]
        whole = [[*prompt, *end] for prompt, end in zip(prompts, ends, strict=True)]
        longest, limit = max(map(len, whole)), model.bundle.info.max_tokens
        if limit is not None and longest > limit:
            raise OptionError(
                f"a text and its target have {longest} tokens, the model takes {limit}; shorten it"
            )
        plan = Plan(edits=row_edits.plan_edits, head=TargetLogProbs(model.logits.tensor))
        session = model.compile(plan, runtime)
        require_causal(session, None, prompts[0][0])
        found = run.target_logprobs(session, whole)
        logprobs = tuple(row[-len(end) :] for row, end in zip(found, ends, strict=True))
    return EditedRun(
        {name: values[tap] for name, tap in read.items()},
        values[head] if head else None,
        logprobs,
        tuple(tuple(ids) for ids in prompts),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """How texts are run, batch by batch."""

    edits: RowEdits
    pad: int
    batch_size: int
    show_progress: bool

    def taps(self, session: Session, texts: Sequence[Sequence[int]]) -> dict[Tap, Array]:
        """What is tapped of each text."""
        longest = max(map(len, texts))
        out: dict[Tap, Array] = {}
        with Progress("running", len(texts), show=self.show_progress) as progress:
            for batch in batches(texts, max_rows=self.batch_size, pad=self.pad):
                edits = self.edits.operands(texts, batch.rows.tolist())
                for tap, values in session.taps(batch, edits).items():
                    found = _padded(values, batch, longest) if values.ndim == 3 else values
                    if tap not in out:
                        out[tap] = np.empty((len(texts), *found.shape[1:]), found.dtype)
                    out[tap][batch.rows] = found
                progress.add(len(batch.rows))
        return out

    def target_logprobs(
        self, session: Session, texts: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """The log-probability of each token of each text but the first."""
        found: dict[int, NDArray[np.float64]] = {}
        with Progress("running", len(texts), show=self.show_progress) as progress:
            for batch in batches(texts, max_rows=self.batch_size, pad=self.pad):
                rows = batch.rows.tolist()
                values = session.target_logprobs(batch, self.edits.operands(texts, rows))
                found.update(zip(rows, values, strict=True))
                progress.add(len(rows))
        return [found[row] for row in range(len(texts))]


def _padded(values: Array, batch: Batch, tokens: int) -> Array:
    """Whole activations with as many tokens as the longest text has, NaN where there is none."""
    out = np.full((values.shape[0], tokens, values.shape[2]), np.nan, values.dtype)
    out[:, : values.shape[1]][batch.mask] = values[batch.mask]
    return out


def _by_row(
    edits: Sequence[Intervention] | Sequence[Sequence[Intervention]], rows: int
) -> list[tuple[Intervention, ...]]:
    """The interventions of each text."""
    shared = tuple(one for one in edits if isinstance(one, Intervention))
    if len(shared) == len(edits):
        return [shared] * rows
    lists = [tuple(own) for own in edits if not isinstance(own, Intervention)]
    if shared or any(not isinstance(one, Intervention) for own in lists for one in own):
        raise OptionError("edits are interventions for all texts, or a list of them for each text")
    if len(lists) != rows:
        raise OptionError(f"{rows} texts take as many lists of edits, not {len(lists)}")
    return lists
