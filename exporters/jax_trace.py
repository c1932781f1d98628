"""From a JAX function to an ONNX graph through jax2onnx, with scopes, and with clear errors."""

import linecache
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import onnx
from onnxloc_exporters.jax_program import JaxProgram

from onnxloc.errors import ExportError, OnnxlocError
from onnxloc.registry import one_line

__all__ = ["SCOPE", "Dims", "Lowering", "Scans", "check_examples", "spec", "trace", "watched"]

Scans = Literal["keep", "unroll"]
Dims = tuple[int | str, ...]

# The key of a node's metadata that holds its scope.
SCOPE = "onnxloc.scope"
LOOPS = {"scan", "while", "fori_loop"}
LIBRARIES = ("jax", "jaxlib", "jax2onnx", "flax", "equinox", "jaxtyping", "numpy")
# What asks for a size that is known, and what to write in its place.
FIXES = {
    "arange": "use jax.lax.iota(jnp.int32, size)",
    "linspace": "make it of jax.lax.iota(jnp.int32, size) and a product",
    "eye": "compare two jax.lax.iota: rows == columns",
    "tri": "compare two jax.lax.iota: rows >= columns",
    "range": "use jax.lax.scan over the axis, or fix it with --dynamic",
}
# The same by the error that JAX raises.
KINDS = {
    "TracerBoolConversionError": "use jnp.where or jax.lax.cond in place of if",
    "TracerIntegerConversionError": "keep it an array, and use jax.lax.dynamic_slice or indexing",
    "TracerArrayConversionError": "use jax.numpy in place of numpy",
    "ConcretizationTypeError": "keep it an array, or close over a number",
    "NonConcreteBooleanIndexError": "use jnp.where in place of a boolean index",
}


def check_examples(program: JaxProgram, where: str) -> Any:
    """Trace the function at the sizes of its examples.

    Returns
    -------
    jaxpr
        What it computes.

    Raises
    ------
    ExportError
        If it fails on them.
    """
    import jax

    arrays = [spec(x, x.shape) for x in (*program.params, *program.inputs.values())]
    try:
        return jax.make_jaxpr(program.function)(*arrays)
    except OnnxlocError:
        raise
    except Exception as error:  # a user's function may raise anything
        shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in program.inputs.items())
        raise ExportError(
            f"{where}: apply fails on the example inputs ({shapes}){_place(error)}: "
            f"{_said(error)}{_fix(error)}"
        ) from error


def trace(
    program: JaxProgram,
    sizes: Mapping[str, Dims],
    jaxpr: Any,
    *,
    opset: int,
    scans: Scans,
    outputs: Sequence[str],
    where: str,
) -> onnx.ModelProto:
    """Make the graph; its inputs are all parameters and then the inputs, by their names.

    Parameters
    ----------
    program
        The function.
    sizes
        The axes of each input: a number, or a name where the size varies.
    jaxpr
        As `check_examples` gives it.
    opset
        Version of the operators.
    scans : {"keep", "unroll"}
        Whether ``lax.scan`` and other loops become a Loop, or one copy of the body a step.
    outputs
        Names of the outputs.
    where : str
        The function's name, for messages.

    Raises
    ------
    ExportError
        If it cannot be made; the message names the construct of JAX.
    """
    import jax
    import jax2onnx

    def function(*arrays: Any) -> Any:
        with jax.disable_jit() if scans == "unroll" else nullcontext():
            return program.function(*arrays)

    specs = [spec(x, x.shape) for x in program.params]
    specs += [spec(x, sizes[name]) for name, x in program.inputs.items()]
    lowering = Lowering()
    try:
        with _quiet(), watched(lowering):
            model: onnx.ModelProto = jax2onnx.to_onnx(
                function,
                specs,
                opset=opset,
                input_names=[*program.names, *program.inputs],
                output_names=list(outputs),
                return_mode="proto",
            )
            return model
    except OnnxlocError:
        raise
    except Exception as error:  # jax, jax2onnx and a user's function may raise anything
        raise ExportError(f"{where}: {_explained(error, lowering, jaxpr, scans)}") from error


def spec(array: Any, shape: Sequence[int | str]) -> Any:
    """Type and shape; JAX makes int64 int32 and float64 float32."""
    import jax

    kind = jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct(tuple(shape), kind)  # type: ignore[no-untyped-call]


# --- watching jax2onnx at work -----------------------------------------------------------------


@dataclass
class Lowering:
    """Where jax2onnx is: scopes of the equations around, and the equation that failed."""

    scopes: list[str] = field(default_factory=list)
    failed: Any = None


@contextmanager
def watched(lowering: Lowering) -> Iterator[None]:
    """Write the scope of each equation into the metadata of the nodes that it becomes.

    jax2onnx offers no hook, so the one function that every equation goes through is wrapped. A
    version that lacks it gives a graph without scopes.
    """
    from jax2onnx.converter import lowering_dispatch

    name = "lower_equation_with_plugin"
    original: Callable[..., Any] | None = getattr(lowering_dispatch, name, None)
    if original is None:
        yield
        return

    def wrapped(plugin: Any, *, ctx: Any, eqn: Any, **rest: Any) -> Any:
        lowering.scopes.append(str(eqn.source_info.name_stack))
        try:
            result = original(plugin, ctx=ctx, eqn=eqn, **rest)
            scope = "/".join(filter(None, lowering.scopes))
            # Nodes are appended: those of this equation are the last ones without a scope.
            for node in reversed(ctx.builder.graph):
                if SCOPE in node.metadata_props:
                    break
                node.metadata_props[SCOPE] = scope
        except Exception:
            if lowering.failed is None:
                lowering.failed = eqn
            raise
        finally:
            lowering.scopes.pop()
        return result

    setattr(lowering_dispatch, name, wrapped)
    try:
        yield
    finally:
        setattr(lowering_dispatch, name, original)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' log lines and warnings to themselves."""
    handlers, level = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        # jax2onnx logs by logging.info, which adds a handler where there is none.
        logging.root.handlers[:] = handlers


# --- explaining --------------------------------------------------------------------------------


def _explained(error: Exception, lowering: Lowering, jaxpr: Any, scans: Scans) -> str:
    exporter = f"jax2onnx {version('jax2onnx')}"
    missing = re.search(r"No plugins registered for primitive '([^']+)'", str(error))
    if missing:
        name = missing[1]
        place = next((_at(eqn) for eqn in _equations(jaxpr) if eqn.primitive.name == name), "")
        return (
            f"the JAX primitive {name!r}{place} has no ONNX form in {exporter}; compute it in "
            "another way"
        )
    if lowering.failed is not None:
        name = lowering.failed.primitive.name
        unroll = "; try --scans unroll" if name in LOOPS and scans == "keep" else ""
        return (
            f"{exporter} cannot write the JAX primitive {name!r}{_at(lowering.failed)} as ONNX: "
            f"{_said(error)}{unroll}"
        )
    asks = _asks_for_size(error)
    if asks is not None:
        word, line, place = asks
        return (
            f"{word} in {line!r}{place} needs a size that is known when it is traced; if it "
            f"varies, {FIXES[word]} ({_said(error)})"
        )
    return f"it cannot be exported{_place(error)}: {_said(error)}{_fix(error)}"


def _said(error: Exception) -> str:
    """The first sentence of an error; JAX's run to a page."""
    text = one_line(error, 1000)
    return f"{type(error).__name__}: {re.split(r'(?<=[.]) ', text)[0].rstrip('.'):.300}"


def _fix(error: Exception) -> str:
    fix = KINDS.get(type(error).__name__)
    return f"; {fix}" if fix else ""


def _asks_for_size(error: BaseException) -> tuple[str, str, str] | None:
    """A function that asks for sizes, in the user's function at or above the line that failed.

    jnp.arange of a size that varies gives something, and what is done with it fails.
    """
    frame = _user_frame(error)
    if frame is None:
        return None
    code, last = frame
    for number in range(last, code.co_firstlineno - 1, -1):
        line = linecache.getline(code.co_filename, number).strip()
        words = re.findall(r"\b(\w+)\(", line)
        word = next((w for w in words if w in FIXES and (w != "range" or number == last)), None)
        if word is not None:
            return word, line[:100], f" ({Path(code.co_filename).name}:{number})"
    return None


def _user_frame(error: BaseException) -> tuple[CodeType, int] | None:
    """The innermost function of the user's own, and the line in it."""
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_users(Path(frame.f_code.co_filename)):
            found = frame.f_code, number
    return found


def _is_users(file: Path) -> bool:
    """Whether a file is neither of JAX and what stands on it, nor of Python, nor of onnxloc."""
    if "site-packages" in file.parts:
        package = file.parts[file.parts.index("site-packages") + 1]
        return package not in LIBRARIES
    python = file.is_relative_to(sysconfig.get_path("stdlib"))
    return file.suffix == ".py" and file.parent != Path(__file__).parent and not python


def _place(error: BaseException) -> str:
    frame = _user_frame(error)
    return "" if frame is None else f" ({Path(frame[0].co_filename).name}:{frame[1]})"


def _at(eqn: Any) -> str:
    from jax.extend.source_info_util import summarize

    where = str(summarize(eqn.source_info))
    path, _, rest = where.partition(":")
    return f" ({Path(path).name}:{rest.split(':')[0].split(' ')[0]})" if rest else ""


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, those of inner ones too."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    for eqn in getattr(inner, "eqns", ()):
        yield eqn
        for value in eqn.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if hasattr(each, "eqns") or hasattr(each, "jaxpr"):
                    yield from _equations(each)
