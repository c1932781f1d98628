"""A task: minimal pairs of the verb's number, made from two lists of words."""

from onnxloc.tasks import Item, Task, TaskInputs

__all__ = ["number_task"]

NOUNS = (("dog", "dogs"), ("child", "children"), ("letter", "letters"))
ENDS = ("in the garden", "next to the door")


def number_task(inputs: TaskInputs) -> Task:
    """Give the good sentence of each pair first; `inputs`, a localizer's sentences, is not used."""
    items = []
    for singular, plural in NOUNS:
        for end in ENDS:
            for group, noun, good, bad in (
                ("singular", singular, "is", "are"),
                ("plural", plural, "are", "is"),
            ):
                texts = (f"The {noun} {good} {end}.", f"The {noun} {bad} {end}.")
                items.append(Item(id=f"{noun} {end}", group=group, texts=texts))
    return Task("number", "pairs", tuple(items), "onnxloc-extension-example")
