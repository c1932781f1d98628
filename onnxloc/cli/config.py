"""Options from a TOML file, and a TOML file of options.

A file holds a table for each command, ``[localize]`` or ``[export.gguf]``, whose keys are the
command's options without their dashes and its arguments in lower case. A value is what would stand
on the command line, as a string; numbers are numbers, flags are true or false, and what may be
given again is an array. What is typed goes before what the file says.
"""

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from click.core import ParameterSource

from onnxloc.cli.invocation import invocation
from onnxloc.errors import OptionError
from onnxloc.registry import did_you_mean, one_line

__all__ = ["command_words", "config_text", "is_given", "key_of", "read_config", "spelled"]

MAX_BYTES = 1 << 20
WIDTH = 98
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def key_of(param: click.Parameter) -> str:
    """What a parameter is called in the file: ``--max-tokens`` is ``max-tokens``."""
    if isinstance(param, click.Argument):
        return str(param.name).replace("_", "-")
    return next(option for option in param.opts if option.startswith("--"))[2:]


def command_words(ctx: click.Context) -> list[str]:
    """The words of a command behind ``onnxloc``, such as ``export`` and ``gguf``."""
    words: list[str] = []
    while ctx.parent is not None:
        words.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return words


def configurable(ctx: click.Context) -> dict[str, click.Parameter]:
    """The parameters of a command that a file may hold, by their keys, in the order of the help."""
    return {key_of(param): param for param in ctx.command.params if not param.is_eager}


def read_config(ctx: click.Context, path: Path) -> dict[str, Any]:
    """What a file says for a command: a value for each parameter, by the parameter's own name.

    Raises
    ------
    OptionError
        If the file cannot be read, has no table for the command, or holds a key that is none of the
        command's options or a value of a wrong type.
    """
    table = _table(_parse(path), ctx, path)
    known = configurable(ctx)
    where = ".".join(command_words(ctx))
    found = {}
    for key, raw in table.items():
        if key not in known:
            raise OptionError(
                f"{path}: [{where}] has an unknown key {key!r}{did_you_mean(key, known)}"
            )
        param = known[key]
        _check(param, raw, f"{path}: {key} in [{where}]")
        try:
            param.type_cast_value(ctx, raw)
        except click.BadParameter as error:
            raise OptionError(f"{path}: {key} in [{where}]: {error.message}") from error
        except OptionError as error:
            raise OptionError(f"{path}: {key} in [{where}]: {error}") from error
        found[str(param.name)] = raw
    return found


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise OptionError(f"{path} is not a file; --config takes a TOML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OptionError(f"{path} is larger than 1 MB, too large for a file of options")
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8; save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"{path} is not TOML: {one_line(error)}") from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or one_line(error)
        raise OptionError(f"cannot read {str(path)[:200]}: {said}") from error


def _table(raw: dict[str, Any], ctx: click.Context, path: Path) -> dict[str, Any]:
    """The table of a command; tables of other commands may stand beside it."""
    lineage = [ctx]
    while lineage[0].parent is not None:
        lineage.insert(0, lineage[0].parent)
    table, words = raw, command_words(ctx)
    for group, word in zip(lineage[:-1], words, strict=True):
        assert isinstance(group.command, click.Group)  # noqa: S101  what a command lies in
        known = group.command.list_commands(group)
        for key, value in table.items():
            if key not in known:
                raise OptionError(
                    f"{path}: {key!r} is no command{did_you_mean(key, known)} (options stand in a "
                    f"table, here [{'.'.join(words)}])"
                )
            if not isinstance(value, dict):
                raise OptionError(f"{path}: {key} must be a table of options: [{key}]")
        if word not in table:
            raise OptionError(f"{path} has no table [{'.'.join(words)}]")
        table = table[word]
    return table


def _check(param: click.Parameter, raw: Any, where: str) -> None:
    kind = _kind(param)
    if _is_many(param):
        if not isinstance(raw, list) or not all(_is(kind, entry) for entry in raw):
            raise OptionError(f"{where} must be an array, each entry {KINDS[kind]}")
    elif not _is(kind, raw):
        raise OptionError(f"{where} must be {KINDS[kind]}")
    if any("\0" in entry for entry in (raw if _is_many(param) else [raw]) if type(entry) is str):
        # The command line cannot hold it either, and no path does.
        raise OptionError(f"{where} holds a NUL character")


def _is_many(param: click.Parameter) -> bool:
    """Whether a parameter takes several values."""
    return param.nargs != 1 or getattr(param, "multiple", False)


def _kind(param: click.Parameter) -> type:
    """What a value of a parameter is in the file."""
    if isinstance(param, click.Option) and param.is_bool_flag:
        return bool
    for kind, types in ((int, click.INT), (float, click.FLOAT), (bool, click.BOOL)):
        # The types with a range are derived from the plain ones.
        if isinstance(param.type, type(types)):
            return kind
    return str


def _is(kind: type, value: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether a parameter was typed, or a file gave it a value that is not its default."""
    source = ctx.get_parameter_source(name)
    if source is not ParameterSource.DEFAULT_MAP:
        return source not in (None, ParameterSource.DEFAULT)
    return bool(ctx.params.get(name) != _defaults(ctx).get(name))


def _defaults(ctx: click.Context) -> dict[str, Any]:
    """What the parameters of a command are where nothing is said."""
    return ctx.command.make_context(ctx.info_name, [], resilient_parsing=True).params


def config_text(ctx: click.Context) -> str:
    """A file that gives every parameter of a command the value that it has now.

    What has no value is there as a comment.

    Raises
    ------
    OptionError
        If a value cannot be written, as it is not text.
    """
    lines = [f"[{'.'.join(command_words(ctx))}]"]
    for key, param in configurable(ctx).items():
        name = str(param.name)
        # How much is said is not passed to the command.
        value = ctx.params[name] if name in ctx.params else getattr(invocation(ctx), name)
        about = getattr(param, "help", None) or param.human_readable_name
        lines += ["", *wrap(about, WIDTH, initial_indent="# ", subsequent_indent="# ")]
        unset = value is None or (value == () and not _is_many(param))
        lines.append(f"# {key} =" if unset else f"{key} = {_toml(param, value)}")
    return "\n".join(lines)


def _toml(param: click.Parameter, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if _is_many(param):
        return f"[{', '.join(_toml_one(param, entry) for entry in value)}]"
    return _toml_one(param, value)


def _toml_one(param: click.Parameter, value: Any) -> str:
    text = word_of(param, value)
    if isinstance(value, int | float):
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{key_of(param)}: {value!r} is not UTF-8, as TOML has to be") from error
    # A string of JSON is one of TOML, but for this character, which only TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def word_of(param: click.Parameter, value: Any) -> str:
    """A value as it would be typed."""
    written = getattr(param.type, "written", None)
    return str(written(value)) if written is not None else str(value)


def spelled(ctx: click.Context) -> list[str]:
    """The words that do without a file what a command was given by one."""
    arguments, options = list(_arguments(ctx)), list(_options(ctx))
    if any(word.startswith("-") for word in arguments):
        return [*command_words(ctx), *options, "--", *arguments]
    return [*command_words(ctx), *arguments, *options]


def _arguments(ctx: click.Context) -> Iterator[str]:
    for param in ctx.command.params:
        if isinstance(param, click.Argument):
            value = ctx.params[str(param.name)]
            values: Sequence[Any] = value if param.nargs != 1 else [] if value is None else [value]
            yield from (word_of(param, entry) for entry in values)


def _options(ctx: click.Context) -> Iterator[str]:
    for param in ctx.command.params:
        name = str(param.name)
        if not isinstance(param, click.Option) or name not in ctx.params:
            continue
        if not is_given(ctx, name):
            continue
        value, option = ctx.params[name], f"--{key_of(param)}"
        if isinstance(value, bool) and param.is_flag:
            if value or param.secondary_opts:
                yield option if value else param.secondary_opts[0]
            continue
        for entry in value if param.multiple else [value]:
            yield from (option, word_of(param, entry))
