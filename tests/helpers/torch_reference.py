"""The model in its own framework, run in the plainest way, as the reference for onnxloc."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_ind
from transformers import LlamaForCausalLM

Floats = NDArray[np.floating[Any]]
# For each block, which units of its output are replaced, and by what.
Replaced = Mapping[int, tuple[NDArray[np.int64], Floats | float]]


@contextmanager
def reading(model: LlamaForCausalLM) -> Iterator[list[torch.Tensor]]:
    """Collect each block's output, block by block, while the model runs."""
    seen: list[torch.Tensor] = []

    def read(_module: torch.nn.Module, _args: object, out: torch.Tensor) -> None:
        # Some versions of the library give a tuple.
        seen.append((out if isinstance(out, torch.Tensor) else out[0]).detach().clone())

    handles = [block.register_forward_hook(read) for block in model.model.layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replacing(model: LlamaForCausalLM, replaced: Replaced) -> Iterator[None]:
    """Change units of the blocks' outputs, at every token, while the model runs."""

    def hook(units: NDArray[np.int64], values: Floats | float) -> Any:
        new = torch.tensor(np.asarray(values, dtype=np.float32))
        index = torch.tensor(units)

        def change(_module: torch.nn.Module, _args: object, out: torch.Tensor) -> torch.Tensor:
            assert isinstance(out, torch.Tensor)
            out = out.clone()
            out[..., index] = new
            return out

        return change

    handles = [
        model.model.layers[block].register_forward_hook(hook(*change))
        for block, change in replaced.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def forward(
    model: LlamaForCausalLM, ids: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Block outputs ``[blocks, batch, tokens, width]`` and logits of a padded batch."""
    with reading(model) as blocks:
        out = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            use_cache=False,
        )
    return torch.stack(blocks).numpy(), out.logits.numpy()


@torch.no_grad()
def target_logprobs(
    model: LlamaForCausalLM, sequence: Sequence[int], replaced: Replaced | None = None
) -> NDArray[np.float64]:
    """Log-probability of each token after the first, from the logits in float64."""
    ids = torch.tensor([list(sequence)])
    with replacing(model, replaced or {}):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    return logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy()


@torch.no_grad()
def responses(
    model: LlamaForCausalLM, sequences: Sequence[Sequence[int]]
) -> dict[str, NDArray[np.float64]]:
    """Each text alone through the model: for each pooling ``[texts, blocks * width]``."""
    last, mean = [], []
    for sequence in sequences:
        with reading(model) as blocks:
            model.model(input_ids=torch.tensor([list(sequence)]), use_cache=False)
        outputs = torch.cat(blocks).numpy().astype(np.float64)
        last.append(outputs[:, -1].ravel())
        mean.append(outputs.mean(axis=1).ravel())
    return {"last": np.array(last), "mean": np.array(mean)}


def choose(
    values: NDArray[np.float64], n_positive: int, *, percent: float, magnitude: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Welch's t of each unit, and the units with the largest, as arXiv 2411.02280 chooses them."""
    if magnitude:
        values = np.abs(values)
    positive, control = values[:n_positive], values[n_positive:]
    t = np.asarray(ttest_ind(positive, control, axis=0, equal_var=False).statistic)
    count = int(percent / 100 * t.size)
    return t, np.sort(np.argsort(t, kind="stable")[-count:])


def dice(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return 2 * np.intersect1d(a, b).size / (a.size + b.size)
