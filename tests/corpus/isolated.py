"""Doing things to models that may kill the process: in another one, which is started anew."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self

__all__ = ["Isolated", "Outcome"]

STARTING = 60.0
# What asks for more address space than this gets a MemoryError, and not the machine's last byte.
MAX_BYTES = 12 << 30


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes
    ----------
    kind : {"ran", "refused", "broke", "died", "hung"}
        "refused": an OnnxlocError. "broke": any other exception. "died", "hung": the process did.
    message : str
        What was said; of a process that died, where it was.
    peak : int
        The most memory that the process has had so far, in MB.
    """

    kind: Literal["ran", "refused", "broke", "died", "hung"]
    message: str = ""
    peak: int = 0


class Isolated:
    """A process that does one thing to one model after another.

    Parameters
    ----------
    task : callable
        Called with a path and with a function that notes what is being done. A function of a
        module, so that the process can import it.
    seconds : float
        What takes longer has hung.
    """

    def __init__(
        self, task: Callable[[Path, Callable[[str], None]], None], seconds: float = 30.0
    ) -> None:
        self._task = task
        self._seconds = seconds
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        self._ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._task), daemon=True)
        self._process.start()
        theirs.close()
        assert self._ours.poll(STARTING)
        self._ours.recv()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()

    def run(self, path: Path) -> Outcome:
        """Do it to the model at `path`."""
        self._ours.send(path)
        stage = ""
        try:
            while self._ours.poll(self._seconds):
                said = self._ours.recv()
                if isinstance(said, Outcome):
                    return said
                stage = said
            outcome = Outcome("hung", stage)
        except EOFError:
            self._process.join()
            outcome = Outcome("died", f"{stage} (exit status {self._process.exitcode})")
        self._stop()
        self._start()
        return outcome


def _serve(pipe: Connection, task: Callable[[Path, Callable[[str], None]], None]) -> None:
    import resource

    from onnxloc.errors import OnnxlocError

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    pipe.send("ready")
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        kind: Any = "ran"
        message = ""
        try:
            task(path, pipe.send)
        except OnnxlocError as error:
            kind, message = "refused", str(error)
        except BaseException as error:  # whatever it is, it is what the test looks for
            kind, message = "broke", f"{type(error).__name__}: {error}"
        pipe.send(Outcome(kind, message, _peak()))


def _peak() -> int:
    # Not ru_maxrss: that starts at what the parent process held when it forked.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024
