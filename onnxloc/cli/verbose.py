"""What ``--verbose`` says on standard error: versions, what ran where, and where the time went."""

import logging
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from onnxloc.cli.common import printable, typed_command

__all__ = ["told"]


class _Lines(logging.Handler):
    """Writes records as lines of standard error, above a bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(self.format(record))
        if sys.stderr.isatty():
            # Over what `onnxloc.progress.Working` says.
            line = f"\r\x1b[K{line}"
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)


@contextmanager
def told() -> Iterator[None]:
    """Say what the parts of onnxloc log, which versions they are, and how long all of it took."""
    from onnxloc.store import VERSIONED, package_versions

    command = typed_command()
    logger = logging.getLogger("onnxloc")
    handler = _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    started = time.perf_counter()
    try:
        versions = ", ".join(f"{k} {v}" for k, v in package_versions(VERSIONED).items())
        logger.info("%s on %s", versions, platform.platform(terse=True))
        logger.info("%s in %s", command, Path.cwd())
        yield
    finally:
        logger.info("took %.1f s%s", time.perf_counter() - started, _peak())
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _peak() -> str:
    """The most memory that this process held, where the system says so."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return f", at most {int(lines['VmHWM'].split()[0]) / 1024:,.0f} MB of memory"
    except (OSError, KeyError, ValueError):
        return ""
