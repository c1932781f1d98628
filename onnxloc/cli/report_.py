"""``onnxloc report``."""

from pathlib import Path

import click

from onnxloc.cli.common import printable
from onnxloc.progress import Working


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="What onnxloc profile wrote of the run's network: shown on the page, and kept in RUN.",
)
def command(run: Path, profile: Path | None) -> None:
    """Write the page report.html into the run folder RUN.

    \b
    Examples:
      onnxloc report runs/ablation
      onnxloc report runs/language --profile runs/profile
    """  # noqa: D301
    from onnxloc.report import add_profile, write_report

    if profile is not None:
        add_profile(run, profile)
    with Working("drawing the page"):
        page = write_report(run)
    click.echo(f"wrote {printable(page)}")
