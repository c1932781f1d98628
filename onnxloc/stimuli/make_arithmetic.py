"""Make the sums of the multiple-demand localizer.

``python -m onnxloc.stimuli.make_arithmetic --check`` compares ``multiple-demand.csv`` with what the
seed gives; ``--write`` replaces it.

Hard: two numbers of three digits whose sum has three digits and which carry from the ones or the
tens. Easy: a number of one digit and one of one or two digits, up to 20. No sum comes twice, not
even with its numbers in the other order.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from onnxloc.stimuli.generate import Draw, run, table_text

__all__ = ["COUNT", "SEED", "arithmetic_text", "main"]

SEED = 100_100
COUNT = 100
ARITHMETIC_CSV = Path(__file__).with_name("multiple-demand.csv")


def _carries(a: int, b: int) -> bool:
    return a % 10 + b % 10 > 9 or a % 100 + b % 100 > 99


def _hard(draw: Draw) -> tuple[int, int]:
    while True:
        a, b = draw.between(100, 899), draw.between(100, 899)
        if a + b < 1000 and _carries(a, b):
            return a, b


def _easy(draw: Draw) -> tuple[int, int]:
    pair = draw.between(1, 9), draw.between(1, 20)
    return pair if draw.between(0, 1) else (pair[1], pair[0])


def _sums(draw: Draw, pair: Callable[[Draw], tuple[int, int]]) -> list[str]:
    found: dict[frozenset[int], str] = {}
    while len(found) < COUNT:
        a, b = pair(draw)
        found.setdefault(frozenset((a, b)), f"Question: What is {a} + {b}? Answer: {a + b}")
    return list(found.values())


def arithmetic_text(seed: int = SEED) -> str:
    """The whole text of ``multiple-demand.csv``."""
    draw = Draw(seed)
    hard, easy = _sums(draw, _hard), _sums(draw, _easy)
    rows = [("positive", text) for text in hard] + [("control", text) for text in easy]
    return table_text(("condition", "text"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write ``multiple-demand.csv``; 0 if all is well."""
    module = "onnxloc.stimuli.make_arithmetic"
    return run(module, ARITHMETIC_CSV, SEED, lambda _: arithmetic_text(), arguments)


if __name__ == "__main__":
    sys.exit(main())
