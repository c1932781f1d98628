"""``onnxloc reproduce``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    force_option,
    json_option,
    open_model,
    output_option,
    print_json,
    printable,
    runtime_options,
    table,
    typed_command,
)

if TYPE_CHECKING:
    from onnxloc.studies.claims import Claim

MODEL = "smollm2-135m"


@click.command("reproduce")
@click.option(
    "--model",
    shell_complete=completers.models,
    help=f"A causal language model. Default: {MODEL}, which is fetched if need be.",
)
@click.option(
    "--quick", is_flag=True, help="Two sizes, two controls, one pair of each phenomenon: a trial."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help="Score so many minimal pairs of each phenomenon; 0: all. Default: 10; with --quick 1.",
)
@click.option(
    "--sentences",
    type=click.IntRange(min=0),
    help="Score so many sentences; 0: all. Default: 20; with --quick 5.",
)
@click.option(
    "--controls",
    type=click.IntRange(min=1),
    help="Random networks of each kind, for each size. Default: 10; with --quick 2.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws."
)
@runtime_options
@output_option("The folder to write.", default="onnxloc-reproduction", show_default=True)
@force_option
@json_option
def command(
    model: str | None,
    quick: bool,
    limit: int | None,
    sentences: int | None,
    controls: int | None,
    seed: int,
    provider: str,
    threads: int,
    precision: str,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Repeat the paper's procedure, with every control, and write a page of what came out.

    The language network is localized, ablated in four sizes beside every kind of control, profiled
    on held-out conditions, and localized again in an untrained copy; two other networks are
    localized. The page, reproduction.md with its figures, sets each claim of the paper beside what
    came out.

    \b
    Examples:
      onnxloc reproduce --quick
      onnxloc reproduce --limit 20 -o runs/reproduction
    """  # noqa: D301
    from onnxloc.folder import check_free, new_folder
    from onnxloc.report.reproduction_page import write_reproduction
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.claims import judge
    from onnxloc.studies.reproduce import QUICK, ReproduceOptions, reproduce

    usual = QUICK if quick else ReproduceOptions()
    options = replace(
        usual,
        limit=usual.limit if limit is None else limit,
        sentences=usual.sentences if sentences is None else sentences,
        controls=usual.controls if controls is None else controls,
        seed=seed,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    check_free(output, force=force)
    if model is None:
        from onnxloc.recipes import fetch

        opened = Model.open(fetch(MODEL))
    else:
        opened = open_model(model)
    found = reproduce(opened, options, runtime, command=typed_command(), show_progress=True)
    with new_folder(output, force=force) as staging:
        write_reproduction(staging, found, output.name, typed_command())
    claims = judge(found.measured)
    if as_json:
        print_json({"folder": str(output), **found.measured.as_dict(), "claims": _plain(claims)})
        return
    table(["claim", "here"], [[claim.title, claim.verdict] for claim in claims])
    click.echo(f"wrote {printable(output)}")


def _plain(claims: "tuple[Claim, ...]") -> list[dict[str, object]]:
    return [
        {"title": claim.title, "verdict": claim.verdict, "found": list(claim.found)}
        for claim in claims
    ]
