"""What bad input gets: one line on standard error, exit status 2, and nothing on disk."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_bundle import (
    CONTROL,
    MODEL,
    POSITIVE,
    snapshot,
    write_stimuli,
    write_tiny_bundle,
    write_work,
)

from onnxloc.cli import main
from onnxloc.network import Network
from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit

OUT = [f"block.{i}.out" for i in range(3)]


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
    (copy("wordless") / "tokenizer.json").unlink()
    (copy("bad-tokenizer") / "tokenizer.json").write_text('{"version": "1.0"}')
    info = json.loads((work / "tiny" / "bundle.json").read_text())
    for name, text in {
        "bad-json": "{",
        "bad-key": json.dumps({**info, "colour": "red"}),
        "bad-type": json.dumps({**info, "max_tokens": "many"}),
        "bad-format": json.dumps({**info, "format": 99}),
    }.items():
        (copy(name) / "bundle.json").write_text(text)
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
        "unknown.csv": good + "neutral,a dog\n",
        "comma.csv": good + "positive,a dog, a cat\n",
        "notjson.jsonl": "{\n",
        "table.txt": good,
        "headless.csv": "",
    }.items():
        (work / name).write_text(text)
    (work / "latin.csv").write_bytes((good + "positive,caf\xe9\n").encode("latin-1"))
    (work / "letter.toml").write_text('name = "x"\ndata = "../stimuli.csv"\n')


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


def _tasks(work):
    good = {"sentence_good": "the dog sleeps", "sentence_bad": "the dog sleep", "UID": "x"}
    for name, text in {
        "keyless": json.dumps({k: good[k] for k in ("sentence_good", "UID")}),
        "empty-pair": json.dumps({**good, "sentence_bad": " "}),
        "same": json.dumps({**good, "sentence_bad": "the dog sleeps"}),
        "not-json": "{",
        "pairless": "",
        "long-pair": json.dumps({**good, "sentence_bad": "the dog " * 300}),
    }.items():
        (work / f"{name}.jsonl").write_text(text + "\n")
    (work / "blank.txt").write_text("\n\n")


def _runs(work):
    words = ["localize", "tiny", "--localizer", "stimuli.csv", "--top", "5", "-o", "run"]
    assert main(words) == 0
    for name, missing in (("netless", "network.parquet"), ("recordless", "manifest.json")):
        shutil.copytree("run", name)
        (work / name / missing).unlink()
    shutil.copytree("run", "damaged")
    (work / "damaged" / "summary.json").write_text("[]")
    (work / "theirs").mkdir()
    (work / "theirs" / "thesis.txt").write_text("years of work")
    for name, text in {
        "wrong-key.toml": "sourse = 'file:x'\n",
        "wrong-sum.toml": f'source = "file:{work / "fits.parquet"}"\nsha256 = "{"0" * 64}"\n'
        f'size = {(work / "fits.parquet").stat().st_size}\nexporter = "gguf"\n',
        "absent.toml": f'source = "file:{work / "absent.gguf"}"\nsha256 = "{"0" * 64}"\n'
        'size = 10\nexporter = "gguf"\n',
    }.items():
        (work / name).write_text(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder full of bad things; no test may change it."""
    work = write_work(tmp_path_factory.mktemp("work"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for make in (_bundles, _stimuli, _networks, _tasks, _runs):
            make(work)
    return work


@pytest.fixture
def work(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    return folder


def localize(*words, model="tiny", stimuli="stimuli.csv", out="out"):
    return ["localize", model, "--localizer", stimuli, "-o", out, *words]


def ablate(*words, model="tiny", network="fits.parquet", task="pairs.jsonl", out="out"):
    return ["ablate", model, "--network", network, "--task", task, "-o", out, *words]


MODELS = {
    "nowhere": ["there is no model at nowhere", "names that can be fetched: ", "smollm2-135m"],
    "smollm2-135n": ["did you mean 'smollm2-135m'?"],
    "smollm2-135m": ["not fetched yet", "onnxloc fetch smollm2-135m"],
    "a" * 5000: ["no usable path", "too long"],
    "empty.onnx": ["empty.onnx"],
    "corrupt.onnx": ["corrupt.onnx", "not an ONNX model"],
    "cut": ["model.onnx", "not an ONNX model"],
    "none": ["none holds no .onnx file"],
    "two": ["several models", "a.onnx, b.onnx"],
    "weightless": ["model.onnx.data"],
    "short": ["model.onnx.data"],
    "bad-json": ["bundle.json is not JSON"],
    "bad-key": ["bundle.json: unknown key 'colour'"],
    "bad-type": ["bundle.json: max_tokens has the wrong type"],
    "bad-format": ["bundle.json: format 99 is not 1"],
    "stimuli.csv": ["stimuli.csv", "not an ONNX model"],
}
STIMULI = {
    "one-sided.csv": ["one-sided.csv has no control text"],
    "one-sided.jsonl": ["one-sided.jsonl has no positive text"],
    "few.csv": ["only 2 positive texts"],
    "blank.csv": ["blank.csv:8", "the text is empty"],
    "long.csv": ["tokens, the model takes 256; shorten it", "'the dog"],
    "column.csv": ["column.csv:1", "no column 'text'"],
    "column.jsonl": ["column.jsonl:1", "no column 'text'"],
    "unknown.csv": ["unknown.csv:14", "'neutral'", "positive or control"],
    "comma.csv": ["comma.csv:14", "double quotes"],
    "notjson.jsonl": ["notjson.jsonl:1", "bad JSON"],
    "table.txt": ["table.txt", "'.txt'"],
    "headless.csv": ["headless.csv is empty"],
    "latin.csv": ["latin.csv:14", "not UTF-8"],
    "letter.toml": ["letter.toml", "in the folder of the TOML file"],
    "nowhere.csv": ["there is no localizer or file 'nowhere.csv'"],
    "langage": ["did you mean 'language'?"],
    "theirs": ["theirs", "langloc_fmri_run*_stim_set*.csv"],
}
NETWORKS = {
    "foreign.parquet": ["is of model 0123456789ab, not of this model", "--force-model"],
    "cut.parquet": ["cut.parquet is not a network file"],
    "flipped.parquet": ["flipped.parquet is not a network file"],
    "text.parquet": ["text.parquet is not a network file"],
    "pairs.jsonl": ["pairs.jsonl is not a network file"],
    "void.parquet": ["the network has no units"],
    "full.parquet": ["0 units outside the network"],
    "nowhere": ["there is no network at nowhere"],
    "netless": ["there is no network at netless"],
    "recordless": ["recordless is not a run folder"],
    "damaged": ["damaged/summary.json"],
    "theirs": ["theirs is not a run folder"],
}
FORCED = {
    "wide.parquet": ["block.1.out has 64 units in this model, 1024 in the network"],
    "elsewhere.parquet": ["no site 'block.9.out'"],
}
TASKS = {
    "pears": ["there is no task 'pears'", "did you mean 'pairs'?"],
    "no/where": ["there is no task file or folder at no/where"],
    "nowhere.jsonl": ["nowhere.jsonl"],
    "keyless.jsonl": ["keyless.jsonl:1", "'sentence_bad' is missing"],
    "empty-pair.jsonl": ["empty-pair.jsonl:1", "sentence_bad is empty"],
    "same.jsonl": ["same.jsonl:1", "are the same"],
    "not-json.jsonl": ["not-json.jsonl:1", "not JSON"],
    "pairless.jsonl": ["pairless.jsonl holds no pairs"],
    "long-pair.jsonl": ["tokens, the model takes 256; shorten it"],
    "lines.txt": ["lines.txt is no .jsonl file", "text:lines.txt"],
    "theirs": ["theirs holds no .jsonl file"],
    "text:blank.txt": ["blank.txt holds no line of text"],
    "text:nowhere.txt": ["nowhere.txt"],
    "test:lines.txt": ["did you mean 'text'?"],
}
PERCENTAGES = {"0": "0", "-1": "-1", "101": "101", "nan": "nan", "abc": "abc"}
PLACES = {
    "run": ["run exists", "--force"],
    "theirs": ["theirs exists", "--force"],
    "lines.txt": ["lines.txt is not a folder"],
    "lines.txt/deep/out": ["cannot", "lines.txt"],
    "/proc/onnxloc": ["cannot write /proc/onnxloc"],
}

BAD = [
    *((localize(model=model), said) for model, said in MODELS.items()),
    *((["inspect", model], said) for model, said in MODELS.items() if model != "short"),
    (localize(model="wordless"), ["wordless has no tokenizer.json"]),
    (localize(model="bad-tokenizer"), ["cannot read", "tokenizer.json"]),
    (ablate(model="wordless"), ["wordless has no tokenizer.json"]),
    *((localize(stimuli=stimuli), said) for stimuli, said in STIMULI.items()),
    *((localize("--top", value), [said]) for value, said in PERCENTAGES.items()),
    *((ablate("--percent", v, network="run"), ["percentage"]) for v in PERCENTAGES),
    (ablate("--percent", "1,1", network="run"), ["given once"]),
    (ablate("--percent", "0.1", network="run"), ["0.1 % of 192 units is less than one"]),
    (ablate("--percent", "1,5"), ["t-values of a run", "--network a run folder"]),
    (localize("--top", "0.1"), ["0.1 % of 192 units is less than one"]),
    (localize("--top", "1", "--units", "3"), ["--top and --units"]),
    (localize("--fdr", "0.1", "--units", "3", "--top", "2"), ["--top and --units and --fdr"]),
    (localize("--units", "0"), ["number of units", "not 0"]),
    (localize("--units", "193"), ["cannot choose 193 units", "only 192"]),
    (localize("--units", "1.5"), ["'--units'", "1.5"]),
    *((localize("--fdr", value), ["false discovery rate"]) for value in ("2", "0", "nan", "-0.1")),
    *((localize("--range", value), ["range of percentiles"]) for value in (
        "5", "90-80", "-5-10", "80-101", "nan-5", "a-b", "")),
    (localize("--range", "10-20", "--fdr", "0.1"), ["percentile range"]),
    (localize("--range", "10-10.1", "--units", "100"), ["cannot choose 100 units"]),
    (localize("--pool", "nope"), ["'--pool'", "'nope'", "'last', 'mean', 'sum', 'max'"]),
    (localize("--sites", "nothing-matches"), ["no site matches 'nothing-matches'", "inspect"]),
    (localize("--sites", "block.*.output"), ["no site matches", "did you mean 'block."]),
    (localize("--sites", "block.*.attn.probs"), ["have no units"]),
    (localize("--sites", ""), ["no site matches ''"]),
    (localize("--provider", "nope"), ["there is no provider 'nope'", "cpu, cuda"]),
    (localize("--provider", "cud"), ["did you mean 'cuda'?"]),
    (localize("--provider", "cuda"), ["no cuda provider", "onnxloc[gpu]"]),
    (ablate("--provider", "cuda"), ["no cuda provider", "onnxloc[gpu]"]),
    (localize("--threads", "-1"), ["'--threads'"]),
    (localize("--batch-size", "0"), ["'--batch-size'"]),
    (localize("--seed", "-1"), ["'--seed'"]),
    (localize("--max-tokens", "-1"), ["'--max-tokens'"]),
    (localize("--max-tokens", "1", "--bos"), ["--max-tokens 1 leaves nothing"]),
    (localize("--tpo", "1"), ["No such option '--tpo'", "--top"]),
    (["localize", "tiny"], ["--output"]),
    (["localize"], ["MODEL"]),
    *((ablate(network=network), said) for network, said in NETWORKS.items()),
    *((ablate("--force-model", network=n), said) for n, said in FORCED.items()),
    (ablate("--force-model", model="wider"), ["block.1.out has 32 units", "64 in the network"]),
    *((ablate(task=task), said) for task, said in TASKS.items()),
    (ablate("--task", "pairs.jsonl"), ["two tasks have the same name"]),
    (ablate("--with", "one"), ["there is no edit", "'one'"]),
    (ablate("--match", "size"), ["'--match'", "'size'"]),
    (ablate("--controls", "-1"), ["'--controls'"]),
    (ablate("--limit", "-1"), ["'--limit'"]),
    (ablate("--localizer", "nope", task="text"), ["there is no localizer or file 'nope'"]),
    (["ablate", "tiny", "-o", "out"], ["--network"]),
    *((localize(out=place), said) for place, said in PLACES.items()),
    *((ablate(out=place), said) for place, said in PLACES.items()),
    *((["demo", "-o", place], said) for place, said in list(PLACES.items())[:4]),
    *((["export", "gguf", "lines.txt", "-o", place], said) for place, said in list(
        PLACES.items())[:4]),
    (localize("--force", out="theirs"), ["was not written by onnxloc"]),
    (ablate("--force", out="theirs"), ["was not written by onnxloc"]),
    (["demo", "--force", "-o", "theirs"], ["was not written by onnxloc"]),
    (["export", "gguf", "nowhere.gguf", "-o", "out"], ["nowhere.gguf"]),
    (["export", "gguf", "lines.txt", "-o", "out"], ["lines.txt is not a GGUF file"]),
    (["export", "ggfu", "lines.txt", "-o", "out"], ["ggfu"]),
    (["report", "nowhere"], ["there is no run folder at nowhere"]),
    (["report", "theirs"], ["theirs is not a run folder"]),
    (["report", "lines.txt"], ["lines.txt"]),
    (["report", "recordless"], ["recordless is not a run folder"]),
    (["report", "damaged"], ["damaged/summary.json"]),
    (["fetch", "smollm"], ["there is no recipe 'smollm'", "did you mean 'smollm2-135m'?"]),
    (["fetch", "nowhere.toml"], ["cannot read the recipe nowhere.toml"]),
    (["fetch", "wrong-key.toml"], ["unknown key 'sourse'; did you mean 'source'?"]),
    (["fetch", "wrong-sum.toml", "-o", "out"], ["is not the right file"]),
    (["fetch", "absent.toml", "-o", "out"], ["absent.gguf"]),
    (["fetch", "smollm2-135m", "-o", "theirs"], ["theirs"]),
    (["loclize", "tiny"], ["there is no command 'loclize'", "did you mean 'localize'?"]),
    (["--nope"], ["--nope"]),
]  # fmt: skip


def check_error(said, keys):
    assert said.err.startswith("onnxloc: error: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    for key in keys:
        assert key in said.err
    assert said.out == ""


@pytest.mark.parametrize(("words", "keys"), BAD, ids=[" ".join(words)[:60] for words, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(work, capsys, monkeypatch, words, keys):
    import onnxruntime

    # What a GPU build would offer is not what is tested here.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    before = snapshot(work)
    status = main(words)
    said = capsys.readouterr()
    check_error(said, keys)
    assert status == 2
    assert snapshot(work) == before


def test_both_hashes_are_named(work, capsys):
    model = Model.open("tiny").graph.hash
    assert main(ablate(network="foreign.parquet")) == 2
    said = capsys.readouterr().err
    assert "0123456789ab" in said
    assert model[:12] in said


def test_a_network_of_another_model_can_be_forced_where_it_fits(work, tmp_path):
    words = ablate("--controls", "1", "--force-model", model="other", out=str(tmp_path / "out"))
    assert main([word for word in words if word != "--force-model"]) == 2
    assert main(words) == 0


def test_a_refused_fetch_leaves_no_file(work, tmp_path, capsys):
    for name in ("wrong-sum.toml", "absent.toml"):
        assert main(["fetch", name]) == 2
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".lock"] == []


def test_control_characters_and_odd_bytes_of_names_are_escaped(work, tmp_path, capsys):
    assert main(["inspect", "a\x1b[31mb\nc"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "a\\x1b[31mb c" in said
    odd = os.fsdecode(b"caf\xe9")
    before = snapshot(work)
    for words in (localize(out=odd), ablate(out=f"{odd}/out"), ["demo", "-o", odd]):
        assert main(words) == 2
        check_error(capsys.readouterr(), ["'caf\\udce9", "is not UTF-8"])
    assert main(["report", odd]) == 2
    check_error(capsys.readouterr(), ["there is no run folder at caf\\udce9"])
    assert snapshot(work) == before
    # As the name of an input they do no harm.
    stimuli = write_stimuli(tmp_path / f"{odd}.csv")
    assert main(localize(stimuli=str(stimuli), out=str(tmp_path / "out"))) == 0
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert record["steps"][0]["parameters"]["localizer"] == str(stimuli)
    assert main(["report", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["run", "out"])
def test_an_interrupt_while_writing_leaves_what_was(work, capsys, monkeypatch, name):
    def stop(self, path):
        path.write_text("half a network")
        raise KeyboardInterrupt

    before = snapshot(work)
    monkeypatch.setattr(Network, "save", stop)
    assert main(localize("--force", out=name)) == 130
    said = capsys.readouterr().err
    assert said.strip() == ("onnxloc: interrupted; to go on, run the same command with --resume")
    after = snapshot(work)
    hidden = f".{name}.partial"
    shutil.rmtree(hidden)
    assert set(after) - set(before) == {hidden, f"{hidden}/000.npz"}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["localize", "ablate"])
def test_a_signal_leaves_what_can_be_resumed(work, tmp_path, command, number):
    if command == "localize":
        texts = [f"{text} {i}" for i in range(1500) for text in POSITIVE]
        others = [f"{text}." for text in texts]
        stimuli = write_stimuli(tmp_path / "many.csv", texts, others)
        words, bar = localize("--batch-size", "1", stimuli=str(stimuli)), b"localizing"
    else:
        words, bar = ablate("--controls", "200", "--batch-size", "1", task="pairs"), b"ablating"
    before = snapshot(work)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen([sys.executable, "-m", "onnxloc", *words], stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        # The bar is drawn at 0 first; a second time, it is in the middle of the work.
        while shown.count(bar) < 4:
            shown += os.read(ours, 4096)
        process.send_signal(number)
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            # So a terminal says on Linux that nobody holds its other end.
            pass
        assert process.wait(timeout=30) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    line = b"onnxloc: interrupted; to go on, run the same command with --resume"
    assert shown.rstrip().endswith(line)
    assert b"Traceback" not in shown
    after = snapshot(work)
    shutil.rmtree(".out.partial")
    assert set(after) - set(before) == {".out.partial", ".out.partial/000.npz"}
    assert {path: after[path] for path in before} == before


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

sys.meta_path.insert(0, Blocker())
from onnxloc.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words", [localize(), ablate(), ["inspect", "tiny"]], ids=["localize", "ablate", "inspect"]
)
def test_without_onnxruntime_the_extras_are_named(work, words):
    before = snapshot(work)
    said = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("onnxloc: error: onnxruntime is not installed")
    assert said.stderr.count("\n") == 1
    assert "onnxloc[cpu]" in said.stderr
    assert "onnxloc[gpu]" in said.stderr
    assert snapshot(work) == before
