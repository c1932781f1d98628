"""One text under 64 conditions: one batch of 64 rows, each its own edit, against 64 single runs."""

import json
import sys

from side_by_side import (
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

CONDITIONS = 64
TOGETHER = "one batch of 64 rows"
APART = "64 runs of one row"
# At least 3 times faster.
BAR = 1 / 3


def worker(threads: int, words: int, repeats: int) -> Times:
    import numpy as np

    from onnxloc.graph.plan import Edit, Plan, TargetLogProbs
    from onnxloc.runtime.batches import Batch
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli

    model = loaded_model()
    sites = model.sites.match(["block.*.out"])
    plan = Plan(
        edits=tuple(Edit(site.tensor) for site in sites), head=TargetLogProbs(model.logits.tensor)
    )
    session = model.compile(plan, RuntimeOptions(threads=threads))
    text = " ".join(load_stimuli("language").positive[0].split()[:words])
    rows = Batch.of(model.encode_scored([text]) * CONDITIONS, range(CONDITIONS), pad=model.pad)
    rng = np.random.default_rng(0)
    # Each condition sets another hundredth of the units to zero.
    masks = {site.tensor: rng.random((CONDITIONS, 1, site.units)) < 0.01 for site in sites}
    zero = np.zeros((1, 1, 576), dtype=np.float32)

    def together() -> list[object]:
        edits = {tensor: (mask, zero) for tensor, mask in masks.items()}
        return list(session.target_logprobs(rows, edits))

    def apart() -> list[object]:
        found: list[object] = []
        for row in range(CONDITIONS):
            edits = {tensor: (mask[row : row + 1], zero) for tensor, mask in masks.items()}
            alone = rows.take([row], rows.ids.shape[1])
            found += session.target_logprobs(alone, edits)
        return found

    gap = max(np.abs(np.subtract(a, b)).max() for a, b in zip(together(), apart(), strict=True))
    tokens = rows.ids.shape[1]
    print(f"{tokens} tokens; largest difference of a log-probability {gap:.1e}", file=sys.stderr)
    return in_turns({TOGETHER: timed(together), APART: timed(apart)}, repeats)


def main() -> None:
    parser = arguments(__doc__ or "", repeats=7)
    parser.add_argument("--words", type=int, nargs="+", default=[4, 12], help="words of the text")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.words[0], rounds(options))))
        return
    print(f"# {__doc__}\n\n{machine()}\n")
    for threads in options.threads:
        for words in options.words:
            more = [*sys.argv[1:], "--words", str(words)]
            times = in_worker(__file__, threads, more, threads)
            print(f"## {threads} thread(s), {words} words\n\n{times_table(times)}\n")
            print(f"{ratio_table(times, [(TOGETHER, APART, BAR)])}\n", flush=True)


if __name__ == "__main__":
    main()
