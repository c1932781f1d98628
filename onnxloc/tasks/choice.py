"""Multiple choice: a question, and of its choices the one that a model finds likeliest."""

from pathlib import Path

from onnxloc.errors import TaskError
from onnxloc.tasks.files import check_text, read_bytes, read_records, string_of
from onnxloc.tasks.model import Item, Length, Task

__all__ = ["choice_item", "choice_task"]


def choice_task(path: Path, length: Length = "tokens") -> Task:
    """Read a task of choices from a JSONL file.

    Each line is an object with ``question``, ``choices`` (a list of two strings or more) and
    ``answer``: the index of the right choice, from 0, or the choice itself. ``group`` and ``id``
    may be given; other keys are ignored. What is run is the question, a blank and a choice; what is
    scored is the log-probability of the choice over its length.

    Parameters
    ----------
    path : Path
        The file.
    length : {"tokens", "bytes", "characters", "none"}
        What the log-probability is divided by.

    Raises
    ------
    TaskError
        If the file cannot be read or is not such a file; with file and line.
    """
    items = []
    for where, number, record in read_records(path, read_bytes(path)):
        question = string_of(record, "question", where, full=True)
        choices = record.get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            raise TaskError(f"{where}: choices must be a list of two strings or more")
        for choice in choices:
            if not isinstance(choice, str) or not choice.strip():
                raise TaskError(f"{where}: each choice must be a string that is not blank")
            check_text(choice, where, "a choice")
        trimmed = [choice.strip() for choice in choices]
        if len(set(trimmed)) != len(trimmed):
            raise TaskError(f"{where}: two choices are the same")
        group = string_of(record, "group", where, full=True) if "group" in record else "choice"
        name = string_of(record, "id", where, full=True) if "id" in record else f"{number}"
        answer = _answer(record.get("answer"), trimmed, where)
        items.append(choice_item(f"{path.stem}:{name}", group, question, trimmed, answer))
    if not items:
        raise TaskError(f"{path} holds no question")
    form = "choice" if length == "tokens" else f"choice-{length}"
    return Task(f"{form}:{path.stem}", "choice", tuple(items), str(path), length)


def choice_item(name: str, group: str, question: str, choices: list[str], answer: int) -> Item:
    """An item of which each text is the question, a blank and a choice."""
    front = question.rstrip()
    texts = tuple(f"{front} {choice}" for choice in choices)
    spans = tuple(((len(front), len(text)),) for text in texts)
    return Item(name, group, texts, spans=spans, answer=answer)


def _answer(answer: object, choices: list[str], where: str) -> int:
    if isinstance(answer, str) and answer.strip() in choices:
        return choices.index(answer.strip())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise TaskError(
        f"{where}: answer must be the index of a choice, from 0 to {len(choices) - 1}, or one of "
        f"the choices, not {answer!r:.40}"
    )
