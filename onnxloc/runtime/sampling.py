"""Choosing the next token from the logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ModelError, OptionError

__all__ = ["Sampling", "next_tokens", "probabilities"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and how many there are.

    Attributes
    ----------
    max_new_tokens : int
        Tokens to generate for each prompt, at most.
    temperature : float
        What the logits are divided by; 0 takes the likeliest token (greedy).
    top_k : int
        Draw from so many likeliest tokens; 0 for all.
    top_p : float
        Draw from the fewest likeliest tokens that have at least this probability together.
    seed : int
        Of the random draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OptionError("the number of new tokens must be 1 or more")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise OptionError("the temperature must be 0 (greedy) or a positive number")
        if self.top_k < 0 or self.seed < 0:
            raise OptionError("top-k and the seed must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise OptionError("top-p must lie in (0, 1]")


def next_tokens(
    logits: NDArray[Any], sampling: Sampling, generators: Sequence[np.random.Generator]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The next token of each row, and its log-probability.

    Parameters
    ----------
    logits : ndarray, [rows, vocabulary]
        The scores of the next token.
    sampling : Sampling
        How to choose.
    generators : sequence of Generator
        One for each row; each row that is drawn takes one number from its own.

    Returns
    -------
    ids : ndarray of int64, [rows]
        Of several likeliest tokens, the one with the lowest id.
    logprobs : ndarray of float64, [rows]
        Under the model's own distribution, before temperature, top-k and top-p.

    Raises
    ------
    ModelError
        If the logits of a row hold NaN or plus infinity, or nothing finite.
    """
    wide = logits.astype(np.float64)
    highest = wide.max(axis=1)  # NaN if there is any in the row
    if not np.isfinite(highest).all():
        raise ModelError(
            "the model gave NaN or infinite logits for the next token; an edit may be too strong, "
            "or float16 too narrow for this model"
        )
    wide -= highest[:, None]
    if sampling.temperature:
        drawn = [
            rng.choice(wide.shape[1], p=probabilities(row, sampling))
            for row, rng in zip(wide, generators, strict=True)
        ]
        ids = np.array(drawn, dtype=np.int64)
    else:
        ids = wide.argmax(axis=1)
    chosen = np.take_along_axis(wide, ids[:, None], axis=1)[:, 0]
    return ids, chosen - np.log(np.exp(wide).sum(axis=1))


def probabilities(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """The distribution that a token is drawn from: temperature, then top-k, then top-p.

    Parameters
    ----------
    logits : ndarray of float64, [vocabulary]
        Scores of which the largest is finite.
    sampling : Sampling
        Its temperature is positive.

    Returns
    -------
    ndarray of float64, [vocabulary]
        It sums to 1. Where equal tokens stand on both sides of a bound, the lower ids are kept.
    """
    with np.errstate(over="ignore"):  # at a tiny temperature, far tokens go to minus infinity
        scores = (logits - logits.max()) / sampling.temperature
    # Logits rank the tokens: a great temperature rounds different weights to equal ones.
    kept = np.arange(scores.size)
    if 0 < sampling.top_k < scores.size:
        bound = np.partition(logits, -sampling.top_k)[-sampling.top_k]
        above = np.flatnonzero(logits > bound)
        level = np.flatnonzero(logits == bound)[: sampling.top_k - above.size]
        kept = np.sort(np.concatenate([above, level]))
    weights = np.exp(scores[kept])
    weights /= weights.sum()
    if sampling.top_p < 1:
        order = np.argsort(-logits[kept], kind="stable")
        before = np.concatenate([[0.0], np.cumsum(weights[order])[:-1]])
        order = np.sort(order[before < sampling.top_p])
        kept, weights = kept[order], weights[order] / weights[order].sum()
    full = np.zeros(scores.size)
    full[kept] = weights
    return full
