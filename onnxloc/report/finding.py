"""What the numbers say, in plain sentences.

The same rules run for every model: whether ablating the network did anything is read from the
interval of its difference from intact, whether that is special to the network from the network's
place among its controls.
"""

import math
from dataclasses import dataclass

from onnxloc.report.folder import Effect, Localized, Run
from onnxloc.report.words import count, count_word, integer, number, percent, probability, score

__all__ = [
    "Finding",
    "effect_finding",
    "findings",
    "floor_of_p",
    "localizer_finding",
    "main_effects",
]

# Controls count as widely scattered above these ranges: in accuracy, and in log-probability (where
# log 2 means that perplexities differ by a factor of two), or above half of the network's effect.
_WIDE = {"pairs": 0.10, "text": math.log(2)}
_NEAR_CHANCE = 0.05
_P = 0.05


@dataclass(frozen=True)
class Finding:
    """Sentences for one result.

    Attributes
    ----------
    title : str
        What it is about.
    verdict : str
        The result in a few words.
    text : str
        The numbers behind it.
    warnings : tuple of str
        What keeps the numbers from saying more.
    tone : str
        "yes", "no" or "open": whether the run shows that the network differs from its controls.
    """

    title: str
    verdict: str
    text: str
    warnings: tuple[str, ...] = ()
    tone: str = "open"


def findings(run: Run) -> list[Finding]:
    """State the findings for the head of the page: one for the localizer, one for each task."""
    localize, ablate = run.summary.localize, run.summary.ablate
    found = [localizer_finding(localize)] if localize else []
    if ablate:
        found += [
            effect_finding(effect, run.replacement, ablate.match, localize)
            for effect in main_effects(ablate.effects)
        ]
    return found


def floor_of_p(n_controls: int) -> str:
    """State the smallest p that so few controls allow; empty where they are enough."""
    if not 0 < n_controls < 19:
        return ""
    return (
        f"With {count(n_controls, 'random control')} the empirical p cannot fall below "
        f"{probability(1 / (n_controls + 1))}; 19 or more could reach 0.05."
    )


def main_effects(effects: tuple[Effect, ...]) -> list[Effect]:
    """For each task, in order of appearance, the effect of the largest network."""
    best: dict[str, Effect] = {}
    for effect in effects:
        if effect.task not in best or effect.size > best[effect.task].size:
            best[effect.task] = effect
    return list(best.values())


def localizer_finding(localize: Localized) -> Finding:
    """How many units were found, and how sure their difference is."""
    total, chosen = localize.n_units, localize.n_selected
    share = percent(100 * chosen / total if total else None)
    where = count(localize.n_sites, "site")
    warnings = []
    if localize.n_undefined:
        warnings.append(
            f"{count(localize.n_undefined, 'unit')} of {integer(total)} had no variance or no "
            "number; such units have no t and are never chosen."
        )
    if chosen == 0:
        return Finding(
            "The network",
            "No unit was chosen",
            f"None of the {integer(total)} units at {where} met the rule of selection.",
            tuple(warnings),
            "no",
        )
    text = f"{integer(chosen)} of {integer(total)} units ({share}) at {where} are in the network"
    if localize.smallest_t is not None:
        text += f"; the smallest t among them is {number(localize.smallest_t)}"
        if localize.smallest_t <= 0:
            warnings.append(
                "Some units of the network do not prefer the positive condition: t ≤ 0."
            )
    text += "."
    if localize.n_significant is not None:
        text += (
            f" {integer(localize.n_significant)} units "
            f"({percent(100 * localize.n_significant / total if total else None)}) respond more to "
            f"{localize.positive_label} than to {localize.control_label} at a false discovery rate "
            "of 5\u202f%."
        )
        if localize.n_significant < chosen:
            weak = chosen - localize.n_significant
            warnings.append(
                f"At least {count(weak, 'unit')} of the network "
                f"{'does' if weak == 1 else 'do'} not respond reliably more to "
                f"{localize.positive_label}."
            )
    title = f"{localize.positive_label} against {localize.control_label}"
    verdict = f"{count(chosen, 'unit')} ({share}) make up the network"
    return Finding(title, verdict, text, tuple(warnings), "yes")


def effect_finding(
    effect: Effect, replacement: str, match: str | None, localize: Localized | None = None
) -> Finding:
    """Say what one ablation did, beside what its controls did.

    Parameters
    ----------
    effect : Effect
        The effect at one size.
    replacement : str
        What was done to the units: "zero", "mean", "force=3.5", ….
    match : str or None
        How the controls were drawn.
    localize : Localized or None
        For the total number of units and the way the network was chosen.
    """
    title = f"Task {effect.task}, {count(effect.n_items, 'item')}"
    if effect.intact is None or effect.network is None:
        return Finding(title, "The effect is not defined", "A score of this task is not a number.")
    controls = list(effect.scored)
    change = _change(effect, effect.network - effect.intact)
    text = f"{_subject(effect, replacement, localize)} {_takes(effect, change)}."
    if effect.chance is not None and abs(effect.network - effect.chance) <= _NEAR_CHANCE:
        text += f" That is near chance ({number(effect.chance, 2)})."
    if not controls:
        why = "No random control gave a score" if effect.controls else "No random control was run"
        warning = f"{why}, so nothing says that this is special to the network."
        return Finding(title, _CHANGED[change], text, (warning,))
    rank = effect.rank
    if rank is None:
        rank = sum(value <= effect.network for value in controls)
    text += " " + _beside_controls(effect, controls, rank, match)
    verdict, tone = _verdict(effect, controls, rank, change)
    harm = abs(effect.network - effect.intact)
    warnings = tuple(_warnings(effect, controls, rank, change, harm))
    return Finding(title, verdict, text, warnings, tone)


_CHANGED = {
    -1: "Ablating the network lowers the score",
    0: "No reliable difference shown",
    1: "Ablating the network raises the score",
}


def _change(effect: Effect, difference: float) -> int:
    """-1, 0 or 1: the direction of network minus intact where its interval leaves out zero."""
    versus = effect.vs_intact
    if versus is None or versus.low is None or versus.high is None:
        return (difference > 0) - (difference < 0)
    return (versus.low > 0) - (versus.high < 0)


_ACTIONS = {
    "zero": "Zeroing",
    "mean": "Setting",
    "force": "Setting",
    "scale": "Scaling",
    "steer": "Steering",
    "noise": "Adding noise to",
    "patch": "Patching",
}
_AFTER = {"force": "to", "scale": "by", "steer": "by"}


def _subject(effect: Effect, replacement: str, localize: Localized | None) -> str:
    kind, _, amount_of = replacement.partition("=")
    action = _ACTIONS.get(kind, "Ablating")
    noun = "unit" if effect.n_network_units == 1 else "units"
    after = ""
    if kind == "mean":
        after = " to its mean" if effect.n_network_units == 1 else " to their mean"
    elif kind in _AFTER:
        after = f" {_AFTER[kind]} {amount_of}"
    amount = "" if effect.n_network_units is None else f"{integer(effect.n_network_units)} "
    if localize is None:
        return f"{action} the network's {amount}{noun}{after} ({percent(effect.size)})"
    kind = "least" if localize.least else "most"
    kind = "chosen" if localize.drawn else f"{kind} selective"
    return (
        f"{action} the {amount}{kind} {noun}{after} "
        f"({percent(effect.size)} of {integer(localize.n_units)})"
    )


def _measure(effect: Effect) -> tuple[str, str, str, list[float]]:
    """Name of the measure, intact, network, and the controls, as shown in sentences."""
    perplexity = effect.finite_perplexity
    if effect.kind == "text" and perplexity:
        values = [value for value in perplexity.controls if value is not None]
        return "perplexity", number(perplexity.intact), number(perplexity.network), values
    name = "accuracy" if effect.kind == "pairs" else effect.metric or "the score"
    return name, score(effect.intact), score(effect.network), list(effect.scored)


def _takes(effect: Effect, change: int) -> str:
    name, intact, network, _ = _measure(effect)
    if change == 0:
        n = effect.n_items
        items = "this one item" if n == 1 else f"these {integer(n)} items"
        if intact == network:
            text = f"leaves {name} at {intact} on {items}"
        else:
            text = (
                f"changes {name} from {intact} to {network}, which {items} cannot tell from no "
                "change"
            )
        versus = effect.vs_intact
        if versus and versus.low is not None and versus.high is not None:
            text += " (the 95\u202f% interval of the difference in score holds zero)"
        return text
    return f"takes {name} from {intact} to {network}"


def _beside_controls(effect: Effect, controls: list[float], rank: int, match: str | None) -> str:
    name, _, _, shown = _measure(effect)
    write = number if name == "perplexity" else score
    n = len(controls)
    matched = {
        "site": ", matched by site,",
        "count": ", matched in number only,",
        "norm": ", matched by site and activation,",
    }.get(match or "", "")
    lost = len(effect.controls) - n
    sets = f"{_controls(n).capitalize()} of the same size"
    if n > 1 and max(shown, default=0) == min(shown, default=0):
        text = f"{sets}{matched} all give {write(shown[0]) if shown else '–'}"
    elif n > 1:
        text = f"{sets}{matched} give {write(min(shown))} to {write(max(shown))}"
    else:
        text = f"{sets}{matched} gives {write(shown[0]) if shown else '–'}"
    place = "lowest" if rank == 0 else "highest" if rank == n else f"number {rank + 1} from below"
    text += f"; by score the network ranks {place} of {n + 1}"
    if lost:
        return f"{text}, {count_word(lost)} more without a score left out, so there is no p."
    if effect.p is None:
        return f"{text}; its p is not defined."
    return f"{text} (p = {probability(effect.p)})."


def _controls(n: int, some: int | None = None) -> str:
    """Name the controls: "ten random controls", "two of ten random controls"."""
    named = f"{count_word(n)} random {'control' if n == 1 else 'controls'}"
    return named if some is None else f"{count_word(some)} of {named}"


def _verdict(effect: Effect, controls: list[float], rank: int, change: int) -> tuple[str, str]:
    n = len(controls)
    if change == 0:
        return _CHANGED[0], "open"
    if change > 0:
        return _CHANGED[1], "no"
    if rank > 0:
        as_bad = _controls(n, rank)
        verb = "does" if rank == 1 else "do"
        if rank >= (n + 1) / 2:
            return f"No more harm than random controls: {as_bad} {verb} as much or more", "no"
        return f"Harmful, but {as_bad} {verb} as much harm or more", "open"
    versus = effect.vs_controls
    if versus and versus.high is not None and versus.high >= 0:
        return "Lowest score of all, but not reliably below the controls' mean", "open"
    whom = "the random control" if n == 1 else f"every one of {_controls(n)}"
    if n < len(effect.controls):
        whom += " with a score"
    # So few controls that p cannot reach 0.05 cannot show it either.
    tone = "yes" if effect.p is not None and effect.p <= _P else "open"
    return f"The network does more harm than {whom}", tone


def _warnings(
    effect: Effect, controls: list[float], rank: int, change: int, harm: float
) -> list[str]:
    n = len(controls)
    warnings = []
    if rank > 0 and change < 0:
        warnings.append(
            f"{_controls(n, rank).capitalize()} {'is' if rank == 1 else 'are'} as harmful as the "
            "network or more, so this run does not show that the effect is special to the network."
        )
    spread = max(controls) - min(controls)
    wide = _WIDE.get(effect.kind, math.inf)
    if spread >= wide or (spread >= wide / 4 and spread >= harm / 2):
        if effect.kind == "text":
            size = f"a factor of {number(math.exp(min(spread, 700)), 2)} in perplexity"
        else:
            size = f"{score(spread)} from the lowest to the highest"
        warnings.append(
            f"The random controls scatter widely ({size}): look at each of them, not at their mean."
        )
    lost = len(effect.controls) - n
    if lost:
        verb = "is" if lost == 1 else "are"
        warnings.append(
            f"{count(lost, 'random control')} of {integer(len(effect.controls))} gave no number "
            f"and {verb} left out, so no p is given."
        )
    return warnings
