"""Generating with a KV cache: with an edit at every block's output against without edits."""

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from side_by_side import (
    RECIPE,
    Side,
    Times,
    arguments,
    in_turns,
    in_worker,
    machine,
    ratio_table,
    rounds,
    timed,
    times_table,
)

if TYPE_CHECKING:
    from onnxloc.runtime.model import Model

PROMPT = "Once upon a time, in a small town by the sea, there lived"
PLAIN = "no edits in the graph"
IDLE = "edits in the graph, none used"
EDITED = "a hundredth of the units set to zero"
# Tokens per second with edits, against without: at least 0.95.
BAR = 1 / 0.95


def model_with_past(folder: Path) -> "Model":
    from onnxloc_exporters.gguf_ import GGUFExporter

    from onnxloc.download import Digest, Source, get_file
    from onnxloc.recipes import home, load_recipe
    from onnxloc.runtime.model import Model

    recipe = load_recipe(RECIPE)
    source = get_file(
        Source.parse(recipe.source),
        home() / "downloads",
        file=Digest(recipe.sha256, recipe.size),
        archive=Digest(recipe.archive_sha256, recipe.archive_size),
        report=lambda *_: None,
    )
    return Model.open(GGUFExporter(with_past=True).export(source, folder / "past"))


def worker(threads: int, folder: Path, rows: int, tokens: int, repeats: int) -> Times:
    import numpy as np

    from onnxloc.graph.plan import Edit
    from onnxloc.runtime.generate import Sampling, generate, generation_plan
    from onnxloc.runtime.model import Model
    from onnxloc.runtime.providers import RuntimeOptions

    model = Model.open(folder / "past")
    sites = model.sites.match(["block.*.out"])
    sessions = [
        model.compile(generation_plan(model, edits), RuntimeOptions(threads=threads))
        for edits in ((), [Edit(site.tensor) for site in sites])
    ]
    prompts = model.encode([PROMPT], bos=False) * rows
    mask = np.zeros((1, 1, 576), dtype=bool)
    mask[..., ::100] = True
    zero = np.zeros((1, 1, 576), dtype=np.float32)
    edits = {site.tensor: (mask, zero) for site in sites}

    def side(session: Any, edits: Any) -> Side:
        sampling = Sampling(max_new_tokens=tokens)
        return timed(lambda: generate(session, prompts, sampling, edits=edits))

    sides = {
        PLAIN: side(sessions[0], None),
        IDLE: side(sessions[1], None),
        EDITED: side(sessions[1], edits),
    }
    return in_turns(sides, repeats)


def main() -> None:
    parser = arguments(__doc__ or "", repeats=9)
    parser.add_argument("--tokens", type=int, default=48, help="new tokens")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="rows of the batch")
    parser.add_argument("--folder", type=Path, help="where the model is kept")
    options = parser.parse_args()
    tokens = 16 if options.quick else options.tokens
    if options.worker:
        (rows,) = options.rows
        times = worker(options.worker, options.folder, rows, tokens, rounds(options))
        print(json.dumps(times))
        return
    print(f"# {__doc__}\n\n{machine()}\n\n{tokens} new tokens behind {PROMPT!r}\n")
    with tempfile.TemporaryDirectory() as folder:
        model_with_past(Path(folder))
        for threads in options.threads:
            for rows in options.rows:
                more = [*sys.argv[1:], "--folder", folder, "--rows", str(rows)]
                times = in_worker(__file__, threads, more, threads)
                bars = [(IDLE, PLAIN, BAR), (EDITED, PLAIN, BAR)]
                print(f"## {threads} thread(s), {rows} row(s)\n\n{times_table(times)}\n")
                for name, values in times.items():
                    print(f"- {name}: {rows * tokens / median(values):.1f} tokens per second")
                print(f"\nSeconds, so less is better:\n\n{ratio_table(times, bars)}\n", flush=True)


if __name__ == "__main__":
    main()
