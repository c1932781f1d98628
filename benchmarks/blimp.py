"""Scoring minimal pairs of BLiMP's size, against plain forward passes over the same tokens."""

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

SCORING = "intact and one network"
WHOLE = "the same, with encoding, statistics and summary"
PLAIN = "two plain forward passes"
# What BLiMP has in all: 67 paradigms of 1,000 pairs.
ALL_PAIRS = 67_000


def worker(threads: int, *, pairs: int, repeats: int) -> dict[str, Any]:
    from onnxloc.graph.plan import Plan, TargetLogProbs
    from onnxloc.network import network_from_flat
    from onnxloc.runtime.batches import batches
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.ablate import AblateOptions, ablate
    from onnxloc.tasks import Task
    from onnxloc.tasks.pairs import generate_pairs
    from onnxloc.tasks.pairs_templates import PHENOMENA

    runtime = RuntimeOptions(threads=threads)
    model = loaded_model()
    made = generate_pairs(n=-(-pairs // len(PHENOMENA)))
    step = len(made) / pairs
    task = Task("pairs", "pairs", tuple(made[int(i * step)] for i in range(pairs)), "made")
    sites = {site.name: site.units for site in model.sites.match(["block.*.out"])}
    units = range(0, sum(sites.values()), 100)
    network = network_from_flat(list(units), sites, model.graph.hash, {"how": "every hundredth"})
    options = AblateOptions(controls=0)
    sequences = model.encode_scored([text for item in task.items for text in item.texts])
    plain = model.compile(Plan(head=TargetLogProbs(model.logits.tensor)), runtime)
    scoring: list[float] = []

    def ablating() -> None:
        done = ablate(model, network, [task], options, runtime)
        scoring.append(done.step.seconds["run"])

    def forward() -> None:
        for _ in range(2):
            for batch in batches(sequences, max_rows=options.batch_size, pad=model.pad):
                plain.target_logprobs(batch)

    sides: dict[str, Side] = {WHOLE: timed(ablating), PLAIN: timed(forward)}
    times = in_turns(sides, repeats)
    tokens = sum(len(sequence) - 1 for sequence in sequences)
    return {"tokens": tokens, "times": {SCORING: scoring[1:], **times}}


def main() -> None:
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--pairs", type=int, default=ALL_PAIRS // 20, help="how many are scored")
    options = parser.parse_args()
    pairs = 60 if options.quick else options.pairs
    if options.worker:
        print(json.dumps(worker(options.worker, pairs=pairs, repeats=rounds(options))))
        return
    print(f"# {__doc__}\n\n{machine()}\n")
    for threads in options.threads:
        found = in_worker(__file__, threads, sys.argv[1:], threads)
        times = found["times"]
        bars = [(SCORING, PLAIN, 1.1), (WHOLE, PLAIN, None)]
        one = sorted(times[WHOLE])[len(times[WHOLE]) // 2] / 2
        print(f"## {threads} thread(s)\n\n{times_table(times)}\n\n{ratio_table(times, bars)}\n")
        print(
            f"{pairs:,} pairs, {found['tokens'] / pairs / 2:.1f} tokens a sentence. All of BLiMP "
            f"under one condition would take {one * ALL_PAIRS / pairs / 60:.0f} min, if time grows "
            "with the number of pairs and the sentences are as long (extrapolated, not measured).\n"
        )


if __name__ == "__main__":
    main()
