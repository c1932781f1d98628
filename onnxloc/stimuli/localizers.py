"""Find stimuli by name or path: the shipped localizers, and a user's own files."""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Self

from onnxloc.errors import StimulusError
from onnxloc.registry import Registry, did_you_mean
from onnxloc.stimuli.model import StimulusSet
from onnxloc.stimuli.tables import Row, read_published, read_table, read_text

__all__ = ["LANGUAGE", "LOCALIZERS", "LocalizerFile", "load_stimuli"]

# What a name stands for is either the path of a TOML file or a StimulusSet.
LANGUAGE = Path(__file__).with_name("language.toml")
LOCALIZERS = Registry(
    "localizer", "onnxloc.localizers", {"language": "onnxloc.stimuli.localizers:LANGUAGE"}
)

# The published code cuts every text to twelve tokens.
PUBLISHED_MAX_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class LocalizerFile:
    """What a localizer's TOML file says.

    Attributes
    ----------
    name, data : str
        The localizer's name, and the CSV or JSONL file of its texts, in the TOML file's folder.
    version, title, description, positive_label, control_label : str
        For people.
    max_tokens : int
        Texts are cut to this many tokens; 0 means no cut.
    """

    name: str
    data: str
    version: str = ""
    title: str = ""
    description: str = ""
    max_tokens: int = 0
    positive_label: str = "positive"
    control_label: str = "control"

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
        for key, value in raw.items():
            if key not in known:
                hint = did_you_mean(key, known)
                raise StimulusError(f"{path}: unknown key {key!r}{hint}")
            wanted = known[key].type
            # type() and not isinstance(): true and false are no numbers here.
            if type(value) is not wanted:
                kind = "a whole number" if wanted is int else "a string"
                raise StimulusError(f"{path}: {key} must be {kind}")
        for key, field in known.items():
            if field.default is MISSING and not raw.get(key):
                raise StimulusError(f"{path}: {key} is missing")
        return cls(**raw)

    def load(self, path: Path, source: str) -> StimulusSet:
        """Read the stimuli that the TOML file at `path` speaks of.

        Raises
        ------
        StimulusError
            If the data file lies outside the TOML file's folder, or is no stimulus table.
        """
        try:
            folder = path.parent.resolve()
            data = (folder / self.data).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise StimulusError(f"{path}: data is no usable path: {error}") from error
        if Path(self.data).is_absolute() or not data.is_relative_to(folder):
            raise StimulusError(f"{path}: data must be a file in the folder of the TOML file")
        positive, control = _by_condition(read_table(data))
        return StimulusSet(
            name=self.name,
            version=self.version,
            positive=positive,
            control=control,
            max_tokens=self.max_tokens,
            positive_label=self.positive_label,
            control_label=self.control_label,
            source=source,
            title=self.title,
            description=self.description.strip(),
        )


def load_stimuli(source: str | Path) -> StimulusSet:
    """Read a stimulus set.

    Parameters
    ----------
    source : str or Path
        One of

        - the name of a localizer ("language"); a name goes before a file of that name, which
          ``./name`` still finds;
        - a CSV or JSONL file with `condition` (positive or control) and `text`;
        - a TOML file that names such a file beside it (see `LocalizerFile`);
        - a folder with the published ``langloc_fmri_run*_stim_set*.csv`` files.

    Raises
    ------
    StimulusError
        If there is no such localizer or file, or the stimuli are malformed.
    OptionError
        If the localizer belongs to another package and cannot be imported.
    """
    if isinstance(source, str) and source in LOCALIZERS:
        found = LOCALIZERS.load(source)
        if isinstance(found, StimulusSet):
            return found
        if not isinstance(found, Path):
            raise StimulusError(
                f"the localizer {source!r} is a {type(found).__name__}; its package must "
                "register the path of a TOML file or a StimulusSet"
            )
        return LocalizerFile.read(found).load(found, source)
    path = Path(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise StimulusError(f"{str(source)[:80]!r} is no usable path: {error}") from error
    if is_folder:
        positive, control = _by_condition(read_published(path))
        return StimulusSet(
            name=path.resolve().name,
            positive=positive,
            control=control,
            max_tokens=PUBLISHED_MAX_TOKENS,
            positive_label="sentences",
            control_label="nonwords",
            source=str(source),
        )
    if not exists:
        names = ", ".join(LOCALIZERS)
        hint = did_you_mean(str(source), LOCALIZERS)
        raise StimulusError(f"there is no localizer or file {str(source)!r}{hint} (known: {names})")
    if path.suffix.lower() == ".toml":
        return LocalizerFile.read(path).load(path, str(source))
    positive, control = _by_condition(read_table(path))
    return StimulusSet(name=path.stem, positive=positive, control=control, source=str(source))


def _by_condition(rows: list[Row]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split rows into the positive texts and the control texts."""
    positive = tuple(row.text for row in rows if row.condition == "positive")
    control = tuple(row.text for row in rows if row.condition == "control")
    return positive, control
