"""Reading what tasks are made of: files that are hostile until checked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxloc.errors import TaskError

__all__ = [
    "MAX_BYTES",
    "check_text",
    "parse_json",
    "read_bytes",
    "read_lines",
    "read_records",
    "string_of",
]

MAX_BYTES = 64_000_000
"""Most bytes that one task may be read from."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """What a file holds, if that is no more than `limit` bytes."""
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


def read_lines(path: Path, data: bytes) -> Iterator[tuple[int, str]]:
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


def parse_json(text: str, where: str, line: int = 0) -> Any:
    """What a text says as JSON; an error names the line, counted on from `line`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{line or error.lineno}"
        raise TaskError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # an endless number, or endless nesting
        place = f"{where}:{line}" if line else where
        raise TaskError(f"{place}: not JSON that can be read: {error}") from error


def read_records(path: Path, data: bytes) -> Iterator[tuple[str, int, dict[str, object]]]:
    """Of each line that is not blank: its place for messages, its number, its JSON object."""
    for number, line in read_lines(path, data):
        if not line.strip():
            continue
        record = parse_json(line, str(path), number)
        if not isinstance(record, dict):
            raise TaskError(f"{path}:{number}: a line must hold one JSON object")
        yield f"{path}:{number}", number, record


def string_of(record: dict[str, object], key: str, where: str, *, full: bool = False) -> str:
    """The string under a key; with `full`, one that must be there and must not be blank."""
    if key not in record:
        raise TaskError(f"{where}: the key {key!r} is missing")
    value = record[key]
    if not isinstance(value, str):
        raise TaskError(f"{where}: {key} must be a string")
    check_text(value, where, key)
    if full and not value.strip():
        raise TaskError(f"{where}: {key} is empty")
    return value


def check_text(text: str, where: str, what: str) -> None:
    """Refuse what is no text: a NUL character, or half a surrogate pair."""
    if "\0" in text:
        raise TaskError(f"{where}: {what} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: {what} holds half a surrogate pair, which is no text") from error
