"""The same edits made by hooks in torch, token by token, as a reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from helpers.torch_models import TorchModel

__all__ = ["Hooked", "run_hooked"]


@dataclass(frozen=True)
class Hooked:
    """What is done to some units of a site, in one row, at some tokens.

    `change` gets ``[tokens, units]`` and gives the same.
    """

    site: str
    row: int
    tokens: Sequence[int]
    units: Sequence[int] | slice
    change: Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def run_hooked(
    made: TorchModel, ids: np.ndarray, mask: np.ndarray, edits: Sequence[Hooked]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every named part behind the edits, and the logits, of a padded batch."""

    def edited(value: torch.Tensor, site: str) -> torch.Tensor:
        value = value.clone()
        flat = value.reshape(*ids.shape, -1)
        for edit in edits:
            if edit.site == site:
                tokens = list(edit.tokens)
                some = flat[edit.row, tokens]
                some[:, edit.units] = edit.change(some[:, edit.units])
                flat[edit.row, tokens] = some
        return value

    handles = []
    for site in {edit.site for edit in edits}:
        path, side = made.parts[site]
        module = made.module.model.get_submodule(path)
        if side == "in":

            def before(_m, args, site=site):
                return (edited(args[0], site), *args[1:])

            handles.append(module.register_forward_pre_hook(before))
        else:

            def behind(_m, _args, out, site=site):
                if isinstance(out, tuple):
                    return (edited(out[0], site), *out[1:])
                return edited(out, site)

            handles.append(module.register_forward_hook(behind))
    try:
        # The hooks that read are put on behind those that edit, and so see what they did.
        seen = made.values(ids, mask)
        return seen, seen["logits"]
    finally:
        for handle in handles:
            handle.remove()
