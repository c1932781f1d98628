"""The built-in task ``arithmetic``: sums and differences made from a seed."""

import random

from onnxloc.errors import TaskError
from onnxloc.tasks.choice import choice_item
from onnxloc.tasks.model import Item, Task, TaskInputs

__all__ = ["arithmetic_task", "generate_arithmetic"]

# The least and the greatest operand.
_SIZES = {"one digit": (1, 9), "two digits": (10, 99), "three digits": (100, 999)}
_CHOICES = 4
_TRIES = 200


def generate_arithmetic(seed: int = 0, n: int = 30) -> tuple[Item, ...]:
    """Sums and differences, ``3 + 4 =``, each with its result and three near to it.

    A wrong choice is off by 1, 2 or 10, has as many digits as the right one, and is not negative.
    So no choice is longer than another, and a choice's whole log-probability is compared.

    Parameters
    ----------
    seed : int
        Where the random numbers start.
    n : int
        Items of each operation and each size of its operands.

    Raises
    ------
    TaskError
        If `n` is below 1, or more than there are different items.
    """
    if n < 1:
        raise TaskError(f"each kind of arithmetic needs at least 1 item, not {n}")
    items: list[Item] = []
    for size, (low, high) in _SIZES.items():
        for sign, name in (("+", "addition"), ("-", "subtraction")):
            group = f"{name}, {size}"
            items += _items(random.Random(f"{seed}/{group}"), group, sign, (low, high), n)
    return tuple(items)


def arithmetic_task(inputs: TaskInputs) -> Task:
    """Make the task of `generate_arithmetic` with seed 0; it needs nothing of its caller."""
    del inputs
    items = generate_arithmetic()
    return Task("arithmetic", "choice", items, "built-in arithmetic, seed 0", "none")


def _items(
    draw: random.Random, group: str, sign: str, bounds: tuple[int, int], n: int
) -> list[Item]:
    items: list[Item] = []
    seen: set[tuple[int, int]] = set()
    for _ in range(n * _TRIES):
        a, b = draw.randint(*bounds), draw.randint(*bounds)
        if sign == "-" and b > a:
            a, b = b, a
        right = a + b if sign == "+" else a - b
        near = [right + off for off in (-10, -2, -1, 1, 2, 10)]
        wrong = [x for x in near if x >= 0 and len(str(x)) == len(str(right))]
        if (a, b) in seen or len(wrong) < _CHOICES - 1:
            continue
        seen.add((a, b))
        choices = [*draw.sample(wrong, _CHOICES - 1), right]
        draw.shuffle(choices)
        texts = [str(choice) for choice in choices]
        question, name = f"{a} {sign} {b} =", f"{group}:{len(items):03d}"
        items.append(choice_item(name, group, question, texts, choices.index(right)))
        if len(items) == n:
            return items
    raise TaskError(f"there are no {n} different items of {group}; ask for fewer")
