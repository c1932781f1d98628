"""What a stimulus set is, once it has been read."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from onnxloc.errors import StimulusError

__all__ = ["MIN_TEXTS", "StimulusSet"]

# Variances of two conditions need at least this many texts each to mean anything.
MIN_TEXTS = 3


@dataclass(frozen=True, kw_only=True)
class StimulusSet:
    """The texts of two conditions whose contrast localizes a network.

    Attributes
    ----------
    name, version : str
        What the set calls itself.
    positive, control : tuple of str
        The texts of the two conditions, in the order of the data; the network is what responds
        more to `positive`.
    max_tokens : int
        Texts are cut to this many tokens; 0 means no cut.
    positive_label, control_label : str
        The conditions' names for people.
    source : str
        Where the set was read: a localizer's name, or a path.
    title, description : str
        For people; may be empty.

    Raises
    ------
    StimulusError
        If a condition has fewer than three texts, a text is empty, or `max_tokens` is negative.
    """

    name: str
    version: str = ""
    positive: tuple[str, ...]
    control: tuple[str, ...]
    max_tokens: int = 0
    positive_label: str = "positive"
    control_label: str = "control"
    source: str = ""
    title: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        where = self.source or self.name
        if self.max_tokens < 0:
            raise StimulusError(f"{where}: max_tokens is {self.max_tokens}; 0 means no cut")
        for condition, texts in (("positive", self.positive), ("control", self.control)):
            if not texts:
                raise StimulusError(
                    f"{where} has no {condition} text; both conditions, positive and control, "
                    "are needed"
                )
            if len(texts) < MIN_TEXTS:
                raise StimulusError(
                    f"{where} has only {len(texts)} {condition} texts; "
                    f"at least {MIN_TEXTS} in each condition are needed"
                )
            if any(not text.strip() for text in texts):
                raise StimulusError(f"{where} has an empty {condition} text")

    def __len__(self) -> int:
        return len(self.positive) + len(self.control)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the conditions and texts, in order: positive first, then control.

        Names, labels and `max_tokens` do not enter it.
        """
        digest = hashlib.sha256()
        for condition, texts in (("positive", self.positive), ("control", self.control)):
            for text in texts:
                digest.update(json.dumps([condition, text]).encode() + b"\n")
        return digest.hexdigest()
