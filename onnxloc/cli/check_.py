"""``onnxloc check``."""

from dataclasses import asdict

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    json_option,
    model_argument,
    open_model,
    print_json,
    runtime_options,
    table,
)
from onnxloc.progress import Working


@click.command("check")
@model_argument
@click.option(
    "--sites",
    multiple=True,
    shell_complete=completers.sites,
    help="Pattern of the sites to read and edit; may be given again. Default: those with a "
    "canonical name; op:* is every operation.",
)
@json_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    sites: tuple[str, ...],
    as_json: bool,
    provider: str,
    threads: int,
    precision: str,
) -> None:
    """Check that reading, editing and batching MODEL do what they say.

    Exit status 1 if a check fails.

    \b
    Examples:
      onnxloc check smollm2-135m
      onnxloc check model.onnx --sites 'op:*'
    """  # noqa: D301
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.check import check

    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    opened = open_model(model)
    with Working("checking"):
        found = check(opened, sites, runtime, show_progress=True)
    if as_json:
        print_json([asdict(entry) for entry in found])
    else:
        rows = [[entry.name, "ok" if entry.passed else "FAILED", entry.detail] for entry in found]
        table(["check", "result", "detail"], rows)
    ctx.exit(0 if all(entry.passed for entry in found) else 1)
