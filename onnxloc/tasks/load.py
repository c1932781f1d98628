"""From what a user writes after ``--task`` to a task."""

from pathlib import Path

from onnxloc.errors import OptionError, TaskError
from onnxloc.registry import Registry, did_you_mean
from onnxloc.tasks.model import Task, TaskInputs
from onnxloc.tasks.readers import blimp_task, text_file_task

__all__ = ["TASKS", "load_task"]

TASKS = Registry(
    "task",
    "onnxloc.tasks",
    {
        "pairs": "onnxloc.tasks.pairs:pairs_task",
        "text": "onnxloc.tasks.readers:sentences_task",
    },
)
"""Named tasks: each name stands for a callable that takes `TaskInputs` and gives a `Task`."""


def load_task(spec: str, inputs: TaskInputs | None = None) -> Task:
    """Find or read the task that `spec` stands for.

    Parameters
    ----------
    spec : str
        A name (``pairs``, ``text``, or what other packages register under ``onnxloc.tasks``);
        ``text:PATH`` for the lines of a UTF-8 file; or the path of a BLiMP JSONL file or of a
        folder of them. A name goes before a path: write ``./pairs`` for a folder of that name.
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
    if colon and form == "text":
        if not rest:
            raise TaskError("text: needs the path of a text file after the colon")
        return text_file_task(Path(rest))
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
        hint = did_you_mean(form, ["text"])
        raise TaskError(f"there is no form of task {form + ':'!r}{hint} (known: text:PATH)")
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
