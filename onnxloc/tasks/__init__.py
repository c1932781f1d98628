"""Behavioural tasks, read or generated: minimal pairs, texts, choices, last words, formulas."""

from onnxloc.tasks.load import FORMS, TASKS, list_tasks, load_task
from onnxloc.tasks.model import Item, Task, TaskInputs, perplexity
from onnxloc.tasks.readers import text_task

__all__ = [
    "FORMS",
    "TASKS",
    "Item",
    "Task",
    "TaskInputs",
    "list_tasks",
    "load_task",
    "perplexity",
    "text_task",
]
