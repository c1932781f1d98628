"""Functions that a user names as ``module:function``. Calling one runs the user's code."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxloc.errors import ExportError, OnnxlocError
from onnxloc.registry import did_you_mean, one_line

__all__ = ["call_function"]


def call_function(name: str, *arguments: str) -> Any:
    """Import ``module:function`` and call it; the current folder is searched first.

    Parameters
    ----------
    name : str
        The module's dotted name, a colon, the function's name.
    *arguments : str
        What the function is called with.

    Raises
    ------
    ExportError
        If there is no such module or function, or either fails.
    """
    with _current_folder():
        function = _find(name)
        try:
            return function(*arguments)
        except OnnxlocError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise _failed(name, error) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _find(name: str) -> Callable[..., Any]:
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute or not all(p.isidentifier() for p in module_name.split(".")):
        raise ExportError(f"{name!r:.100} is not of the form module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(f"importing {module_name}", error) from error
        raise ExportError(
            f"there is no module {module_name!r} in the current folder or among the installed "
            "packages"
        ) from error
    except OnnxlocError:
        raise
    except Exception as error:  # a user's module may raise anything
        raise _failed(f"importing {module_name}", error) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise ExportError(
            f"the module {module_name} has no function {attribute!r}"
            f"{did_you_mean(attribute, functions)}"
        )
    return found  # type: ignore[no-any-return]


def _failed(what: str, error: Exception) -> ExportError:
    return ExportError(f"{what} failed: {type(error).__name__}: {one_line(error)}")
