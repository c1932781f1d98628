"""Which tokens of a text an edit holds on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.registry import did_you_mean

__all__ = ["TokenKind", "Tokens", "Window"]

TokenKind = Literal["all", "last", "prompt", "generated", "positions"]
Ints = NDArray[np.int64]
MAX_POSITION = 1 << 31


@dataclass(frozen=True, eq=False)
class Window:
    """The tokens of some texts that are run together; all of them, or the newest.

    Attributes
    ----------
    texts : sequence of sequences of int
        Token ids of each text, whole, as far as it goes by now.
    prompts : ndarray of int64, [rows]
        How many of them are the prompt; the others were generated, or are a target.
    front : int
        How many at the start are not the text's own: 1 for a BOS or prefix token, else 0.
    first : ndarray of int64, [rows]
        Index of the first token of each text that is run.
    width : int
        Tokens that are run of each, padding counted.
    rows : ndarray of int64, [rows]
        Where each text stands among those that the caller has.
    """

    texts: Sequence[Sequence[int]]
    prompts: Ints
    front: int
    first: Ints
    width: int
    rows: Ints

    @classmethod
    def whole(
        cls,
        texts: Sequence[Sequence[int]],
        *,
        front: int = 0,
        prompts: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Self:
        """All tokens of the texts, padded to the longest."""
        lengths = [len(text) for text in texts]
        return cls(
            texts,
            np.array(lengths if prompts is None else prompts, dtype=np.int64),
            front,
            np.zeros(len(texts), dtype=np.int64),
            max(lengths),
            np.arange(len(texts)) if rows is None else np.array(rows, dtype=np.int64),
        )

    @cached_property
    def lengths(self) -> Ints:
        """Tokens of each text so far, ``[rows]``."""
        return np.array([len(text) for text in self.texts], dtype=np.int64)

    @cached_property
    def index(self) -> Ints:
        """Index of each token that is run in its text, ``[rows, width]``."""
        return self.first[:, None] + np.arange(self.width)


@dataclass(frozen=True)
class Tokens:
    """Which tokens an edit holds on; padding is never among them.

    Attributes
    ----------
    kind : {"all", "last", "prompt", "generated", "positions"}
        "all": every token, a BOS or prefix token in front among them. "prompt": those that are
        there at first; "generated": those that come behind. "last": the last token of the prompt.
    positions : tuple of int
        For "positions": tokens of the prompt, 0 for the first one behind a BOS or prefix token, -1
        for the last.

    Raises
    ------
    OptionError
        If kind and positions do not go together.
    """

    kind: TokenKind = "all"
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(TokenKind):
            known = ", ".join(get_args(TokenKind))
            raise OptionError(f"there is no choice of tokens {self.kind!r} (known: {known})")
        if (self.kind == "positions") != bool(self.positions):
            raise OptionError("positions of tokens go with the kind 'positions', and only with it")
        if any(isinstance(p, bool) or not isinstance(p, int) for p in self.positions):
            raise OptionError("positions of tokens are whole numbers")
        if any(abs(p) > MAX_POSITION for p in self.positions):
            raise OptionError(f"positions of tokens lie within {MAX_POSITION:,} of the ends")

    @classmethod
    def at(cls, *positions: int) -> Self:
        """The tokens at these positions."""
        return cls("positions", positions)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``all``, ``last``, ``prompt``, ``generated``, or positions such as ``0,3,-1``.

        Raises
        ------
        OptionError
            If it is none of them.
        """
        kinds: list[TokenKind] = [kind for kind in get_args(TokenKind) if kind != "positions"]
        for kind in kinds:
            if text == kind:
                return cls(kind)
        try:
            return cls.at(*(int(word) for word in text.split(",")))
        except ValueError:
            raise OptionError(
                f"there is no choice of tokens {text!r:.60}{did_you_mean(text, kinds)} "
                f"(known: {', '.join(kinds)}, or positions such as 0,3,-1)"
            ) from None

    @property
    def label(self) -> str:
        """What `parse` reads."""
        return ",".join(map(str, self.positions)) if self.positions else self.kind

    def rank(self, window: Window) -> Ints:
        """For each token that is run, which of the chosen ones it is, ``[rows, width]``.

        Tokens that are not chosen have -1. Positions are counted in the order in which they are
        given.

        Raises
        ------
        OptionError
            If a text lacks a position.
        """
        index, prompts = window.index, window.prompts[:, None]
        real = index < window.lengths[:, None]
        if self.kind == "positions":
            rank = np.full(index.shape, -1, dtype=np.int64)
            for number, place in enumerate(self._places(window).T):
                rank[index == place[:, None]] = number
            return rank
        if self.kind == "last":
            return np.where(index == prompts - 1, 0, -1)
        if self.kind == "prompt":
            return np.where(index < prompts, index, -1)
        if self.kind == "generated":
            return np.where(real & (index >= prompts), index - prompts, -1)
        return np.where(real, index, -1)

    def counts(self, window: Window) -> Ints:
        """How many tokens of each text are chosen, run now or not, ``[rows]``."""
        if self.kind == "positions":
            return np.full(len(window.texts), len(self.positions), dtype=np.int64)
        if self.kind == "last":
            return np.ones(len(window.texts), dtype=np.int64)
        if self.kind == "prompt":
            return window.prompts
        return window.lengths - (window.prompts if self.kind == "generated" else 0)

    def _places(self, window: Window) -> Ints:
        """The positions as indices into each text, ``[rows, positions]``."""
        own = window.prompts - window.front
        wanted = np.array(self.positions, dtype=np.int64)[None, :]
        missing = (wanted >= own[:, None]) | (wanted < -own[:, None])
        if missing.any():
            row, column = np.argwhere(missing)[0]
            raise OptionError(
                f"text {window.rows[row] + 1} has {own[row]} tokens of its own and so none at "
                f"position {self.positions[column]}"
            )
        behind: Ints = np.where(wanted < 0, window.prompts[:, None], window.front) + wanted
        return behind
