"""Peak memory of a localizer above the loaded session, for more and more texts."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
from side_by_side import arguments, in_worker, loaded_model, machine

COUNTS = (120, 480, 960)
BAR = 150
MB = 1024 * 1024


class Peak:
    """The largest resident memory while a block runs, in MB.

    Linux keeps it (VmHWM) and lets a process start it anew; elsewhere the memory is looked at every
    5 ms.
    """

    def __enter__(self) -> "Peak":
        self.before = self.highest = psutil.Process().memory_info().rss / MB
        self._reset = Path("/proc/self/clear_refs")
        self._stop = threading.Event()
        self._watch: threading.Thread | None = None
        try:
            self._reset.write_text("5")
        except OSError:
            self._watch = threading.Thread(target=self._look, daemon=True)
            self._watch.start()
        return self

    def _look(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.005):
            self.highest = max(self.highest, process.memory_info().rss / MB)

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._stop.set()
            self._watch.join()
            return
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmHWM")]
        self.highest = int(line.split()[1]) / 1024


def worker(count: int, sites: str, threads: int) -> dict[str, float]:
    from onnxloc.graph.plan import Plan, Tap
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.stimuli import load_stimuli
    from onnxloc.studies.localize import LocalizeOptions, localize

    model = loaded_model()
    stimuli = load_stimuli("language")
    half = count // 2
    stimuli = replace(
        stimuli, positive=(stimuli.positive * 2)[:half], control=(stimuli.control * 2)[:half]
    )
    options, runtime = LocalizeOptions(sites=(sites,)), RuntimeOptions(threads=threads)
    # What a first use loads is not the localizer's: the session, the tokenizer, scipy.
    taps = tuple(Tap(site.tensor, options.pool) for site in model.sites.match(options.sites))
    model.compile(Plan(taps=taps), runtime)
    model.encode(["a text"], bos=False)
    import scipy.special  # noqa: F401

    with Peak() as peak:
        localize(model, stimuli, options, runtime)
    return {"before": peak.before, "peak": peak.highest}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sites", default="block.*.out")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.sites, options.threads[0])))
        return
    print(f"# {__doc__}\n\n{machine()}\n\nSites: `{options.sites}`\n")
    print("| texts | threads | loaded, MB | peak, MB | rise, MB | bar |\n|---|---|---|---|---|---|")
    for threads in options.threads:
        for count in (60, 120) if options.quick else COUNTS:
            given = ["--sites", options.sites, "--threads", str(threads)]
            seen = in_worker(__file__, count, given, threads)
            rise = seen["peak"] - seen["before"]
            bar = f"<= {BAR}" if options.sites == "block.*.out" else ""
            print(
                f"| {count} | {threads} | {seen['before']:.0f} | {seen['peak']:.0f} "
                f"| {rise:.0f} | {bar} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
