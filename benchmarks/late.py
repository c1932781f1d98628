"""Late ablation: units of the last third of the blocks, with and without what lies before them."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from side_by_side import (
    Side,
    Times,
    arguments,
    in_turns,
    in_worker,
    loaded_model,
    machine,
    ratio_table,
    rounds,
    timed,
    times_table,
)

REUSED = "beginning run once"
AGAIN = "beginning run for each condition"
REUSED_ALL = "beginning run once, logits at all positions"
AGAIN_ALL = "beginning run for each condition, logits at all positions"
# At least 2 times faster.
BAR = 1 / 2


def processor_time(work: Callable[[], object]) -> Side:
    def side() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return side


def worker(
    threads: int, kind: str, *, texts: int, repeats: int, conditions: int, processor: bool
) -> Times:
    import numpy as np

    from onnxloc.controls import draw_controls
    from onnxloc.graph.plan import Plan, TargetLogProbs
    from onnxloc.network import Network
    from onnxloc.progress import Progress
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.runtime.tokens import Tokens, Window
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.edit_values import NetworkEdits, PlannedEdit, TextForm, gather_facts
    from onnxloc.studies.edits import as_edit
    from onnxloc.studies.masks import unit_masks
    from onnxloc.studies.scoring import Prefix, Scorer, rows_and_conditions
    from onnxloc.tasks import load_task, text_task

    runtime, batch_size = RuntimeOptions(threads=threads), 64
    model = loaded_model()
    if kind == "pairs":
        # Pairs of all phenomena.
        task = load_task("pairs")
        step = max(1, len(task.items) // (texts // 2))
        task = replace(task, items=task.items[::step][: texts // 2])
    else:
        task = text_task("text", load_stimuli("language").positive[:texts], "sentences")
    first = model.blocks - model.blocks // 3
    names = [f"block.{i}.out" for i in range(first, model.blocks)]
    sites = {name: model.sites.find(name).units for name in names}
    # Which units are ablated does not matter for the time: every hundredth.
    units = {name: np.arange(0, size, 100) for name, size in sites.items()}
    network = Network(units, sites, model.graph.hash, {})
    networks = [None, network, *draw_controls(network, conditions - 2, "site", 0)]
    masks = unit_masks(model, networks)
    planned = PlannedEdit(as_edit("zero"), Tokens(), tuple(masks), sites)
    form = TextForm(model.encode_scored, 1)
    (facts,) = gather_facts(model, [planned], form, runtime, batch_size=batch_size)
    edits = NetworkEdits(planned, facts, masks).operands
    sequences = model.encode_scored([text for item in task.items for text in item.texts])
    beginning = Prefix.of(model, masks, runtime)
    assert beginning is not None

    def compiled(prefix: Prefix | None, at: str) -> Any:
        given = () if prefix is None else (prefix.tensor,)
        head = TargetLogProbs(model.logits.tensor, at)  # type: ignore[arg-type]
        return model.compile(Plan(edits=planned.plan_edits, head=head, given=given), runtime)

    def scoring(prefix: Prefix | None) -> Any:
        scorer = Scorer(
            compiled(prefix, "given"), prefix, edits, conditions, batch_size, model.pad, True
        )
        return lambda: scorer.score(task, sequences, Progress("", 1, show=False))[0]

    def everywhere(prefix: Prefix | None) -> Any:
        session = compiled(prefix, "all")

        def run() -> Any:
            ends = np.cumsum([len(sequence) - 1 for sequence in sequences])
            found = np.empty((conditions, int(ends[-1])))
            for batch, which in rows_and_conditions(sequences, conditions, batch_size, model.pad):
                rows = batch.rows.tolist()
                window = Window.whole([sequences[i] for i in rows], front=1, rows=rows)
                given = None if prefix is None else prefix.run(batch)
                scored = session.target_logprobs(batch, edits(which, window), given)
                for text, condition, row in zip(rows, which, scored, strict=True):
                    found[condition, ends[text] - len(row) : ends[text]] = row
            texts_of = len(task.items[0].texts)
            split = (np.split(row, ends[:-1]) for row in found)
            return np.stack(
                [
                    task.score([x[i : i + texts_of] for i in range(0, len(x), texts_of)])
                    for x in split
                ]
            )

        return run

    sides = {
        REUSED: scoring(beginning),
        AGAIN: scoring(None),
        REUSED_ALL: everywhere(beginning),
        AGAIN_ALL: everywhere(None),
    }
    scores = {name: side() for name, side in sides.items()}
    gap = max(np.abs(scores[name] - scores[AGAIN_ALL]).max() for name in scores)
    print(f"{kind}: {len(sequences)} texts, largest difference of a score {gap:.1e}",
          file=sys.stderr)  # fmt: skip
    clock = processor_time if processor else timed
    timing: dict[str, Side] = {name: clock(side) for name, side in sides.items()}
    return in_turns(timing, repeats)


def main() -> None:
    parser = arguments(__doc__ or "", repeats=5)
    parser.add_argument("--conditions", type=int, default=20, help="3 or more")
    parser.add_argument("--texts", type=int, default=40, help="how many, 2 or more")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="time of the processor instead of the clock: for one thread on a busy machine",
    )
    parser.add_argument("--kind", nargs="+", choices=["pairs", "text"], default=["pairs", "text"])
    options = parser.parse_args()
    conditions = max(3, options.conditions)
    if options.worker:
        times = worker(
            options.worker,
            options.kind[0],
            texts=4 if options.quick else max(2, options.texts),
            repeats=rounds(options),
            conditions=conditions,
            processor=options.processor_time,
        )
        print(json.dumps(times))
        return
    print(f"# {__doc__}\n\n{machine()}\n\n{conditions} conditions\n")
    for threads in options.threads:
        for kind in options.kind:
            more = [*sys.argv[1:], "--kind", kind]
            times = in_worker(__file__, threads, more, threads)
            bars = [(REUSED, AGAIN, BAR), (REUSED_ALL, AGAIN_ALL, BAR), (REUSED, AGAIN_ALL, BAR)]
            print(f"## {threads} thread(s), {kind}\n\n{times_table(times)}\n")
            print(f"{ratio_table(times, bars)}\n", flush=True)


if __name__ == "__main__":
    main()
