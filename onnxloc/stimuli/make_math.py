"""Make the statements in symbols of the math localizer, beside sentences written by hand.

``python -m onnxloc.stimuli.make_math --check`` compares the positive rows of ``math.csv`` with what
the seed gives; ``--write`` replaces them. The control rows are kept.

Every statement is true. There are ten forms, of which each is used equally often.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from onnxloc.stimuli.generate import Draw, read_texts, run, table_text

__all__ = ["FORMS", "SEED", "main", "math_text", "statements"]

SEED = 314_159
MATH_CSV = Path(__file__).with_name("math.csv")


def _sum(draw: Draw) -> str:
    a, b = draw.between(3, 29), draw.between(3, 19)
    return f"{a} + {b} = {a + b}"


def _difference(draw: Draw) -> str:
    a, b = draw.between(3, 29), draw.between(3, 19)
    return f"{a + b} - {a} = {b}"


def _product(draw: Draw) -> str:
    a, b = draw.between(3, 12), draw.between(3, 12)
    return f"{a} * {b} = {a * b}"


def _quotient(draw: Draw) -> str:
    a, b = draw.between(3, 12), draw.between(3, 12)
    return f"{a * b} / {a} = {b}"


def _bracket(draw: Draw) -> str:
    a, b, c = (draw.between(2, 9) for _ in range(3))
    return f"{a} * ({b} + {c}) = {a * (b + c)}"


def _precedence(draw: Draw) -> str:
    a, b, c = (draw.between(2, 9) for _ in range(3))
    return f"{a} + {b} * {c} = {a + b * c}"


def _equation(draw: Draw) -> str:
    a, x = draw.between(2, 9), draw.between(2, 6)
    return f"x + {a} = {a + x}, x = {x}"


def _multiple(draw: Draw) -> str:
    a, x = draw.between(2, 9), draw.between(2, 12)
    return f"{a}x = {a * x}, x = {x}"


def _like_terms(draw: Draw) -> str:
    a, b = draw.between(2, 9), draw.between(2, 9)
    return f"{a}x + {b}x = {a + b}x"


def _inequality(draw: Draw) -> str:
    a = draw.between(2, 39)
    b = a + draw.between(2, 9)
    c = b + draw.between(2, 9)
    return f"{a} < {b} < {c}"


FORMS: tuple[Callable[[Draw], str], ...] = (
    _sum,
    _difference,
    _product,
    _quotient,
    _bracket,
    _precedence,
    _equation,
    _multiple,
    _like_terms,
    _inequality,
)


def statements(count: int, seed: int = SEED) -> list[str]:
    """`count` different statements, one form after the other."""
    draw = Draw(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        # A statement that came before is drawn anew in the same form.
        found.setdefault(FORMS[len(found) % len(FORMS)](draw))
    return list(found)


def math_text(path: Path = MATH_CSV) -> str:
    """The whole text of ``math.csv``: a statement for each sentence of the file at `path`."""
    sentences = read_texts(path, "control")
    rows = [("positive", text) for text in statements(len(sentences))]
    rows += [("control", text) for text in sentences]
    return table_text(("condition", "text"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the statements of ``math.csv``; 0 if all is well."""
    return run("onnxloc.stimuli.make_math", MATH_CSV, SEED, math_text, arguments)


if __name__ == "__main__":
    sys.exit(main())
