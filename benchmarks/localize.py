"""Localizing against torch with forward hooks and against onnxruntime's bare forward."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
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
    torch_model,
)

TORCH_BATCH = 16
BLOCKS = "localize block.*.out"
OPS = "localize op:*"
OPS_NO_LOGITS = "localize op:* but the logits"
TRUNK = "onnxruntime, trunk alone"
HOOKS = {
    "torch hooks, eager attention": "eager",
    "torch hooks, sdpa attention": "sdpa",
}
FASTER = "torch hooks, the faster of both"


def torch_side(model: Any, sequences: Sequence[Sequence[int]], attention: str) -> Side:
    """Every block's output of the last token, by forward hooks, without the language head."""
    import torch

    from onnxloc.runtime.batches import batches

    seen: list[Any] = []

    def hook(_module: Any, _args: Any, out: Any) -> None:
        hidden = out if isinstance(out, torch.Tensor) else out[0]
        seen.append(hidden[:, -1].numpy().copy())

    @torch.no_grad()
    def work() -> None:
        seen.clear()
        for batch in batches(sequences, max_rows=TORCH_BATCH):
            model.model(
                input_ids=torch.from_numpy(batch.ids),
                attention_mask=torch.from_numpy(batch.mask.astype("int64")),
                use_cache=False,
            )

    run = timed(work)

    def side() -> float:
        model.set_attn_implementation(attention)
        handles = [block.register_forward_hook(hook) for block in model.model.layers]
        try:
            return run()
        finally:
            for handle in handles:
                handle.remove()

    return side


def worker(threads: int, *, quick: bool, repeats: int) -> dict[str, list[float]]:
    from onnxloc.graph.plan import Plan, Tap
    from onnxloc.runtime.batches import batches
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.localize import LocalizeOptions, localize

    runtime = RuntimeOptions(threads=threads)
    model, reference = loaded_model(), torch_model(threads)
    stimuli = load_stimuli("language")
    if quick:
        stimuli = replace(stimuli, positive=stimuli.positive[:20], control=stimuli.control[:20])
    texts = [*stimuli.positive, *stimuli.control]
    sequences = model.encode(texts, bos=False, max_tokens=stimuli.max_tokens)

    def localizing(*sites: str) -> Side:
        options = LocalizeOptions(sites=sites)
        # From texts to network, the session being there.
        return timed(lambda: localize(model, stimuli, options, runtime))

    last = model.sites.match(["block.*.out"])[-1]
    trunk = model.compile(Plan(taps=(Tap(last.tensor),)), runtime)

    def forward() -> None:
        for batch in batches(sequences, max_rows=LocalizeOptions().batch_size, pad=model.pad):
            trunk.taps(batch)

    sides: dict[str, Side] = {
        BLOCKS: localizing("block.*.out"),
        TRUNK: timed(forward),
        OPS: localizing("op:*"),
        OPS_NO_LOGITS: localizing("op:/*"),
        **{name: torch_side(reference, sequences, how) for name, how in HOOKS.items()},
    }
    return in_turns(sides, repeats)


def main() -> None:
    parser = arguments(__doc__ or "")
    options = parser.parse_args()
    if options.worker:
        times = worker(options.worker, quick=options.quick, repeats=rounds(options))
        print(json.dumps(times))
        return
    print(f"# {__doc__}\n\n{machine()}\n")
    for threads in options.threads:
        times = in_worker(__file__, threads, sys.argv[1:], threads)
        # The peer is the one that is faster by its median.
        times[FASTER] = min((times[name] for name in HOOKS), key=lambda x: sorted(x)[len(x) // 2])
        bars = [
            (BLOCKS, FASTER, 0.9),
            (BLOCKS, TRUNK, 1.05),
            (OPS, TRUNK, 1.25),
            (OPS_NO_LOGITS, TRUNK, None),
        ]
        print(f"## {threads} thread(s)\n\n{times_table(times)}\n\n{ratio_table(times, bars)}\n")


if __name__ == "__main__":
    main()
