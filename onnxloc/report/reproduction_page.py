"""The page of a reproduction, in Markdown: every word follows from the numbers."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from onnxloc.report import write_report
from onnxloc.report.reproduction_figures import figures
from onnxloc.report.words import count, integer, number, percent, score, signed
from onnxloc.store import Manifest, write_json, write_summary
from onnxloc.studies.claims import Claim, judge
from onnxloc.studies.reproduce import Reproduction
from onnxloc.studies.reproduced import Measured, SizeEffect

__all__ = ["machine", "render_reproduction", "write_reproduction"]

PAGE_FILE = "reproduction.md"
JSON_FILE = "reproduction.json"
FIGURES = "reproduction"
# What differs comes first.
ORDER = ("differs", "agrees in part", "cannot be told", "agrees")
KINDS = {
    "count": "random, matched in number",
    "site": "random, matched by site",
    "norm": "random, matched by site and activation",
    "least": "least selective units",
    "shuffled": "localized with shuffled labels",
    "untrained": "localized in an untrained copy",
}


def write_reproduction(folder: Path, found: Reproduction, name: str, command: str) -> None:
    """Write page, figures and numbers into an empty folder, and the ablation's page and tables.

    Parameters
    ----------
    folder : Path
        Where to.
    found : Reproduction
        What came out.
    name : str
        Title of the record.
    command : str
        The command line that made it.
    """
    text = render_reproduction(found, command, machine(), datetime.now(UTC).date())
    (folder / PAGE_FILE).write_text(text, encoding="utf-8", newline="\n")
    (folder / FIGURES).mkdir()
    for figure, svg in figures(found.measured).items():
        (folder / FIGURES / f"{figure}.svg").write_text(svg, encoding="utf-8", newline="\n")
    write_json(
        folder / JSON_FILE,
        {
            **found.measured.as_dict(),
            "claims": [
                {"title": claim.title, "verdict": claim.verdict, "found": list(claim.found)}
                for claim in judge(found.measured)
            ],
        },
    )
    found.ablation.write(folder)
    write_summary(folder, found.ablation.summary)
    found.profile.conditions.to_csv(folder / "profile.csv", index=False)
    found.profile.tests.to_csv(folder / "profile_tests.csv", index=False)
    steps = (found.ablation.step, found.profile.step)
    Manifest(name=name, steps=steps).write(folder)
    write_report(folder)


def machine() -> str:
    """The processor, as Linux calls it, and how many of its cores may be used."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
            break
    return f"{model}, {os.cpu_count() or 1} cores"


def render_reproduction(found: Reproduction, command: str, where: str, when: date) -> str:
    """Render the page.

    Parameters
    ----------
    found : Reproduction
        What came out.
    command : str
        The command line that made it.
    where : str
        The machine that it ran on.
    when : date
        The day that it ran.
    """
    measured = found.measured
    claims = sorted(judge(measured), key=lambda claim: ORDER.index(claim.verdict))
    parts = [
        "# The paper, reproduced",
        _opening(found, command, where, when),
        "## In short",
        _short(claims),
        "## Claim by claim",
        "\n\n".join(map(_claim, claims)),
        "## Sizes and controls",
        f"![Accuracy against the share of units zeroed]({FIGURES}/sizes.svg)",
        *map(_effects, measured.effects),
        "## Phenomena",
        f"![Accuracy by phenomenon]({FIGURES}/phenomena.svg)",
        _phenomena(measured),
        "## Layers",
        f"![Units of the network in each block]({FIGURES}/layers.svg)",
        "## Profile",
        f"![Response to each condition]({FIGURES}/profile.svg)",
        _profile(measured),
        "## How to read this",
        _reading(found),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(found: Reproduction, command: str, where: str, when: date) -> str:
    options, minutes = found.options, sum(found.seconds.values()) / 60
    step = found.ablation.step
    pairs = found.measured.pairs[-1]
    sentences = max((e.n_items for e in found.measured.effects if e.task == "text"), default=0)
    threads = count(found.threads, "thread") if found.threads else "all cores"
    spent = "; ".join(f"{what} {seconds / 60:.1f}" for what, seconds in found.seconds.items())
    return (
        "Written by one command; no word of it is by hand:\n\n"
        f"<!-- not run: it takes {minutes:.0f} minutes, {when} -->\n```sh\n{command}\n```\n\n"
        "It repeats the procedure of [The LLM Language Network](https://arxiv.org/abs/2411.02280) "
        f"on {found.measured.model}, with stimuli and minimal pairs of onnxloc's own, and judges "
        "the paper's claims, put in our words, by rules that are stated with each.\n\n"
        f"- Model: {found.measured.model}, SHA-256 `{found.measured.model_hash[:12]}`.\n"
        f"- Scored: {pairs.n_items:,} minimal pairs of {len(found.measured.groups)} phenomena, "
        f"and {sentences:,} sentences; {options.controls} controls of each random kind and size; "
        f"{options.splits} splits in halves; seed {options.seed}.\n"
        f"- Machine: {where}; {threads}, {step.provider}, onnxruntime "
        f"{step.versions.get('onnxruntime', step.versions.get('onnxruntime-gpu', 'unknown'))}; "
        f"{minutes:.0f} minutes of wall time on {when} (in minutes: {spent})."
    )


def _short(claims: Sequence[Claim]) -> str:
    rows = [[claim.title, f"**{claim.verdict}**", claim.line] for claim in claims]
    return _table(["claim", "here", "what came out"], rows)


def _claim(claim: Claim) -> str:
    points = "\n".join(f"- {text}" for text in claim.found)
    return (
        f"### {claim.title}: {claim.verdict}\n\n"
        f"The paper: {claim.paper}\n\n"
        f"To agree: {claim.rule}\n\n"
        f"Here:\n\n{points}"
    )


def _effects(effect: SizeEffect) -> str:
    """One task and size: the network and every kind of control."""
    text = effect.network_perplexity is not None
    rows = [
        ["intact", "-", score(effect.intact), "-", "-", number(effect.intact_perplexity)],
        [
            "**network**",
            "1",
            score(effect.network),
            f"{signed(effect.low)} to {signed(effect.high)} from intact",
            "-",
            number(effect.network_perplexity),
        ],
    ]
    if effect.without_massive is not None:
        rows.append(
            [
                "network, but for its massive units",
                "1",
                score(effect.without_massive),
                "-",
                "-",
                "-",
            ]
        )
    for kind in effect.kinds:
        low, high = min(kind.scores), max(kind.scores)
        values = sorted(kind.perplexity or ())
        middle = f"{number(values[0])} to {number(values[-1])}" if values else "-"
        rows.append(
            [
                KINDS.get(kind.kind, kind.kind),
                str(len(kind.scores)),
                score(kind.median),
                f"{score(low)} to {score(high)}" if len(kind.scores) > 1 else "-",
                f"{kind.as_harmful} of {len(kind.scores)}, p {kind.p:.2f}",
                middle,
            ]
        )
    head = ["zeroed", "networks", f"{effect.metric}: median", "range", "as harmful", "perplexity"]
    if not text:
        head, rows = head[:-1], [row[:-1] for row in rows]
    title = (
        f"### {effect.task}, {percent(effect.size)} of the units ({integer(effect.units)}), "
        f"{effect.n_items:,} items"
    )
    return f"{title}\n\n{_table(head, rows)}"


def _phenomena(measured: Measured) -> str:
    sizes = [effect.size for effect in measured.pairs]
    largest = sizes[-1]
    rows = [
        [
            group.group,
            str(group.n_items),
            f"{group.intact:.2f}",
            *(f"{group.network[size]:.2f}" for size in sizes),
            *(f"{group.controls[kind]:.2f}" for kind in ("site", "norm") if kind in group.controls),
        ]
        for group in measured.groups
    ]
    head = [
        "phenomenon", "pairs", "intact", *(f"network {size:g} %" for size in sizes),
        f"by site, {largest:g} %", f"by activation, {largest:g} %",
    ]  # fmt: skip
    return _table(head, rows)


def _profile(measured: Measured) -> str:
    rows = [
        [
            row.label,
            str(row.n),
            signed(row.mean),
            f"{signed(row.low)} to {signed(row.high)}",
            f"{signed(row.controls_median)} ({signed(row.controls_low)} to "
            f"{signed(row.controls_high)})",
        ]
        for row in measured.responses
    ]
    return _table(["condition", "texts", "network", "95 % interval", "random networks"], rows)


def _reading(found: Reproduction) -> str:
    least = 1 / (1 + found.options.controls)
    return (
        "- Intervals are bootstrapped over items and say nothing of other items, stimuli or "
        "models. The middle 95 % of splits says how much halves scatter; it is no confidence "
        "interval.\n"
        f"- With {found.options.controls} controls no p of a kind can fall below {least:.3f}.\n"
        "- Kinds of control are described in [controls](controls.md), the localizers in "
        "[localizers](localizers.md), the profile in [profile](profile.md).\n"
        "- The conditions of a localizer differ in more than what they are named for: hard sums, "
        "for one, have more digits than easy ones. That units tell them apart does not say why.\n"
        "- The paper used other stimuli (those of the brain studies) and other tasks (BLiMP, "
        "SyntaxGym, GLUE), with larger models. A difference here may be one of these."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])
