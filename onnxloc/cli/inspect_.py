"""``onnxloc inspect``."""

from collections import Counter
from dataclasses import asdict

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    json_option,
    model_argument,
    open_model,
    print_json,
    printable,
    table,
)
from onnxloc.cli.export_options import parity_line
from onnxloc.progress import Working


@click.command("inspect")
@model_argument
@click.option(
    "--sites",
    multiple=True,
    shell_complete=completers.sites,
    help="Pattern of the sites to list; may be given again. Default: those with a "
    "canonical name; op:* is every operation.",
)
@json_option
def command(model: str, sites: tuple[str, ...], as_json: bool) -> None:
    """List the sites of MODEL: anatomy, operator, axes, width.

    \b
    Examples:
      onnxloc inspect smollm2-135m
      onnxloc inspect model.onnx --sites 'op:*' --json
    """  # noqa: D301
    from onnxloc.graph.fused import attention_note

    opened = open_model(model)
    with Working("finding the sites"):
        found = opened.sites
    if sites:
        chosen = found.match(sites, with_units=False)
    else:
        chosen = tuple(site for site in found if site.role != "op") or tuple(found)
    info = opened.bundle.info
    note = attention_note(found)
    totals = {
        "sites": len(found),
        "sites with units": sum(site.units > 0 for site in found),
        "units": sum(site.units for site in found),
        "blocks": opened.blocks,
        "units in block outputs": sum(site.units for site in found if site.role == "out"),
    }
    if as_json:
        listed = [
            {
                "site": site.name,
                "names": list(site.names),
                "block": site.block,
                "role": site.role,
                "op_type": site.op_type,
                "dtype": site.dtype,
                "axes": [axis.value for axis in site.axes],
                "shape": list(site.shape),
                "units": site.units,
                "scope": site.scope,
            }
            for site in chosen
        ]
        parity = asdict(info.parity) if info.parity is not None else None
        head = {
            "model": opened.description,
            "parity": parity,
            "totals": totals,
            "attention": note or None,
            "sites": listed,
        }
        print_json(head)
        return
    head_line = f"{info.name}  {info.architecture}  {info.dtype}  opset {opened.graph.opset}"
    click.echo(printable(head_line))
    click.echo(f"model hash {opened.graph.hash}")
    click.echo(printable(parity_line(info.parity)) + "\n")
    rows = [
        [
            site.name,
            site.op_type,
            ", ".join(
                f"{axis.value} {size}" if size is not None else axis.value
                for axis, size in zip(site.axes, site.shape, strict=True)
            ),
            site.dtype,
            site.units or "-",
        ]
        for site in chosen
    ]
    table(["site", "op", "axes", "dtype", "units"], rows)
    click.echo("")
    for name, value in totals.items():
        click.echo(f"{name}: {value:,}")
    if note:
        click.echo(note)
    kinds = Counter(site.op_type for site in found).most_common()
    click.echo(printable("operations: " + ", ".join(f"{kind} {count}" for kind, count in kinds)))
