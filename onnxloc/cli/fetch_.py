"""``onnxloc fetch``."""

from pathlib import Path

import click

from onnxloc.cli.common import force_option, output_option, printable


@click.command("fetch")
@click.argument("name", required=False, metavar="[NAME]")
@output_option("Where the bundle goes. Default: the user's cache (ONNXLOC_HOME overrides).")
@force_option
def command(name: str | None, output: Path | None, force: bool) -> None:
    """Fetch the model NAME and turn it into a bundle; without NAME, list what there is.

    \b
    Examples:
      onnxloc fetch
      onnxloc fetch smollm2-135m
    """  # noqa: D301
    from onnxloc.recipes import fetch, recipes

    if name is None:
        for known in recipes():
            click.echo(known)
        return
    click.echo(printable(f"{name} is at {fetch(name, output, force=force)}"))
