"""Bars with rate and time left, and words where nothing can be counted: on a terminal only."""

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, ClassVar, Self, TextIO

__all__ = ["Progress", "Working"]

LOGGER = logging.getLogger(__name__)
# What is done sooner needs no words.
PATIENCE = 1.0
TICK = 0.5
CLEAR = "\r\x1b[K"


class Progress:
    """Counts work done; draws a bar on standard error if that is a terminal and it is asked to.

    Parameters
    ----------
    what : str
        What is counted, for people.
    total : int
        How much there is to do.
    show : bool
        False draws nothing anywhere.
    unit : str
        What one of them is called; "B" are bytes, which are shown as kB, MB and so on.
    """

    active: ClassVar[int] = 0
    """How many bars are being drawn."""

    def __init__(self, what: str, total: int, *, show: bool, unit: str = "text") -> None:
        self._what = what
        self._total = total
        self._show = show
        self._unit = unit
        self._bar: Any = None
        self._done = 0
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._show:
            from tqdm import tqdm

            Progress.active += 1
            # disable=None switches the bar off where standard error is no terminal.
            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                disable=None,
                leave=False,
                unit=self._unit,
                unit_scale=self._unit == "B",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            Progress.active -= 1
        seconds = time.perf_counter() - self._started
        unit = self._unit if self._unit == "B" or self._done == 1 else f"{self._unit}s"
        rate = self._done / max(seconds, 1e-9)
        LOGGER.info("%s: %s %s in %.2f s (%.4g a second)", self._what, f"{self._done:,}", unit,
                    seconds, rate)  # fmt: skip

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)


class Working:
    """Says what is being done, and for how long, where it cannot be counted.

    Nothing is said in the first second, while a `Progress` is drawn, or off a terminal.

    Parameters
    ----------
    what : str
        What is being done, for people.
    show : bool
        False says nothing anywhere.
    """

    def __init__(self, what: str, *, show: bool = True) -> None:
        self._what = what
        self._show = show
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._stream: TextIO | None = None
        self._shown = False
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._show and sys.stderr is not None and sys.stderr.isatty():
            # sys.stderr may be exchanged while a library works, to keep it silent.
            self._stream = sys.stderr
            self._thread = threading.Thread(target=self._tell, args=(self._stream,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._clear()
        LOGGER.info("%s: %.2f s in all", self._what, time.perf_counter() - self._started)

    def _tell(self, stream: TextIO) -> None:
        wait = PATIENCE
        while not self._ended.wait(wait):
            wait = TICK
            if not Progress.active:
                passed = int(time.perf_counter() - self._started)
                stream.write(f"{CLEAR}{self._what}: {passed // 60:02}:{passed % 60:02}")
                stream.flush()
                self._shown = True

    def say(self, text: str, *, err: bool = False) -> None:
        """Print a line of text where the words are, on standard output or standard error."""
        self._clear()
        print(text, file=sys.stderr if err else sys.stdout, flush=True)

    def _clear(self) -> None:
        if self._stream is not None and self._shown and not Progress.active:
            self._stream.write(CLEAR)
            self._stream.flush()
