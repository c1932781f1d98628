"""From a torch module to ``model.onnx`` with one file of weights beside it."""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from onnxloc_exporters.hf_source import quiet
from transformers import masking_utils

from onnxloc.bundle import MODEL_FILE
from onnxloc.errors import ExportError
from onnxloc.registry import one_line

__all__ = ["TextModule", "write_graph"]

SCOPES = "pkg.torch.onnx.name_scopes"
MaskFunction = Callable[..., torch.Tensor]


class TextModule(torch.nn.Module):
    """A model of transformers as a function of tensors that gives one tensor.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : sequence of str
        The model's arguments, in the order in which they are given.
    output : str
        Which of the model's outputs is given: "logits" or "last_hidden_state".
    """

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str], output: str) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.output = output
        # Encoders have no such option.
        cached = "use_cache" in inspect.signature(model.forward).parameters
        self.options: dict[str, bool] = {"use_cache": False} if cached else {}

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, features]``, or ``[batch, classes]``."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if "decoder_input_ids" in given:
            # Some decoders make one of the wrong length while they are traced.
            given["decoder_attention_mask"] = torch.ones_like(given["decoder_input_ids"])
        value: torch.Tensor = self.model(**given, **self.options)[self.output]
        return value


def write_graph(
    module: torch.nn.Module,
    examples: Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    axes: Sequence[Mapping[int, str]],
    folder: Path,
    *,
    inputs: Sequence[str],
    output: str,
) -> int:
    """Export a module by ``torch.onnx.export(dynamo=True)``.

    Of the metadata of nodes only ``pkg.torch.onnx.name_scopes`` is kept: the others hold paths of
    the machine and are many times as long as the graph.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    examples : sequence or mapping of tensors
        What the module is traced with: positional arguments, or arguments by name. An axis that
        varies must have 2 elements or more there.
    axes : sequence of mapping of int to str
        For each example, the axes that vary, with a name for each size.
    folder : Path
        Gets ``model.onnx`` and ``model.onnx.data``.
    inputs, output : sequence of str, str
        Names of the graph's inputs and its first output.

    Returns
    -------
    int
        Version of the default operator set.

    Raises
    ------
    ExportError
        If torch cannot trace the module, or not with those axes.
    """
    named = isinstance(examples, Mapping)
    shapes: Any = (
        dict(zip(examples, axes, strict=True)) if isinstance(examples, Mapping) else tuple(axes)
    )
    if isinstance(module, TextModule):
        # The arguments of ``forward(*tensors)`` are one tuple.
        shapes = (shapes,)
    try:
        with quiet(), torch.no_grad(), _masks_by_broadcasting():
            program = torch.onnx.export(
                module,
                args=() if named else tuple(examples),
                kwargs=dict(examples) if isinstance(examples, Mapping) else None,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # tracing runs the module, which may raise anything
        cause = error.__cause__ or error
        raise ExportError(f"torch cannot export the model: {one_line(cause)}") from error
    if program is None:
        raise ExportError("torch.onnx.export gave no graph; install torch 2.9 or newer")
    from onnx_ir.traversal import RecursiveGraphIterator

    graphs: list[Any] = [program.model.graph, *program.model.functions.values()]
    for graph in graphs:
        for node in RecursiveGraphIterator(graph):
            scopes = node.metadata_props.get(SCOPES)
            node.metadata_props.clear()
            if scopes:
                node.metadata_props[SCOPES] = repr(_scopes(scopes, isinstance(module, TextModule)))
    program.save(folder / MODEL_FILE, external_data=True)
    return int(program.model.opset_imports[""])


def _scopes(text: str, wrapped: bool) -> list[str]:
    """The modules around a node and the node, as they are called from the model itself."""
    names = [str(name) for name in ast.literal_eval(text)]
    if not wrapped:
        return names
    return [name.removeprefix("model").removeprefix(".") for name in names[1:-1]] + names[-1:]


@contextmanager
def _masks_by_broadcasting() -> Iterator[None]:
    """Let transformers build its attention masks with operators that can be exported.

    Its own way maps a function over every element (``torch.vmap``), which cannot be traced. The
    functions it maps are made of comparisons and lookups, which broadcast as well.
    """
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    masks["eager"] = _broadcast_mask
    try:
        yield
    finally:
        del masks["eager"]  # type: ignore[no-untyped-call]


def _broadcast_mask(
    batch_size: int,
    cache_position: torch.Tensor,
    kv_length: int,
    kv_offset: int = 0,
    *,
    mask_function: MaskFunction,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    **_: Any,
) -> torch.Tensor:
    """``[batch, 1, queries, keys]``: 0 where a query sees a key, the least number elsewhere."""
    batch = torch.arange(batch_size)[:, None, None, None]
    head = torch.zeros((1, 1, 1, 1), dtype=torch.int64)
    query = cache_position[None, None, :, None]
    key = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    seen = mask_function(batch, head, query, key)
    if attention_mask is not None:
        # An argument of its own, so that no lookup by index is needed.
        seen = seen & attention_mask[:, None, None, :].bool()
    least = torch.full((), torch.finfo(dtype).min, dtype=dtype)
    mask = torch.where(seen, torch.zeros((), dtype=dtype), least)
    return mask.expand(batch_size, 1, -1, -1)
