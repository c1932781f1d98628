"""Tasks from files: BLiMP's minimal pairs, lines of text, and last words.

BLiMP (Warstadt et al. 2020, TACL 8) is published as one JSONL file a paradigm, with the keys
``sentence_good``, ``sentence_bad``, ``UID`` (the paradigm) and ``field`` (the field of grammar).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxloc.errors import TaskError
from onnxloc.tasks.files import (
    MAX_BYTES,
    check_text,
    read_bytes,
    read_lines,
    read_records,
    string_of,
)
from onnxloc.tasks.model import Item, Task, TaskInputs

__all__ = ["blimp_task", "cloze_task", "sentences_task", "text_file_task", "text_task"]

_REQUIRED = ("sentence_good", "sentence_bad", "UID")


def blimp_task(path: Path) -> Task:
    """Read a task of pairs from a JSONL file as BLiMP has it, or from all such files of a folder.

    The group of an item is its ``UID``; its id is the file's name and the line number. ``field``
    and ``linguistics_term`` are kept where they are given; other keys are ignored, and
    so are blank lines and files of a folder that do not end in ``.jsonl``.

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
        data = read_bytes(file, left)
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
    lines = [text for _, text in read_lines(path, read_bytes(path))]
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
            check_text(text, f"{source}:{number}", "the line")
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


def cloze_task(path: Path, *, greedy: bool = True) -> Task:
    """Read texts of which the last word is to be guessed, as LAMBADA has them.

    A file ``.jsonl`` has a JSON object with the key ``text`` a line (Paperno et al. 2016, ACL);
    any other has a text a line. The word is what stands behind the last blank.

    Parameters
    ----------
    path : Path
        The file.
    greedy : bool
        Score whether every token of the word is the likeliest; else the log-probability of the
        word, its blank with it.

    Raises
    ------
    TaskError
        If the file cannot be read or a text has no two words; with file and line.
    """
    data, items = read_bytes(path), []
    if path.suffix.lower() == ".jsonl":
        lines = [(n, string_of(r, "text", at, full=True)) for at, n, r in read_records(path, data)]
    else:
        lines = [(number, line) for number, line in read_lines(path, data) if line.strip()]
    for number, line in lines:
        text = line.strip()
        check_text(text, f"{path}:{number}", "the text")
        if len(text.split()) < 2:
            raise TaskError(f"{path}:{number}: a last word needs a text in front of it")
        word = text.split()[-1]
        start = len(text[: len(text) - len(word)].rstrip())
        spans = (((start, len(text)),),)
        items.append(Item(f"{path.stem}:{number}", "last word", (text,), spans=spans))
    if not items:
        raise TaskError(f"{path} holds no text")
    name = f"{'cloze' if greedy else 'cloze-logprob'}:{path.stem}"
    return Task(name, "cloze" if greedy else "continuation", tuple(items), str(path))


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


def _pairs(path: Path, data: bytes) -> Iterator[Item]:
    for where, number, record in read_records(path, data):
        good, bad, group = (string_of(record, key, where, full=True) for key in _REQUIRED)
        if good.strip() == bad.strip():
            raise TaskError(f"{where}: sentence_good and sentence_bad are the same")
        field = string_of(record, "field", where) if "field" in record else ""
        term = string_of(record, "linguistics_term", where) if "linguistics_term" in record else ""
        yield Item(f"{path.stem}:{number}", group, (good, bad), field, term)
