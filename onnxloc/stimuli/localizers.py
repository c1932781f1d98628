"""Find stimuli by name or path: the shipped localizers, and a user's own files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxloc.errors import OnnxlocError, StimulusError
from onnxloc.registry import Registry, did_you_mean
from onnxloc.stimuli.localizer_file import LocalizerFile, two_conditions
from onnxloc.stimuli.model import ConditionSet, StimulusSet
from onnxloc.stimuli.tables import read_published, read_table

__all__ = [
    "LANGUAGE",
    "LOCALIZERS",
    "LocalizerFile",
    "LocalizerInfo",
    "describe",
    "load_conditions",
    "load_stimuli",
    "localizers",
]

# What a name stands for is the path of a TOML file, a StimulusSet or a ConditionSet.
FOLDER = Path(__file__).parent
LANGUAGE = FOLDER / "language.toml"
LANGUAGE_2 = FOLDER / "language-2.toml"
CODE = FOLDER / "code.toml"
MATH = FOLDER / "math.toml"
MEMORY = FOLDER / "memory.toml"
MULTIPLE_DEMAND = FOLDER / "multiple-demand.toml"
PROFILE = FOLDER / "profile.toml"
REASONING = FOLDER / "reasoning.toml"
THEORY_OF_MIND = FOLDER / "theory-of-mind.toml"

_HERE = "onnxloc.stimuli.localizers"
LOCALIZERS = Registry(
    "localizer",
    "onnxloc.localizers",
    {
        "code": f"{_HERE}:CODE",
        "language": f"{_HERE}:LANGUAGE",
        "language-2": f"{_HERE}:LANGUAGE_2",
        "math": f"{_HERE}:MATH",
        "memory": f"{_HERE}:MEMORY",
        "multiple-demand": f"{_HERE}:MULTIPLE_DEMAND",
        "profile": f"{_HERE}:PROFILE",
        "reasoning": f"{_HERE}:REASONING",
        "theory-of-mind": f"{_HERE}:THEORY_OF_MIND",
    },
)

# The published code cuts every text to twelve tokens.
PUBLISHED_MAX_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class LocalizerInfo:
    """A line about a localizer, for lists.

    Attributes
    ----------
    name : str
        What to ask for it by.
    version, title, description, licence, reference : str
        As its TOML file has them; empty where its package registered no such file.
    is_localizer : bool
        Whether two conditions are compared; else it is a set of conditions for profiles.
    conditions : tuple of (str, int)
        Label and number of texts of each condition: the positive one first, then its control.
    """

    name: str
    version: str
    title: str
    description: str
    licence: str
    reference: str
    is_localizer: bool
    conditions: tuple[tuple[str, int], ...]


def load_stimuli(source: str | Path) -> StimulusSet:
    """Read a stimulus set.

    Parameters
    ----------
    source : str or Path
        One of

        - the name of a localizer ("language"); a name goes before a file of that name, which
          ``./name`` still finds;
        - a CSV or JSONL file with `condition` (positive or control) and `text`, and perhaps `pair`;
        - a TOML file that names such a file beside it (see `LocalizerFile`);
        - a folder with the published ``langloc_fmri_run*_stim_set*.csv`` files.

    Raises
    ------
    StimulusError
        If there is no such localizer or file, or the stimuli are malformed.
    OptionError
        If the localizer belongs to another package and cannot be imported.
    """
    registered = _registered(source)
    if isinstance(registered, ConditionSet):
        raise StimulusError(
            f"{source} is a set of {len(registered.conditions)} conditions and no localizer"
        )
    if isinstance(registered, StimulusSet):
        return registered
    if registered is not None:
        return LocalizerFile.read(registered).load(registered, str(source))
    path = _existing(source)
    if path.is_dir():
        return StimulusSet(
            name=path.resolve().name,
            **two_conditions(read_published(path), path),
            max_tokens=PUBLISHED_MAX_TOKENS,
            positive_label="sentences",
            control_label="nonwords",
            source=str(source),
        )
    if path.suffix.lower() == ".toml":
        return LocalizerFile.read(path).load(path, str(source))
    return StimulusSet(name=path.stem, **two_conditions(read_table(path), path), source=str(source))


def load_conditions(source: str | Path) -> ConditionSet:
    """Read all conditions of a stimulus set, for a profile.

    Parameters
    ----------
    source : str or Path
        As for `load_stimuli`. A localizer has the two conditions `positive` and `control`; a TOML
        file with `conditions` ("profile") may have more.

    Raises
    ------
    StimulusError
        If there is no such localizer or file, or the stimuli are malformed.
    OptionError
        If the localizer belongs to another package and cannot be imported.
    """
    registered = _registered(source)
    if isinstance(registered, ConditionSet):
        return registered
    if isinstance(registered, StimulusSet):
        return ConditionSet.of(registered)
    if registered is not None:
        return LocalizerFile.read(registered).load_conditions(registered, str(source))
    path = _existing(source)
    if path.suffix.lower() == ".toml" and not path.is_dir():
        return LocalizerFile.read(path).load_conditions(path, str(source))
    return ConditionSet.of(load_stimuli(path))


def describe(name: str) -> LocalizerInfo:
    """What a registered localizer holds.

    Raises
    ------
    StimulusError, OptionError
        As `load_stimuli`.
    """
    found = LOCALIZERS.load(name)
    file = LocalizerFile.read(found) if isinstance(found, Path) else None
    is_localizer = file.is_localizer if file else isinstance(found, StimulusSet)
    stimuli = ConditionSet.of(load_stimuli(name)) if is_localizer else load_conditions(name)
    return LocalizerInfo(
        name=name,
        version=stimuli.version,
        title=stimuli.title,
        description=stimuli.description,
        licence=file.licence if file else "",
        reference=file.reference if file else "",
        is_localizer=is_localizer,
        conditions=tuple((own.label, len(own.texts)) for own in stimuli.conditions),
    )


def localizers() -> Iterator[LocalizerInfo | tuple[str, OnnxlocError]]:
    """Describe every registered localizer, or say why one of another package cannot be read."""
    for name in LOCALIZERS:
        try:
            yield describe(name)
        except OnnxlocError as error:
            yield name, error


def _registered(source: str | Path) -> Path | StimulusSet | ConditionSet | None:
    """What a registered name stands for; None if `source` is none."""
    if not isinstance(source, str) or source not in LOCALIZERS:
        return None
    found = LOCALIZERS.load(source)
    if isinstance(found, Path | StimulusSet | ConditionSet):
        return found
    raise StimulusError(
        f"the localizer {source!r} is a {type(found).__name__}; its package must "
        "register the path of a TOML file, a StimulusSet or a ConditionSet"
    )


def _existing(source: str | Path) -> Path:
    """The path `source`, if something is there."""
    path = Path(source)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise StimulusError(f"{str(source)[:80]!r} is no usable path: {error}") from error
    if not exists:
        names = ", ".join(LOCALIZERS)
        hint = did_you_mean(str(source), LOCALIZERS)
        raise StimulusError(f"there is no localizer or file {str(source)!r}{hint} (known: {names})")
    return path
