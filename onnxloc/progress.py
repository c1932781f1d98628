"""A bar with the time left, on a terminal only."""

from types import TracebackType
from typing import Any, Self

__all__ = ["Progress"]


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
        What one of them is called.
    """

    def __init__(self, what: str, total: int, *, show: bool, unit: str = "text") -> None:
        self._what = what
        self._total = total
        self._show = show
        self._unit = unit
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._show:
            from tqdm import tqdm

            # disable=None switches the bar off where standard error is no terminal.
            self._bar = tqdm(
                desc=self._what, total=self._total, disable=None, leave=False, unit=self._unit
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

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        if self._bar is not None:
            self._bar.update(count)
