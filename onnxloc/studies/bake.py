"""Baking: a network's ablation as a model of its own, which any ONNX runtime runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxloc.bundle import BundleInfo
from onnxloc.errors import OptionError
from onnxloc.graph.bake import FixedEdit, bake
from onnxloc.graph.external import check_apart, set_note, write_bundle
from onnxloc.graph.load import read_model
from onnxloc.network import Network
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.tokens import Tokens
from onnxloc.studies.edit_values import PlannedEdit, TextForm, gather_facts
from onnxloc.studies.edits import Change, UnitEdit, as_edit
from onnxloc.studies.masks import unit_masks

__all__ = ["BakeOptions", "Baked", "bake_network"]

# Under this key a baked model says what it is, also without its bundle.json.
NOTE = "onnxloc.baked"


@dataclass(frozen=True, kw_only=True)
class BakeOptions:
    """What is built in.

    Attributes
    ----------
    replacement : str or UnitEdit
        What becomes of a unit of the network: "zero", "mean" (over all tokens of the given texts in
        the intact model), or another edit that is the same for every token; see `as_edit`.
    batch_size : int
        Rows run at a time for the means.
    """

    replacement: str | UnitEdit = "zero"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.edit.fixed:
            raise OptionError(
                f"{self.edit.name} differs from token to token and cannot be built in; zero, mean, "
                "force, scale and steer can"
            )
        if self.batch_size < 1:
            raise OptionError("the batch size must be 1 or more")

    @cached_property
    def edit(self) -> UnitEdit:
        """What becomes of a unit."""
        return as_edit(self.replacement)


@dataclass(frozen=True)
class Baked:
    """What was built in: how many units, in how many sites."""

    units: int
    sites: int


def bake_network(
    model: Model,
    network: Network,
    path: Path,
    options: BakeOptions | None = None,
    runtime: RuntimeOptions | None = None,
    *,
    texts: Sequence[str] = (),
    force_model: bool = False,
    force: bool = False,
    show_progress: bool = False,
) -> Baked:
    """Write a bundle in whose model the network's units are edited at every token.

    The model's inputs and outputs stay as they are. Its external data is copied, not linked: a
    change of one file must never reach the other model.

    Parameters
    ----------
    model : Model
        The model.
    network : Network
        The units to edit.
    path : Path
        The bundle to write.
    options : BakeOptions, optional
        What becomes of them.
    runtime : RuntimeOptions, optional
        Provider and threads for the means.
    texts : sequence of str
        What the means are taken over, each behind a prefix token, as `ablate` does; needed for
        "mean" only.
    force_model : bool
        Use a network of another model.
    force : bool
        Replace a bundle that stands at `path`.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the network and the texts do not go together, or the bundle
        cannot be written.
    """
    options = options or BakeOptions()
    check_apart(model.bundle, path)
    network.check_model(model.graph.hash, force_model)
    masks = unit_masks(model, [network])
    edit = options.edit
    planned = PlannedEdit(edit, Tokens(), tuple(masks), network.sites)
    if edit.needs and not (texts or edit.measured_on):
        raise OptionError("means need texts to be taken over")
    (facts,) = gather_facts(
        model,
        [planned],
        TextForm(model.encode_scored, 1),
        runtime or RuntimeOptions(),
        sequences=model.encode_scored(list(texts)) if edit.needs else (),
        batch_size=options.batch_size,
        show_progress=show_progress,
    )
    edits = {
        site.tensor: _fixed(mask[0, 0], edit.change(site, facts, None, planned.tokens))
        for site, mask in masks.items()
    }
    proto = bake(model.graph, model.sites, edits)
    # Loading drops inputs that have a default value, and completes the outputs' shapes.
    original = read_model(model.bundle.model_path).graph
    del proto.graph.input[:], proto.graph.output[:]
    proto.graph.input.extend(original.input)
    proto.graph.output.extend(original.output)
    set_note(proto, NOTE, f"{network.size} units {edit.said}")
    write_bundle(
        model.bundle,
        proto,
        path,
        _info(model, network, edit),
        force=force,
        show_progress=show_progress,
    )
    return Baked(int(sum(edit.mask.sum() for edit in edits.values())), len(edits))


def _fixed(mask: NDArray[np.bool_], change: Change) -> FixedEdit:
    scale = None if change.scale is None else change.scale.reshape(-1)
    return FixedEdit(mask, change.shift.reshape(-1), scale)


def _info(model: Model, network: Network, edit: UnitEdit) -> BundleInfo:
    info = model.bundle.info
    return replace(
        info,
        name=f"{info.name}-{edit.name}",
        exporter="bake",
        versions={name: version(name) for name in ("onnxloc", "numpy", "onnx")},
        source=f"{info.name}, {network.size} units {edit.said}",
        source_sha256=model.graph.hash,
        opset=model.graph.opset,
    )
