"""A JAX model as the exporter sees it: a function of named parameters and named inputs.

A user's function returns ``(apply, params, inputs)``, in the forms that JAX, Flax NNX, Flax Linen
and Equinox call for; here they become one.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import ExportError
from onnxloc.registry import one_line

__all__ = ["JaxProgram", "read_program"]

FORM = "(apply, params, example inputs)"
# What Flax calls the array in a variable.
WRAPPERS = {"value", "raw_value"}


@dataclass(frozen=True)
class JaxProgram:
    """A function of parameters and inputs.

    Attributes
    ----------
    function : callable
        Takes all parameters in the order of `names`, then all inputs; gives the output, or any tree
        of outputs.
    names : tuple of str
        The parameters by their paths, as ``block.3.mlp.up.kernel``.
    params : tuple of array
        Their values.
    inputs : mapping of str to array
        An example of each input.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    params: tuple[Any, ...]
    inputs: Mapping[str, NDArray[Any]]

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The function, compiled by JAX."""
        import jax

        return jax.jit(self.function)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The first output for some inputs, with products in full float32.

        Raises
        ------
        ExportError
            If the function fails at their sizes.
        """
        import jax

        try:
            with jax.default_matmul_precision("highest"):
                outputs = self.compiled(*self.params, *(inputs[name] for name in self.inputs))
        except Exception as error:  # a user's function may raise anything
            sizes = ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
            raise ExportError(
                f"apply takes its examples but not {sizes}: {one_line(error)}; say with --dynamic "
                "which axes vary"
            ) from error
        return np.asarray(jax.tree.leaves(outputs)[0])


def read_program(made: object, where: str) -> JaxProgram:
    """Understand what a user's function returned.

    `apply` is called as ``apply(params, *inputs)``. It may also be a Flax NNX or Equinox module
    that holds its parameters, with None for `params`; then it is called as ``module(*inputs)``.
    `params` may itself be such a module. The inputs are a dictionary by name, then passed by
    keyword, or a sequence, then passed in order and named after the parameters of `apply`.

    Parameters
    ----------
    made
        What was returned.
    where : str
        The function's name, for messages.

    Raises
    ------
    ExportError
        If it has another form.
    """
    if not isinstance(made, tuple) or len(made) != 3:
        raise ExportError(f"{where} must return {FORM}, not {_described(made)}")
    apply, params, examples = made
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(apply, linen.Module):
        apply = apply.apply
    if not callable(apply):
        raise ExportError(f"{where}: {FORM}: apply must be callable, not {_described(apply)}")
    inputs, by_name = _inputs(examples, apply, skip=0 if params is None else 1, where=where)
    if params is None:
        module = apply

        def call(model: Any, *given: Any, **named: Any) -> Any:
            return model(*given, **named)
    else:
        module, call = params, apply
    names, leaves, rebuild = _parts(module, where)
    taken = sorted(set(names) & set(inputs))
    if taken:
        raise ExportError(f"{where}: {taken[0]!r} is an input and a parameter; rename one of them")
    if not leaves:
        raise ExportError(
            f"{where}: there are no arrays in the parameters; return them as params, or a Flax NNX "
            "or Equinox module that holds them as apply"
        )

    def function(*arrays: Any) -> Any:
        model, given = rebuild(arrays[: len(names)]), arrays[len(names) :]
        if by_name:
            return call(model, **dict(zip(inputs, given, strict=True)))
        return call(model, *given)

    return JaxProgram(function, names, leaves, inputs)


def _parts(module: Any, where: str) -> tuple[tuple[str, ...], tuple[Any, ...], Callable[..., Any]]:
    """Names and values of a tree's arrays, and what builds the tree of such values."""
    import jax

    tree: Any = module
    finish: Callable[[Any], Any] = lambda state: state  # noqa: E731
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(module, nnx.Module):
        graph, tree = nnx.split(module)
        finish = lambda state: nnx.merge(graph, state)  # noqa: E731
    pairs, shape = jax.tree_util.tree_flatten_with_path(tree)
    chosen = [i for i, (_, leaf) in enumerate(pairs) if _is_array(leaf)]
    fixed = [None if i in set(chosen) else leaf for i, (_, leaf) in enumerate(pairs)]
    names = tuple(_name(pairs[i][0], i) for i in chosen)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ExportError(f"{where}: two parameters have the name {twice!r}; rename one of them")

    def rebuild(values: Sequence[Any]) -> Any:
        leaves = list(fixed)
        for i, value in zip(chosen, values, strict=True):
            leaves[i] = value
        return finish(jax.tree.unflatten(shape, leaves))

    return names, tuple(pairs[i][1] for i in chosen), rebuild


def _is_array(leaf: object) -> bool:
    """Whether a leaf is an array of numbers: no setting, and no key for random numbers."""
    import jax

    if isinstance(leaf, jax.Array):
        return not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.extended)
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"


def _name(path: Sequence[Any], index: int) -> str:
    words = []
    for key in path:
        word = next((getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a)), key)
        words.append("".join(c if c.isprintable() and c != "/" else "_" for c in str(word)))
    if len(words) > 1 and words[-1] in WRAPPERS:
        words.pop()
    return ".".join(words) or f"param_{index}"


def _inputs(
    examples: Any, apply: Callable[..., Any], *, skip: int, where: str
) -> tuple[dict[str, NDArray[Any]], bool]:
    by_name = isinstance(examples, Mapping)
    if not by_name and not isinstance(examples, Sequence):
        raise ExportError(
            f"{where}: {FORM}: the example inputs must be a dictionary or a sequence of arrays, "
            f"not {_described(examples)}"
        )
    if by_name:
        named = dict(examples)
    else:
        named = dict(zip(_argument_names(apply, skip, len(examples)), examples, strict=True))
    if not named:
        raise ExportError(f"{where}: {FORM}: there are no example inputs")
    found = {}
    for name, value in named.items():
        array = np.asarray(value)
        if not isinstance(name, str) or not name or array.dtype.kind not in "biuf":
            raise ExportError(
                f"{where}: {FORM}: the example input {name!r:.60} must be an array of numbers, not "
                f"{_described(value)}"
            )
        found[name] = array
    return found, by_name


def _argument_names(apply: Callable[..., Any], skip: int, count: int) -> list[str]:
    """Names of the positional arguments behind the parameters; invented where there are none."""
    linen, owner = sys.modules.get("flax.linen"), getattr(apply, "__self__", None)
    if linen is not None and isinstance(owner, linen.Module):
        apply, skip = owner.__call__, 0
    try:
        arguments = list(inspect.signature(apply).parameters.values())
    except (TypeError, ValueError):
        arguments = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in arguments if each.kind in plain][skip:][:count]
    return [*names, *(f"input_{i}" for i in range(len(names), count))]


def _described(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
