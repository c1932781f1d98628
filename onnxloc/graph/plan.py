"""Plans: what one run reads from a graph, changes in it and computes behind it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from onnxloc.errors import OptionError

__all__ = ["Edit", "EditForm", "Plan", "Pool", "Tap", "TargetLogProbs"]

Pool = Literal["last", "mean", "sum", "max", "none"]
EditForm = Literal["replace", "affine"]


@dataclass(frozen=True)
class Tap:
    """Reading a site.

    Attributes
    ----------
    site : str
        The site's tensor.
    pool : {"last", "mean", "sum", "max", "none"}
        How its real tokens are pooled, inside the graph: the output is ``[batch, units]``. "none"
        gives ``[batch, tokens, units]``, padding included. A site without a token axis gives
        ``[batch, units]`` whatever the pooling.
    """

    site: str
    pool: Pool = "last"

    def __post_init__(self) -> None:
        if self.pool not in get_args(Pool):
            known = ", ".join(get_args(Pool))
            raise OptionError(f"there is no pooling {self.pool!r} (known: {known})")


@dataclass(frozen=True)
class Edit:
    """A place where a site can be changed when the session runs.

    Attributes
    ----------
    site : str
        The site's tensor.
    form : {"replace", "affine"}
        "replace": ``y = where(mask, value, x)``. "affine": ``y = where(mask, 0, x * scale) +
        shift``. Every operand is fed as ``[batch or 1, tokens or 1, units]``. A zeroed unit is
        replaced and not multiplied by 0, which would turn an infinity into NaN. The shift that
        changes nothing is -0.0: adding +0.0 turns -0.0 into +0.0.
    """

    site: str
    form: EditForm = "replace"

    def __post_init__(self) -> None:
        if self.form not in get_args(EditForm):
            known = ", ".join(get_args(EditForm))
            raise OptionError(f"there is no edit {self.form!r} (known: {known})")


@dataclass(frozen=True)
class TargetLogProbs:
    """A head: the log-probability that the logits at each position give to a target token.

    Attributes
    ----------
    logits : str
        The tensor of the logits, ``[batch, tokens, vocabulary]``.
    """

    logits: str


@dataclass(frozen=True)
class Plan:
    """The taps, edits, heads and kept outputs of one run.

    Attributes
    ----------
    taps, edits
        Each site at most once in `edits`, each (site, pool) at most once in `taps`.
    head : TargetLogProbs or None
        What is computed from the logits.
    outputs : tuple of str
        Outputs of the original graph to keep. Everything that nothing asks for is pruned.
    given : tuple of str
        Tensors ``[batch, tokens, features]`` that the caller feeds instead of having them computed:
        what only they need is pruned. An edit of a given tensor changes what is fed.
    """

    taps: tuple[Tap, ...] = ()
    edits: tuple[Edit, ...] = ()
    head: TargetLogProbs | None = None
    outputs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.taps)) != len(self.taps):
            raise OptionError("a plan taps each site at most once with each pooling")
        if len({edit.site for edit in self.edits}) != len(self.edits):
            raise OptionError("a plan edits each site at most once")
        if len(set(self.outputs)) != len(self.outputs):
            raise OptionError("a plan keeps each output at most once")
        if not (self.taps or self.head or self.outputs):
            raise OptionError("a plan must read something: a tap, a head or an output")

    @property
    def hash(self) -> str:
        """SHA-256 of the plan; equal plans have equal hashes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
