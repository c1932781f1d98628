"""Bundles of torch modules that a user's function makes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnxloc_exporters.bfloat16 import store_as_bfloat16
from onnxloc_exporters.hf_source import computing, versions
from onnxloc_exporters.parity import TOLERANCES, ArrayCase, measure_arrays, settle
from onnxloc_exporters.torch_graph import write_graph
from onnxloc_exporters.user_function import call_function

from onnxloc.bundle import TOKENIZER_FILE, Bundle, BundleInfo, checkpoint_info
from onnxloc.errors import BundleError, ExportError
from onnxloc.registry import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxloc_exporters.torch_ import TorchExporter

__all__ = ["export_function"]

NAMES = ("batch", "tokens")
# Rows of the batches that parity is measured on.
ROWS = (1, 3, 16)


@dataclass(frozen=True, eq=False)
class _Made:
    """A module, its example inputs by name, and the axes of each that vary."""

    module: torch.nn.Module
    examples: Mapping[str, torch.Tensor]
    by_name: bool
    axes: Mapping[str, Mapping[int, str]]

    @torch.no_grad()
    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The module's first output."""
        given = {
            name: torch.from_numpy(value).to(self.examples[name].dtype)
            for name, value in feeds.items()
        }
        try:
            out = self.module(**given) if self.by_name else self.module(*given.values())
        except Exception as error:  # a user's module may raise anything
            raise ExportError(f"the module itself fails: {one_line(error)}") from error
        while not isinstance(out, torch.Tensor):
            if isinstance(out, Mapping):
                out = next(iter(out.values()))
            elif isinstance(out, Sequence) and out:
                out = out[0]
            else:
                raise ExportError(f"the module gives {type(out).__name__}, not a tensor")
        return np.asarray(out.float() if out.is_floating_point() else out)


def export_function(
    exporter: TorchExporter, source: str, output: Path, *, force: bool, name: str | None
) -> Path:
    """Call ``module:function`` and write a bundle of the torch module that it returns.

    Parameters and errors are those of `TorchExporter.export`.
    """
    made = _make(exporter, source)
    # What fails by itself is better said so than by what tracing makes of it.
    made({name: value.numpy() for name, value in made.examples.items()})
    with Bundle.writing(output, force=force) as staging:
        info = BundleInfo(name=source.partition(":")[2])
        if exporter.tokenizer is not None:
            info = _with_tokenizer(exporter.tokenizer, staging, info.name)
        opset = write_graph(
            made.module,
            made.examples if made.by_name else tuple(made.examples.values()),
            list(made.axes.values()),
            staging,
            inputs=list(made.examples),
            output="output",
        )
        if exporter.dtype == "bfloat16":
            store_as_bfloat16(staging)
        info = replace(
            info,
            name=name or info.name,
            framework="torch",
            exporter="torch",
            versions={"exporter": exporter.version} | versions("torch", "onnxscript", "onnx"),
            source=source,
            source_sha256=_weights_hash(made.module),
            architecture=type(made.module).__name__,
            dtype=exporter.dtype,
            opset=opset,
        )
        Bundle.describe(staging, info)
        parity = measure_arrays(
            staging,
            made,
            _cases(made),
            name=f"torch {info.versions['torch']}, {exporter.dtype}",
            tolerance=TOLERANCES[exporter.dtype],
        )
        settle(parity, allow_mismatch=exporter.allow_mismatch)
        Bundle.describe(staging, replace(info, parity=parity))
    return output


def _make(exporter: TorchExporter, source: str) -> _Made:
    given = call_function(source, *exporter.arguments)
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], torch.nn.Module):
        raise ExportError(f"{source} must return a torch.nn.Module and its example inputs")
    module, examples = given
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    by_name = isinstance(examples, Mapping)
    named = dict(examples) if by_name else dict(_named(module, examples))
    wrong = [key for key, value in named.items() if not isinstance(value, torch.Tensor)]
    if wrong or not named:
        raise ExportError(
            f"the example inputs of {source} must be tensors: one, a tuple, or a dict by name"
        )
    module, dtype = computing(module.eval(), exporter.dtype)
    return _Made(
        module,
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in named.items()},
        by_name,
        _axes(exporter.dynamic, named),
    )


def _named(module: torch.nn.Module, examples: Any) -> list[tuple[str, Any]]:
    """Positional inputs by the names of the arguments that take them."""
    if not isinstance(examples, tuple | list):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind in positional
    ]
    names += [f"input_{i}" for i in range(len(names), len(examples))]
    return list(zip(names, examples, strict=False))


def _axes(
    dynamic: Sequence[str], examples: Mapping[str, torch.Tensor]
) -> dict[str, dict[int, str]]:
    """The axes that vary, by default or as the user says, with a name for each size."""
    axes = {
        name: dict(enumerate(NAMES[: 1 if value.is_floating_point() else 2][: value.ndim]))
        for name, value in examples.items()
    }
    for entry in dynamic:
        name, _, numbers = entry.partition("=")
        if name not in axes:
            known = ", ".join(axes)
            raise ExportError(f"--dynamic {entry}: there is no input {name!r} (known: {known})")
        try:
            chosen = sorted({int(number) for number in numbers.split(",") if number})
        except ValueError as error:
            raise ExportError(f"--dynamic {entry} is not of the form name=0,1") from error
        if any(axis < 0 or axis >= examples[name].ndim for axis in chosen):
            raise ExportError(f"--dynamic {entry}: {name} has {examples[name].ndim} axes")
        axes[name] = {i: NAMES[i] if i < len(NAMES) else f"{name}_{i}" for i in chosen}
    for name, varying in axes.items():
        for axis in varying:
            if examples[name].shape[axis] < 2:
                raise ExportError(
                    f"axis {axis} of the example input {name!r} has "
                    f"{examples[name].shape[axis]} elements; an axis that varies needs 2 or more "
                    f"there (or --dynamic {name}= to fix all its axes)"
                )
    return axes


def _with_tokenizer(file: Path, folder: Path, name: str) -> BundleInfo:
    try:
        (folder / TOKENIZER_FILE).write_bytes(file.read_bytes())
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror}") from error
    try:
        info = checkpoint_info(file, file)
        # A tokenizer that cannot be read is of no use in a bundle.
        _ = Bundle(folder, file, folder / TOKENIZER_FILE, info).tokenizer
    except BundleError as error:
        raise ExportError(str(error)) from error
    return replace(info, name=name)


def _cases(made: _Made) -> list[ArrayCase]:
    """The example inputs, and the same with more and fewer rows, and with fewer tokens.

    Where an input holds the mask of real tokens, each is run with right padding too.
    """
    examples = {name: value.numpy() for name, value in made.examples.items()}
    tokens = max((examples[n].shape[1] for n, axes in made.axes.items() if 1 in axes), default=0)
    first = next(iter(examples.values()))
    cases = [ArrayCase(examples, len(first) if first.ndim else 1, tokens)]
    for rows in ROWS if all(0 in axes for axes in made.axes.values()) else ():
        for length in sorted({1, (tokens + 1) // 2, tokens}) if tokens else [0]:
            feeds = {
                name: _resized(value, made.axes[name], rows, length)
                for name, value in examples.items()
            }
            for case in (ArrayCase(feeds, rows, length), _padded(made, feeds, rows, length)):
                if case is not None and _runs(made, case):
                    cases.append(case)
    return cases


def _resized(value: NDArray[Any], axes: Mapping[int, str], rows: int, tokens: int) -> NDArray[Any]:
    if 1 in axes:
        value = value[:, :tokens]
    return np.resize(value, (rows, *value.shape[1:])) if 0 in axes else value


def _padded(
    made: _Made, feeds: Mapping[str, NDArray[Any]], rows: int, tokens: int
) -> ArrayCase | None:
    """The same batch with rows of every length, if the module takes a mask ``[rows, tokens]``."""
    masks = [name for name in feeds if "mask" in name and feeds[name].shape == (rows, tokens)]
    if min(rows, tokens) < 2 or len(masks) != 1 or not _runs(made, ArrayCase(feeds, rows, tokens)):
        return None
    if made(feeds).shape[:2] != (rows, tokens):
        return None
    lengths = np.linspace(tokens, 1, rows).round()
    real = np.arange(tokens)[None, :] < lengths[:, None]
    mask = {masks[0]: real.astype(feeds[masks[0]].dtype)}
    return ArrayCase({**feeds, **mask}, rows, tokens, real)


def _runs(made: _Made, case: ArrayCase) -> bool:
    """Whether the module takes inputs of that size at all; it may need a length, say."""
    try:
        made(case.feeds)
    except ExportError:
        return False
    return True


def _weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
