"""``onnxloc report``."""

from pathlib import Path

import click

from onnxloc.cli.common import printable
from onnxloc.progress import Working


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
def command(run: Path) -> None:
    """Write the page report.html into the run folder RUN.

    \b
    Example:
      onnxloc report runs/ablation
    """  # noqa: D301
    from onnxloc.report import write_report

    with Working("drawing the page"):
        page = write_report(run)
    click.echo(f"wrote {printable(page)}")
