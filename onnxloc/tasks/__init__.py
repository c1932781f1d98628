"""Behavioural tasks: minimal pairs and lines of text, read or generated, and their scores."""

from onnxloc.tasks.load import TASKS, load_task
from onnxloc.tasks.model import Item, Task, TaskInputs, perplexity
from onnxloc.tasks.readers import text_task

__all__ = ["TASKS", "Item", "Task", "TaskInputs", "load_task", "perplexity", "text_task"]
