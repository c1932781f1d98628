"""A tiny seeded language model as a bundle on disk, and files to use it with."""

import json
from collections.abc import Sequence
from pathlib import Path

from helpers.gguf_files import TinyModel
from onnxloc_exporters.gguf_ import GGUFExporter

__all__ = [
    "CONTROL",
    "MODEL",
    "POSITIVE",
    "snapshot",
    "write_pairs",
    "write_stimuli",
    "write_tiny_bundle",
    "write_work",
]

# Its vocabulary holds every byte, so that it takes any text of up to 256 tokens.
MODEL = TinyModel(blocks=3, seed=7, metadata={"llama.context_length": 256})

POSITIVE = tuple(f"the {noun} sleeps" for noun in ("dog", "fox", "sun", "cat", "boy", "hen"))
CONTROL = tuple(f"{i}{j} {i * j}" for i, j in ((4, 7), (91, 3), (55, 8), (2, 16), (7, 70), (3, 3)))


def write_tiny_bundle(
    folder: Path, model: TinyModel = MODEL, *, name: str = "tiny", with_past: bool = False
) -> Path:
    """Export a tiny GGUF model; equal models give equal bundles."""
    source = model.write(folder.with_name(f"{folder.name}.gguf"))
    try:
        return GGUFExporter(with_past=with_past).export(source, folder, name=name)
    finally:
        source.unlink()


def write_stimuli(
    path: Path, positive: Sequence[str] = POSITIVE, control: Sequence[str] = CONTROL
) -> Path:
    """Write a CSV or JSONL file of the two conditions."""
    rows = [("positive", text) for text in positive] + [("control", text) for text in control]
    if path.suffix == ".csv":
        lines = ["condition,text", *(f'{condition},"{text}"' for condition, text in rows)]
    else:
        lines = [json.dumps({"condition": condition, "text": text}) for condition, text in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pairs(path: Path, groups: Sequence[str] = ("agreement", "anaphora")) -> Path:
    """Write a BLiMP file with three pairs in each group."""
    records = [
        {"sentence_good": f"the {noun} sleeps", "sentence_bad": f"the {noun} sleep", "UID": group,
         "field": "syntax"}
        for group in groups
        for noun in ("dog", "fox", "sun")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_work(folder: Path) -> Path:
    """A folder to work in: a model ``tiny``, stimuli, minimal pairs and lines of text."""
    write_tiny_bundle(folder / "tiny")
    write_stimuli(folder / "stimuli.csv")
    write_pairs(folder / "pairs.jsonl")
    (folder / "lines.txt").write_text("the dog sleeps in the sun\n\nit's 1998\n", encoding="utf-8")
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, and what the files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
