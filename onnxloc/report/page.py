"""The page: everything it shows, put together."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from onnxloc.report.chart import Chart, Table
from onnxloc.report.difference_chart import difference_chart
from onnxloc.report.effect_charts import control_table, effect_chart, effect_table
from onnxloc.report.finding import Finding, effect_finding, findings, floor_of_p, main_effects
from onnxloc.report.folder import Ablated, Agreed, Effect, Localized, Run, read_run
from onnxloc.report.group_charts import group_charts, group_table
from onnxloc.report.heat_chart import heat_charts
from onnxloc.report.kinds import kind_chart, kind_finding, kind_table
from onnxloc.report.part import PartMaker
from onnxloc.report.profile_part import profile_part
from onnxloc.report.reliability_part import reliability_part
from onnxloc.report.unit_charts import histogram_chart, location_charts, top_table
from onnxloc.report.words import count, integer, number, percent, score
from onnxloc.store import EFFECTS_FILE

__all__ = ["render", "render_template"]


# Points of all dot plots by group together, so that many groups and controls stay a small page.
MAX_POINTS = 20_000

_OWN_SENTENCES = (
    " The task text scores the localizer's own sentences: the sentences that chose the units."
)


_BATTERY = (
    "Beside these: random units matched in number, by site, and by site and mean |activation| (one "
    "of the nearest of its site for each unit of the network); the units with the smallest |t| of "
    "the same sites; as many units as the network has with the largest t after the labels of the "
    "stimuli were shuffled; and as many with the largest t in an untrained copy, ablated in the "
    "trained model. The last two may share units with the network. Mean |activation| is over all "
    "tokens of texts of the tasks, the prefix token among them. A unit is called massive above 100 "
    "times the median of its site. The p of a kind is (1 + the number of its networks that score "
    "as the network or lower) / (1 + their number); it is not corrected for the number of kinds."
)


@dataclass(frozen=True)
class TaskPart:
    """What the page shows of one task."""

    name: str
    chart: Chart
    table: Table
    conditions: Table
    groups: tuple[Chart, ...]
    groups_note: str
    by_size: tuple[Finding, ...]
    kinds: tuple[Chart, ...] = ()
    differences: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


# What a run calls its test, in words.
TESTS = {
    "welch": "Welch's t (Welch–Satterthwaite degrees of freedom)",
    "student": "Student's t",
    "paired": "Student's paired t",
    "mannwhitney": "z of Mann and Whitney's U",
}


# What a page may show beside localization and ablation, in the order of the page.
PARTS: tuple[PartMaker, ...] = (profile_part, reliability_part)


def render(run: Path, *, home: str = "") -> str:
    """Render the page of a run folder as HTML.

    The page opens without a network: its style, its script and plotly's script stand in it, and
    its content security policy allows nothing else.

    Parameters
    ----------
    run : Path
        The run folder.
    home : str
        Address of a page that lists runs, to link to; none if empty.

    Raises
    ------
    RunError
        If `run` is no run folder or one of its files is damaged.
    """
    content = read_run(run)
    made = [part for maker in PARTS if (part := maker(run, content)) is not None]
    return render_template(
        "page.html", {**_parts(content), "run": content, "parts": made, "home": home}
    )


def render_template(name: str, parts: Mapping[str, Any], *, charts: bool = True) -> str:
    """Fill one of the package's templates, with style and scripts put in.

    Parameters
    ----------
    name : str
        The template's file.
    parts : mapping
        What it shows; text is escaped.
    charts : bool
        Whether plotly's script is needed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("onnxloc.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"integer": integer, "number": number, "percent": percent}
    environment.filters |= {"shown": _shown}
    sources = [*([get_plotlyjs()] if charts else []), _file("page.js")]
    # HTML reads CR LF as LF before it hashes a script, so the hash is taken of that.
    scripts = [text.replace("\r\n", "\n") for text in sources]
    return environment.get_template(name).render(
        parts,
        scripts=[Markup(text) for text in scripts],  # noqa: S704 - the packages' own files
        style=Markup(_file("page.css")),  # noqa: S704
        hashes=[_csp_hash(text) for text in scripts],
    )


def _parts(run: Run) -> dict[str, Any]:
    parts: dict[str, Any] = {"findings": findings(run), "localize": None, "tasks": [], "floor": ""}
    localize, ablate = run.summary.localize, run.summary.ablate
    if localize is not None and run.units is not None:
        heat, note = heat_charts(run.units, localize)
        parts |= {
            "localize": localize,
            "measured": _measured(localize),
            "location": location_charts(run.units),
            "heat": heat,
            "heat_note": note,
            "histogram": histogram_chart(run.units, localize),
            "top": top_table(run.units, localize),
        }
    if ablate is not None:
        parts["tasks"] = _tasks(run, ablate)
        if ablate.battery:
            parts["findings"] += [
                kind_finding(effect, ablate) for effect in main_effects(ablate.effects)
            ]
        parts["floor"] = floor_of_p(ablate.n_controls) if ablate.effects else ""
    parts["did"] = _did(run)
    parts["methods"] = _methods(run)
    return parts


def _tasks(run: Run, ablate: Ablated) -> list[TaskPart]:
    effects, match = ablate.effects, ablate.match
    by_task: dict[str, list[Effect]] = {}
    for effect in sorted(effects, key=lambda effect: effect.size):
        by_task.setdefault(effect.task, []).append(effect)
    order = dict.fromkeys(effect.task for effect in effects)
    parts = []
    for task in order:
        own = by_task[task]
        groups = group_charts(own, MAX_POINTS // len(order))
        left_out = sum(len(effect.groups) > 1 for effect in own) - len(groups)
        note = ""
        if left_out:
            note = (
                f" {count(left_out, 'smaller size')} left out to keep the page small; "
                f"{EFFECTS_FILE} holds the items."
            )
        parts.append(
            TaskPart(
                name=task,
                chart=effect_chart(own),
                table=effect_table(own),
                conditions=control_table(own),
                groups=tuple(groups),
                groups_note=note,
                by_size=tuple(
                    effect_finding(effect, run.replacement, match, run.summary.localize)
                    for effect in own
                ),
                kinds=tuple(
                    replace(kind_chart(effect, ablate), table=kind_table(effect, ablate))
                    for effect in reversed(own)
                    if ablate.battery and effect.kinds
                ),
                differences=tuple(
                    made
                    for effect in reversed(own)
                    if (made := difference_chart(effect)) is not None
                ),
                tables=tuple(
                    group_table(effect, groups, what)
                    for effect in own[-1:]
                    for what, groups in (
                        ("field", effect.fields),
                        ("phenomenon", effect.phenomena),
                    )
                    if groups
                ),
            )
        )
    return parts


def _did(run: Run) -> str:
    """One sentence on what was done."""
    localize, ablate = run.summary.localize, run.summary.ablate
    said = []
    if localize:
        amounts = [
            label if n is None else f"{integer(n)} {label}"
            for n, label in (
                (localize.n_positive, localize.positive_label),
                (localize.n_control, localize.control_label),
            )
        ]
        said.append(f"Localized with {localize.localizer}: {amounts[0]} against {amounts[1]}.")
    if ablate:
        tasks = list(dict.fromkeys(effect.task for effect in ablate.effects))
        said.append(
            f"Ablated on {count(len(tasks), 'task')} ({', '.join(tasks)}) beside "
            f"{count(ablate.n_controls, 'control network')}."
        )
    return " ".join(said) or "Nothing was localized or ablated yet."


def _edit_method(replacement: str) -> str:
    """What was done to the chosen units, a sentence without its end."""
    kind, _, amount = replacement.partition("=")
    absolute = amount.removeprefix("absolute:")
    spread = f"{absolute}"
    if absolute == amount:
        spread = f"{amount} times the unit's own over the scored tokens of the tasks' texts"
    return {
        "zero": "The activations of the chosen units are set to zero",
        "mean": "The activation of each chosen unit is set to its mean over the scored tokens of "
        "the tasks' texts in the intact model",
        "force": f"The activations of the chosen units are set to {amount}",
        "scale": f"The activations of the chosen units are multiplied by {amount}",
        "steer": f"To the activations of the chosen units {amount} is added",
        "noise": "To the activation of each chosen unit Gaussian noise is added, with a standard "
        f"deviation of {spread},",
        "patch": "The activations of the chosen units are replaced by those in another text",
    }.get(kind, "The activations of the chosen units are replaced")


def _tokens_method(tokens: str) -> str:
    """At which tokens, to the end of the sentence."""
    if tokens == "all":
        return "at every token."
    return f"at these tokens of each text, the first being 0: {tokens}."


def _methods(run: Run) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    localize, ablate = run.summary.localize, run.summary.ablate
    if localize:
        said += _localizer_methods(localize)
    if ablate:
        what = f"{_edit_method(run.replacement)} {_tokens_method(run.tokens)}"
        drawn = {
            "site": " with as many units in each site as the network has there",
            "count": " with the same number of units in all, wherever they lie",
            "norm": " with as many units in each site as the network has there, each drawn from "
            "the nearest in mean |activation|",
        }.get(ablate.match or "", "")
        said += [
            ("Ablation", what),
            (
                "Controls",
                f"{count(ablate.n_controls, 'control network')} of units drawn at random from "
                f"outside the network{',' if drawn else ''}{drawn}. Each is ablated as the network "
                "is, on the same items.",
            ),
            *([("Battery", _BATTERY)] if ablate.battery else []),
            (
                "Scores",
                "Each text stands behind a prefix token (the model's BOS token, else its EOS "
                "token), so that its first token is scored too. Minimal pairs: 1 where the model "
                "gives the good sentence the higher log-probability, else 0. Text: the mean "
                "log-probability of a token (natural logarithm); perplexity is computed from "
                "log-probabilities over all tokens."
                f"{_OWN_SENTENCES if any(e.task == 'text' for e in ablate.effects) else ''}",
            ),
            (
                "Comparison",
                "Differences are paired over items, with 95\u202f% bootstrap intervals over items "
                "and Cohen's d of paired differences (d_z: the mean difference over its standard "
                "deviation). Items of a phenomenon share templates, so the intervals understate "
                "what new items would add. The empirical p is (1 + the number of controls at or "
                "below the network) / (1 + the number of controls). The intervals say how much the "
                "items vary; only the p says how much random choices of units vary.",
            ),
        ]
    return said


def _localizer_methods(localize: Localized) -> list[tuple[str, str]]:
    cut = (
        f"Texts are cut to {count(localize.max_tokens, 'token')}."
        if localize.max_tokens
        else "Texts are not cut."
    )
    bos = (
        {
            True: " A BOS token is put in front of each.",
            False: " No BOS token is put in front.",
        }.get(localize.bos, "")
        if localize.bos is not None
        else ""
    )
    if localize.how == "fdr":
        choice = "All units with positive t whose q is at most the false discovery rate."
    elif localize.how == "fwe":
        choice = "All units with positive t whose family-wise p is at most the rate."
    elif localize.drawn:
        choice = "Units drawn at random from a range of percentiles of t."
    elif localize.least:
        choice = "The units with the smallest t; ties go to the earlier site and the lower index."
    else:
        choice = "The units with the largest t; ties go to the earlier site and the lower index."
    rest = ", ".join(f"{k} = {_shown(v)}" for k, v in localize.selection.items())
    shown, one = ("Texts", cut + bos), "text"
    if localize.of_arrays:
        shown, one = ("Stimuli", "Arrays, fed to the model as they are."), "stimulus"
    return [
        shown,
        ("Activations", f"Each {one} gives one number for each unit: {_measured(localize)}."),
        (
            "Contrast",
            f"{TESTS.get(localize.test, localize.test)} of {localize.positive_label} minus "
            f"{localize.control_label}, with a two-sided p; q after Benjamini and Hochberg over "
            f"all units; {_family(localize.permutations)}d is Cohen's.",
        ),
        ("Choice", f"{choice} Rule: {rest}." if rest else choice),
        *([("Agreement", _agreement(localize.agreement))] if localize.agreement else []),
    ]


def _family(permutations: int) -> str:
    if not permutations:
        return ""
    return f"family-wise p from the largest |t| of {integer(permutations)} permutations; "


def _agreement(agreed: Agreed) -> str:
    text = f"All {integer(agreed.n_stimuli)} stimuli were run once more in float32 on the CPU. "
    if agreed.largest_t_difference is None:
        return f"{text}No unit has a t in both runs."
    text += (
        f"The largest difference of t is {number(agreed.largest_t_difference, 2)}, at "
        f"{agreed.site}, unit {agreed.unit}; the largest t there is {number(agreed.largest_t, 3)}."
    )
    if agreed.dice is not None:
        text += f" The networks' overlap (Dice) is {score(agreed.dice)}."
    return text


def _measured(localize: Localized) -> str:
    """What a text says of a unit; the magnitude is taken of the pooled value."""
    pooled = {
        "last": "its activation at the last token",
        "mean": "its mean over the tokens",
        "sum": "its sum over the tokens",
        "max": "its maximum over the tokens",
    }.get(localize.pool or "", "its activation" if localize.of_arrays else "its pooled activation")
    return f"the magnitude of {pooled}" if localize.magnitude else f"{pooled}, with its sign"


def _shown(value: object) -> str:
    """Write a parameter's value as people do."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_shown(item)}" for key, item in value.items()) or "–"
    return str(value)


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
