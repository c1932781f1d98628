"""Bars and words about what is being done: on a terminal, and nowhere else."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, redirect_stderr

import pytest
from helpers.tiny_bundle import MODEL, write_work

from onnxloc import progress
from onnxloc.download import show_progress
from onnxloc.progress import Progress, Working

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    def isatty(self):
        return True


@contextmanager
def terminal(patience=0.02):
    """Standard error is a terminal. pytest sets its own before each test: no fixture can do it."""
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(stream):
        patch.setattr(progress, "PATIENCE", patience)
        patch.setattr(progress, "TICK", 0.02)
        yield stream


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_words_on_a_terminal_and_their_end():
    with terminal() as shown, Working("compiling"):
        wait_for(lambda: "compiling" in shown.getvalue())
    assert re.fullmatch(r"(\r\x1b\[Kcompiling: 00:\d\d)+\r\x1b\[K", shown.getvalue())


def test_what_is_said_meanwhile_has_a_line_of_its_own(capsys):
    with terminal() as shown, Working("compiling") as working:
        wait_for(lambda: "compiling" in shown.getvalue())
        working.say("half way")
        # Words were taken away before.
        assert re.search(r"\x1b\[K(?=\r|$)", shown.getvalue())
    assert capsys.readouterr().out == "half way\n"


def test_no_words_beside_a_bar():
    with terminal() as shown, Progress("reading", 3, show=True) as bar, Working("localizing"):
        time.sleep(0.2)
        bar.add(3)
    assert "localizing" not in shown.getvalue()
    assert "reading" in shown.getvalue()
    assert Progress.active == 0


def test_a_bar_that_fails_is_active_no_more():
    with terminal(), pytest.raises(ValueError), Progress("reading", 3, show=True):
        raise ValueError
    assert Progress.active == 0


def test_what_is_quick_needs_no_words():
    with terminal(patience=60.0) as shown, Working("compiling"):
        pass
    assert shown.getvalue() == ""


@pytest.mark.parametrize("show", [True, False])
def test_nothing_off_a_terminal(capsys, monkeypatch, show):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with Working("compiling", show=show), Progress("reading", 3, show=show) as bar:
        bar.add(1)
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_nothing_on_a_terminal_if_not_asked_for():
    with (
        terminal() as shown,
        Working("compiling", show=False),
        Progress("reading", 3, show=False) as bar,
    ):
        time.sleep(0.1)
        bar.add(1)
    assert shown.getvalue() == ""


def test_what_took_how_long_is_logged(caplog):
    caplog.set_level(logging.INFO, "onnxloc")
    with Working("compiling"), Progress("reading", 3, show=False) as bar:
        bar.add(1)
        bar.add(2)
    reading, compiling = caplog.messages
    assert re.fullmatch(r"reading: 3 texts in [\d.]+ s \([\d.e+]+ a second\)", reading)
    assert re.fullmatch(r"compiling: [\d.]+ s in all", compiling)


def test_a_download_is_counted_and_the_rest_is_told():
    with terminal() as shown, show_progress(None) as report:
        report("downloading x", 0, 4_000_000)
        report("downloading x", 1_000_000, 4_000_000)
        # A bar is drawn ten times a second at most.
        time.sleep(0.15)
        report("downloading x", 4_000_000, 4_000_000)
        report("converting x", 0, 0)
        wait_for(lambda: "converting x: 00:00" in shown.getvalue())
    text = shown.getvalue()
    assert re.search(r"downloading x: +100%.*4.00M/4.00M \[", text)
    assert text.endswith("\r\x1b[K")


def on_terminal(folder, *words):
    """What a command draws on a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxloc", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        # What takes less than a tenth of a second draws its bar once only, before it begins.
        env={**os.environ, "TQDM_MININTERVAL": "0"},
    )
    os.close(theirs)
    shown = b""
    # Reading from a terminal whose other end is closed is an error on Linux.
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize(
    ("words", "bar"),
    [
        (["untrain", "tiny", "-o", "new"], r"writing: +\d+%.*[\d.]+k/[\d.]+k \[[\d:]+<"),
        (
            ["export", "gguf", "m.gguf", "-o", "new"],
            r"converting m.gguf: +\d+%.* \d+/\d+ \[[\d:]+<",
        ),
        (["check", "tiny", "--threads", "1"], r"editing: +\d+%.* \d+/\d+ \[[\d:]+<"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bars_have_the_time_left(tmp_path, words, bar):
    work = tmp_path / "work"
    work.mkdir()
    write_work(work)
    MODEL.write(work / "m.gguf")
    assert re.search(bar, on_terminal(work, *words))
    if "new" in words:
        words[words.index("new")] = "quiet"
        assert on_terminal(work, *words, "-q") == ""
