"""Ablating under K conditions against K plain forward passes of the same texts."""

import json
import sys
from typing import Any

from side_by_side import (
    Side,
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

SCORING = "ablate, K conditions"
WHOLE = "ablate, with networks, encoding and summary"
PLAIN = "K plain forward passes"


def worker(threads: int, *, quick: bool, repeats: int, conditions: int) -> dict[str, list[float]]:
    from onnxloc.graph.plan import Plan, TargetLogProbs
    from onnxloc.network import network_from_flat
    from onnxloc.runtime.batches import batches
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.ablate import AblateOptions, ablate
    from onnxloc.tasks import load_task, text_task

    runtime = RuntimeOptions(threads=threads)
    model = loaded_model()
    stimuli = load_stimuli("language")
    tasks = [
        text_task("text", stimuli.positive[: 6 if quick else 60], "sentences"),
        load_task("pairs").limited(1 if quick else 2),
    ]
    # Which units are ablated does not matter for the time: every hundredth of all blocks.
    sites = {site.name: site.units for site in model.sites.match(["block.*.out"])}
    units = range(0, sum(sites.values()), 100)
    network = network_from_flat(list(units), sites, model.graph.hash, {"how": "every hundredth"})
    options = AblateOptions(controls=conditions - 2)
    encoded = [
        model.encode_scored([text for item in task.items for text in item.texts]) for task in tasks
    ]
    plain = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), runtime)
    scoring: list[float] = []

    def ablating() -> Any:
        done = ablate(model, network, tasks, options, runtime)
        scoring.append(done.step.seconds["run"])

    def forward() -> None:
        for _ in range(conditions):
            for sequences in encoded:
                for batch in batches(sequences, max_rows=options.batch_size, pad=model.pad):
                    plain.target_logprobs(batch)

    sides: dict[str, Side] = {WHOLE: timed(ablating), PLAIN: timed(forward)}
    times = in_turns(sides, repeats)
    return {SCORING: scoring[1:], **times}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--conditions", type=int, default=8, help="K, 3 or more")
    options = parser.parse_args()
    conditions = 3 if options.quick else max(3, options.conditions)
    if options.worker:
        times = worker(
            options.worker, quick=options.quick, repeats=rounds(options), conditions=conditions
        )
        print(json.dumps(times))
        return
    print(f"# {__doc__}\n\n{machine()}\n\nK = {conditions}\n")
    for threads in options.threads:
        times = in_worker(__file__, threads, sys.argv[1:], threads)
        bars = [(SCORING, PLAIN, 1.05), (WHOLE, PLAIN, None)]
        print(f"## {threads} thread(s)\n\n{times_table(times)}\n\n{ratio_table(times, bars)}\n")


if __name__ == "__main__":
    main()
