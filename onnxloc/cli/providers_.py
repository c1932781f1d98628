"""``onnxloc providers``."""

import json
from dataclasses import asdict

import click

from onnxloc.cli.common import printable, table


@click.command("providers")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this machine can run models with, and what is missing for the rest.

    Each provider is tried on a tiny graph.

    \b
    Examples:
      onnxloc providers
      onnxloc providers --json
    """  # noqa: D301
    from onnxloc.runtime.available import available_providers

    found = available_providers()
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found], indent=2))
        return
    rows = [
        [
            entry.provider,
            "yes" if entry.usable else "no",
            f"{entry.package} {entry.version or '(not installed)'}",
            ", ".join(entry.precisions) or "-",
            ", ".join(entry.devices) or "-",
        ]
        for entry in found
    ]
    table(["provider", "usable", "package", "precisions", "devices"], rows)
    for entry in found:
        if not entry.usable:
            click.echo(f"{entry.provider}: {printable(entry.missing)}")
            if entry.install and entry.install not in entry.missing:
                click.echo(f"  {entry.install}")
