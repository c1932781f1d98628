"""The page: everything it shows, put together."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from onnxloc.report.chart import Chart, Table
from onnxloc.report.effect_charts import control_table, effect_chart, effect_table, group_charts
from onnxloc.report.finding import Finding, effect_finding, findings, floor_of_p
from onnxloc.report.folder import Effect, Localized, Run, read_run
from onnxloc.report.unit_charts import heat_charts, histogram_chart, location_charts, top_table
from onnxloc.report.words import count, integer, number, percent
from onnxloc.store import EFFECTS_FILE

__all__ = ["render"]


# Points of all dot plots by group together, so that many groups and controls stay a small page.
MAX_POINTS = 20_000

_OWN_SENTENCES = (
    " The task text scores the localizer's own sentences: the sentences that chose the units."
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


def render(run: Path) -> str:
    """Render the page of a run folder as HTML.

    The page opens without a network: its style, its script and plotly's script stand in it, and
    its content security policy allows nothing else.

    Raises
    ------
    RunError
        If `run` is no run folder or one of its files is damaged.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    content = read_run(run)
    environment = Environment(
        loader=PackageLoader("onnxloc.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"integer": integer, "number": number, "percent": percent}
    environment.filters |= {"shown": _shown}
    # HTML reads CR LF as LF before it hashes a script, so the hash is taken of that.
    scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), _file("page.js"))]
    return environment.get_template("page.html").render(
        _parts(content),
        run=content,
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
        parts["tasks"] = _tasks(run, ablate.effects, ablate.match)
        parts["floor"] = floor_of_p(ablate.n_controls) if ablate.effects else ""
    parts["did"] = _did(run)
    parts["methods"] = _methods(run)
    return parts


def _tasks(run: Run, effects: tuple[Effect, ...], match: str | None) -> list[TaskPart]:
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


def _methods(run: Run) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    localize, ablate = run.summary.localize, run.summary.ablate
    if localize:
        said += _localizer_methods(localize)
    if ablate:
        what = {
            "zero": "The activations of the chosen units are set to zero at every token.",
            "mean": "At every token, the activation of each chosen unit is set to its mean over "
            "the scored tokens of the tasks' texts in the intact model.",
        }.get(run.replacement, "The activations of the chosen units are replaced.")
        drawn = {
            "site": " with as many units in each site as the network has there",
            "count": " with the same number of units in all, wherever they lie",
        }.get(ablate.match or "", "")
        said += [
            ("Ablation", what),
            (
                "Controls",
                f"{count(ablate.n_controls, 'control network')} of units drawn at random from "
                f"outside the network{',' if drawn else ''}{drawn}. Each is ablated as the network "
                "is, on the same items.",
            ),
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
    elif localize.drawn:
        choice = "Units drawn at random from a range of percentiles of t."
    elif localize.least:
        choice = "The units with the smallest t; ties go to the earlier site and the lower index."
    else:
        choice = "The units with the largest t; ties go to the earlier site and the lower index."
    rest = ", ".join(f"{k} = {_shown(v)}" for k, v in localize.selection.items())
    return [
        ("Texts", cut + bos),
        ("Activations", f"Each text gives one number for each unit: {_measured(localize)}."),
        (
            "Contrast",
            f"Welch's t of {localize.positive_label} minus {localize.control_label} with "
            "Welch–Satterthwaite degrees of freedom and a two-sided p; q after Benjamini and "
            "Hochberg over all units; d is Cohen's.",
        ),
        ("Choice", f"{choice} Rule: {rest}." if rest else choice),
    ]


def _measured(localize: Localized) -> str:
    """What a text says of a unit; the magnitude is taken of the pooled value."""
    pooled = {
        "last": "its activation at the last token",
        "mean": "its mean over the tokens",
        "sum": "its sum over the tokens",
        "max": "its maximum over the tokens",
    }.get(localize.pool or "", "its pooled activation")
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
