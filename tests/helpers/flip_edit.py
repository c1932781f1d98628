"""An edit as another package would add it."""

from typing import ClassVar, Self

import numpy as np

from onnxloc.studies.edits import Change, UnitEdit

__all__ = ["Flip"]


class Flip(UnitEdit):
    """A unit changes its sign."""

    name: ClassVar[str] = "flip"
    replaces: ClassVar[bool] = False

    @classmethod
    def parse(cls, argument, inputs) -> Self:
        return cls()

    def change(self, site, facts, window, tokens) -> Change:
        one = np.ones((1, 1, site.units), site.dtype)
        return Change(-0.0 * one, -one)
