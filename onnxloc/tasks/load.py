"""From what a user writes after ``--task`` to a task."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from onnxloc.errors import OptionError, TaskError
from onnxloc.registry import Registry, did_you_mean
from onnxloc.tasks.blimp import published_blimp
from onnxloc.tasks.choice import choice_task
from onnxloc.tasks.model import Task, TaskInputs
from onnxloc.tasks.readers import blimp_task, cloze_task, text_file_task
from onnxloc.tasks.syntaxgym import syntaxgym_task

__all__ = ["FORMS", "TASKS", "list_tasks", "load_task"]

TASKS = Registry(
    "task",
    "onnxloc.tasks",
    {
        "arithmetic": "onnxloc.tasks.arithmetic:arithmetic_task",
        "pairs": "onnxloc.tasks.pairs:pairs_task",
        "text": "onnxloc.tasks.readers:sentences_task",
    },
)
"""Named tasks: each name stands for a callable that takes `TaskInputs` and gives a `Task`."""

FORMS: dict[str, tuple[Callable[[Path], Task], str]] = {
    "blimp": (published_blimp, "a folder of BLiMP's files, by field and phenomenon"),
    "choice": (choice_task, "JSONL with question, choices, answer; log-probability per token"),
    "choice-bytes": (partial(choice_task, length="bytes"), "the same, per UTF-8 byte"),
    "choice-characters": (partial(choice_task, length="characters"), "the same, per character"),
    "choice-none": (partial(choice_task, length="none"), "the same, not divided"),
    "cloze": (cloze_task, "texts whose last word is guessed greedily (JSONL with text, or lines)"),
    "cloze-logprob": (
        partial(cloze_task, greedy=False),
        "the same, the log-probability of the last word",
    ),
    "syntaxgym": (syntaxgym_task, "a SyntaxGym suite in JSON, with its formulas"),
    "text": (text_file_task, "lines of text"),
}
"""Forms of files: what reads ``form:PATH``, and what it is."""

_NAMED = {
    "arithmetic": "built-in sums and differences with four choices",
    "pairs": "built-in minimal pairs, by phenomenon",
    "text": "the localizer's sentences",
}


def list_tasks() -> list[tuple[str, str]]:
    """What may stand behind ``--task``, and what it is."""
    named = [(name, _NAMED.get(name, "from another package")) for name in TASKS]
    forms = [(f"{form}:PATH", about) for form, (_, about) in FORMS.items()]
    return [*named, *forms, ("PATH", "minimal pairs in BLiMP's form: a JSONL file, or a folder")]


def load_task(spec: str, inputs: TaskInputs | None = None) -> Task:
    """Find or read the task that `spec` stands for.

    Parameters
    ----------
    spec : str
        A name (``arithmetic``, ``pairs``, ``text``, or what other packages register under
        ``onnxloc.tasks``); a form of `FORMS` and a path, as ``text:PATH``; or the
        path of a BLiMP JSONL file or of a folder of them. A name goes before a path: write
        ``./pairs`` for a folder of that name.
    inputs : TaskInputs, optional
        What the caller has to offer; the task ``text`` needs its sentences.

    Raises
    ------
    TaskError
        If nothing answers to `spec`, or what does is malformed.
    """
    if "\0" in spec or not spec:
        raise TaskError(f"{spec!r} is no task; name one ({', '.join(TASKS)}) or give a path")
    if spec in TASKS:
        return _named(spec, inputs or TaskInputs())
    form, colon, rest = spec.partition(":")
    if colon and form in FORMS:
        read, about = FORMS[form]
        if not rest:
            raise TaskError(f"{form}: needs the path after the colon ({about})")
        return read(Path(rest))
    path = Path(spec)
    try:
        exists = path.exists()
    except OSError as error:
        raise TaskError(f"cannot read {spec}: {error.strerror}") from error
    if exists:
        return blimp_task(path)
    if path.suffix.lower() == ".jsonl" or len(path.parts) > 1:
        raise TaskError(f"there is no task file or folder at {spec}")
    if colon:
        hint = did_you_mean(form, FORMS)
        known = ", ".join(f"{one}:PATH" for one in FORMS)
        raise TaskError(f"there is no form of task {form + ':'!r}{hint} (known: {known})")
    return _named(spec, TaskInputs())


def _named(name: str, inputs: TaskInputs) -> Task:
    try:
        make = TASKS.load(name)
    except OptionError as error:
        raise TaskError(
            f"{error}; the path of a BLiMP file or folder and text:PATH are tasks too"
        ) from error
    task = make(inputs)
    if not isinstance(task, Task):
        raise TaskError(f"the task {name!r} gave a {type(task).__name__}, not a Task")
    return task
