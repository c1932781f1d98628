"""Tasks from files: BLiMP's minimal pairs, and lines of text.

BLiMP (Warstadt et al. 2020, TACL 8) is published as one JSONL file a paradigm, with the keys
``sentence_good``, ``sentence_bad``, ``UID`` (the paradigm) and ``field`` (the field of grammar).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxloc.errors import TaskError
from onnxloc.tasks.model import Item, Task, TaskInputs

__all__ = ["MAX_BYTES", "blimp_task", "sentences_task", "text_file_task", "text_task"]

MAX_BYTES = 64_000_000
"""Most bytes that one task may be read from."""

_REQUIRED = ("sentence_good", "sentence_bad", "UID")


def blimp_task(path: Path) -> Task:
    """Read a task of pairs from a JSONL file as BLiMP has it, or from all such files of a folder.

    The group of an item is its ``UID``; its id is the file's name and the line number. ``field``
    is kept where it is given; other keys are ignored, and so are blank lines and files of a
    folder that do not end in ``.jsonl``.

    Raises
    ------
    TaskError
        If a file cannot be read or is not such a file; the message names the file and the line.
    """
    if path.is_dir():
        files = _jsonl_files(path)
        name = path.resolve().name
    else:
        if path.suffix.lower() != ".jsonl":
            raise TaskError(
                f"{path} is no .jsonl file of minimal pairs; for lines of text use text:{path}"
            )
        files = [path]
        name = path.stem
    items: list[Item] = []
    left = MAX_BYTES
    for file in files:
        data = _read(file, left)
        left -= len(data)
        before = len(items)
        items.extend(_pairs(file, data))
        if len(items) == before:
            raise TaskError(f"{file} holds no pairs")
    return Task(name=name, kind="pairs", items=tuple(items), source=str(path))


def text_file_task(path: Path) -> Task:
    """Read a text task from a UTF-8 file: one item a line that is not blank.

    Raises
    ------
    TaskError
        If the file cannot be read, is not UTF-8 text, or is blank.
    """
    lines = [text for _, text in _lines(path, _read(path, MAX_BYTES))]
    return text_task(f"text:{path.stem}", lines, str(path))


def text_task(name: str, lines: Iterable[str], source: str) -> Task:
    """Make a text task from lines: one item, in the group "text", for each that is not blank.

    White space around a line is cut. The id of an item holds its line number, from 1.

    Raises
    ------
    TaskError
        If no line is left, or one holds a character that is no text.
    """
    items: list[Item] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text:
            _check_text(text, f"{source}:{number}", "the line")
            items.append(Item(id=f"{name}:{number}", group="text", texts=(text,)))
    if not items:
        raise TaskError(f"{source} holds no line of text")
    return Task(name=name, kind="text", items=tuple(items), source=source)


def sentences_task(inputs: TaskInputs) -> Task:
    """Make the built-in task ``text`` of the localizer's own sentences.

    Raises
    ------
    TaskError
        If the caller has none.
    """
    if not inputs.sentences:
        raise TaskError("the task 'text' has no sentences here; name a file of them: text:PATH")
    return text_task("text", inputs.sentences, inputs.source)


def _jsonl_files(folder: Path) -> list[Path]:
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".jsonl")
    except OSError as error:
        raise TaskError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not files:
        raise TaskError(f"{folder} holds no .jsonl file of minimal pairs")
    for file in files:
        # A link could lead out of the folder.
        if file.is_symlink():
            raise TaskError(f"{file} is a link; put the file itself into the folder")
    return files


def _read(path: Path, limit: int) -> bytes:
    # A pipe or a device would block or never end.
    if path.exists() and not path.is_file():
        raise TaskError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise TaskError(f"{path}: a task may hold at most {MAX_BYTES // 10**6} MB; make it smaller")
    return data


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, str]]:
    """Line numbers and lines; only a line feed, with or without a return, ends a line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's offset counts from behind a byte order mark, `error.object` does too.
        number = bytes(error.object).count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}:{number}: not UTF-8; save the file as UTF-8 text") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if "\0" in line:
            raise TaskError(f"{path}:{number}: a NUL character; this is no text file")
        yield number, line.removesuffix("\r")


def _pairs(path: Path, data: bytes) -> Iterator[Item]:
    for number, line in _lines(path, data):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
        except (ValueError, RecursionError) as error:  # an endless number, or endless nesting
            raise TaskError(f"{where}: not JSON that can be read: {error}") from error
        if not isinstance(record, dict):
            raise TaskError(f"{where}: a line must hold one JSON object")
        for key in _REQUIRED:
            if key not in record:
                raise TaskError(f"{where}: the key {key!r} is missing")
            if not _text(record, key, where).strip():
                raise TaskError(f"{where}: {key} is empty")
        good, bad, group = (_text(record, key, where) for key in _REQUIRED)
        if good.strip() == bad.strip():
            raise TaskError(f"{where}: sentence_good and sentence_bad are the same")
        field = _text(record, "field", where) if "field" in record else ""
        yield Item(id=f"{path.stem}:{number}", group=group, texts=(good, bad), field=field)


def _text(record: dict[str, object], key: str, where: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TaskError(f"{where}: {key} must be a string")
    _check_text(value, where, key)
    return value


def _check_text(text: str, where: str, what: str) -> None:
    if "\0" in text:
        raise TaskError(f"{where}: {what} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: {what} holds half a surrogate pair, which is no text") from error
