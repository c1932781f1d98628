"""``onnxloc report``."""

from pathlib import Path

import click

from onnxloc.cli.common import printable


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
def command(run: Path) -> None:
    """Write the page report.html into the run folder RUN.

    \b
    Example:
      onnxloc report runs/ablation
    """  # noqa: D301
    from onnxloc.report import write_report

    click.echo(f"wrote {printable(write_report(run))}")
