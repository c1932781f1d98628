"""The page that says where a network lies."""

from pathlib import Path
from typing import Any

from onnxloc.report.page import render_template
from onnxloc.report.where_charts import group_charts, overlay_chart, prediction_chart
from onnxloc.report.words import count, integer, number, probability, score
from onnxloc.store import package_versions
from onnxloc.studies.where_result import Where

__all__ = ["render_where", "write_where_page"]

PAGE_FILE = "where.html"


def render_where(found: Where, name: str, command: str = "") -> str:
    """Render what was found as one page of HTML that needs no network.

    Parameters
    ----------
    found : Where
        What it shows.
    name : str
        Title.
    command : str
        The command line that made it.
    """
    about = found.about
    parts: dict[str, Any] = {
        "name": name,
        "did": (
            f"{count(about['n_distinct_chosen'], 'distinct unit')} of {about['model']}, chosen of "
            f"{integer(about['n_distinct'])} in {count(about['n_sites'], 'site')}."
        ),
        "findings": _findings(found),
        "notes": found.notes,
        "charts": group_charts(found),
        "overlay": overlay_chart(found),
        "predicted": prediction_chart(found),
        "prediction": _prediction(found),
        "permutations": integer(found.options.permutations) if found.options.permutations else "",
        "command": command,
        "version": package_versions(["onnxloc"])["onnxloc"],
    }
    return render_template("where.html", parts)


def write_where_page(folder: Path, found: Where, name: str, command: str = "") -> None:
    """Write ``where.html`` into a folder; parameters are those of `render_where`."""
    text = render_where(found, name, command)
    # Half a surrogate pair may stand in a file's name, and is no text.
    (folder / PAGE_FILE).write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _findings(found: Where) -> list[str]:
    said = []
    for by, words in (("op type", "operations"), ("part", "parts of a block")):
        own = found.by(by)
        own = own[own["distinct"] > 0].sort_values("ratio", ascending=False)
        if len(own) < 2:
            continue
        top, last = own.iloc[0], own.iloc[-1]
        said.append(
            f"Of the {words}, {top['group']} holds most beyond its share: "
            f"{integer(int(top['distinct_chosen']))} units, {number(float(top['ratio']))} times "
            f"what an even spread gives (p over sites {probability(float(top['p_sites_holm']))}); "
            f"{last['group']} holds least, {number(float(last['ratio']))} times its share."
        )
    if found.depth:
        said.append(
            f"In depth, from 0 to 1, the network's units lie at {score(found.depth['network'])} "
            f"on average, all units at {score(found.depth['searched'])} "
            f"(p {probability(found.depth['p'])})."
        )
    return said


def _prediction(found: Where) -> str:
    said = found.prediction
    if not said:
        return ""
    text = (
        f"Over {count(said['blocks'], 'block')}, the shares of both networks have a rank "
        f"correlation of {score(said['spearman'])} (p {probability(said['p_shift'])} by circular "
        "shifts)."
    )
    if "r2" in said:
        text += (
            f" Within conditions, in held-out stimuli, the first network's units predict "
            f"{score(said['r2'])} of the variance (R²) of the second network's mean response"
        )
        n = len(said["r2_controls"])
        text += (
            f"; the median of {count(n, 'random network')} is "
            f"{score(said['r2_controls_median'])} (p {probability(said['p_controls'])})."
            if n
            else "."
        )
    return text
