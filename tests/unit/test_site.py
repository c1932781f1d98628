"""The site of the documentation: built strictly, and without anything of other hosts."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import zensical

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r"(?:https?:)?//")
# Attributes whose address a browser loads by itself.
LOADED = {"src", "srcset", "data", "poster", "background", "action", "formaction"}


def build(folder):
    return subprocess.run(
        [sys.executable, "-m", zensical.__name__, "build", "--strict"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What the site is made of; a build writes beside it."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "examples", "onnxloc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


@pytest.fixture(scope="module")
def site(source):
    done = build(source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return source / "build" / "site"


class Loaded(HTMLParser):
    """The addresses that a browser loads when it opens a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            loads = key in LOADED or (tag in ("link", "image", "use") and key.endswith("href"))
            if loads and value:
                self.found.append(value)
            if key == "style" and value:
                self.found += re.findall(r"url\(\s*[\"']?([^\"')]+)", value)


def test_every_page_is_there(site):
    made = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    docs = ROOT / "docs"
    wanted = {path.relative_to(docs).with_suffix("") for path in docs.rglob("*.md")}
    assert wanted <= made
    tutorial = (site / "tutorial.html").read_text(encoding="utf-8")
    assert "From nothing to a finding" in tutorial
    # Files of the examples are shown as they are.
    assert "Mirror" in (site / "extending.html").read_text(encoding="utf-8")
    assert 'id="onnxloc.localize"' in (site / "api" / "localize.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_another_host(site):
    outside, inside = [], 0
    for page in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        inside += len(parser.found)
        outside += [(page.name, url) for url in parser.found if OUTSIDE.match(url)]
    assert outside == []
    assert inside > 100
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", text)
        assert [url for url in urls if OUTSIDE.match(url)] == []


def test_a_broken_link_stops_the_build(source, site, tmp_path):
    folder = shutil.copytree(source, tmp_path / "broken", ignore=shutil.ignore_patterns("build"))
    with (folder / "docs" / "tasks.md").open("a", encoding="utf-8") as file:
        file.write("\n[nowhere](nowhere.md)\n")
    done = build(folder)
    assert done.returncode != 0
    assert "tasks.md" in done.stdout + done.stderr
