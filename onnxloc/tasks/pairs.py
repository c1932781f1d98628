"""The built-in task ``pairs``: minimal pairs made from a seed when they are asked for."""

from onnxloc.errors import TaskError
from onnxloc.tasks.model import Item, Task, TaskInputs
from onnxloc.tasks.pairs_templates import PHENOMENA, Draw, Phenomenon

__all__ = ["generate_pairs", "pairs_task"]

_TRIES = 50


def generate_pairs(seed: int = 0, n: int = 100) -> tuple[Item, ...]:
    """Minimal pairs of English sentences, `n` for each phenomenon.

    Each phenomenon has random numbers of its own, so its pairs depend on the seed alone, and a
    smaller `n` gives the first pairs of a larger one.

    Parameters
    ----------
    seed : int
        Where the random numbers start.
    n : int
        Pairs in each phenomenon.

    Returns
    -------
    tuple of Item
        Phenomenon by phenomenon; ``texts`` is (good, bad), ``group`` the phenomenon and ``field``
        the field of grammar. No sentence occurs twice in a phenomenon.

    Raises
    ------
    TaskError
        If `n` is below 1, or more than a phenomenon can give.
    """
    if n < 1:
        raise TaskError(f"each phenomenon needs at least 1 pair, not {n}")
    return tuple(item for phenomenon in PHENOMENA for item in _pairs_of(phenomenon, seed, n))


def pairs_task(inputs: TaskInputs) -> Task:
    """Make the task of `generate_pairs` with seed 0; it needs nothing of its caller."""
    del inputs
    return Task("pairs", "pairs", generate_pairs(), "built-in minimal pairs, seed 0")


def _pairs_of(phenomenon: Phenomenon, seed: int, n: int) -> list[Item]:
    draw = Draw(f"{seed}/{phenomenon.name}")
    items: list[Item] = []
    seen: set[str] = set()
    for _ in range(n * _TRIES):
        good, bad = map(_sentence, phenomenon.make(draw, len(items)))
        if good in seen or bad in seen:
            continue
        seen |= {good, bad}
        name = f"{phenomenon.name}:{len(items):03d}"
        items.append(Item(name, phenomenon.name, (good, bad), phenomenon.field))
        if len(items) == n:
            return items
    raise TaskError(f"{phenomenon.name} cannot give {n} different pairs; ask for fewer")


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."
