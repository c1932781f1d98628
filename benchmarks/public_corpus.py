"""The public corpus: every site of every model read and edited, as a Markdown page."""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from corpus.case import Case  # noqa: E402
from corpus.large import write_large  # noqa: E402
from corpus.light import light_cases, light_names  # noqa: E402
from corpus.node_cases import exported_cases, node_cases  # noqa: E402
from corpus.synthetic import sparse_case, synthetic_cases  # noqa: E402
from corpus.verdict import Verdict, examine  # noqa: E402
from corpus.wheels import wheel_cases  # noqa: E402

PARTS = ("node", "exported", "light", "wheel", "synthetic")
COLUMNS = (
    "part", "models", "run by onnxruntime", "all sites read", "no edit fed", "passed", "refused",
    "failed", "sites", "changed one by one", "of which show",
)  # fmt: skip


def cases(part: str, folder: Path) -> Iterator[Case]:
    if part == "node":
        yield from node_cases()
    elif part == "exported":
        yield from exported_cases()
    elif part == "wheel":
        yield from wheel_cases()
    elif part == "light":
        for name in light_names():
            yield from light_cases(folder, [name])
            shutil.rmtree(folder / name)
    else:
        yield from synthetic_cases()
        yield sparse_case(folder)


def row(part: str, found: list[Verdict]) -> str:
    run = [one for one in found if one.outcome != "excluded"]
    count = Counter(one.outcome for one in run)
    cells = [
        part, len(found), len(run), sum(one.exposed for one in run), sum(one.kept for one in run),
        f"{count['passed']} ({count['passed'] / max(len(run), 1):.2%})", count["refused"],
        count["failed"], sum(one.sites for one in run), sum(one.tried for one in run),
        sum(one.changed for one in run),
    ]  # fmt: skip
    return line(cells)


def line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def memory() -> str:
    with tempfile.TemporaryDirectory() as name:
        path = write_large(Path(name), 3)
        done = subprocess.run(
            [sys.executable, str(TESTS / "corpus" / "large.py"), str(path)],
            capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(TESTS), "PATH": ""},
        )  # fmt: skip
        steps = json.loads(done.stdout)
    rows = [(step, *(f"{steps[step][k]:.0f}" for k in ("peak", "private"))) for step in steps]
    head = ["| after | peak resident, MB | private, MB |", "|---|---|---|"]
    return "\n".join([*head, *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    found: dict[str, list[Verdict]] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for part in options.parts:
            found[part] = [examine(case, Path(name)) for case in cases(part, Path(name))]
            print(f"{part}: {len(found[part])} models", file=sys.stderr)
    seconds = time.perf_counter() - start
    packages = ", ".join(f"{p} {version(p)}" for p in ("onnx", "onnxruntime", "numpy"))
    print(
        f"{packages}, Python {platform.python_version()}, {platform.machine()}; {seconds:.0f} s\n"
    )
    print(line(COLUMNS), "|" + "---|" * len(COLUMNS), sep="\n")
    everything = [one for verdicts in found.values() for one in verdicts]
    for part, verdicts in [*found.items(), ("all", everything)]:
        print(row(part, verdicts))
    for outcome, title in (("failed", "Failed"), ("refused", "Refused")):
        some = [one for one in everything if one.outcome == outcome]
        lines = [f"- `{one.name}`: {plain(one.reason)}" for one in some]
        print(f"\n### {title}\n\n" + ("\n".join(lines) or "None."))
    print("\n### Sites that onnxloc says that it cannot read\n")
    unread = [one for one in everything if one.unread]
    print("\n".join(f"- `{one.name}`: {one.unread} of {one.sites}" for one in unread) or "None.")
    print("\n### Models in which no change of a site showed\n")
    silent = [one for one in everything if one.tried and not one.changed]
    print("\n".join(f"- `{one.name}`: sites {one.sites}" for one in silent) or "None.")
    print("\n### Left out: onnxruntime does not run them, or not to the outputs expected\n")
    reasons: dict[str, list[str]] = {}
    for one in everything:
        if one.outcome == "excluded":
            reasons.setdefault(plain(one.reason)[:110], []).append(one.name)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"- {len(names)}: {reason}  \n  {', '.join(f'`{name}`' for name in names)}")
    print(f"\n## Memory of a model of 3 GB\n\n{memory()}")


if __name__ == "__main__":
    main()
