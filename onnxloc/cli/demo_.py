"""``onnxloc demo``."""

from pathlib import Path

import click

from onnxloc.cli import ablate_, localize_
from onnxloc.cli.common import (
    force_option,
    json_option,
    output_option,
    print_json,
    printable,
    runtime_options,
    typed_command,
)
from onnxloc.progress import Working


@click.command("demo")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Minimal pairs of each phenomenon that are scored; 0: all 100.",
)
@runtime_options
@output_option("The run folder to write.", default="onnxloc-demo", show_default=True)
@force_option
@json_option
def command(
    limit: int,
    provider: str,
    threads: int,
    precision: str,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Fetch SmolLM2-135M, find its language network, ablate it beside ten controls, report.

    \b
    Example:
      onnxloc demo -o runs/demo
    """  # noqa: D301
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.demo import demo

    with Working("working"):
        result = demo(
            output,
            RuntimeOptions(provider=provider, threads=threads, precision=precision),
            limit=limit,
            force=force,
            command=typed_command(),
            show_progress=True,
        )
    if as_json:
        both = {**result.localization.summary, **result.ablation.summary}
        print_json({"run": str(output), "report": str(result.report), **both})
        return
    localize_.show(dict(result.localization.summary["localize"]))
    click.echo("")
    ablate_.show(dict(result.ablation.summary["ablate"]))
    click.echo(f"\nreport: {printable(result.report)}")
