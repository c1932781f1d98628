"""The TOML file of a stimulus set: what it says, and the table of texts that it names."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, cast

from onnxloc.errors import StimulusError
from onnxloc.registry import did_you_mean
from onnxloc.stimuli.grouping import check_equal, group, match_pairs
from onnxloc.stimuli.model import POOLS, Condition, ConditionSet, Pool, StimulusSet
from onnxloc.stimuli.tables import Row, read_table, read_text

__all__ = ["LocalizerFile", "two_conditions"]

_KINDS = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    tuple[str, ...]: "a list of strings",
    Mapping[str, str]: "a table of strings",
}


def two_conditions(
    rows: Sequence[Row],
    place: str | Path,
    names: tuple[str, str] = ("positive", "control"),
    *,
    unequal: bool = True,
    paired: bool = False,
) -> dict[str, Any]:
    """What a `StimulusSet` needs to know of the rows: `positive`, `control` and `paired`.

    Parameters
    ----------
    rows : sequence of Row
        Rows of all conditions.
    place : str or Path
        The file, for messages.
    names : tuple of str
        The positive and the control condition.
    unequal : bool
        Whether the conditions may differ in size.
    paired : bool
        Whether rows without `pair` belong together by their order.

    Raises
    ------
    StimulusError
        If the conditions cannot be compared, or the pairs do not match.
    """
    groups = group(rows, names, place)
    positive, control = groups[names[0]], groups[names[1]]
    by_label = any(row.pair for row in (*positive, *control))
    if by_label:
        control = match_pairs(positive, control)
    elif paired or not unequal:
        check_equal(positive, control)
    return {
        "positive": tuple(row.text for row in positive),
        "control": tuple(row.text for row in control),
        "paired": paired or by_label,
    }


@dataclass(frozen=True, kw_only=True)
class LocalizerFile:
    """What a localizer's TOML file says.

    A file that lists `conditions` describes a set of many conditions. It is a localizer too if it
    says which of them are `positive` and `control`.

    Attributes
    ----------
    name, data : str
        The localizer's name, and the CSV or JSONL file of its texts, in the TOML file's folder.
    version, title, description : str
        For people.
    conditions : tuple of str
        The conditions of the data file, in the order in which they are to be shown; empty for
        just `positive` and `control`.
    labels : mapping of str to str
        The conditions' names for people, where they are not those of the data file.
    positive, control : str
        The two conditions that are compared. "positive" and "control" if there are no
        `conditions`.
    positive_label, control_label : str
        Their names for people; those of `labels` if not given.
    max_tokens : int
        Texts are cut to this many tokens; 0 means no cut.
    pool : {"last", "mean", "sum", "max"}
        How tokens are pooled, unless the user says otherwise.
    paired : bool
        Whether the texts of both conditions belong together by their order. A column `pair` in
        the data says so too, and by what.
    unequal : bool
        Whether `positive` and `control` may have different numbers of texts.
    origin, licence : str
        Where the texts are from, and under which terms.
    made_with : str
        The command that makes the data file, or compares it with what the seed gives.
    seed : int
        Of that command; 0 if nothing is drawn.
    effect, reference : str
        What the contrast is known as, and the publication that it follows.
    """

    name: str
    data: str
    version: str = ""
    title: str = ""
    description: str = ""
    conditions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    positive: str = ""
    control: str = ""
    positive_label: str = ""
    control_label: str = ""
    max_tokens: int = 0
    pool: str = "last"
    paired: bool = False
    unequal: bool = False
    origin: str = ""
    licence: str = ""
    made_with: str = ""
    seed: int = 0
    effect: str = ""
    reference: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; unknown keys and wrong types are errors.

        Raises
        ------
        StimulusError
            If the file is not such a TOML file.
        """
        try:
            raw = tomllib.loads(read_text(path))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise StimulusError(f"{path}: bad TOML: {error}") from error
        known = {field.name: field for field in fields(cls)}
        values = {}
        for key, value in raw.items():
            if key not in known:
                hint = did_you_mean(key, known)
                raise StimulusError(f"{path}: unknown key {key!r}{hint}")
            values[key] = _typed(value, known[key].type, f"{path}: {key}")
        for key, own in known.items():
            needed = own.default is MISSING and own.default_factory is MISSING
            if needed and not values.get(key):
                raise StimulusError(f"{path}: {key} is missing")
        found = cls(**values)
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        names = self.names
        if len(set(names)) < len(names) or any(not name.strip() for name in names):
            raise StimulusError(f"{path}: the conditions must be different names, none empty")
        if len(names) < 2:
            raise StimulusError(f"{path}: conditions must be two or more names")
        for key in ("positive", "control"):
            name = getattr(self, key)
            if name and name not in names:
                hint = did_you_mean(name, names)
                raise StimulusError(f"{path}: {key} is {name!r}, which is no condition{hint}")
        if self.conditions and bool(self.positive) != bool(self.control):
            raise StimulusError(f"{path}: give both positive and control, or neither")
        if self.positive and self.positive == self.control:
            raise StimulusError(f"{path}: positive and control are the same condition")
        for name in self.labels:
            if name not in names:
                hint = did_you_mean(name, names)
                raise StimulusError(f"{path}: labels has {name!r}, which is no condition{hint}")
        if self.pool not in POOLS:
            raise StimulusError(
                f"{path}: pool is {self.pool[:40]!r}; it must be one of {', '.join(POOLS)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions that the data file may have."""
        return self.conditions or (self.positive or "positive", self.control or "control")

    @property
    def is_localizer(self) -> bool:
        """Whether the file says which two conditions are compared."""
        return not self.conditions or bool(self.positive)

    def load(self, path: Path, source: str) -> StimulusSet:
        """Read the two conditions that the TOML file at `path` compares.

        Raises
        ------
        StimulusError
            If the file compares none, the data file lies outside the TOML file's folder, is no
            stimulus table, or its conditions cannot be compared.
        """
        if not self.is_localizer:
            raise StimulusError(
                f"{source} is a set of {len(self.conditions)} conditions and no localizer; "
                "positive and control in its TOML file would make it one"
            )
        data = self.data_path(path)
        names = self.names if not self.conditions else (self.positive, self.control)
        positive, control = names
        return StimulusSet(
            name=self.name,
            version=self.version,
            **two_conditions(
                read_table(data, self.names),
                data,
                (positive, control),
                unequal=self.unequal,
                paired=self.paired,
            ),
            max_tokens=self.max_tokens,
            pool=cast(Pool, self.pool),
            positive_label=self.positive_label or self.label(positive),
            control_label=self.control_label or self.label(control),
            source=source,
            title=self.title,
            description=self.description.strip(),
        )

    def load_conditions(self, path: Path, source: str) -> ConditionSet:
        """Read all conditions of the data file that the TOML file at `path` speaks of.

        Raises
        ------
        StimulusError
            As `load`, but for `positive` and `control`.
        """
        if not self.conditions:
            return ConditionSet.of(self.load(path, source))
        data = self.data_path(path)
        groups = group(read_table(data, self.names), self.names, data)
        return ConditionSet(
            name=self.name,
            version=self.version,
            conditions=tuple(
                Condition(
                    name=name, label=self.label(name), texts=tuple(row.text for row in groups[name])
                )
                for name in self.names
            ),
            max_tokens=self.max_tokens,
            pool=cast(Pool, self.pool),
            source=source,
            title=self.title,
            description=self.description.strip(),
        )

    def label(self, name: str) -> str:
        """What people call a condition."""
        return self.labels.get(name, name)

    def data_path(self, path: Path) -> Path:
        """The data file of the TOML file at `path`.

        Raises
        ------
        StimulusError
            If it lies outside the TOML file's folder.
        """
        try:
            folder = path.parent.resolve()
            data = (folder / self.data).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise StimulusError(f"{path}: data is no usable path: {error}") from error
        if Path(self.data).is_absolute() or not data.is_relative_to(folder):
            raise StimulusError(f"{path}: data must be a file in the folder of the TOML file")
        return data


def _typed(value: Any, wanted: Any, what: str) -> Any:
    """The value of a TOML key, if it is of the wanted type."""
    # type() and not isinstance(): true and false are no numbers here.
    if type(value) is wanted:
        return value
    if wanted == tuple[str, ...] and _are_strings(value):
        return tuple(value)
    if wanted == Mapping[str, str] and type(value) is dict and _are_strings([*value.values()]):
        return MappingProxyType(value)
    raise StimulusError(f"{what} must be {_KINDS[wanted]}")


def _are_strings(value: Any) -> bool:
    return type(value) is list and all(type(part) is str for part in value)
