"""From edits to the numbers that a session is fed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import Edit, EditForm
from onnxloc.graph.sites import Site
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import EditValues
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.studies.edit_texts import Patch
from onnxloc.studies.edits import Change, Facts, UnitEdit
from onnxloc.studies.means import mean_activations, recorded, unit_deviations

__all__ = ["NetworkEdits", "PlannedEdit", "TextForm", "gather_facts", "joined", "operands"]

Array = NDArray[Any]
Operands = tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class TextForm:
    """How a study turns texts into tokens.

    Attributes
    ----------
    encode : callable
        Token ids of each text.
    front : int
        How many of them stand in front of each text: 1 for a BOS or prefix token, else 0.
    """

    encode: Callable[[list[str]], list[list[int]]]
    front: int

    def window(self, text: str | Sequence[int]) -> Window:
        """All tokens of a text, or of token ids, which stay as they are.

        Raises
        ------
        OptionError
            If there are none.
        """
        if isinstance(text, str):
            return Window.whole(self.encode([text]), front=self.front)
        ids = [int(token) for token in text]
        if not ids or min(ids) < 0:
            raise OptionError("token ids of a text are whole numbers, 0 or more, and at least one")
        return Window.whole([ids])


@dataclass(frozen=True, eq=False)
class PlannedEdit:
    """An edit, where it is to be done, and the sites that a network was searched in, if any.

    Attributes
    ----------
    edit, tokens, sites
        What is done, at which tokens, to units of which sites.
    span : mapping of str to int
        See `Facts`.

    Raises
    ------
    OptionError
        If tokens are chosen of a site that has none.
    """

    edit: UnitEdit
    tokens: Tokens
    sites: tuple[Site, ...]
    span: Mapping[str, int]

    @property
    def everywhere(self) -> bool:
        """Whether the same is done at every token of every text."""
        return self.edit.fixed and self.tokens.kind == "all"

    @property
    def plan_edits(self) -> tuple[Edit, ...]:
        """The plan's edits that it takes."""
        return tuple(Edit(site.tensor, self.edit.form) for site in self.sites)

    def __post_init__(self) -> None:
        for site in self.sites:
            if self.tokens.kind != "all" and not site.has_tokens:
                raise OptionError(f"{site.name} has no tokens to choose from; edit it at all")


def gather_facts(
    model: Model,
    planned: Sequence[PlannedEdit],
    form: TextForm,
    runtime: RuntimeOptions,
    *,
    sequences: Sequence[Sequence[int]] = (),
    skip: int = 1,
    batch_size: int,
    show_progress: bool = False,
) -> list[Facts]:
    """Measure in the intact model what edits need to know; what several need is measured once.

    Parameters
    ----------
    model : Model
        The model.
    planned : sequence of PlannedEdit
        The edits.
    form : TextForm
        How the texts that are run become tokens.
    runtime : RuntimeOptions
        Provider and threads.
    sequences : sequence of sequence of int
        What means and deviations are taken over, unless an edit has texts of its own.
    skip : int
        Tokens at the start of each of them that are left out.
    batch_size : int
        Rows run at a time.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Returns
    -------
    list of Facts
        One for each edit.

    Raises
    ------
    OnnxlocError
        One of its kinds, if it cannot be measured.
    """
    measured: dict[tuple[str, tuple[str, ...]], dict[str, Array]] = {}
    for need, measure in (("mean", mean_activations), ("deviation", unit_deviations)):
        wanted: dict[tuple[str, ...], list[Site]] = {}
        for one in planned:
            if need in one.edit.needs:
                wanted.setdefault(one.edit.measured_on, []).extend(one.sites)
        for texts, sites in wanted.items():
            measured[need, texts] = measure(
                model,
                tuple(dict.fromkeys(sites)),
                model.encode_scored(list(texts)) if texts else sequences,
                runtime,
                batch_size=batch_size,
                skip=1 if texts else skip,
                show_progress=show_progress,
            )
    windows = {
        one.edit.source: form.window(one.edit.source)
        for one in planned
        if isinstance(one.edit, Patch)
    }
    sources: dict[object, dict[str, Array]] = {}
    if windows:
        patched = (one.sites for one in planned if isinstance(one.edit, Patch))
        sites = list(dict.fromkeys(site for some in patched for site in some))
        ids = [window.texts[0] for window in windows.values()]
        values = recorded(model, sites, ids, runtime, batch_size=batch_size)
        sources = dict(zip(windows, values, strict=True))
    return [
        Facts(
            measured.get(("mean", one.edit.measured_on), {}),
            measured.get(("deviation", one.edit.measured_on), {}),
            sources[one.edit.source] if isinstance(one.edit, Patch) else {},
            windows[one.edit.source] if isinstance(one.edit, Patch) else None,
            one.span,
        )
        for one in planned
    ]


def operands(
    form: EditForm,
    site: Site,
    change: Change,
    units: NDArray[np.bool_],
    chosen: NDArray[np.bool_] | None = None,
) -> Operands:
    """The operands of one edit of a site, as the plan's form takes them.

    Parameters
    ----------
    form : {"replace", "affine"}
        The plan's form; "affine" takes any change.
    site : Site
        The site.
    change : Change
        What is done where the edit holds.
    units : ndarray of bool, [rows or 1, 1, units]
        Which units it holds on.
    chosen : ndarray of bool, [rows, tokens], optional
        At which tokens; all by default.
    """
    where = units if chosen is None else units & chosen[:, :, None]
    if form == "replace":
        return where, change.shift
    shift = np.where(where, change.shift, np.array(-0.0, site.dtype))
    one = np.ones((1, 1, site.units), site.dtype)
    if change.scale is None:
        return where, one, shift
    return np.zeros((1, 1, site.units), np.bool_), np.where(where, change.scale, one), shift


def joined(first: Operands, second: Operands) -> Operands:
    """The operands of two edits of one site, the second done to what the first leaves."""
    if len(first) == 2:
        (mask, value), (later, new) = first, second
        return mask | later, np.where(later, new, value)
    (mask, scale, shift), (later, times, plus) = first, second
    # Where the second replaces, nothing of the first is left; else it works on scale and shift.
    return (
        mask | later,
        np.where(later, times, scale * times),
        np.where(later, plus, shift * times + plus),
    )


@dataclass(frozen=True, eq=False)
class NetworkEdits:
    """One edit of several networks, of which each row of a batch has its own.

    Attributes
    ----------
    planned : PlannedEdit
        What becomes of a unit, and at which tokens.
    facts : Facts
        What the edit needs to know.
    masks : mapping of Site to ndarray of bool, [networks, 1, units]
        Which units each network has; see `unit_masks`.
    """

    planned: PlannedEdit
    facts: Facts
    masks: Mapping[Site, NDArray[np.bool_]]

    @cached_property
    def _fixed(self) -> dict[str, Change]:
        edit, tokens = self.planned.edit, self.planned.tokens
        return {s.tensor: edit.change(s, self.facts, None, tokens) for s in self.masks}

    def operands(self, networks: NDArray[np.int64], window: Window | None) -> EditValues:
        """What to feed.

        Parameters
        ----------
        networks : ndarray of int64, [rows]
            Which network each row has.
        window : Window or None
            The tokens that are run; not needed where the edit is the same everywhere.

        Raises
        ------
        OptionError
            If the edit does not fit the texts.
        """
        edit, tokens = self.planned.edit, self.planned.tokens
        chosen = None
        if self.masks and not self.planned.everywhere:
            if window is None:
                raise OptionError(f"{edit.label} differs from token to token")
            chosen = tokens.rank(window) >= 0
        found = {}
        for site, mask in self.masks.items():
            change = (
                self._fixed[site.tensor]
                if edit.fixed
                else edit.change(site, self.facts, window, tokens)
            )
            at = chosen if site.has_tokens else None
            found[site.tensor] = operands(edit.form, site, change, mask[networks], at)
        return found
