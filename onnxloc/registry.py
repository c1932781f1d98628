"""A registry of named things that are imported when they are asked for."""

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from onnxloc.errors import OnnxlocError, OptionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["Registry", "did_you_mean", "one_line"]


def entry_points(*, group: str) -> "EntryPoints":
    """The entry points of a group; what reads them is slow to import, and --help needs none."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint of the form ``; did you mean 'x'?``, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: object, limit: int = 300) -> str:
    """What a library says of an error, as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Registry:
    """Names for objects, given as ``module:Name`` and by the entry points of other packages.

    Parameters
    ----------
    kind : str
        What is registered, for messages ("exporter").
    group : str
        The entry-point group that adds to `builtin`.
    builtin : dict of str to str
        Names and their ``module:Name``.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str] | None = None) -> None:
        self._kind = kind
        self._group = group
        self._builtin = dict(builtin or {})

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets()))

    def __contains__(self, name: object) -> bool:
        return name in self._targets()

    def _targets(self) -> dict[str, str]:
        outside = {entry.name: entry.value for entry in entry_points(group=self._group)}
        return outside | self._builtin

    def load(self, name: str) -> Any:
        """Import what `name` stands for.

        Raises
        ------
        OptionError
            If nothing has that name, or its module cannot be imported.
        """
        targets = self._targets()
        if name not in targets:
            known = ", ".join(sorted(targets))
            hint = did_you_mean(name, targets)
            raise OptionError(f"there is no {self._kind} {name!r}{hint} (known: {known})")
        module, _, attribute = targets[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except OnnxlocError:
            raise
        except (ImportError, AttributeError, ValueError) as error:
            raise OptionError(
                f"the {self._kind} {name!r} cannot be loaded: {one_line(error)}"
            ) from error
