"""What the models share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flax import nnx

__all__ = ["FLOOR", "Params", "Program", "causal", "example_inputs", "fill"]

Params = Mapping[str, Any]
Program = tuple[Callable[..., Array], Params | None, Mapping[str, Any]]
M = TypeVar("M", bound="nnx.Module")

# The score of a key that may not be seen. Finite: a query that sees no key gets even weights, and
# not NaN.
FLOOR = -65504.0


def example_inputs() -> dict[str, NDArray[np.int32]]:
    """Two texts of five tokens: only their names, shapes and types matter."""
    shape = (2, 5)
    return {"input_ids": np.zeros(shape, np.int32), "attention_mask": np.ones(shape, np.int32)}


def causal(attention_mask: Array) -> tuple[Array, Array]:
    """Each token's position ``[T]``, and which keys each query may see, bool ``[B, 1, T, T]``."""
    # jnp.arange needs a length that is known when the function is traced; iota does not.
    places = jax.lax.iota(jnp.int32, attention_mask.shape[1])
    return places, (places <= places[:, None]) & attention_mask[:, None, None, :].astype(bool)


def fill(make: Callable[[], M], params: Params) -> M:
    """A Flax NNX module with the parameters given; initial values are never made.

    Parameters
    ----------
    make
        Makes the module.
    params
        Nested dictionaries with the names of the module's attributes, and lists where it has lists.
    """
    from flax import nnx

    graph, state = nnx.split(nnx.eval_shape(make))
    nnx.replace_by_pure_dict(state, _numbered(params))
    return nnx.merge(graph, state)


def _numbered(params: Any) -> Any:
    """Lists as dictionaries by position, which is how a module's state has them."""
    if isinstance(params, Mapping):
        return {key: _numbered(value) for key, value in params.items()}
    return dict(enumerate(map(_numbered, params))) if isinstance(params, list) else params
