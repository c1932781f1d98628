"""Edits as users name them, and what every kind of edit has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.plan import EditForm
from onnxloc.graph.sites import Site
from onnxloc.registry import Registry
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.store import Run

__all__ = ["EDITS", "Change", "EditInputs", "Facts", "Need", "UnitEdit", "as_edit"]

Array = NDArray[Any]
Need = Literal["mean", "deviation"]

_KINDS = "onnxloc.studies.edit_kinds"
_TEXTS = "onnxloc.studies.edit_texts"
EDITS = Registry(
    "edit",
    "onnxloc.edits",
    {
        "zero": f"{_KINDS}:Zero",
        "mean": f"{_KINDS}:Mean",
        "force": f"{_KINDS}:Force",
        "scale": f"{_KINDS}:Scale",
        "steer": f"{_KINDS}:Steer",
        "noise": f"{_TEXTS}:Noise",
        "patch": f"{_TEXTS}:Patch",
    },
)


@dataclass(frozen=True, eq=False)
class EditInputs:
    """What an edit that is written as text may need beside it.

    Attributes
    ----------
    seed : int
        Of noise.
    run : Run or None
        Whose contrast a unit is steered along.
    source : str or None
        The text that values are patched from.
    source_tokens : Tokens or None
        Which of its tokens; None for the same choice as in the edited text.
    """

    seed: int = 0
    run: Run | None = None
    source: str | None = None
    source_tokens: Tokens | None = None


@dataclass(frozen=True, eq=False)
class Facts:
    """What was measured in the intact model, by tensor; each edit says what it needs.

    Attributes
    ----------
    mean, deviation : mapping of str to ndarray, [1, 1, units]
        Mean and standard deviation of each unit over the tokens of some texts.
    source : mapping of str to ndarray, [tokens or 1, units]
        Activations of the text that is patched from.
    source_window : Window or None
        All tokens of that text.
    span : mapping of str to int
        The sites that a network was searched in, in order, and their numbers of units.
    """

    mean: Mapping[str, Array] = field(default_factory=dict)
    deviation: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, Array] = field(default_factory=dict)
    source_window: Window | None = None
    span: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Change:
    """``y = x * scale + shift``, or ``y = shift`` where there is no scale.

    Attributes
    ----------
    shift, scale : ndarray, [rows or 1, tokens or 1, units]
        In the site's own type. Numbers at tokens that are not chosen are not read.
    """

    shift: Array
    scale: Array | None = None


@dataclass(frozen=True)
class UnitEdit(ABC):
    """What becomes of a unit where an edit holds. Other packages add kinds of their own.

    A kind is registered under the entry point ``onnxloc.edits``.

    Attributes
    ----------
    name : str
        What it is called, before a ``=``.
    replaces : bool
        Whether its `change` has no scale.
    fixed : bool
        Whether its `change` is the same for every token of every text, and so can be built into a
        graph.
    """

    name: ClassVar[str]
    replaces: ClassVar[bool]
    fixed: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``; empty if there is none.

        Raises
        ------
        OptionError
            If it makes no sense.
        """

    @abstractmethod
    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site.

        Parameters
        ----------
        site : Site
            The site.
        facts : Facts
            With all that `needs` names.
        window : Window or None
            The tokens that are run; None, possible where the edit is fixed, for any.
        tokens : Tokens
            Which of them are edited.

        Raises
        ------
        OptionError
            If it cannot be done there.
        """

    @property
    def form(self) -> EditForm:
        """The form that a plan edits its sites in."""
        return "replace" if self.replaces else "affine"

    @property
    def needs(self) -> tuple[Need, ...]:
        """Which parts of `Facts` it reads."""
        return ()

    @property
    def measured_on(self) -> tuple[str, ...]:
        """The texts that means and deviations are taken over; empty for those that are run."""
        return ()

    @property
    def label(self) -> str:
        """What `as_edit` reads, and runs record."""
        return self.name

    @property
    def said(self) -> str:
        """What is done to the units, in words that follow their number."""
        return f"changed by {self.label}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the record of a run says of it beside its label."""
        return {}


def as_edit(edit: str | UnitEdit, inputs: EditInputs | None = None) -> UnitEdit:
    """Read an edit such as ``zero``, ``force=3.5`` or ``steer=contrast*2``.

    Raises
    ------
    OptionError
        If there is none of that name, or what stands behind the ``=`` makes no sense.
    """
    if isinstance(edit, UnitEdit):
        return edit
    name, _, argument = edit.partition("=")
    kind = EDITS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, UnitEdit)):
        raise OptionError(f"{name!r} is registered as an edit and is none")
    return kind.parse(argument.strip(), inputs or EditInputs())
