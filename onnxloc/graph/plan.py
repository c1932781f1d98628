"""Plans: what one run reads from a graph, changes in it and computes behind it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from onnxloc.errors import OptionError

__all__ = [
    "At",
    "Edit",
    "EditForm",
    "Entropy",
    "Head",
    "Plan",
    "Pool",
    "Tap",
    "TargetLogProbs",
    "TopLogits",
]

Pool = Literal["last", "mean", "sum", "max", "none"]
EditForm = Literal["replace", "affine", "whole"]
At = Literal["all", "last", "given"]


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
    form : {"replace", "affine", "whole"}
        "replace": ``y = where(mask, value, x)``. "affine": ``y = where(mask, 0, x * scale) +
        shift``. Every operand is fed as ``[batch or 1, tokens or 1, units]``. A zeroed unit is
        replaced and not multiplied by 0, which would turn an infinity into NaN. The shift that
        changes nothing is -0.0: adding +0.0 turns -0.0 into +0.0. "whole": as "replace", for any
        site, with or without units: its operands have the tensor's own axes, each of its size or 1.
        In a loop they are the same in every turn.
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
    at : {"all", "given"}
        At all positions, or at those that are given when the session runs.
    """

    logits: str
    at: At = "all"

    def __post_init__(self) -> None:
        _check_at(self.at)
        if self.at == "last":
            raise OptionError(
                "nothing stands behind the last token that its logits could be scored with; score "
                "at all positions or at given ones"
            )


@dataclass(frozen=True)
class TopLogits:
    """A head: the largest logits at each position, with what makes log-probabilities of them.

    These are the logits less their log-sum-exp over the whole vocabulary.

    Attributes
    ----------
    logits : str
        The tensor of the logits, ``[batch, tokens, vocabulary]``.
    k : int
        How many; no more than the vocabulary has tokens.
    at : {"all", "last", "given"}
        At all positions, at each text's last token, or at positions that are given when the session
        runs. What is not read is not computed, where the structure of the graph allows it.
    """

    logits: str
    k: int
    at: At = "all"

    def __post_init__(self) -> None:
        _check_at(self.at)
        if self.k < 1:
            raise OptionError(f"the largest logits are 1 or more, not {self.k}")


@dataclass(frozen=True)
class Entropy:
    """A head: the entropy of the distribution over the next token at each position, in nats.

    Attributes
    ----------
    logits, at
        As those of `TopLogits`.
    """

    logits: str
    at: At = "all"

    def __post_init__(self) -> None:
        _check_at(self.at)


Head = TargetLogProbs | TopLogits | Entropy


def _check_at(at: str) -> None:
    if at not in get_args(At):
        known = ", ".join(get_args(At))
        raise OptionError(f"there is no choice of positions {at!r} (known: {known})")


@dataclass(frozen=True)
class Plan:
    """The taps, edits, heads and kept outputs of one run.

    Attributes
    ----------
    taps, edits
        Each site at most once in `edits`, each (site, pool) at most once in `taps`.
    head : Head, tuple of Head, or None
        What is computed from logits; of several, one of each kind.
    outputs : tuple of str
        Outputs of the original graph to keep. Everything that nothing asks for is pruned.
    given : tuple of str
        Tensors ``[batch, tokens, features]`` that the caller feeds instead of having them computed:
        what only they need is pruned. An edit of a given tensor changes what is fed.
    """

    taps: tuple[Tap, ...] = ()
    edits: tuple[Edit, ...] = ()
    head: Head | tuple[Head, ...] | None = None
    outputs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.taps)) != len(self.taps):
            raise OptionError("a plan taps each site at most once with each pooling")
        if len({edit.site for edit in self.edits}) != len(self.edits):
            raise OptionError("a plan edits each site at most once")
        if len({type(head) for head in self.heads}) != len(self.heads):
            raise OptionError("a plan has one head of each kind")
        if isinstance(self.head, tuple) and len(self.head) < 2:
            # Equal plans are to be equal however they are written.
            object.__setattr__(self, "head", self.head[0] if self.head else None)
        if len(set(self.outputs)) != len(self.outputs):
            raise OptionError("a plan keeps each output at most once")
        if not (self.taps or self.head or self.outputs):
            raise OptionError("a plan must read something: a tap, a head or an output")

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads."""
        if self.head is None:
            return ()
        return self.head if isinstance(self.head, tuple) else (self.head,)

    @property
    def hash(self) -> str:
        """SHA-256 of the plan; equal plans have equal hashes."""
        # Heads of two kinds may have the same fields.
        heads = [[type(head).__name__, asdict(head)] for head in self.heads]
        content = json.dumps({**asdict(self), "head": heads}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
