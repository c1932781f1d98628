"""SyntaxGym's suites (Gauthier et al. 2020, ACL system demonstrations): JSON, read as published.

A suite has ``meta.name``, ``predictions`` (each a formula over regions of conditions) and
``items``, each with its ``conditions``: a ``condition_name`` and ``regions``, numbered from 1. A
sentence is its regions with a blank between them; empty regions add nothing.
"""

from pathlib import Path
from typing import Any

from onnxloc.errors import TaskError
from onnxloc.tasks.files import check_text, parse_json, read_bytes, read_lines
from onnxloc.tasks.formula import parse_formula
from onnxloc.tasks.model import Item, Task
from onnxloc.tasks.spans import Span

__all__ = ["syntaxgym_task"]

_Sentence = tuple[str, tuple[Span, ...]]


def syntaxgym_task(path: Path) -> Task:
    """Read a suite: one item for each of its items and predictions, grouped by prediction.

    Only the conditions that a prediction's formula names are run for it.

    Raises
    ------
    TaskError
        If the file cannot be read or is no suite; the message names the file and the place, for
        JSON its line, for a formula its line where it can be told and its column.
    """
    lines = [line for _, line in read_lines(path, read_bytes(path))]
    suite = parse_json("\n".join(lines), str(path))
    where = str(path)
    _need(isinstance(suite, dict), where, "a suite must be one JSON object")
    meta = suite.get("meta")
    given = meta.get("name") if isinstance(meta, dict) else None
    name = given if isinstance(given, str) and given.strip() else path.stem
    check_text(name, where, "meta.name")
    metric = meta.get("metric", "sum") if isinstance(meta, dict) else "sum"
    _need(
        metric == "sum" or (isinstance(metric, list) and "sum" in metric),
        where,
        "only suites whose metric is the sum of a region's surprisals can be scored",
    )
    formulas = []
    for number, prediction in enumerate(_list(suite, "predictions", where), 1):
        at = f"{where}: prediction {number}"
        kind = prediction.get("type") if isinstance(prediction, dict) else None
        text = prediction.get("formula") if isinstance(prediction, dict) else None
        _need(kind == "formula", at, "its type must be 'formula'")
        _need(isinstance(text, str), at, "it has no formula")
        line = _line_of(str(text), lines)
        formulas.append((str(text), f"{where}:{line}: prediction {number}" if line else at))
    items: list[Item] = []
    for place, item in enumerate(_list(suite, "items", where), 1):
        _need(isinstance(item, dict), where, f"item {place} must be a JSON object")
        number = item.get("item_number", place)
        at = f"{where}: item {number!r:.20}"
        sentences = _sentences(item, at)
        regions = {key: range(1, len(spans) + 1) for key, (_, spans) in sentences.items()}
        for which, (text, formula_at) in enumerate(formulas, 1):
            formula = parse_formula(text, regions, f"{formula_at} (item {number!r:.20})")
            _need(bool(formula.conditions), formula_at, "the formula names no region")
            chosen = [sentences[condition] for condition in formula.conditions]
            items.append(
                Item(
                    f"{name}:{number}:{which}",
                    f"{name}: prediction {which}",
                    tuple(sentence for sentence, _ in chosen),
                    spans=tuple(spans for _, spans in chosen),
                    formula=formula,
                )
            )
    return Task(f"syntaxgym:{name}", "formula", tuple(items), str(path))


def _sentences(item: dict[str, Any], where: str) -> dict[str, _Sentence]:
    found: dict[str, _Sentence] = {}
    for condition in _list(item, "conditions", where):
        name = condition.get("condition_name") if isinstance(condition, dict) else None
        _need(isinstance(name, str) and name not in found, where, "a condition needs its own name")
        at = f"{where}, condition {name!r:.40}"
        text, spans = "", []
        for place, region in enumerate(_list(condition, "regions", at), 1):
            given = region.get("content") if isinstance(region, dict) else None
            number = region.get("region_number") if isinstance(region, dict) else None
            _need(number == place, at, f"its regions must be numbered from 1; see region {place}")
            _need(isinstance(given, str), at, f"region {place} has no content")
            check_text(str(given), at, f"region {place}")
            content = str(given).strip()
            # The blank belongs to the region behind it, as it does to a token.
            start = len(text)
            text += f" {content}" if text and content else content
            spans.append((start, len(text)))
        _need(bool(text), at, "all regions are empty")
        found[str(name)] = (text, tuple(spans))
    return found


def _line_of(formula: str, lines: list[str]) -> int:
    """The line that holds a formula; 0 where escapes hide it."""
    return next((number for number, line in enumerate(lines, 1) if formula in line), 0)


def _list(record: Any, key: str, where: str) -> list[Any]:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, list) or not value:
        raise TaskError(f"{where}: {key!r} must be a list that is not empty")
    return value


def _need(holds: bool, where: str, why: str) -> None:
    if not holds:
        raise TaskError(f"{where}: {why}")
