"""Wall time of ``onnxloc demo`` once its model has been downloaded."""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from side_by_side import RECIPE, arguments, machine, rounds, timed

BAR = 360


def main() -> None:
    options = arguments(__doc__ or "", repeats=1).parse_args()
    from onnxloc.recipes import fetch

    fetch(RECIPE)
    print(f"# {__doc__}\n\n{machine()}\n\n| threads | median s | bar |\n|---|---|---|")
    for threads in options.threads:
        seconds = []
        for _ in range(min(rounds(options), options.repeats)):
            with tempfile.TemporaryDirectory() as folder:
                run = str(Path(folder) / "run")
                command = [sys.executable, "-m", "onnxloc", "demo", "-o", run]
                command += ["--threads", str(threads)]
                work = timed(lambda command=command: subprocess.run(command, check=True))
                seconds.append(work())
        print(f"| {threads} | {median(seconds):.0f} | <= {BAR} |", flush=True)


if __name__ == "__main__":
    main()
