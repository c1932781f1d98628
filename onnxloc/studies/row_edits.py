"""Edits of which each row of a batch has its own, several to a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import NetworkError, OptionError
from onnxloc.graph.plan import Edit, EditForm
from onnxloc.graph.sites import Site
from onnxloc.network import Network
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import EditValues
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.studies.edit_values import PlannedEdit, TextForm, gather_facts, joined, operands
from onnxloc.studies.edits import Facts, UnitEdit, as_edit
from onnxloc.studies.masks import unit_masks

__all__ = ["Intervention", "RowEdits", "prepare_rows"]

Array = NDArray[Any]
Operands = tuple[Array, ...]
Where = str | Sequence[str] | Network | Mapping[str, ArrayLike]


@dataclass(frozen=True, eq=False)
class Intervention:
    """An edit, where it is done and at which tokens.

    Attributes
    ----------
    where : str, sequence of str, Network, or mapping of str to array of int
        Patterns of sites, of which all units are edited; or a network; or, by site, unit indices.
    edit : UnitEdit or str
        What becomes of the units: `Zero`, `Mean`, `Force`, `Scale`, `Steer`, `Noise`, `Patch`, or
        text such as "force=3.5".
    tokens : Tokens or str
        At which tokens: "all", "last", "prompt", "generated", or positions such as "0,3,-1". A
        target behind the text counts as generated.

    Raises
    ------
    OptionError
        If the edit or the tokens make no sense.
    """

    where: Where
    edit: UnitEdit | str
    tokens: Tokens | str = field(default_factory=Tokens)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edit", as_edit(self.edit))
        if isinstance(self.tokens, str):
            object.__setattr__(self, "tokens", Tokens.parse(self.tokens))

    def planned(self, model: Model) -> tuple[PlannedEdit, dict[Site, NDArray[np.bool_]]]:
        """What is done to which sites of a model, and to which of their units, ``[1, 1, units]``.

        Raises
        ------
        OnnxlocError
            One of its kinds, if the model has no such sites or units.
        """
        span: Mapping[str, int] = {}
        if isinstance(self.where, Network):
            self.where.check_model(model.graph.hash)
            masks, span = unit_masks(model, [self.where]), self.where.sites
        elif isinstance(self.where, Mapping):
            sites = {str(name): model.sites.find(str(name)).units for name in self.where}
            units = {str(name): np.sort(np.asarray(u)) for name, u in self.where.items()}
            try:
                network = Network(units, sites, model.graph.hash, {})
            except NetworkError as error:
                raise OptionError(f"units to edit: {error}") from error
            masks = unit_masks(model, [network])
        else:
            patterns = [self.where] if isinstance(self.where, str) else list(self.where)
            found = model.sites.match(patterns)
            masks = {site: np.ones((1, 1, site.units), np.bool_) for site in found}
        tokens = self.tokens if isinstance(self.tokens, Tokens) else Tokens.parse(self.tokens)
        return PlannedEdit(as_edit(self.edit), tokens, tuple(masks), span), masks


@dataclass(frozen=True, eq=False)
class _Ready:
    """An intervention on the sites of a model, with all that it needs to know."""

    planned: PlannedEdit
    masks: Mapping[Site, NDArray[np.bool_]]
    facts: Facts

    def operands(self, form: EditForm, site: Site, window: Window) -> Operands:
        """What to feed for a site in a window of texts that all have this intervention."""
        planned = self.planned
        change = planned.edit.change(site, self.facts, window, planned.tokens)
        at = None
        if site.has_tokens and not planned.everywhere:
            at = planned.tokens.rank(window) >= 0
        return operands(form, site, change, self.masks[site], at)


@dataclass(frozen=True, eq=False)
class RowEdits:
    """What is done to each of some texts.

    Attributes
    ----------
    rows : sequence of sequence
        For each text, its interventions in the order in which they are done.
    fronts, prompts : sequence of int
        For each text, how many tokens in front are not its own, and how many are no target.
    """

    rows: Sequence[Sequence[_Ready]]
    fronts: Sequence[int]
    prompts: Sequence[int]

    @cached_property
    def _forms(self) -> dict[Site, EditForm]:
        """The form that each edited site needs; "affine" takes every edit."""
        forms: dict[Site, EditForm] = {}
        for one in {id(one): one for own in self.rows for one in own}.values():
            for site in one.masks:
                if forms.get(site) != "affine":
                    forms[site] = one.planned.edit.form
        return forms

    @property
    def plan_edits(self) -> tuple[Edit, ...]:
        """The plan's edits."""
        return tuple(Edit(site.tensor, form) for site, form in self._forms.items())

    def operands(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> EditValues:
        """What to feed for some of the texts, run together.

        Parameters
        ----------
        texts : sequence of sequence of int
            The token ids of all of them, targets behind.
        rows : sequence of int
            Which are run.

        Raises
        ------
        OptionError
            If an edit does not fit a text.
        """
        width = max(len(texts[row]) for row in rows)
        found: dict[Site, Operands] = {}
        # The first intervention of each row, then the second, …; equal ones are worked out at once.
        for step in zip_longest(*(self.rows[row] for row in rows)):
            done: dict[Site, Operands] = {}
            groups: dict[tuple[int, int], list[int]] = {}
            for place, one in enumerate(step):
                if one is not None:
                    groups.setdefault((id(one), self.fronts[rows[place]]), []).append(place)
            for (_, front), places in groups.items():
                own = [rows[place] for place in places]
                window = replace(
                    Window.whole(
                        [texts[row] for row in own],
                        front=front,
                        prompts=[self.prompts[row] for row in own],
                        rows=own,
                    ),
                    width=width,
                )
                one = step[places[0]]
                for site in one.masks:
                    form = self._forms[site]
                    values = one.operands(form, site, window)
                    before = done.get(site) or _identity(form, site)
                    done[site] = _spread(before, values, places, len(rows))
            for site, values in done.items():
                found[site] = joined(found[site], values) if site in found else values
        return {site.tensor: values for site, values in found.items()}


def _identity(form: EditForm, site: Site) -> Operands:
    """Operands that change nothing."""
    mask = np.zeros((1, 1, site.units), np.bool_)
    one = np.ones((1, 1, site.units), site.dtype)
    return (mask, one) if form == "replace" else (mask, one, np.full_like(one, -0.0))


def _spread(before: Operands, values: Operands, places: list[int], rows: int) -> Operands:
    """The operands of all rows, those at `places` set to `values`."""
    if len(places) == rows:
        return values
    out = []
    for old, new in zip(before, values, strict=True):
        tokens = max(old.shape[1], new.shape[1])
        whole = np.broadcast_to(old, (rows, tokens, old.shape[2])).copy()
        whole[places] = new
        out.append(whole)
    return tuple(out)


def prepare_rows(
    model: Model,
    rows: Sequence[Sequence[Intervention]],
    prompts: Sequence[Window],
    form: TextForm,
    runtime: RuntimeOptions,
    *,
    batch_size: int,
    show_progress: bool = False,
) -> RowEdits:
    """Measure what the interventions of each text need to know.

    Parameters
    ----------
    model : Model
        The model.
    rows : sequence of sequence of Intervention
        For each text, what is done.
    prompts : sequence of Window
        All tokens of each text; means and deviations are taken over them by default.
    form : TextForm
        How other texts become tokens.
    runtime : RuntimeOptions
        Provider and threads.
    batch_size : int
        Texts run at a time.
    show_progress : bool
        Draw a bar, if standard error is a terminal.

    Raises
    ------
    OnnxlocError
        One of its kinds, if the model, the texts and the interventions do not go together.
    """
    distinct = {id(one): one for own in rows for one in own}
    planned = {key: one.planned(model) for key, one in distinct.items()}
    facts = gather_facts(
        model,
        [plan for plan, _ in planned.values()],
        form,
        runtime,
        sequences=[window.texts[0] for window in prompts],
        skip=max(window.front for window in prompts),
        batch_size=batch_size,
        show_progress=show_progress,
    )
    ready = {
        key: _Ready(plan, masks, known)
        for (key, (plan, masks)), known in zip(planned.items(), facts, strict=True)
    }
    return RowEdits(
        [[ready[id(one)] for one in own] for own in rows],
        [window.front for window in prompts],
        [len(window.texts[0]) for window in prompts],
    )
