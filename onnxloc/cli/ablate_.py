"""``onnxloc ablate``."""

from dataclasses import astuple
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    Percents,
    force_model_option,
    force_option,
    json_option,
    model_argument,
    network_option,
    open_model,
    output_option,
    print_json,
    printable,
    resume_option,
    runtime_options,
    table,
    typed_command,
    warn,
)
from onnxloc.cli.edit_options import edit_of, patch_options, tokens_option, with_option
from onnxloc.cli.invocation import invocation
from onnxloc.progress import Working


def _list_tasks(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not context.resilient_parsing:
        from onnxloc.tasks import list_tasks

        # This option is read before --json is.
        if "--json" in invocation(context).words:
            print_json([{"task": name, "about": about} for name, about in list_tasks()])
            context.exit()
        for name, about in list_tasks():
            click.echo(f"{name:<24}{about}")
        context.exit()


@click.command("ablate")
@model_argument
@network_option("A run of onnxloc localize, or a network file.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    shell_complete=completers.tasks,
    default=("pairs", "text"),
    show_default=True,
    help="What is scored; may be given again: a name, a form and a path such as blimp:FOLDER or "
    "choice:FILE, or the path of minimal pairs. --list-tasks tells all.",
)
@click.option(
    "--list-tasks",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_tasks,
    help="Tell what --task takes, and exit.",
)
@click.option(
    "--localizer",
    default=None,
    shell_complete=completers.localizers,
    help="Whose sentences the task text takes. Default: that of the run; language for a "
    "network file.",
)
@with_option("What becomes of an ablated unit")
@tokens_option(
    "At which tokens of a text: all, or positions such as 0,3,-2, counted from its first token."
)
@patch_options
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Random control networks for each size.",
)
@click.option(
    "--match",
    type=click.Choice(["site", "count", "norm"]),
    default="site",
    show_default=True,
    help="Controls have as many units in each site as the network; or only in all; or, in each "
    "site, units of like mean activation.",
)
@click.option(
    "--battery",
    "with_battery",
    is_flag=True,
    help="Run every kind of control: random ones matched by count, site and norm, the least "
    "selective units, networks from shuffled labels and from an untrained copy.",
)
@click.option(
    "--untrained",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="With --battery: a run of onnxloc localize on an untrained copy. Default: a copy is made "
    "for the time it takes.",
)
@click.option(
    "--percent",
    "percents",
    type=Percents(),
    default=(),
    help="Sizes in percent of the units, those with the largest t, such as 0.125,0.25,0.5,1. "
    "Default: the network as it is.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Score so many items of each group (of the task text: so many sentences); 0: all.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Rows run at a time; conditions share a batch.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the controls, the bootstrap and noise.",
)
@force_model_option
@runtime_options
@output_option("The run folder to write.", required=True)
@force_option
@resume_option
@json_option
def command(
    model: str,
    network: Path,
    tasks: tuple[str, ...],
    localizer: str | None,
    replacement: str,
    tokens: str,
    patch_from: str | None,
    patch_tokens: str | None,
    controls: int,
    match: Literal["site", "count", "norm"],
    with_battery: bool,
    untrained: Path | None,
    percents: tuple[float, ...],
    limit: int,
    batch_size: int,
    seed: int,
    force_model: bool,
    provider: str,
    threads: int,
    precision: str,
    output: Path,
    force: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Score tasks with a network of MODEL ablated, and with random units ablated instead.

    \b
    Examples:
      onnxloc ablate smollm2-135m --network runs/language -o runs/ablation
      onnxloc ablate smollm2-135m --network runs/language --task blimp/ --controls 20 -o runs/blimp
      onnxloc ablate smollm2-135m --network runs/language --with noise=1 -o runs/noise
      onnxloc ablate smollm2-135m --network runs/language --percent 0.125,0.25,0.5,1 -o runs/sizes
      onnxloc ablate smollm2-135m --network runs/language --battery --limit 20 -o runs/battery
    """  # noqa: D301
    from onnxloc.errors import OptionError
    from onnxloc.folder import check_free
    from onnxloc.network import Network
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.store import Run
    from onnxloc.studies.ablate import AblateOptions, ablate_into, rank_of_run
    from onnxloc.studies.battery import gather_battery
    from onnxloc.studies.sentences import stimuli_of
    from onnxloc.tasks import TaskInputs, load_task

    options = AblateOptions(
        replacement=edit_of(
            replacement, network, seed=seed, patch_from=patch_from, patch_tokens=patch_tokens
        ),
        tokens=tokens,
        controls=controls,
        match=match,
        percents=percents,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    check_free(output, force=force)
    run = Run.open(network) if network.is_dir() else None
    chosen = Network.load(network)
    inputs = TaskInputs()
    if untrained is not None and not with_battery:
        raise OptionError("--untrained is a part of --battery; give both")
    if "text" in tasks:
        stimuli = stimuli_of(run, localizer)
        inputs = TaskInputs(stimuli.positive, f"the localizer {stimuli.name}")
    loaded = [load_task(task, inputs) for task in tasks]
    for one in loaded:
        for note in one.notes:
            warn(f"{one.name}: {note}")
    battery = None
    opened = open_model(model)
    if with_battery:
        if run is None:
            raise OptionError("a battery localizes again: give --network a run of onnxloc localize")
        battery = gather_battery(
            opened,
            run,
            chosen,
            stimuli_of(run, None),
            shuffles=controls,
            seed=seed,
            runtime=runtime,
            untrained=None if untrained is None else Run.open(untrained),
            force_model=force_model,
            show_progress=True,
        )
    with Working("ablating") as working:
        found = ablate_into(
            output,
            opened,
            chosen,
            loaded,
            options,
            runtime,
            t=rank_of_run(run, chosen) if run is not None and percents else None,
            battery=battery,
            localized=run,
            force=force,
            resume=resume,
            report=partial(working.say, err=as_json),
            command=typed_command(),
            force_model=force_model,
            show_progress=True,
        )
    if as_json:
        print_json({"run": str(output), **found.summary})
        return
    show(found.summary["ablate"])
    click.echo(f"wrote {printable(output)}")


def show(summary: dict[str, Any]) -> None:
    """Print one line a task and size."""
    rows = []
    for entry in summary["effects"]:
        text = entry["perplexity"]
        values = text or entry
        controls = sorted(values["controls"])

        def form(value: float, is_text: bool = text is not None) -> str:
            return f"{value:,.4g}" if is_text else f"{value:.3f}"

        middle = median(controls) if controls else None
        p = entry["p_empirical"]
        rows.append(
            [
                entry["task"],
                "perplexity" if text else entry["metric"],
                f"{entry['size']:.3g} %",
                f"{entry['n_items']:,}",
                form(values["intact"]),
                form(values["network"]),
                form(middle) if middle is not None else "-",
                f"{form(controls[0])} - {form(controls[-1])}" if controls else "-",
                f"{p:.3f}" if p is not None else "-",
            ]
        )
    head = [
        "task",
        "score",
        "units",
        "items",
        "intact",
        "network",
        "controls: median",
        "range",
        "p",
    ]
    table(head, rows)
    if summary["battery"] or "networks" in summary:
        show_kinds(summary)


def show_kinds(summary: dict[str, Any]) -> None:
    """Print the controls of each task by kind, and say which are as harmful as the network."""
    from onnxloc.report.folder import Ablated
    from onnxloc.report.kinds import kind_finding, kind_rows, massive_warnings
    from onnxloc.report.schema import build
    from onnxloc.store import finite

    ablated = build(Ablated, finite(summary), "the run")
    head = ["condition", "networks", "median", "range", "as harmful", "p", "massive units"]
    for effect in ablated.effects:
        if not ablated.battery:
            for line in massive_warnings(effect, ablated):
                click.echo(_line(line))
            continue
        found = kind_finding(effect, ablated)
        click.echo(f"\n{_line(found.title)}")
        table(head, [astuple(row) for row in kind_rows(effect, ablated)])
        for line in (f"{found.verdict}.", found.text, *found.warnings):
            click.echo(_line(line))


def _line(text: str) -> str:
    """One line for a terminal, without the page's narrow spaces."""
    return printable(text.replace("\u202f", " "))
