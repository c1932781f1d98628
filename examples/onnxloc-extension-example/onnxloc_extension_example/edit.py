"""An edit: every unit is mirrored at its own mean, so that above becomes below."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxloc.errors import OptionError
from onnxloc.graph.sites import Site
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.studies.edits import Change, EditInputs, Facts, Need, UnitEdit

__all__ = ["Mirror"]


@dataclass(frozen=True)
class Mirror(UnitEdit):
    """A unit's activation x becomes 2 m - x, with m its mean over the texts' tokens."""

    name: ClassVar[str] = "mirror"
    # It has a scale, so it does not replace what was there.
    replaces: ClassVar[bool] = False

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind ``mirror=``: nothing may."""
        if argument:
            raise OptionError(f"mirror takes no argument, not {argument!r}")
        return cls()

    @property
    def needs(self) -> tuple[Need, ...]:
        """Ask for the mean of every edited unit."""
        return ("mean",)

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """Give shift and scale for a site, ``[rows or 1, tokens or 1, units]``."""
        shift = 2 * facts.mean[site.tensor]
        return Change(shift.astype(site.dtype), np.full((1, 1, site.units), -1, site.dtype))

    @property
    def said(self) -> str:
        """What is done to the units, in words that follow their number."""
        return "mirrored at their means"
