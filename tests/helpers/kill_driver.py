"""Runs commands in forked children, and kills them where it is told to.

Reads a JSON object a line from standard input: `words` of the command line; `after`, seconds until
the child is killed, counted from when the file or folder `seen` is there; or `event`, before which
step on files under the working folder it kills itself; `limit`, bytes that no file may exceed.
Answers with one: `status` (-9 if killed), `seconds`, `events` (0 if killed) and `said`.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

STEPS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


class Driver:
    """Runs command lines in a folder, through a process that has imported everything."""

    def __init__(self, work: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=work,
            env={**os.environ, **environment},
        )

    def __call__(self, *words: str, **order: float | str) -> dict:
        """Run a command, which may be killed: see above."""
        self.process.stdin.write(json.dumps({"words": words, **order}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def must(self, *words: str) -> dict:
        """Run a command that has to go well."""
        done = self(*words)
        assert done["status"] == 0, done["said"]
        return done

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def prepare() -> None:
    """Import what takes long, so that children need not; nothing here starts a thread."""
    import onnx_graphsurgeon  # noqa: F401
    import onnxloc_exporters.gguf_  # noqa: F401
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.stats  # noqa: F401
    import tokenizers  # noqa: F401
    import zarr  # noqa: F401

    import onnxloc.cli.ablate_
    import onnxloc.cli.localize_
    import onnxloc.recipes
    import onnxloc.studies.ablate
    import onnxloc.studies.battery  # noqa: F401
    from onnxloc import checkpoint

    # Every batch is saved.
    checkpoint.EVERY_SECONDS = 0.0
    checkpoint.MAX_SHARE = 1e9


def count_steps(kill_at: int | None) -> list[int]:
    """Count steps on files under the working folder, and die before that one."""
    counted = [0]
    here = str(Path.cwd())

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event not in STEPS or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(args[0])
        if path.startswith(here) or not path.startswith("/"):
            counted[0] += 1
            if counted[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


def child(order: dict, said: int, events: int) -> None:
    from onnxloc.cli import main

    if "limit" in order:
        # As on a full disk: what is written beyond it fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    os.dup2(said, 1)
    os.dup2(said, 2)
    counted = count_steps(order.get("event"))
    status = main(order["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(events, str(counted[0]).encode())
    os._exit(status)


def alive(pid: int) -> bool:
    """Whether a child has not ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def run(order: dict) -> dict:
    # What is said fits into the pipe; a file would fall under the limit, too.
    (reads, writes), (hears, says) = os.pipe(), os.pipe()
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            child(order, says, writes)
        finally:
            os._exit(99)
    os.close(writes)
    os.close(says)
    if "after" in order:
        while "seen" in order and not Path(order["seen"]).exists() and alive(pid):
            time.sleep(0.001)
        time.sleep(order["after"])
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(hears, "rb") as stream:
        text = stream.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - started
    events = os.read(reads, 100)
    os.close(reads)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "events": int(events or 0),
        "said": text,
    }


if __name__ == "__main__":
    prepare()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
