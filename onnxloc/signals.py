"""Ctrl-C and SIGTERM, held back while something must be done whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["HeldSignals"]

Handler = Callable[[int, FrameType | None], Any]


class HeldSignals:
    """Lets what must be done whole end before Ctrl-C or SIGTERM is acted upon.

    Within its ``with`` statement, a signal that comes in a `held` block goes to the handler that
    was there before when the block ends; a second one goes there at once. It does nothing outside
    the main thread, and nothing to a signal that no Python function handles.
    """

    def __init__(self) -> None:
        self._before: dict[int, Handler] = {}
        self._depth = 0
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Self:
        # Python allows handlers to be set in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._come)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # Another's handler that came later is not ours to take away.
            if signal.getsignal(number) == self._come:
                signal.signal(number, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._depth and self._waiting is None:
            self._waiting = number, frame
        else:
            self._before[number](number, frame)

    @contextmanager
    def held(self, *, drop: bool = False) -> Iterator[None]:
        """Hold signals back until the block has ended; `drop` forgets them then."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._waiting is not None:
                (number, frame), self._waiting = self._waiting, None
                if not drop:
                    self._before[number](number, frame)
