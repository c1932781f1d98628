"""The page of a comparison of runs."""

from pathlib import Path
from typing import Any

from onnxloc.report.chart import Column, Table, cell
from onnxloc.report.compare_charts import (
    depth_chart,
    dice_chart,
    scatter_charts,
    similarity_charts,
)
from onnxloc.report.page import render_template
from onnxloc.report.words import count, integer, number, probability, score
from onnxloc.store import package_versions
from onnxloc.studies.comparison import Comparison

__all__ = ["render_comparison", "write_comparison_page"]

PAGE_FILE = "compare.html"


def render_comparison(
    found: Comparison, name: str, command: str = "", *, home: str = "", side: Table | None = None
) -> str:
    """Render a comparison as one page of HTML that needs no network.

    Parameters
    ----------
    found : Comparison
        What it shows.
    name : str
        Title.
    command : str
        The command line that made it.
    home : str
        Address of a page that lists runs, to link to; none if empty.
    side : Table or None
        More of the runs, side by side.
    """
    similarity, left_out = similarity_charts(found)
    parts: dict[str, Any] = {
        "name": name,
        "home": home,
        "side": side,
        "command": command,
        "did": _did(found, side),
        "notes": found.notes,
        "runs": _runs(found) if len(found.runs) else None,
        "units": _units(found),
        "dice": dice_chart(found),
        "scatter": scatter_charts(found),
        "depth": depth_chart(found),
        "depth_pairs": _depth(found),
        "similarity": similarity,
        "left_out": left_out,
        "summary": _summary(found),
        "permutations": found.options.permutations,
        "version": package_versions(["onnxloc"])["onnxloc"],
    }
    return render_template("compare.html", parts)


def write_comparison_page(folder: Path, found: Comparison, name: str, command: str = "") -> None:
    """Write ``compare.html`` into a folder; parameters are those of `render_comparison`."""
    text = render_comparison(found, name, command)
    # Half a surrogate pair may stand in a file's name, and is no text.
    (folder / PAGE_FILE).write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _did(found: Comparison, side: Table | None) -> str:
    if side is not None:
        beside = f"{count(len(side.columns) - 1, 'run')} side by side"
        return f"{beside}, {len(found.runs)} of them unit by unit."
    return f"{count(len(found.runs), 'run')} compared in {count(len(found.pairs), 'pair')}."


def _known(value: Any) -> Any:
    """The value, or None for what pandas puts where there is none."""
    return None if value is None or value != value else value


def _runs(found: Comparison) -> Table:
    rows = []
    for row in found.runs.to_dict("records"):
        blocks = _known(row["blocks"])
        rows.append(
            (
                cell(row["run"]),
                cell(row["model"]),
                cell(_known(row["framework"]) or "–"),
                cell(integer(None if blocks is None else int(blocks))),
                cell(integer(row["units"])),
                cell(integer(row["chosen"])),
                cell("yes" if row["activations"] else "no"),
                cell(row["model_hash"][:12]),
                cell((_known(row["stimuli_hash"]) or "–")[:12]),
            )
        )
    words = ("Run", "Model", "Source")
    numeric = ("Blocks", "Units", "Network")
    rest = ("Activations", "Model hash", "Stimuli hash")
    return Table(
        "The runs",
        (
            *(Column(word, numeric=False) for word in words),
            *map(Column, numeric),
            *(Column(word, numeric=False) for word in rest),
        ),
        tuple(rows),
    )


def _pairs(found: Comparison) -> list[dict[str, Any]]:
    return [
        {str(key): _known(value) for key, value in row.items()}
        for row in found.pairs.to_dict("records")
    ]


def _pair(row: dict[str, Any]) -> str:
    return f"{row['a']} – {row['b']}"


def _units(found: Comparison) -> Table | None:
    rows = [
        (
            cell(_pair(row)),
            cell(integer(int(row["units"]))),
            cell(number(row["pearson"], 6)),
            cell(number(row["spearman"], 6)),
            cell(number(row["largest_t_difference"])),
            cell(f"{row['largest_site']}, {int(row['largest_unit'])}"
                 if row["largest_site"] else "–"),
            cell(score(row["dice"])),
            cell(f"{score(row['dice_chance'])} ({score(row['dice_low'])} to "
                 f"{score(row['dice_high'])})"),
            cell(probability(row["dice_p"])),
        )
        for row in _pairs(found)
        if row["sites"]
    ]  # fmt: skip
    heads = ("Units", "Pearson", "Spearman", "Largest |Δt|", "At site, unit", "Dice", "By chance",
             "p of Dice")  # fmt: skip
    columns = (Column("Runs", numeric=False), *map(Column, heads))
    return Table("Agreement of t and of the networks", columns, tuple(rows)) if rows else None


def _depth(found: Comparison) -> Table | None:
    rows = tuple(
        (
            cell(_pair(row)),
            cell(score(row["depth_distance"])),
            cell(probability(row["depth_p"])),
        )
        for row in _pairs(found)
        if row["depth_distance"] is not None
    )
    columns = (Column("Runs", numeric=False), Column("Distance"), Column("p"))
    return Table("Distance of the networks in relative depth", columns, rows) if rows else None


def _summary(found: Comparison) -> Table | None:
    names = ("cka_same_site", "cka_debiased_same_site", "rsa_same_site", "cka_debiased_best",
             "best_depth_spearman")  # fmt: skip
    rows = tuple(
        (cell(_pair(row)), *(cell(score(row[name])) for name in names))
        for row in _pairs(found)
        if row["cka_debiased_best"] is not None
    )
    heads = ("CKA, same site", "Debiased CKA, same site", "RSA, same site",
             "Debiased CKA, best site", "Rank correlation of depths")  # fmt: skip
    columns = (Column("Runs", numeric=False), *map(Column, heads))
    return Table("Similarity of representations, means over sites", columns, rows) if rows else None
