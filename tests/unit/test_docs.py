"""The pages under docs say what the code says: commands, errors, public names, navigation."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

import onnxloc
from onnxloc import errors

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools"))
import command_pages  # noqa: E402

sys.path.pop(0)


def pages_of(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages_of(value)


def test_the_navigation_has_every_page_once():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(pages_of(nav)) == sorted(there)


def test_pages_link_to_what_the_site_has():
    # The site's own check is of links to pages; other files would be missing there silently.
    wrong = [
        (page.name, link)
        for page in DOCS.rglob("*.md")
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).is_file()
        or not (page.parent / link).resolve().is_relative_to(DOCS)
    ]
    assert wrong == []


# --- commands -----------------------------------------------------------------------------------


def test_the_help_in_the_pages_is_that_of_the_commands():
    stale = [path.name for path in command_pages.stale()]
    assert stale == [], "run: python tools/command_pages.py"


def test_a_page_without_help_gets_it_and_its_words_stay():
    words = ["report"]
    written = command_pages.page_of("", words)
    assert written.startswith("# onnxloc report\n")
    assert "Usage: onnxloc report [OPTIONS] RUN" in written
    kept = command_pages.page_of(written.replace("Usage:", "Use:") + "\nBehind.\n", words)
    assert kept == written + "Behind.\n"


def test_every_command_has_a_page_that_says_how_it_is_used():
    index = (DOCS / "commands" / "index.md").read_text(encoding="utf-8")
    pages = {path.stem for path in (DOCS / "commands").glob("*.md")} - {"index"}
    assert pages == {"-".join(words) for words in command_pages.commands()}
    for page in pages:
        assert f"({page}.md)" in index
        text = (DOCS / "commands" / f"{page}.md").read_text(encoding="utf-8")
        about = text.partition(command_pages.BEGIN)[0]
        assert "```" in about or "](" in about


# --- errors -------------------------------------------------------------------------------------


def wildcard(node):
    """A string of the source, with … for what is put in, or None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(wildcard(part) or "…" for part in node.values)
    return None


@pytest.fixture(scope="module")
def strings():
    found = []
    for folder in ("onnxloc", "exporters", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = wildcard(node)
                if text:
                    found.append(" ".join(text.split()))
    return found


def messages_of(page):
    for line in page.read_text(encoding="utf-8").splitlines():
        told = re.match(r"\| `([^`]+)` \|", line)
        if told:
            yield told[1]


def told_by(message, strings):
    """Whether one string of the source, whatever is put in, can give the message."""
    pieces = [piece for piece in message.split("…") if piece.strip()]
    return any(in_order(pieces, text) for text in strings)


def in_order(pieces, text):
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_page(name):
    page = DOCS / "errors" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert "what to do" in text.lower()
    assert f"[{name}]({name}.md)" in (DOCS / "errors" / "index.md").read_text(encoding="utf-8")
    if name != "OnnxlocError":
        assert len(list(messages_of(page))) >= 4


def test_no_page_is_of_an_error_that_is_gone():
    pages = {path.stem for path in (DOCS / "errors").glob("*.md")} - {"index"}
    assert pages == set(errors.__all__)


def test_the_messages_on_the_pages_are_those_of_the_code(strings):
    wrong = [
        (page.stem, message)
        for page in sorted((DOCS / "errors").glob("*.md"))
        for message in messages_of(page)
        if not told_by(message, strings)
    ]
    assert wrong == []


def test_a_message_that_nothing_gives_is_found_out(strings):
    assert told_by("there is no model at …", strings)
    assert not told_by("there is no model on …", strings)


# --- the API ------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name_once():
    documented = [
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: onnxloc\.(\w+)$", page.read_text(), re.MULTILINE)
    ]
    # OnnxlocError stands with its kinds, under onnxloc.errors.
    assert sorted(documented) == sorted({*onnxloc.__all__, "errors"} - {"OnnxlocError"})


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda p: p.name)
def test_a_picture_is_a_drawing_with_a_name_and_nothing_else(path):
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {
        "svg", "title", "desc", "defs", "marker", "path", "rect", "text", "circle", "line",
        "polyline",
    }  # fmt: skip
    assert {"title", "desc"} <= names
    assert not any("href" in key for element in root.iter() for key in element.attrib)
    used = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert f"(pictures/{path.name})" in used
