"""``onnxloc profile``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxloc.cli import completers
from onnxloc.cli.common import (
    force_model_option,
    force_option,
    json_option,
    model_argument,
    network_option,
    open_model,
    output_option,
    print_json,
    printable,
    runtime_options,
    table,
    typed_command,
)
from onnxloc.errors import OptionError

if TYPE_CHECKING:
    from onnxloc.studies.profile_result import Profile


@click.command("profile")
@model_argument
@network_option("The network: a run, which says how it was found, or a network file alone.")
@click.option(
    "--stimuli",
    default="profile",
    show_default=True,
    shell_complete=completers.localizers,
    help="Conditions: a name, or a file or folder of texts. A localizer has two.",
)
@click.option(
    "--response",
    type=click.Choice(["z", "raw"]),
    default="z",
    show_default=True,
    help="Average units after each was standardised over all texts shown, or as they are.",
)
@click.option(
    "--pool",
    type=click.Choice(["last", "mean", "sum", "max"]),
    help="How the tokens of a text are pooled. This and the next three: default as in the run.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=0), help="Cut texts to so many tokens; 0: no cut."
)
@click.option("--bos/--no-bos", default=None, help="Put a BOS token in front.")
@click.option("--magnitude/--signed", default=None, help="Absolute activations, or signed ones.")
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Random networks.",
)
@click.option(
    "--match",
    type=click.Choice(["site", "count", "norm"]),
    default="site",
    show_default=True,
    help="What random networks share with the network: units in each site, units in all, or "
    "units in each site and their mean |activation|.",
)
@click.option(
    "--splits",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Where texts that found the network are shown: choose units on halves of them N times.",
)
@click.option(
    "--permutations",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Draws for the tests between conditions.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Texts run at a time.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws."
)
@force_model_option
@runtime_options
@json_option
@output_option(
    "A folder to write: profile.html, profile.json, profile.csv, tests.csv, profile.parquet."
)
@force_option
def command(
    model: str,
    network: Path,
    stimuli: str,
    response: Literal["z", "raw"],
    pool: Literal["last", "mean", "sum", "max"] | None,
    max_tokens: int | None,
    bos: bool | None,
    magnitude: bool | None,
    controls: int,
    match: Literal["site", "count", "norm"],
    splits: int,
    permutations: int,
    batch_size: int,
    seed: int,
    force_model: bool,
    provider: str,
    threads: int,
    precision: str,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Measure the response of a network to conditions that did not find it.

    Sentences, word lists, jabberwocky, nonwords, arithmetic, code and other languages, unless
    --stimuli names others. The same is measured of random networks, of all units of each block,
    and of the network's units of each block, with tests between the conditions. Where texts that
    found the network are shown, units are chosen on one half of them and measured on the other.

    \b
    Examples:
      onnxloc profile smollm2-135m --network runs/language
      onnxloc profile smollm2-135m --network runs/language -o profiles/language
      onnxloc profile smollm2-135m --network runs/language --stimuli language --json
    """  # noqa: D301
    from onnxloc.folder import check_free, new_folder
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.studies.profile import ProfileOptions, profile

    if force and output is None:
        raise OptionError("--force replaces an output folder: name one with -o")
    if output is not None:
        check_free(output, force=force)
    options = ProfileOptions(
        response=response,
        pool=pool,
        max_tokens=max_tokens,
        bos=bos,
        magnitude=magnitude,
        controls=controls,
        match=match,
        splits=splits,
        permutations=permutations,
        batch_size=batch_size,
        seed=seed,
    )
    found = profile(
        open_model(model),
        network,
        stimuli,
        options,
        RuntimeOptions(provider=provider, threads=threads, precision=precision),
        force_model=force_model,
        command=typed_command(),
        show_progress=True,
    )
    if output is not None:
        from onnxloc.report.profile_page import write_profile_page

        with new_folder(output, force=force) as staging:
            found.write(staging, output.name)
            write_profile_page(staging, found, output.name)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)
        if output is not None:
            click.echo(f"written to {printable(output)}")


def _show(found: "Profile") -> None:
    unit = "z" if found.options.response == "z" else "activation"
    click.echo(
        f"mean response ({unit}) of {found.network.size:,} units"
        + (
            f", chosen on halves of the localizer's stimuli ({found.options.splits} splits)"
            if found.halves
            else ""
        )
    )
    table(
        ["", "texts", "mean", "95 % interval", "random networks", "p"],
        [
            [
                row["label"],
                row["n"],
                f"{row['mean']:.3f}",
                _span(row["low"], row["high"]),
                f"{row['controls_median']:.3f} ({_span(row['controls_low'], row['controls_high'])})"
                if row["controls_median"] == row["controls_median"]
                else "–",
                _p(row["p_controls"]),
            ]
            for row in found.of().to_dict("records")
        ],
    )
    click.echo("\ndifferences between conditions")
    table(
        ["", "difference", "95 % interval", "t", "p (Holm)", "permuted (Holm)", "d", "p of random"],
        [
            [
                f"{row['a']} – {row['b']}",
                f"{row['difference']:.3f}",
                _span(row["low"], row["high"]),
                f"{row['t']:.2f}",
                _p(row["p_holm"]),
                _p(row["p_permutation_holm"]),
                f"{row['d']:.2f}",
                _p(row["p_controls"]),
            ]
            for row in found.tests_of().to_dict("records")
        ],
    )
    for note in found.notes:
        click.echo(f"note: {printable(note)}")


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _p(value: float) -> str:
    return "–" if value != value else f"{value:.2g}"
