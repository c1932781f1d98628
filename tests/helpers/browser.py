"""A real headless Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["NAMES", "open_browser", "opened"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """Path of the browser; the test fails, or is left out if that was asked for, without one."""
    for name in (os.environ.get("ONNXLOC_CHROMIUM", ""), *NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    if os.environ.get("ONNXLOC_NO_BROWSER"):
        pytest.skip("no Chromium, and ONNXLOC_NO_BROWSER is set")
    return pytest.fail(
        "no Chromium found: install it (apt-get install chromium), name it in ONNXLOC_CHROMIUM, "
        "or set ONNXLOC_NO_BROWSER=1 to leave out the tests of pages",
        pytrace=False,
    )


@contextmanager
def open_browser():
    """Start the browser and close it again."""
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            # Root, as in a container, cannot have Chromium's sandbox; pages are our own.
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser, address: str | Path, **settings) -> Iterator:
    """A page in a context of its own, which ends with no error of the console or the page.

    Nothing but the page itself may be asked for.
    """
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **settings})
    page = context.new_page()
    page.set_default_timeout(60_000)
    said, asked = [], []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = address.as_uri() if isinstance(address, Path) else address
    page.goto(address)
    yield page
    assert said == []
    ours = ("file:", "http://127.0.0.1:", "blob:", "data:", "about:")
    assert [url for url in asked if not url.startswith(ours)] == []
    context.close()
