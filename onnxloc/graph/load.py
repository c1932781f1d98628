"""Reading a model's graph, without its weights, into a form that the rewriter can rely on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from onnxloc.bundle import Bundle
from onnxloc.errors import ModelError
from onnxloc.folder import sha256_file

__all__ = ["Graph", "InputSpec", "attribute_graphs", "load_graph", "read_model", "walk_tensors"]

MIN_IR = 4
MIN_OPSET = 7


@dataclass(frozen=True)
class InputSpec:
    """One input of a graph.

    Attributes
    ----------
    name : str
        The tensor's name.
    dtype : int
        Element type, as in ``onnx.TensorProto``.
    dims : tuple of int, str or None
        Fixed sizes, symbolic names, or None where nothing is known.
    """

    name: str
    dtype: int
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Graph:
    """A model's graph: functions inlined, types inferred, weights left on disk.

    Attributes
    ----------
    proto : onnx.ModelProto
        Never changed after loading; the rewriter works on copies.
    folder : Path
        Where the external data lies.
    hash : str
        SHA-256 over the graph file and the weights.
    """

    proto: ModelProto
    folder: Path
    hash: str

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The graph's inputs that are not overridable initializers."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        return tuple(
            InputSpec(
                value.name,
                value.type.tensor_type.elem_type,
                tuple(
                    d.dim_value if d.HasField("dim_value") else d.dim_param or None
                    for d in value.type.tensor_type.shape.dim
                ),
            )
            for value in self.proto.graph.input
            if value.name not in constants
        )

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 1)


def load_graph(bundle: Bundle) -> Graph:
    """Load, check and normalise the graph of a bundle.

    Raises
    ------
    ModelError
        If the file is not an ONNX model, is damaged, or points outside its folder for weights.
    """
    proto = read_model(bundle.model_path)
    locations = _check_external(proto, bundle)
    digest = _hash(bundle, locations)
    return Graph(_normalised(proto, bundle.model_path), bundle.folder, digest)


def read_model(path: Path) -> ModelProto:
    """Parse an ONNX file without touching external data.

    Raises
    ------
    ModelError
        If the file cannot be read or is not an ONNX model.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX model, or is damaged: {error}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path} is not an ONNX model, or is damaged: it has no operations")
    return proto


def attribute_graphs(node: onnx.NodeProto) -> Iterator[GraphProto]:
    """The subgraphs of a node: branches of an If, bodies of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def walk_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every constant tensor of a graph and its subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
        for inner in attribute_graphs(node):
            yield from walk_tensors(inner)


def _check_external(proto: ModelProto, bundle: Bundle) -> tuple[str, ...]:
    sizes: dict[str, int] = {}
    for tensor in walk_tensors(proto.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in sizes:
            sizes[name] = _external_size(bundle.folder, name, tensor.name)
        try:
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        except ValueError as error:
            raise ModelError(f"{tensor.name}: bad offset or length of external data") from error
        if end > sizes[name]:
            raise ModelError(
                f"{bundle.folder / name} is too short: {tensor.name} ends at byte {end}, "
                f"the file has {sizes[name]}"
            )
    return tuple(sorted(sizes))


def _external_size(folder: Path, name: str, tensor: str) -> int:
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    outside = not name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if outside or ".." in parts or "\0" in name:
        raise ModelError(f"{tensor}: external data {name!r} lies outside the model's folder")
    file = folder / name
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{tensor}: external data {name!r} is a link; put the file itself there")
    if not file.is_file():
        raise ModelError(f"the weights file {file} is missing")
    return file.stat().st_size


def _hash(bundle: Bundle, locations: tuple[str, ...]) -> str:
    digest = hashlib.sha256(sha256_file(bundle.model_path).encode())
    for name in locations:
        file = bundle.folder / name
        known = bundle.info.files.get(name)
        # Hashing gigabytes at each start would cost seconds; a recorded hash of a file of the
        # recorded size is trusted.
        recorded = known is not None and known.size == file.stat().st_size
        value = known.sha256 if known is not None and recorded else sha256_file(file)
        digest.update(f"{name}:{value}".encode())
    return digest.hexdigest()


def _normalised(proto: ModelProto, path: Path) -> ModelProto:
    proto = _raise_versions(proto, path)
    proto = _inline(proto, path)
    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        # Types that inference cannot give are found by running the graph (see runtime.probe).
        pass
    return proto


def _raise_versions(proto: ModelProto, path: Path) -> ModelProto:
    if Graph(proto, path.parent, "").opset < MIN_OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, MIN_OPSET)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path} uses an operator set older than {MIN_OPSET} and cannot be converted: "
                f"{str(error).splitlines()[0]}"
            ) from error
    # From IR version 4 on, an initializer need not be an input too: what we add relies on it.
    if proto.ir_version < MIN_IR:
        proto.ir_version = MIN_IR
        constants = {tensor.name for tensor in proto.graph.initializer}
        kept = [value for value in proto.graph.input if value.name not in constants]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    return proto


def _inline(proto: ModelProto, path: Path) -> ModelProto:
    if not proto.functions:
        return proto
    import onnx.inliner

    # The inliner skips, in silence, a function that imports a domain at another version than the
    # model does.
    versions = {o.domain: o for o in proto.opset_import}
    for function in proto.functions:
        for entry in function.opset_import:
            if entry.domain not in versions:
                proto.opset_import.add(domain=entry.domain, version=entry.version)
                versions[entry.domain] = proto.opset_import[-1]
            entry.version = versions[entry.domain].version
    try:
        proto = onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: its functions cannot be inlined: {error}") from error
    if proto.functions:
        names = ", ".join(f.name for f in proto.functions)
        raise ModelError(f"{path}: these functions cannot be inlined: {names}")
    return proto
