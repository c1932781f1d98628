"""Scores of tasks without each of several networks, in one compiled session."""

from collections.abc import Mapping, Sequence

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Head, Plan, TargetLogProbs, TopLogits
from onnxloc.network import Network
from onnxloc.progress import Progress
from onnxloc.runtime.model import Model
from onnxloc.runtime.offsets import token_offsets
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.tokens import Tokens
from onnxloc.studies.edit_values import NetworkEdits, PlannedEdit, TextForm, gather_facts
from onnxloc.studies.edits import as_edit
from onnxloc.studies.effects import Condition, TaskScores
from onnxloc.studies.masks import unit_masks
from onnxloc.studies.scoring import Prefix, Scorer, require_causal
from onnxloc.tasks import Task

__all__ = ["score_networks"]


def score_networks(
    model: Model,
    networks: Mapping[Condition, Network],
    tasks: Sequence[Task],
    runtime: RuntimeOptions,
    *,
    batch_size: int = 64,
    show_progress: bool = False,
) -> tuple[TaskScores, ...]:
    """Score tasks intact, and with each of the networks zeroed at all tokens.

    Parameters
    ----------
    model : Model
        What is ablated.
    networks : mapping of Condition to Network
        All of the same searched sites.
    tasks : sequence of Task
        What is scored.
    runtime : RuntimeOptions
        Provider and threads.
    batch_size : int
        Rows run at a time; conditions share a batch.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    tuple of TaskScores
        One for each task; its first condition is "intact", then the networks in order.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the networks and the tasks do not go together.
    """
    if not networks or not tasks:
        raise OptionError("there is nothing to score; give a network and a task")
    conditions = (Condition("intact", 0.0, "intact"), *networks)
    masks = unit_masks(model, [networks.get(condition) for condition in conditions])
    prefix = Prefix.of(model, masks, runtime)
    sites = next(iter(networks.values())).sites
    planned = PlannedEdit(as_edit("zero"), Tokens.parse("all"), tuple(masks), sites)
    heads: tuple[Head, ...] = (TargetLogProbs(model.logits.tensor, "given"),)
    if any(task.greedy for task in tasks):
        heads += (TopLogits(model.logits.tensor, 1, "given"),)
    given = () if prefix is None else (prefix.tensor,)
    session = model.compile(Plan(edits=planned.plan_edits, head=heads, given=given), runtime)
    texts = [[text for item in task.items for text in item.texts] for task in tasks]
    encoded = [model.encode_scored(own) for own in texts]
    require_causal(session, prefix, encoded[0][0][0])
    (facts,) = gather_facts(
        model, [planned], TextForm(model.encode_scored, 1), runtime, batch_size=batch_size
    )
    edits = NetworkEdits(planned, facts, masks)
    scorer = Scorer(
        session, prefix, edits.operands, len(conditions), batch_size, model.pad, planned.everywhere
    )
    total = len(conditions) * sum(map(len, encoded))
    found = []
    with Progress("ablating", total, show=show_progress) as progress:
        for task, own, sequences in zip(tasks, texts, encoded, strict=True):
            offsets = token_offsets(model, own) if task.has_spans else None
            scores, counts = scorer.score(task, sequences, progress, offsets)
            found.append(TaskScores(task, conditions, scores, counts))
    return tuple(found)
