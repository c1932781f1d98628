"""A folder full of bad things: what hostile, damaged and mistaken input looks like."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers.tiny_bundle import (
    CONTROL,
    MODEL,
    POSITIVE,
    write_stimuli,
    write_tiny_bundle,
    write_work,
)

from onnxloc.cli import main
from onnxloc.network import Network
from onnxloc.runtime.model import Model

__all__ = ["OUT", "write_bad_folder"]

OUT = [f"block.{i}.out" for i in range(3)]
# Deeper than any parser goes.
DEEP = "[" * 100_000


def write_bad_folder(work: Path) -> Path:
    """Fill a folder; it becomes the current one for as long as that takes."""
    from bad_inputs.builders_more import arrays, configs, recipes, weights

    write_work(work)
    before = Path.cwd()
    os.chdir(work)
    try:
        for make in (_bundles, _stimuli, _networks, _tasks, _runs, arrays, configs, recipes,
                     weights):  # fmt: skip
            make(work)
    finally:
        os.chdir(before)
    return work


def _bundles(work):
    """Copies of the model, each with one thing wrong."""

    def copy(name):
        return Path(shutil.copytree(work / "tiny", work / name))

    whole = (work / "tiny" / "model.onnx").read_bytes()
    (work / "empty.onnx").write_bytes(b"")
    (work / "corrupt.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (copy("cut") / "model.onnx").write_bytes(whole[: len(whole) // 2])
    (work / "none").mkdir()
    (work / "none" / "README.md").write_text("no model here")
    (copy("two") / "model.onnx").rename(work / "two" / "a.onnx")
    shutil.copy(work / "two" / "a.onnx", work / "two" / "b.onnx")
    (copy("weightless") / "model.onnx.data").unlink()
    short = copy("short") / "model.onnx.data"
    short.write_bytes(short.read_bytes()[:1000])
    linked = copy("linked") / "model.onnx.data"
    linked.rename(work / "weights-elsewhere")
    linked.symlink_to(work / "weights-elsewhere")
    (copy("wordless") / "tokenizer.json").unlink()
    (copy("bad-tokenizer") / "tokenizer.json").write_text('{"version": "1.0"}')
    info = json.loads((work / "tiny" / "bundle.json").read_text())
    file = {"size": 1, "sha256": "0" * 64}
    for name, text in {
        "bad-json": "{",
        "bad-deep": DEEP,
        "bad-list": "[]",
        "bad-number": '{"format": 1, "name": "x", "opset": ' + "9" * 5000 + "}",
        "bad-key": json.dumps({**info, "colour": "red"}),
        "bad-type": json.dumps({**info, "max_tokens": "many"}),
        "bad-size": json.dumps({**info, "max_tokens": -5}),
        "bad-format": json.dumps({**info, "format": 99}),
        "bad-place": json.dumps({**info, "files": {"../../etc/passwd": file}}),
        "bad-hash": json.dumps({**info, "files": {"model.onnx": {**file, "sha256": "x"}}}),
        "bad-parity": json.dumps({**info, "parity": {"within": True}}),
        "nameless": json.dumps({k: v for k, v in info.items() if k != "name"}),
    }.items():
        (copy(name) / "bundle.json").write_text(text)
    (copy("bad-text") / "bundle.json").write_bytes(b"\xff\xfe\x00")
    write_tiny_bundle(work / "other", replace(MODEL, seed=8))
    write_tiny_bundle(work / "wider", replace(MODEL, heads=2, kv_heads=1, width=32))


def _stimuli(work):
    write_stimuli(work / "one-sided.csv", POSITIVE, ())
    write_stimuli(work / "one-sided.jsonl", (), CONTROL)
    write_stimuli(work / "few.csv", POSITIVE[:2], CONTROL)
    write_stimuli(work / "blank.csv", (*POSITIVE, "  "), CONTROL)
    write_stimuli(work / "long.csv", (*POSITIVE, "the dog " * 300), CONTROL)
    good = (work / "stimuli.csv").read_text()
    for name, text in {
        "column.csv": good.replace("condition,text", "condition,sentence"),
        "column.jsonl": '{"condition": "positive", "words": "a dog"}\n',
        "twice.jsonl": '{"condition": "positive", "text": "a", "text": "b"}\n',
        "half.jsonl": '{"condition": "positive", "text": "\\ud800"}\n',
        "number.jsonl": '{"condition": "positive", "text": 5}\n',
        "deep.jsonl": DEEP + "\n",
        "unknown.csv": good + "neutral,a dog\n",
        "comma.csv": good + "positive,a dog, a cat\n",
        "quote.csv": good + 'positive,"a dog\n',
        "nul.csv": good + "positive,a\0dog\n",
        "notjson.jsonl": "{\n",
        "table.txt": good,
        "headless.csv": "",
        "letter.toml": 'name = "x"\ndata = "../stimuli.csv"\n',
        "absolute.toml": 'name = "x"\ndata = "/etc/passwd"\n',
        "dataless.toml": 'name = "x"\n',
        "key.toml": 'name = "x"\ndata = "stimuli.csv"\ncolour = 1\n',
        "type.toml": 'name = "x"\ndata = "stimuli.csv"\nmax_tokens = "12"\n',
        "pool.toml": 'name = "x"\ndata = "stimuli.csv"\npool = "median"\n',
        "broken.toml": 'name = "x\n',
        "deep.toml": f"name = {DEEP}\n",
    }.items():
        (work / name).write_text(text)
    (work / "latin.csv").write_bytes((good + "positive,caf\xe9\n").encode("latin-1"))
    os.mkfifo(work / "pipe.csv")


def _networks(work):
    model = Model.open(work / "tiny").graph.hash

    def write(name, units, widths, of):
        Network(units, widths, of, {"how": "top"}).save(work / f"{name}.parquet")

    out = dict.fromkeys(OUT, 64)
    write("fits", {OUT[1]: [3, 60]}, out, model)
    write("foreign", {OUT[1]: [3, 60]}, out, "0123456789abcdef" * 4)
    write("wide", {OUT[1]: [3, 600]}, dict.fromkeys(OUT, 1024), "f" * 64)
    write("elsewhere", {"block.9.out": [3]}, {"block.9.out": 64}, "f" * 64)
    write("void", {}, out, model)
    write("full", {site: np.arange(64) for site in OUT}, out, model)
    data = (work / "fits.parquet").read_bytes()
    (work / "cut.parquet").write_bytes(data[:-40])
    (work / "flipped.parquet").write_bytes(data[:20] + bytes([data[20] ^ 255]) + data[21:])
    (work / "text.parquet").write_text("site,unit\nblock.1.out,3\n")
    _tables(work, model, out)


def _tables(work, model, sites):
    """Whole Parquet files that are no networks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = {"format": 1, "model_hash": model, "how": {}, "sites": sites}

    def write(name, columns, **changes):
        table = pa.table(columns)
        if changes.get("meta", True) is not None:
            text = json.dumps({**meta, **changes}) if changes.get("meta", True) is True else "{"
            table = table.replace_schema_metadata({b"onnxloc": text.encode()})
        pq.write_table(table, work / f"{name}.parquet")

    good = {"site": pa.array(OUT[:1]), "unit": pa.array([3])}
    write("metaless", good, meta=None)
    write("notmeta", good, meta=False)
    write("newer", good, format=2)
    write("listed", good, sites=[])
    write("typed", {"site": good["site"], "unit": pa.array([3.5])})
    write("holes", {"site": good["site"], "unit": pa.array([None], pa.int64())})
    write("below", {"site": good["site"], "unit": pa.array([-1])})
    write("unsought", {"site": pa.array(["block.7.out"]), "unit": pa.array([3])})
    write("endless", good, sites={OUT[0]: 2**62})


def _tasks(work):
    good = {"sentence_good": "the dog sleeps", "sentence_bad": "the dog sleep", "UID": "x"}
    asked = {"question": "What barks?", "choices": ["a dog", "a cat"], "answer": 0}
    suite = {"meta": {}, "items": [], "predictions": []}
    for name, text in {
        "keyless": json.dumps({k: good[k] for k in ("sentence_good", "UID")}),
        "empty-pair": json.dumps({**good, "sentence_bad": " "}),
        "same": json.dumps({**good, "sentence_bad": "the dog sleeps"}),
        "surrogate": json.dumps({**good, "sentence_bad": "\ud800"}),
        "list": "[1, 2]",
        "deep-pair": DEEP,
        "not-json": "{",
        "pairless": "",
        "long-pair": json.dumps({**good, "sentence_bad": "the dog " * 300}),
        "one-choice": json.dumps({**asked, "choices": ["a dog"]}),
        "same-choice": json.dumps({**asked, "choices": ["a dog", "a dog "]}),
        "no-answer": json.dumps({**asked, "answer": 7}),
        "one-word": json.dumps({"text": "word"}),
    }.items():
        (work / f"{name}.jsonl").write_text(text + "\n")
    (work / "blank.txt").write_text("\n\n")
    (work / "nul.txt").write_text("the dog\0 sleeps\n")
    (work / "suite.json").write_text(json.dumps(suite))
    (work / "list.json").write_text("[]")
    (work / "linked-task").mkdir()
    (work / "linked-task" / "out.jsonl").symlink_to(work / "pairs.jsonl")


def _runs(work):
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "--threads", "1"]
    assert main([*words, "-o", "run"]) == 0
    assert main([*words, "--keep-activations", "-o", "kept"]) == 0

    def copy(name, of="run"):
        return Path(shutil.copytree(of, name))

    for name, missing in (("netless", "network.parquet"), ("recordless", "manifest.json"),
                          ("unitless", "units.parquet")):  # fmt: skip
        (copy(name) / missing).unlink()
    record = json.loads((work / "run" / "manifest.json").read_text())
    for name, file, text in (
        ("damaged", "summary.json", "[]"),
        ("deep-record", "manifest.json", DEEP),
        ("next-record", "manifest.json", json.dumps({**record, "format": 99})),
        ("stepless", "manifest.json", json.dumps({**record, "steps": 5})),
        ("odd-record", "manifest.json", json.dumps({**record, "colour": "red"})),
        ("odd-step", "manifest.json", json.dumps({**record, "steps": [{"step": 1}]})),
    ):
        (copy(name) / file).write_text(text)
    piped = copy("piped") / "summary.json"
    piped.unlink()
    os.mkfifo(piped)
    units = (work / "run" / "units.parquet").read_bytes()
    (copy("bad-units") / "units.parquet").write_bytes(units[:-100])
    (copy("other-units") / "units.parquet").write_bytes((work / "fits.parquet").read_bytes())
    kept = copy("bad-kept", "kept")
    chunk = next(path for path in sorted(kept.rglob("0")) if path.is_file())
    chunk.write_bytes(bytes(byte ^ 1 for byte in chunk.read_bytes()))
    index = copy("bad-index", "kept") / "activations.json"
    index.write_text(index.read_text() + " ")
    (work / ".begun.partial").mkdir()
    (work / ".begun.partial" / "000.npz").write_text("no state")
    (work / "theirs").mkdir()
    (work / "theirs" / "thesis.txt").write_text("years of work")
    for name, text in {
        "items.csv": "row,length\n0,5\n99,7\n",
        "items-twice.csv": "row,length\n0,5\n0,7\n",
        "items-keyless.csv": "length\n5\n",
        "items-text.csv": "row,length\n0,long\n1,short\n2,5\n",
    }.items():
        (work / name).write_text(text)
