"""SyntaxGym's formulas: what must hold of the surprisals of regions, parsed without evaluation.

The grammar, weakest first::

    either  = both { "|" both }
    both    = test { "&" test }
    test    = "(" either ")" | sum ("<" | ">" | "=") sum
    sum     = term { ("+" | "-") term }
    term    = number | "-" term | "(" sum ")" | "(" region ";" "%" condition "%" ")"
    region  = digits | "*"

``*`` is the whole sentence. ``=`` holds up to 1e-3 bits plus 1e-5 of the right side, as in the
published tool (Gauthier et al. 2020, ACL demos). Sums are taken from left to right.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from onnxloc.errors import TaskError
from onnxloc.registry import did_you_mean

__all__ = ["Formula", "parse_formula"]

_TOKEN = re.compile(
    r"\s*(?:(?P<region>\(\s*(?P<number>\d+|\*)\s*;\s*%(?P<condition>[^%]*)%\s*\))"
    r"|(?P<value>\d+(?:\.\d*)?|\.\d+)|(?P<sign>[-+<>=&|()]))"
)
_RTOL, _ATOL = 1e-5, 1e-3
# More would exhaust the stack, and no published formula comes near.
_DEEPEST = 50
_LONGEST = 200

# A node: ("region", place, number), ("value", x), or (operator, node, node).
Node = tuple[Any, ...]
Surprisal = Callable[[int, int], float]


@dataclass(frozen=True)
class Formula:
    """A formula over regions of the conditions that it names.

    Attributes
    ----------
    text : str
        As it was written.
    conditions : tuple of str
        The conditions that it names, in the order of their first occurrence.
    tree : tuple
        What was parsed.
    """

    text: str
    conditions: tuple[str, ...]
    tree: Node

    @property
    def record(self) -> list[object]:
        """What tells it from other formulas."""
        return [self.text, list(self.conditions)]

    def regions_of(self, condition: int) -> set[int]:
        """The numbers of the regions that it reads of a condition; 0 is the whole sentence."""
        return {node[2] for node in _regions(self.tree) if node[1] == condition}

    def holds(self, surprisal: Surprisal) -> bool:
        """Whether it holds; a comparison with a NaN does not.

        Parameters
        ----------
        surprisal : callable
            Gives the surprisal in bits of a region (from 1; 0: the whole sentence) of the condition
            at a place in `conditions`.
        """
        return bool(_value(self.tree, surprisal))


def parse_formula(text: str, regions: Mapping[str, Collection[int]], where: str) -> Formula:
    """Parse a formula.

    Parameters
    ----------
    text : str
        The formula.
    regions : mapping of str to collection of int
        Numbers of the regions of each condition that there is.
    where : str
        The file, and where the formula stands in it, for messages.

    Raises
    ------
    TaskError
        If it does not parse, or names a condition or region that there is not; with the column.
    """
    parser = _Parser(text, regions, where)
    tree = parser.either(0)
    parser.end()
    return Formula(text, tuple(parser.conditions), tree)


class _Parser:
    """Reads a formula from left to right, one method for each rule of the grammar."""

    def __init__(self, text: str, regions: Mapping[str, Collection[int]], where: str) -> None:
        self.text, self.regions, self.where = text, regions, where
        self.conditions: dict[str, int] = {}
        self.tokens: list[re.Match[str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail(len(text) - len(text[at:].lstrip()), "this is no part of a formula")
            self.tokens.append(match)
            if len(self.tokens) > _LONGEST:
                self.fail(at, f"a formula has at most {_LONGEST} parts")
            at = match.end()
        self.next = 0

    def fail(self, at: int, why: str) -> NoReturn:
        raise TaskError(
            f"{self.where}, column {at + 1}: {why}: {self.text[at : at + 30]!r}; a formula reads "
            "like ((2;%a%) > (2;%b%)) & ((*;%a%) - (*;%b%) < 0)"
        )

    def peek(self) -> str:
        """The sign that comes next, if it is one."""
        return (self.tokens[self.next]["sign"] or "") if self.next < len(self.tokens) else ""

    def column(self) -> int:
        if self.next == len(self.tokens):
            return len(self.text)
        token = self.tokens[self.next]
        return token.end() - len(token[0].lstrip())

    def end(self) -> None:
        if self.next < len(self.tokens):
            self.fail(self.column(), "the formula should end here")

    def either(self, depth: int) -> Node:
        return self.chain("|", lambda: self.chain("&", lambda: self.test(depth)))

    def chain(self, sign: str, rule: Callable[[], Node]) -> Node:
        tree = rule()
        while self.peek() == sign:
            self.next += 1
            tree = (sign, tree, rule())
        return tree

    def test(self, depth: int) -> Node:
        if depth > _DEEPEST:
            self.fail(self.column(), "parentheses are nested too deep")
        start = self.next
        if self.peek() == "(" and self.holds_test():
            self.next += 1
            tree = self.either(depth + 1)
            self.close()
            return tree
        self.next = start
        left = self.sum(depth)
        sign = self.peek()
        if sign not in ("<", ">", "="):
            self.fail(self.column(), "a comparison (<, > or =) is missing here")
        self.next += 1
        return (sign, left, self.sum(depth))

    def holds_test(self) -> bool:
        """Whether the parenthesis that opens here holds a comparison."""
        depth = 0
        for token in self.tokens[self.next :]:
            sign = token["sign"]
            depth += (sign == "(") - (sign == ")")
            if sign in ("<", ">", "="):
                return True
            if depth == 0:
                return False
        return False

    def sum(self, depth: int) -> Node:
        tree = self.term(depth)
        while (sign := self.peek()) in ("+", "-"):
            self.next += 1
            tree = (sign, tree, self.term(depth))
        return tree

    def term(self, depth: int) -> Node:
        if depth > _DEEPEST:
            self.fail(self.column(), "parentheses are nested too deep")
        if self.next == len(self.tokens):
            self.fail(len(self.text), "the formula ends too early")
        at, token = self.column(), self.tokens[self.next]
        self.next += 1
        if token["region"] is not None:
            return self.region(at, token["number"], token["condition"].strip())
        if token["value"] is not None:
            return ("value", float(token["value"]))
        if token["sign"] == "-":
            return ("-", ("value", 0.0), self.term(depth + 1))
        if token["sign"] == "(":
            tree = self.sum(depth + 1)
            self.close()
            return tree
        self.fail(at, "a region, a number or a parenthesis should stand here")

    def close(self) -> None:
        if self.peek() != ")":
            self.fail(self.column(), "a closing parenthesis is missing here")
        self.next += 1

    def region(self, at: int, number: str, condition: str) -> Node:
        if condition not in self.regions:
            hint = did_you_mean(condition, self.regions)
            self.fail(at, f"there is no condition {condition!r}{hint}")
        known = self.regions[condition]
        # A number of very many digits is none, and int() refuses it.
        region = 0 if number == "*" else int(number[:9])
        if number != "*" and region not in known:
            self.fail(at, f"the condition {condition!r} has no region {number[:9]}")
        place = self.conditions.setdefault(condition, len(self.conditions))
        return ("region", place, region)


def _regions(node: Node) -> list[Node]:
    if node[0] == "region":
        return [node]
    if node[0] == "value":
        return []
    return [*_regions(node[1]), *_regions(node[2])]


def _value(node: Node, surprisal: Surprisal) -> float:
    kind, *parts = node
    if kind == "region":
        return surprisal(parts[0], parts[1])
    if kind == "value":
        return float(parts[0])
    left, right = (_value(part, surprisal) for part in parts)
    if kind == "+":
        return left + right
    if kind == "-":
        return left - right
    if kind == "<":
        return left < right
    if kind == ">":
        return left > right
    if kind == "=":
        return bool(np.isclose(left, right, rtol=_RTOL, atol=_ATOL))
    return (left and right) if kind == "&" else (left or right)
