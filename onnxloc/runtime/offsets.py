"""Where in a text its tokens stand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxloc.runtime.model import Model

__all__ = ["token_offsets"]


def token_offsets(model: Model, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Where each token of each text begins and ends, in characters: ``[tokens, 2]`` each.

    The tokens are those of `Model.encode_scored` behind its prefix token; that says what is wrong
    with a text that has none.
    """
    encoded = model.bundle.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array(one.offsets, dtype=np.int64).reshape(-1, 2) for one in encoded]
