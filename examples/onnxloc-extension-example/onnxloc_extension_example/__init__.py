"""A localizer, a task and an edit, as a package of its own would add them to onnxloc."""

from pathlib import Path

__all__ = ["QUESTIONS"]

# What the entry point of a localizer names: the path of its TOML file.
QUESTIONS = Path(__file__).with_name("questions.toml")
