"""Kinds of edit that are the same for every token of every text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.sites import Site
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.studies.edit_words import finite, no_argument, number, texts_of
from onnxloc.studies.edits import Change, EditInputs, Facts, Need, UnitEdit
from onnxloc.studies.vectors import CONTRAST, Vector, cast

__all__ = ["Force", "Mean", "Scale", "Steer", "Zero"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Zero(UnitEdit):
    """A unit becomes 0."""

    name: ClassVar[str] = "zero"
    replaces: ClassVar[bool] = True

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        no_argument(cls.name, argument)
        return cls()

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        return Change(np.zeros((1, 1, site.units), site.dtype))

    @property
    def said(self) -> str:
        """What is done to the units."""
        return "set to zero"


@dataclass(frozen=True)
class Mean(UnitEdit):
    """A unit becomes its mean over the tokens of some texts in the intact model.

    Attributes
    ----------
    texts : tuple of str
        The texts; empty for those that are run. A BOS or prefix token in front is left out of the
        mean: some units are hundreds of times larger there than anywhere else.
    """

    name: ClassVar[str] = "mean"
    replaces: ClassVar[bool] = True
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", texts_of(self.texts))

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        no_argument(cls.name, argument)
        return cls()

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        return Change(facts.mean[site.tensor])

    @property
    def needs(self) -> tuple[Need, ...]:
        """Which facts it reads."""
        return ("mean",)

    @property
    def measured_on(self) -> tuple[str, ...]:
        """The texts that they are measured on."""
        return self.texts

    @property
    def said(self) -> str:
        """What is done to the units."""
        return "set to mean"


@dataclass(frozen=True, eq=False)
class Force(UnitEdit):
    """A unit becomes a given value.

    Attributes
    ----------
    value : float, array, mapping of str to array, or Vector
        One value for all units, or one for each: see `Vector`.
    """

    name: ClassVar[str] = "force"
    replaces: ClassVar[bool] = True
    value: float | ArrayLike | Mapping[str, ArrayLike] | Vector

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", Vector.of(self.value))

    @property
    def vector(self) -> Vector:
        """The value as a vector."""
        return Vector.of(self.value)

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        if not argument:
            raise OptionError("force takes a value: a number or a .npy file, such as force=3.5")
        return cls(Vector.read(argument) if argument.endswith(".npy") else number(argument))

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        values = self.vector.at(site, facts.span)
        return Change(cast(values, site, self.label).reshape(1, 1, -1))

    @property
    def label(self) -> str:
        """What `as_edit` reads."""
        return f"{self.name}={self.vector.label}"

    @property
    def said(self) -> str:
        """What is done to the units."""
        return f"set to {self.vector.label}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a run records beside the label."""
        return self.vector.parameters


@dataclass(frozen=True)
class Scale(UnitEdit):
    """A unit is multiplied by a factor.

    Attributes
    ----------
    factor : float
        The factor. With 0 an infinity becomes NaN; `Zero` makes it 0.
    """

    name: ClassVar[str] = "scale"
    replaces: ClassVar[bool] = False
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", finite(self.factor, "a factor"))

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        if not argument:
            raise OptionError("scale takes a factor, such as scale=0.5")
        return cls(number(argument))

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        shape = (1, 1, site.units)
        scale = cast(np.full(shape, self.factor), site, self.label)
        # Adding +0.0 would turn -0.0 into +0.0.
        return Change(np.full(shape, -0.0, site.dtype), scale)

    @property
    def label(self) -> str:
        """What `as_edit` reads."""
        return f"{self.name}={self.factor:g}"

    @property
    def said(self) -> str:
        """What is done to the units."""
        return f"multiplied by {self.factor:g}"


@dataclass(frozen=True, eq=False)
class Steer(UnitEdit):
    """A multiple of a vector is added: activation steering.

    Attributes
    ----------
    vector : float, array, mapping of str to array, or Vector
        What is added, see `Vector`; only its parts at the edited units count.
    strength : float
        How many times.
    """

    name: ClassVar[str] = "steer"
    replaces: ClassVar[bool] = False
    vector: float | ArrayLike | Mapping[str, ArrayLike] | Vector
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", Vector.of(self.vector))
        object.__setattr__(self, "strength", finite(self.strength, "a strength"))

    @property
    def direction(self) -> Vector:
        """The vector."""
        return Vector.of(self.vector)

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        name, star, strength = argument.rpartition("*")
        if not star or argument.endswith(".npy"):
            name, strength = argument, "1"
        if name == CONTRAST:
            vector = Vector.contrast(inputs.run)
        elif name.endswith(".npy"):
            vector = Vector.read(name)
        else:
            raise OptionError(
                "steer takes a .npy file or the contrast, and a strength: such as "
                "steer=vector.npy*4 or steer=contrast*2"
            )
        return cls(vector, number(strength))

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        values = self.direction.at(site, facts.span) * self.strength
        shift = cast(values, site, self.label).reshape(1, 1, -1)
        return Change(shift, np.ones_like(shift))

    @property
    def label(self) -> str:
        """What `as_edit` reads."""
        return f"{self.name}={self.direction.label}*{self.strength:g}"

    @property
    def said(self) -> str:
        """What is done to the units."""
        return f"moved by {self.strength:g} times {self.direction.label}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a run records beside the label."""
        return self.direction.parameters
