"""Kinds of edit that differ from token to token: noise, and values patched from another text."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.sites import Site
from onnxloc.runtime.tokens import Tokens, Window
from onnxloc.studies.edit_words import finite, no_argument, number, texts_of
from onnxloc.studies.edits import Change, EditInputs, Facts, Need, UnitEdit
from onnxloc.studies.vectors import cast

__all__ = ["Noise", "Patch"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Noise(UnitEdit):
    """Gaussian noise is added, the same for the same tokens whatever else is in a batch.

    The noise of a unit at a token depends on the seed, the site, and the text up to that token.
    Texts that begin alike have the same noise there, and text that is being generated keeps the
    noise that its tokens had.

    Attributes
    ----------
    std : float
        Its standard deviation.
    relative : bool
        Whether that is in units of each unit's own standard deviation over the tokens of `texts` in
        the intact model, a BOS or prefix token left out; else in those of the activations.
    seed : int
        Another one gives other noise.
    texts : tuple of str
        Where the unit's own deviation is measured; empty for the texts that are run.
    """

    name: ClassVar[str] = "noise"
    replaces: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    std: float
    relative: bool = True
    seed: int = 0
    texts: tuple[str, ...] = ()

    ABSOLUTE: ClassVar[str] = "absolute:"

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", finite(self.std, "a standard deviation"))
        object.__setattr__(self, "texts", texts_of(self.texts))
        if self.std < 0:
            raise OptionError("the standard deviation of noise is 0 or more")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise OptionError("the seed of noise is a whole number, 0 or more")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Which facts it reads."""
        return ("deviation",) if self.relative else ()

    @property
    def measured_on(self) -> tuple[str, ...]:
        """The texts that they are measured on."""
        return self.texts

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        amount = argument.removeprefix(cls.ABSOLUTE)
        if not amount:
            raise OptionError(
                "noise takes a standard deviation: noise=1 for that of each unit, "
                "noise=absolute:0.1 in the activations' own measure"
            )
        return cls(number(amount), relative=amount == argument, seed=inputs.seed)

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        if window is None:
            raise OptionError("noise differs from token to token")
        rank = tokens.rank(window)
        width = window.width if site.has_tokens else 1
        shift = np.zeros((len(window.texts), width, site.units))
        drawn: dict[bytes, Array] = {}
        for row, text in enumerate(window.texts):
            if not site.has_tokens:
                shift[row, 0] = self._draw(site, drawn, _digests(text)[-1])
                continue
            columns = np.flatnonzero(rank[row] >= 0)
            if columns.size:
                digests = _digests(text)
                for column in columns:
                    digest = digests[window.index[row, column]]
                    shift[row, column] = self._draw(site, drawn, digest)
        shift *= self.std
        if self.relative:
            shift *= facts.deviation[site.tensor]
        return Change(cast(shift, site, self.label), np.ones((1, 1, site.units), site.dtype))

    def _draw(self, site: Site, drawn: dict[bytes, Array], digest: bytes) -> Array:
        """Standard normal numbers for a site's units at the end of a stretch of text."""
        if digest not in drawn:
            salt = f"{self.seed}\0{site.tensor}".encode() + digest
            key = int.from_bytes(blake2b(salt, digest_size=16).digest(), "little")
            drawn[digest] = np.random.Generator(np.random.Philox(key=key)).standard_normal(
                site.units
            )
        return drawn[digest]

    @property
    def label(self) -> str:
        """What `as_edit` reads."""
        return f"{self.name}={'' if self.relative else self.ABSOLUTE}{self.std:g}"

    @property
    def said(self) -> str:
        """What is done to the units."""
        measure = "times each unit's own" if self.relative else "in their own measure"
        return f"given noise with a standard deviation of {self.std:g} {measure}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a run records beside the label."""
        return {"noise_seed": self.seed}


@dataclass(frozen=True)
class Patch(UnitEdit):
    """A unit becomes what it is at chosen tokens of another text: activation patching.

    The source's chosen tokens are put at the edited ones in their order, so there must be as many;
    if `tokens` chooses a single one, it is put at all of them.

    Attributes
    ----------
    source : str or tuple of int
        The other text, or its token ids.
    tokens : Tokens, str or None
        Which of its tokens; None for the same choice as in the edited text.
    """

    name: ClassVar[str] = "patch"
    replaces: ClassVar[bool] = True
    fixed: ClassVar[bool] = False
    source: str | Sequence[int]
    tokens: Tokens | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            object.__setattr__(self, "source", tuple(int(token) for token in self.source))
        if not self.source:
            raise OptionError("the text to patch from is empty")
        if isinstance(self.tokens, str):
            object.__setattr__(self, "tokens", Tokens.parse(self.tokens))

    @classmethod
    def parse(cls, argument: str, inputs: EditInputs) -> Self:
        """Read what stands behind the ``=``."""
        no_argument(cls.name, argument)
        if inputs.source is None:
            raise OptionError("patch needs a text to take values from; give --patch-from TEXT")
        return cls(inputs.source, inputs.source_tokens)

    def source_tokens(self, edited: Tokens) -> Tokens:
        """Which tokens of the source are recorded."""
        return self.tokens if isinstance(self.tokens, Tokens) else edited

    def change(self, site: Site, facts: Facts, window: Window | None, tokens: Tokens) -> Change:
        """What it does to a site; see `UnitEdit.change`."""
        if window is None or facts.source_window is None:
            raise OptionError("patched values differ from token to token")
        source = facts.source[site.tensor]
        if not site.has_tokens:
            return Change(source[None])
        source = source[self._order(facts.source_window, tokens)]
        if len(source) == 1 and self.tokens is not None:
            return Change(source[None])
        counts = tokens.counts(window)
        if (counts != len(source)).any():
            row = int(np.argmax(counts != len(source)))
            raise OptionError(
                f"{counts[row]} tokens of text {window.rows[row] + 1} would be patched from "
                f"{len(source)} of the source; choose as many in both, by positions or the last"
            )
        return Change(source[np.maximum(tokens.rank(window), 0)])

    def _order(self, source: Window, edited: Tokens) -> NDArray[np.int64]:
        """The chosen tokens of the source, in their order."""
        try:
            rank = self.source_tokens(edited).rank(source)[0]
        except OptionError as error:
            raise OptionError(f"in the text to patch from, {error}") from error
        order = np.flatnonzero(rank >= 0)
        if not order.size:
            raise OptionError("no token of the text to patch from is chosen")
        return order[np.argsort(rank[order], kind="stable")]

    @property
    def said(self) -> str:
        """What is done to the units."""
        return "patched from another text"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a run records beside the label."""
        tokens = None if self.tokens is None else self.source_tokens(Tokens()).label
        source = self.source if isinstance(self.source, str) else list(self.source)
        return {"patch_from": source, "patch_tokens": tokens}


def _digests(text: Sequence[int]) -> list[bytes]:
    """What stands for the text up to each of its tokens, that one included."""
    running = blake2b(digest_size=16)
    found = []
    for token in text:
        running.update(int(token).to_bytes(8, "little", signed=True))
        found.append(running.digest())
    return found
