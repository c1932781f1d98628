"""Command lines in which all is well but for what a case changes."""

__all__ = ["ablate", "localize"]


def localize(*words, model="tiny", stimuli="stimuli.csv", out="out"):
    return ["localize", model, "--localizer", stimuli, "-o", out, *words]


def ablate(*words, model="tiny", network="fits.parquet", task="pairs.jsonl", out="out"):
    return ["ablate", model, "--network", network, "--task", task, "-o", out, *words]
