"""``onnxloc fetch``."""

from pathlib import Path
from typing import Any

import click

from onnxloc.cli.common import (
    force_option,
    json_option,
    output_option,
    print_json,
    printable,
    table,
)
from onnxloc.cli.completers import recipe_names


@click.command("fetch")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=recipe_names)
@output_option("Where the bundle goes. Default: the user's cache (ONNXLOC_HOME overrides).")
@force_option
@json_option
def command(name: str | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Fetch the model NAME and turn it into a bundle; without NAME, list what there is.

    NAME is one of that list, or the path of a recipe's TOML file.

    \b
    Examples:
      onnxloc fetch
      onnxloc fetch smollm2-135m
      onnxloc fetch --json
    """  # noqa: D301
    from onnxloc.recipes import fetch

    if name is None:
        _list(as_json)
        return
    place = fetch(name, output, force=force)
    if as_json:
        print_json({"name": name, "bundle": str(place)})
    else:
        click.echo(printable(f"{name} is at {place}"))


def _list(as_json: bool) -> None:
    from onnxloc.recipes import home, load_recipe, recipes

    found: list[dict[str, Any]] = []
    for name in recipes():
        recipe, place = load_recipe(name), home() / "bundles" / name
        found.append(
            {
                "name": name,
                "bytes": recipe.archive_size or recipe.size,
                "licence": recipe.license,
                "bundle": str(place) if place.is_dir() else None,
                "description": recipe.description,
            }
        )
    if as_json:
        print_json(found)
        return
    rows = [
        [
            entry["name"],
            f"{entry['bytes'] / 1e6:,.0f} MB" if entry["bytes"] else "-",
            "yes" if entry["bundle"] else "no",
            entry["description"],
        ]
        for entry in found
    ]
    table(["model", "download", "fetched", "what"], rows, text_last=True)
