"""How long ``import onnxloc`` takes, and what it does not import."""

import json
import subprocess
import sys

from side_by_side import arguments, in_turns, machine, rounds, times_table

HEAVY = ("onnxruntime", "pandas", "scipy", "onnx", "torch", "plotly", "tokenizers")
BAR = 0.3
PROGRAM = """
import json, sys, time
started = time.perf_counter()
import {module}
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(set(sys.argv[1:]) & set(sys.modules))]))
"""


def imported(module: str) -> tuple[float, list[str]]:
    command = [sys.executable, "-c", PROGRAM.format(module=module), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(done.stdout)
    return seconds, heavy


def main() -> int:
    options = arguments(__doc__ or "", repeats=15).parse_args()
    times = in_turns(
        {f"import {name}": lambda name=name: imported(name)[0] for name in ("onnxloc", "numpy")},
        rounds(options),
    )
    heavy = imported("onnxloc")[1]
    print(f"# {__doc__}\n\n{machine()}\n\n{times_table(times)}\n")
    print(f"Bar: <= {BAR} s. Imported of {', '.join(HEAVY)}: {', '.join(heavy) or 'none'}.")
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
