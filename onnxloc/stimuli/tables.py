"""Stimulus tables: CSV and JSON Lines files with one text a row, and the published CSV files.

Files are data from outside: they are read whole only up to a size, and every error says the file
and the line.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onnxloc.errors import StimulusError

__all__ = ["MAX_BYTES", "PUBLISHED_PATTERN", "Row", "read_published", "read_table", "read_text"]

MAX_BYTES = 64 * 2**20

CONDITIONS = ("positive", "control")
NEEDED = ("condition", "text")
OPTIONAL = ("id", "pair", "answer")
PUBLISHED_PATTERN = "langloc_fmri_run*_stim_set*.csv"
PUBLISHED_COLUMNS = tuple(f"stim{i}" for i in range(1, 15))
PUBLISHED_CONDITIONS = {"S": "positive", "N": "control"}


class Row(NamedTuple):
    """A text with its condition, and what else its row says.

    Attributes
    ----------
    condition, text : str
        As in the file.
    pair : str
        What the text shares with one text of each other condition; empty if nothing.
    answer : str
        The right answer, where the text asks for one; not shown to a model.
    where : str
        "file:line", for messages.
    """

    condition: str
    text: str
    pair: str = ""
    answer: str = ""
    where: str = ""


def read_text(path: Path) -> str:
    """Read a small UTF-8 file, without its byte-order mark.

    Raises
    ------
    StimulusError
        If it is no regular file, is larger than `MAX_BYTES`, is not UTF-8, or holds a NUL byte.
    """
    if path.exists() and not path.is_file():
        raise StimulusError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StimulusError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise StimulusError(f"{path} is larger than {MAX_BYTES // 2**20} MB; split or shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Not `data`: the offset counts from behind a byte-order mark.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StimulusError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise StimulusError(f"{path}:{line}: a NUL byte; save the file as plain UTF-8 text")
    return text


def read_table(path: Path, conditions: Sequence[str] = CONDITIONS) -> list[Row]:
    """Read the rows of a ``.csv`` or ``.jsonl`` file.

    The columns (keys) are `condition` and `text`, and perhaps `pair`, `answer` and `id` (which is
    not used). Texts are taken as they are; blank lines are skipped.

    Parameters
    ----------
    path : Path
        The file.
    conditions : sequence of str
        The conditions that rows may have.

    Raises
    ------
    StimulusError
        If the file is not such a table.
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]] = {
        ".csv": lambda file: _csv_records(file, NEEDED, OPTIONAL),
        ".jsonl": _jsonl_records,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StimulusError(f"{path}: stimuli are .csv, .jsonl or .toml files, not {path.suffix!r}")
    return [_row(where, record, conditions) for where, record in reader(path)]


def read_published(folder: Path) -> list[Row]:
    """Read all published ``langloc_fmri_run*_stim_set*.csv`` files of a folder.

    Files are read in the order of their sorted names. Of the columns stim1 to stim14, stim14 is S
    (sentence) or N (nonwords), and stim2 to stim13 are the words.

    Raises
    ------
    StimulusError
        If the folder holds no such file, or one of them has another form.
    """
    files = sorted(folder.glob(PUBLISHED_PATTERN))
    if not files:
        raise StimulusError(f"{folder} holds no file {PUBLISHED_PATTERN}; name a file instead")
    return [row for file in files for row in _published_rows(file)]


def _csv_records(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Each record of a CSV file by column, with its place for messages ("file:line")."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        # A record may span lines; it is named by its first.
        where = f"{path}:{reader.line_num + 1}"
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise StimulusError(f"{where}: bad CSV: {error}") from error
        if not record:
            continue
        if header is None:
            header = record
            _check_columns(where, header, needed, optional)
        elif len(record) != len(header):
            raise StimulusError(
                f"{where}: {len(record)} fields, but the header has {len(header)}; "
                "put a text with commas in double quotes"
            )
        else:
            yield where, dict(zip(header, record, strict=True))
    if header is None:
        raise StimulusError(f"{path} is empty; its header must be {','.join(needed)}")


def _check_columns(
    where: str, names: list[str], needed: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    for name in needed:
        if name not in names:
            raise StimulusError(f"{where}: no column {name!r}; the columns must be {_list(needed)}")
    for name in names:
        if names.count(name) > 1:
            raise StimulusError(f"{where}: the column {name!r} stands twice")
        if name not in needed + optional:
            more = f" (and {_list(optional)}, if you like)" if optional else ""
            raise StimulusError(
                f"{where}: unknown column {name!r}; the columns must be {_list(needed)}{more}"
            )


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _row(where: str, record: Mapping[str, Any], conditions: Sequence[str]) -> Row:
    condition, text = record["condition"], record["text"]
    if condition not in conditions:
        known = f"{', '.join(conditions[:-1])} or {conditions[-1]}"
        raise StimulusError(f"{where}: condition is {str(condition)[:40]!r}; it must be {known}")
    pair, answer = record.get("pair", ""), record.get("answer", "")
    for name, value in (("text", text), ("pair", pair), ("answer", answer)):
        if not isinstance(value, str):
            raise StimulusError(f"{where}: {name} must be a string")
    if not text.strip():
        raise StimulusError(f"{where}: the text is empty")
    # JSON can spell both of these with escapes; tokenizers take neither.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise StimulusError(f"{where}: the text holds a NUL or half of a surrogate pair")
    return Row(condition, text, pair.strip(), answer.strip(), where)


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Only line feeds end a line: JSON strings may hold other line separators as they are.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            pairs = json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            raise StimulusError(f"{where}: bad JSON: {error}") from error
        if not isinstance(pairs, _Pairs):
            raise StimulusError(f"{where}: a line must be a JSON object with condition and text")
        _check_columns(where, [name for name, _ in pairs], NEEDED, OPTIONAL)
        yield where, dict(pairs)


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, with those that stand twice."""


def _published_rows(path: Path) -> Iterator[Row]:
    for where, record in _csv_records(path, PUBLISHED_COLUMNS):
        kind = record["stim14"].strip()
        if kind not in PUBLISHED_CONDITIONS:
            raise StimulusError(f"{where}: stim14 is {kind[:40]!r}; it must be S or N")
        columns = PUBLISHED_COLUMNS[1:13]
        for column in columns:
            if not record[column].strip():
                raise StimulusError(f"{where}: {column} is empty; every row needs twelve words")
        text = " ".join(record[column].lower() for column in columns)
        condition = PUBLISHED_CONDITIONS[kind]
        yield _row(where, {"condition": condition, "text": text.strip()}, CONDITIONS)
