"""Localizing on every provider and in every precision that this machine has, in turns with the CPU.

The times of OpenVINO are those of a model made for it. How far each agrees with float32 on the CPU
is printed beside them.
"""

import json
import sys
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
)

CPU = "cpu fp32"


def worker(threads: int, *, quick: bool, repeats: int) -> dict[str, Any]:
    from onnxloc.runtime.available import available_providers
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.localize import LocalizeOptions, localize

    model, stimuli = loaded_model(), load_stimuli("language")
    if quick:
        stimuli = replace(stimuli, positive=stimuli.positive[:20], control=stimuli.control[:20])
    sides: dict[str, Side] = {}
    agreement: dict[str, Any] = {}
    for one in available_providers():
        for precision in one.precisions:
            runtime = RuntimeOptions(provider=one.provider, threads=threads, precision=precision)
            name = f"{one.provider} {precision}"
            if not runtime.is_reference:
                found = localize(model, stimuli, None, runtime)
                agreement[name] = found.summary["localize"]["agreement"]

            def work(runtime: RuntimeOptions = runtime) -> None:
                localize(model, stimuli, LocalizeOptions(agreement=False), runtime)

            sides[name] = timed(work)
    return {"times": in_turns(sides, repeats), "agreement": agreement}


def main() -> None:
    parser = arguments(__doc__ or "", repeats=5)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, quick=options.quick, repeats=rounds(options))))
        return
    print(f"# {(__doc__ or '').splitlines()[0]}\n\n{machine()}\n")
    for threads in options.threads:
        found = in_worker(__file__, threads, sys.argv[1:], threads)
        bars = [(name, CPU, None) for name in found["times"] if name != CPU]
        print(f"## {threads} thread(s)\n\n{times_table(found['times'])}\n")
        print(f"{ratio_table(found['times'], bars)}\n")
        print("| provider | largest difference of t | Dice of the network |\n|---|---|---|")
        for name, one in found["agreement"].items():
            print(f"| {name} | {one['largest_t_difference']:.2g} | {one['dice']:.4f} |")
        print()


if __name__ == "__main__":
    main()
