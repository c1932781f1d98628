"""What README.md and the pages under docs say to type does what they say."""

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.tiny_bundle import MODEL
from onnxloc_models import seeded

from onnxloc.store import Run
from onnxloc.tasks import load_task

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("sh", "python")
SHOWN = ("toml", "json", "csv", "text")
FENCE = re.compile(
    r"(?P<skip><!-- not run(?:: [^<>]+)? -->\s*\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Where a page says so, its Python blocks are the cells of one notebook.
NOTEBOOK = "<!-- one session -->"
# A file that the site shows; it is run by the tests of the example that it belongs to.
SNIPPET = re.compile(r'--8<-- "(examples/[^"]+)"\n')


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    code: str
    skip: bool

    @property
    def words(self) -> list[list[str]]:
        """The commands of a shell block, without what installs onnxloc."""
        parts = re.split(r"\n|&&", self.code)
        return [shlex.split(part) for part in parts if part.strip()]

    @property
    def installs(self) -> list[list[str]]:
        return [words for words in self.words if words[0] == "pip"]

    @property
    def runnable(self) -> str:
        """The block, without the ``pip install`` in front of its commands."""
        return re.sub(r"^pip install [^\n&]*(&&\s*|$)", "", self.code, flags=re.MULTILINE)


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        if SNIPPET.fullmatch(found["code"]):
            continue
        line = text.count("\n", 0, found.start("language")) + 1
        place = f"{page.relative_to(ROOT)}:{line}"
        blocks.append(Block(place, found["language"], found["code"], bool(found["skip"])))
    if NOTEBOOK not in text:
        return blocks
    cells = [block for block in blocks if block.language == "python" and not block.skip]
    others = [block for block in blocks if block not in cells]
    return [*others, replace(cells[0], code="\n".join(cell.code for cell in cells))]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
DEMO = [block for block in SHELL if not block.skip and ["onnxloc", "demo"] in block.words]
# A block that does nothing but install has no command left to run.
TYPED = [
    b for b in BLOCKS if b.language in RUN and not b.skip and b not in DEMO and b.runnable.strip()
]


@pytest.fixture(scope="module")
def folder(bundle_path, gguf_path, tmp_path_factory):
    """Where all blocks are run, in their order; the model, and a reader's own files, are there.

    A checkpoint of a reader's own is a tiny one.
    """
    folder = tmp_path_factory.mktemp("readme")
    (folder / "lines.txt").write_text("The dog\nMy favourite food is\n")
    MODEL.write(folder / "model.gguf")
    (folder / gguf_path.name).symlink_to(gguf_path)
    (folder / "checkpoints" / "smollm2").mkdir(parents=True)
    seeded.llama(None, folder / "checkpoints" / "smollm2")
    return folder


def run(block, folder):
    # The tests' own environment is what the README's pip install makes.
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    command = (
        ["bash", "-euo", "pipefail", "-c", block.runnable]
        if block.language == "sh"
        else [sys.executable, "-c", block.code]
    )
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_blocks_are_found():
    assert len(DEMO) == 1
    typed = [
        words[1]
        for block in TYPED
        if block.language == "sh"
        for words in block.words
        if words[0] == "onnxloc"
    ]
    assert {"fetch", "inspect", "localize", "ablate", "report"} <= set(typed)
    assert [block.place for block in BLOCKS if block.language not in (*RUN, *SHOWN)] == []


def test_no_command_stands_outside_the_blocks_that_are_run():
    hidden = [
        (page.name, line)
        for page in PAGES
        for line in FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
        if re.match(r"(?: {4}|\t)\s*(?:\$ |(?:onnxloc|pip|python3?|pytest) )", line)
    ]
    shown = [block for block in BLOCKS if block.language in SHOWN]
    hidden += [
        (block.place, line)
        for block in shown
        for line in block.code.splitlines()
        if re.match(r"\$ |(?:onnxloc|pip|python3?|pytest) [\w-]", line)
    ]
    assert hidden == []
    assert shown


def test_installing_is_as_ci_and_the_package_have_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    installs = [words for block in SHELL for words in block.installs]
    assert len(installs) >= 2
    for words in installs:
        if words[-1].startswith("examples/"):
            assert (ROOT / words[-1] / "pyproject.toml").is_file()
            continue
        named = re.fullmatch(r"\.\[([\w,-]+)\]", words[-1])
        assert words[:2] == ["pip", "install"]
        assert set(named[1].split(",")) <= set(extras)
        for file in (words[i + 1] for i, word in enumerate(words) if word == "-c"):
            assert (ROOT / file).is_file()
    # CI runs the README's test command, the unit tests apart from the others.
    ci = (ROOT / ".ci" / "run").read_text().replace("pip install -q", "pip install")
    command = next(block.code.strip() for block in SHELL if "&& pytest" in block.code)
    assert f"{command} -m unit " in ci
    assert "\npytest -m 'not unit'\n" in ci


@pytest.fixture(scope="module")
def demo(folder):
    """The demo, run once: what it printed, and its wall time in seconds."""
    started = time.perf_counter()
    said = run(DEMO[0], folder)
    return said, time.perf_counter() - started


def test_the_demo(demo, folder, record_testsuite_property, figure):
    said, seconds = demo
    record_testsuite_property("demo wall time, s", round(seconds, 1))
    figure("onnxloc demo after the download, wall time, s", seconds)
    lines = said.splitlines()
    assert lines[-1] == "report: onnxloc-demo/report.html"
    page = (folder / "onnxloc-demo" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "smollm2-135m" in page
    assert {path.name for path in (folder / "onnxloc-demo").iterdir()} == {
        "effects.parquet", "manifest.json", "network.parquet", "report.html", "summary.json",
        "units.parquet",
    }  # fmt: skip

    summary = Run.open(folder / "onnxloc-demo").summary
    found = summary["localize"]
    # 1 % of 30 blocks of 576 units.
    assert (found["n_units"], found["n_selected"]) == (17280, 172)
    assert lines[0].startswith("172 of 17,280 units (0.995 %) chosen in ")
    head = lines.index("") + 1
    assert lines[head].split()[:6] == ["task", "score", "units", "items", "intact", "network"]
    shown = {line.split()[0]: line for line in lines[head + 1 : head + 3]}
    entries = {entry["task"]: entry for entry in summary["ablate"]["effects"]}
    assert list(shown) == list(entries) == ["pairs", "text"]
    assert {name: entry["n_items"] for name, entry in entries.items()} == {
        "pairs": 19 * 20, "text": 240
    }  # fmt: skip
    for name, entry in entries.items():
        assert len(entry["controls"]) == 10
        values = entry["perplexity"] or entry
        for condition in ("intact", "network"):
            value = values[condition]
            assert (f"{value:,.4g}" if entry["perplexity"] else f"{value:.3f}") in shown[name]
    # The model tells good sentences from bad ones, or there is nothing to ablate.
    assert entries["pairs"]["intact"] > 0.7
    effects = Run.open(folder / "onnxloc-demo").table("effects.parquet")
    assert len(effects) == 12 * (380 + 240)


@pytest.mark.parametrize("block", TYPED, ids=lambda block: f"{block.place}-{block.language}")
def test_a_block_runs_as_it_stands(block, folder):
    said = run(block, folder)
    assert said


def test_the_blocks_left_what_they_name(folder):
    written = [
        words[words.index("-o") + 1]
        for block in TYPED
        if block.language == "sh"
        for words in block.words
        if "-o" in words
    ]
    assert "runs/ablation" in written
    for name in written:
        assert (folder / name).is_dir()
    assert (folder / "runs" / "ablation" / "report.html").is_file()
    assert Run.open(folder / "runs" / "language").summary["localize"]["n_selected"] == 172


def test_the_readmes_numbers():
    text = PAGES[0].read_text(encoding="utf-8")
    pairs = load_task("pairs")
    groups = {item.group for item in pairs.items}
    assert f"({len(groups)} grammatical phenomena)" in text
    assert f"all {len(pairs.items):,} pairs" in text


def test_the_example_of_a_localizer(folder):
    from onnxloc.stimuli import load_stimuli

    examples = [block for block in BLOCKS if block.language == "toml" and "data =" in block.code]
    assert examples
    for block in examples:
        settings = tomllib.loads(block.code)
        rows = [f"{c},{c} text {i}" for c in ("positive", "control") for i in range(3)]
        (folder / settings["data"]).write_text("\n".join(["condition,text", *rows]))
        (folder / "example.toml").write_text(block.code)
        stimuli = load_stimuli(folder / "example.toml")
        assert (stimuli.name, stimuli.positive_label) == (
            settings["name"], settings["positive_label"]
        )  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_what_is_shown_of_the_examples_is_there():
    shown = [name for page in PAGES for name in SNIPPET.findall(page.read_text(encoding="utf-8"))]
    assert len(shown) >= 4
    assert [name for name in shown if not (ROOT / name).is_file()] == []


def test_the_documented_commands_exist():
    from onnxloc.cli import COMMANDS

    for page in PAGES:
        for name in re.findall(r"`onnxloc ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            assert name in COMMANDS
