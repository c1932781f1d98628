"""``onnxloc providers``."""

from dataclasses import asdict

import click

from onnxloc.cli.common import json_option, print_json, printable, table


@click.command("providers")
@json_option
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
        print_json([asdict(entry) for entry in found])
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
