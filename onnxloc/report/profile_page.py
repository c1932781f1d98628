"""The page of a profile."""

from pathlib import Path
from typing import Any

from onnxloc.report.page import render_template
from onnxloc.report.profile_charts import block_charts, profile_chart, response_name, test_table
from onnxloc.report.words import count, integer, probability, score
from onnxloc.store import package_versions
from onnxloc.studies.profile_result import Profile

__all__ = ["render_profile", "write_profile_page"]

PAGE_FILE = "profile.html"


def render_profile(found: Profile, name: str) -> str:
    """Render a profile as one page of HTML that needs no network.

    Parameters
    ----------
    found : Profile
        What it shows.
    name : str
        Title.
    """
    options = found.options
    model, stimuli = found.about["model"], found.about["stimuli"]
    parts: dict[str, Any] = {
        "name": name,
        "did": (
            f"The response of {count(found.network.size, 'unit')} of {model['name']}, found with "
            f"{stimuli['localizer'] or 'unknown stimuli'}, to the conditions of {stimuli['name']}."
        ),
        "finding": _finding(found),
        "notes": found.notes,
        "means": profile_chart(found),
        "tests": test_table(found),
        "blocks": block_charts(found),
        "methods": _methods(found),
        "response": response_name(found).lower(),
        "n_controls": options.controls,
        "command": found.step.command,
        "version": package_versions(["onnxloc"])["onnxloc"],
    }
    return render_template("profile.html", parts)


def write_profile_page(folder: Path, found: Profile, name: str) -> None:
    """Write ``profile.html`` into a folder; parameters are those of `render_profile`."""
    text = render_profile(found, name)
    # Half a surrogate pair may stand in a file's name, and is no text.
    (folder / PAGE_FILE).write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _finding(found: Profile) -> str:
    own = found.of().sort_values("mean", ascending=False)
    top, bottom = own.iloc[0], own.iloc[-1]
    tests = found.tests_of()
    sure = int((tests["p_permutation_holm"] <= 0.05).sum())
    text = (
        f"The network responds most to {top['label']} ({score(float(top['mean']))}) and least to "
        f"{bottom['label']} ({score(float(bottom['mean']))})."
    )
    if len(tests) == 1:
        one = tests.iloc[0]
        text += f" The permuted p of the difference is {probability(one['p_permutation'])}"
        if found.options.controls:
            text += f"; its p among random networks is {probability(one['p_controls'])}"
        return f"{text}."
    text += (
        f" {integer(sure)} of {len(tests)} differences between conditions "
        f"{'has' if sure == 1 else 'have'} a permuted p of at most 0.05 after Holm."
    )
    if found.options.controls:
        beside = int((tests["p_controls"] <= 0.05).sum())
        text += (
            f" {integer(beside)} of these differences {'lies' if beside == 1 else 'lie'} apart "
            "from those of the random networks (p among random at most 0.05, not corrected)."
        )
    return text


def _methods(found: Profile) -> list[tuple[str, str]]:
    options = found.options
    pooled = {"last": "at the last token", "mean": "averaged over tokens",
              "sum": "summed over tokens", "max": "at its maximum over tokens"}  # fmt: skip
    size = "magnitude" if options.magnitude else "value"
    cut = f"cut to {count(options.max_tokens, 'token')}" if options.max_tokens else "not cut"
    read = (
        f"Each text, {cut}, gives one number for each unit: the {size} of its activation "
        f"{pooled.get(options.pool or '', 'pooled')}. "
        + (
            "Each unit is standardised over all texts shown (minus its mean, over its standard "
            "deviation), then averaged over the network's units, so that every unit counts the "
            "same: units differ in scale by factors of hundreds. 0 is the mean of all conditions, "
            "so that a response depends on which conditions are shown."
            if options.response == "z"
            else "It is averaged over the network's units as it is, so that a few units with large "
            "activations can make up most of it."
        )
    )
    held = (
        f"Some of these texts found the network. Their halves were drawn {options.splits} times; "
        "as many units as the network has, with the largest t, were chosen on each half, and "
        "each text was measured only with units of a half that it is not in; other texts with "
        "the units of both halves. Responses are means over the splits."
        if found.halves
        else "No text of the localizer is among these texts."
        if not found.notes
        else "Whether texts of the localizer are among these texts was not checked."
    )
    matched = {
        "site": "as many units in each site as the network has there",
        "count": "as many units in all, wherever they lie",
        "norm": "as many units in each site, each near a unit of the network in mean |activation|",
    }[options.match]
    return [
        ("Response", read),
        ("Held out", held),
        (
            "Random networks",
            f"{count(options.controls, 'network')} of units drawn at random from outside the "
            f"network: {matched}. The p among random is (1 + those at least as far from the median "
            "of all) / (1 + their number).",
        ),
        (
            "Tests",
            "Items differ between conditions, so tests are of independent groups of texts: Welch's "
            f"t, and {integer(options.permutations)} permutations of the texts of each two "
            "conditions with the same t, both corrected over all pairs of conditions after Holm. "
            "Intervals are percentile bootstraps over texts. They say how much texts vary; only "
            "the p among random says how much the choice of units matters.",
        ),
    ]
