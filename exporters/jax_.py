"""From a JAX function and its parameters to a bundle, through jax2onnx."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxloc_exporters.graph_builder import WeightFile
from onnxloc_exporters.jax_graph import finish, smallest_table
from onnxloc_exporters.jax_parity import record_parity
from onnxloc_exporters.jax_program import JaxProgram, read_program
from onnxloc_exporters.jax_text import find_text, read_text
from onnxloc_exporters.jax_trace import Dims, Scans, check_examples, spec, trace
from onnxloc_exporters.user_function import call_function

from onnxloc.bundle import MODEL_FILE, WEIGHTS_FILE, Bundle, BundleInfo
from onnxloc.errors import ExportError, RuntimeMissingError
from onnxloc.folder import check_free
from onnxloc.registry import did_you_mean

__all__ = ["JaxExporter"]

OPSETS = range(18, 25)
PACKAGES = ("onnxloc", "jax", "jaxlib", "jax2onnx", "flax", "equinox", "numpy", "onnx")


@dataclass(frozen=True, kw_only=True)
class JaxExporter:
    """Turns a JAX function and its parameters into a bundle.

    Parameters
    ----------
    arguments : tuple of str
        What the function is called with.
    opset : int
        Version of the ONNX operators. From 23 on, Flax's attention becomes one operator that keeps
        its probabilities to itself.
    scans : {"keep", "unroll"}
        Whether ``lax.scan`` becomes a Loop, or one copy of its body a step.
    dynamic : tuple of str
        Inputs and the axes of each that vary, as ``audio=0,1``. By default these are the first two
        axes of an integer input and the first of any other.
    tokenizer : Path or None
        A ``tokenizer.json``, a folder that holds one, or a GGUF file; None to take the first
        argument if it is a folder of a checkpoint or a GGUF file.
    bos : bool or None
        Whether texts begin with the BOS token; None as the tokenizer's files say.
    max_tokens : int or None
        Longest input that the model takes; None as the tokenizer's files say.
    allow_mismatch : bool
        Write a bundle even if it differs from the source by more than the tolerance.
    function : str
        For recipes: ``module:function``, where what is exported is the first argument.
    """

    arguments: tuple[str, ...] = ()
    opset: int = 22
    scans: Scans = "keep"
    dynamic: tuple[str, ...] = ()
    tokenizer: Path | None = None
    bos: bool | None = None
    max_tokens: int | None = None
    allow_mismatch: bool = False
    function: str = ""

    # Recorded in each bundle; raise it when the same source would give another bundle.
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ExportError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, not {self.opset!r}")
        if self.scans not in ("keep", "unroll"):
            raise ExportError(f"scans must be keep or unroll, not {self.scans!r}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ExportError(f"max_tokens must be at least 1, not {self.max_tokens}")

    def export(
        self,
        source: str | Path,
        output: Path,
        *,
        force: bool = False,
        name: str | None = None,
    ) -> Path:
        """Write a bundle.

        Parameters
        ----------
        source : str or Path
            ``module:function`` that returns ``(apply, params, example inputs)``, in the forms that
            `read_program` knows. It is imported and called: its code is run. If `function` is set,
            the first argument of that.
        output : Path
            The bundle's folder.
        force : bool
            Replace a bundle that stands there.
        name : str or None
            The bundle's name; by default that of the checkpoint that is the first argument, or of
            the function.

        Returns
        -------
        Path
            `output`.

        Raises
        ------
        ExportError
            If the function fails or returns something else, if jax2onnx cannot export what it
            returns, or the graph differs from it.
        RuntimeMissingError
            If JAX or jax2onnx is not installed.
        RunError
            If `output` is taken or cannot be written.
        """
        check_free(output, force=force)
        for package in ("jax", "jax2onnx"):
            if find_spec(package) is None:
                raise RuntimeMissingError(
                    f"{package} is not installed; run pip install 'onnxloc[jax]'"
                )
        function = self.function or str(source)
        arguments = (*((str(source),) if self.function else ()), *self.arguments)
        checkpoint = find_text(next(iter(arguments), None))
        text = checkpoint if self.tokenizer is None else Path(self.tokenizer)
        program = read_program(call_function(function, *arguments), function)
        _refuse_half(program, function)
        sizes = _sizes(program.inputs, self.dynamic)
        jaxpr = check_examples(program, function)
        outputs = _outputs(program, function)
        model = trace(
            program,
            sizes,
            jaxpr,
            opset=self.opset,
            scans=self.scans,
            outputs=outputs,
            where=function,
        )
        with Bundle.writing(output, force=force) as staging:
            params = dict(zip(program.names, program.params, strict=True))
            with WeightFile(staging / WEIGHTS_FILE) as weights:
                model = finish(model, params, weights)
            onnx.save(model, staging / MODEL_FILE)
            name = name or (checkpoint.stem if checkpoint is not None else None)
            info = self._info(read_text(text, staging), function, arguments, name)
            info = replace(info, source_sha256=_hash(program, jaxpr))
            record_parity(
                program,
                sizes,
                staging,
                info,
                vocabulary=smallest_table(model),
                allow_mismatch=self.allow_mismatch,
            )
        return output

    def _info(
        self, text: BundleInfo, function: str, arguments: Sequence[str], name: str | None
    ) -> BundleInfo:
        add_bos = text.add_bos if self.bos is None else self.bos
        if add_bos and text.bos_token_id is None:
            raise ExportError("texts cannot begin with a BOS token: the tokenizer names none")
        words = [Path(word).name for word in arguments]
        return replace(
            text,
            name=name or function.rpartition(":")[2],
            framework="jax",
            exporter="jax",
            versions={"exporter": self.version} | _versions(),
            source=" ".join([function, *words]),
            dtype="float32",
            opset=self.opset,
            add_bos=add_bos,
            max_tokens=self.max_tokens or text.max_tokens,
        )


def _refuse_half(program: JaxProgram, where: str) -> None:
    for name, value in zip(program.names, program.params, strict=True):
        if str(value.dtype) in ("float16", "bfloat16"):
            raise ExportError(
                f"{where}: the parameter {name} is {value.dtype}, and jax2onnx mixes that with "
                "float32 constants into graphs that no runtime takes; convert the parameters: "
                "jax.tree.map(lambda x: x.astype('float32'), params)"
            )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sizes(inputs: Mapping[str, NDArray[Any]], dynamic: Sequence[str]) -> dict[str, Dims]:
    """The axes of each input: a number, or a name where the size varies."""
    chosen = {
        name: tuple(range(min(x.ndim, 2 if x.dtype.kind in "iu" else 1)))
        for name, x in inputs.items()
    }
    for each in dynamic:
        name, _, numbers = each.partition("=")
        if name not in inputs:
            raise ExportError(
                f"--dynamic {each}: there is no input {name!r}{did_you_mean(name, inputs)} "
                f"(inputs: {', '.join(inputs)})"
            )
        if not re.fullmatch(r"(\d+(,\d+)*)?", numbers):
            raise ExportError(f"--dynamic {each}: axes are numbers with commas between, as 0,1")
        axes = tuple(int(number) for number in numbers.split(",") if number)
        if any(axis >= inputs[name].ndim for axis in axes):
            raise ExportError(f"--dynamic {each}: {name} has {inputs[name].ndim} axes")
        chosen[name] = axes
    labels = ("batch", "tokens")
    return {
        name: tuple(
            (labels[axis] if axis < len(labels) else f"axis_{axis}") if axis in axes else size
            for axis, size in enumerate(inputs[name].shape)
        )
        for name, axes in chosen.items()
    }


def _outputs(program: JaxProgram, where: str) -> list[str]:
    """Names of the outputs: their paths in what the function returns."""
    import jax

    arrays = (*program.params, *program.inputs.values())
    shapes = jax.eval_shape(program.function, *(spec(array, array.shape) for array in arrays))
    pairs, _ = jax.tree_util.tree_flatten_with_path(shapes)
    if not pairs:
        raise ExportError(f"{where}: apply returns no array")
    if len(pairs) == 1 and not pairs[0][0]:
        names = ["logits" if "input_ids" in program.inputs and pairs[0][1].ndim == 3 else "output"]
    else:
        names = [
            re.sub(r"\W+", ".", jax.tree_util.keystr(path)).strip(".") or str(i)
            for i, (path, _) in enumerate(pairs)
        ]
        names = [f"output_{name}" if name.isdecimal() else name for name in names]
    taken = {*program.names, *program.inputs}
    return [f"{name}_out" if name in taken else name for name in names]


def _hash(program: JaxProgram, jaxpr: Any) -> str:
    """SHA-256 over the computation as JAX prints it, and name, type and bytes of all arrays."""
    import jax

    # Functions are printed with their addresses.
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr))
    digest = hashlib.sha256(text.encode())
    arrays = [*zip(program.names, program.params, strict=True)]
    # What the function closes over is printed by type and shape alone.
    arrays += [("constant", value) for value in jaxpr.consts]
    for name, value in arrays:
        is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
        array = np.asarray(jax.random.key_data(value) if is_key else value)
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
