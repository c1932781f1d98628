"""Reading a model's graph, without its weights, into a form that the rewriter can rely on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, TensorProto

from onnxloc.bundle import INFO_FILE, Bundle
from onnxloc.errors import ModelError
from onnxloc.folder import sha256_file
from onnxloc.graph.limits import check_sizes
from onnxloc.graph.operators import settle_operators
from onnxloc.graph.scopes import settle
from onnxloc.graph.walk import attribute_graphs, node_tensors, walk_tensors
from onnxloc.registry import one_line

__all__ = [
    "PREFIX",
    "Graph",
    "InputSpec",
    "attribute_graphs",
    "load_graph",
    "read_model",
    "walk_tensors",
]

# What the rewriter adds bears names that begin so.
PREFIX = "onnxloc."
MIN_IR = 4
# What the rewriter adds is written in operators as they are from this version on.
MIN_OPSET = 13
# Before this version a Scan had a batch axis, and lengths of sequences.
SCAN_OPSET = 9
# What onnx's C++ code raises; not all of it has a base class but Exception.
ONNX_ERRORS = (
    DecodeError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
)
MAX_PROTOBUF = 2**31 - 1
# onnxruntime reads this location as an address in its own memory.
MEMORY_TAG = "_ORT_MEM_ADDR_"


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
        Fixed sizes, symbolic names, or None where nothing is known. Empty for a scalar, and where
        not even the number of axes is known.
    """

    name: str
    dtype: int
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Graph:
    """A model's graph: functions inlined, types inferred, weights left on disk.

    Its operator set is 13 or newer, and no initializer is an input too. Nodes stand behind what
    they read, and no two tensors share a name, those in branches and loop bodies included.

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
        """What a run must feed: the graph's inputs."""
        return tuple(
            InputSpec(
                value.name,
                value.type.tensor_type.elem_type,
                tuple(_dim(d) for d in value.type.tensor_type.shape.dim),
            )
            for value in self.proto.graph.input
        )

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return _opset(self.proto)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None
    return dim.dim_param or None


def _opset(proto: ModelProto) -> int:
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)


def load_graph(bundle: Bundle) -> Graph:
    """Load, check and normalise the graph of a bundle.

    Raises
    ------
    ModelError
        If the file is not an ONNX model, is damaged, or points outside its folder for weights.
    """
    proto = read_model(bundle.model_path)
    _check_names(proto, bundle.model_path)
    try:
        locations = _check_external(proto, bundle)
        digest = _hash(bundle, locations)
    except OSError as error:
        raise ModelError(f"cannot read the weights: {one_line(error)}") from error
    return Graph(_normalised(proto, bundle.model_path), bundle.folder, digest)


def read_model(path: Path) -> ModelProto:
    """Parse an ONNX file without touching external data.

    Raises
    ------
    ModelError
        If the file cannot be read or is not an ONNX model.
    """
    try:
        if path.stat().st_size > MAX_PROTOBUF:
            raise ModelError(f"{path} is larger than 2 GiB; save its weights as external data")
        # The format is said, or else onnx goes by the file's name.
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        _check_text(proto)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{path} is not an ONNX model, or is damaged: {one_line(error)}"
        ) from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path} is not an ONNX model, or is damaged: it has no operations")
    return proto


def _check_text(message: Message) -> None:
    """Raise ValueError for a text that is not UTF-8; protobuf gives such a one as bytes."""
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                _check_text(inner)
        elif kind.type == kind.TYPE_STRING:
            for text in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise ValueError(f"{kind.name} is not UTF-8: {text[:40]!r}")  # noqa: TRY004


def _check_names(proto: ModelProto, path: Path) -> None:
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        names = [
            *(value.name for value in graph.input),
            *(tensor.name for tensor in graph.initializer),
            *(name for node in graph.node for name in node.output),
        ]
        for name in names:
            if name.startswith(PREFIX):
                raise ModelError(
                    f"{path} has a tensor {name!r}; names that begin with {PREFIX!r} are kept for "
                    "onnxloc: rename it, or take the model as it was before onnxloc changed it"
                )
        graphs.extend(inner for node in graph.node for inner in attribute_graphs(node))


def _check_external(proto: ModelProto, bundle: Bundle) -> tuple[str, ...]:
    sizes: dict[str, int] = {}
    in_functions = (t for f in proto.functions for node in f.node for t in node_tensors(node))
    for tensor in (*walk_tensors(proto.graph), *in_functions):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in sizes:
            sizes[name] = _external_size(bundle.folder, name, tensor.name)
        offset, length = (entries.get(key, "0") for key in ("offset", "length"))
        if not all(
            text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length)
        ):
            raise ModelError(
                f"{tensor.name}: external data with a bad offset {offset!r:.30} or length "
                f"{length!r:.30}"
            )
        end = int(offset) + int(length)
        if end > sizes[name]:
            raise ModelError(
                f"{bundle.folder / name} is too short: {tensor.name} ends at byte {end}, "
                f"the file has {sizes[name]}"
            )
    return tuple(sorted(sizes))


def _external_size(folder: Path, name: str, tensor: str) -> int:
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    outside = (
        not name
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).anchor
        or MEMORY_TAG in name
    )
    if outside or ".." in parts or "\0" in name:
        raise ModelError(f"{tensor}: external data {name!r:.200} lies outside the model's folder")
    file = folder / name
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{tensor}: external data {name!r} is a link; put the file itself there")
    if not file.is_file():
        raise ModelError(f"the weights file {file} is missing")
    return file.stat().st_size


def _hash(bundle: Bundle, locations: tuple[str, ...]) -> str:
    digest = hashlib.sha256(sha256_file(bundle.model_path).encode())
    for name in locations:
        digest.update(
            f"{name}:{_recorded(bundle, name) or sha256_file(bundle.folder / name)}".encode()
        )
    return digest.hexdigest()


def _recorded(bundle: Bundle, name: str) -> str | None:
    """The hash of a weights file that ``bundle.json`` records, if it can be trusted.

    Hashing gigabytes at each start would cost seconds. A file of another size than was recorded, or
    written after the record, is hashed again.
    """
    known = bundle.info.files.get(name)
    if known is None:
        return None
    file, record = (bundle.folder / name).stat(), (bundle.folder / INFO_FILE).stat()
    fits = known.size == file.st_size and file.st_mtime_ns <= record.st_mtime_ns
    return known.sha256 if fits else None


def _normalised(proto: ModelProto, path: Path) -> ModelProto:
    proto = _raise_versions(_inline(proto, path), path)
    try:
        settle_operators(proto)
        settle(proto.graph)
        _name_nodes_apart(proto.graph)
        proto = _inferred(proto)
        check_sizes(proto.graph)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return proto


def _name_nodes_apart(graph: GraphProto) -> None:
    """Number the nodes that share a name: onnxruntime refuses them, ONNX allows them."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if node.name in seen and node.name:
            name = f"{node.name}.{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)
        for inner in attribute_graphs(node):
            _name_nodes_apart(inner)


def _inferred(proto: ModelProto) -> ModelProto:
    try:
        # With data_prop, onnx keeps a record of each element of a one-dimensional tensor: 13 s and
        # 4.6 GB for 2**24 of them, and the size need only be claimed.
        return onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=False)
    except ONNX_ERRORS:
        # Types that inference cannot give are found by running the graph (see runtime.probe).
        return proto


def _raise_versions(proto: ModelProto, path: Path) -> ModelProto:
    if proto.ir_version < MIN_IR:
        proto.ir_version = MIN_IR
    used = {entry.domain for entry in proto.opset_import}
    used |= {node.domain for node in proto.graph.node}
    if used.isdisjoint(("", "ai.onnx")):
        # All operators are of other domains; what the rewriter adds is not.
        proto.opset_import.add(domain="", version=MIN_OPSET)
    if _opset(proto) < MIN_OPSET:
        if _opset(proto) < SCAN_OPSET and any(n.op_type == "Scan" for n in proto.graph.node):
            raise ModelError(
                f"{path} has a Scan as operator set 8 had it, which no newer one has; export the "
                f"model again with operator set {SCAN_OPSET} or newer"
            )
        try:
            proto = onnx.version_converter.convert_version(proto, MIN_OPSET)
        except ONNX_ERRORS as error:
            raise ModelError(
                f"{path} uses an operator set older than {MIN_OPSET} and cannot be converted: "
                f"{one_line(error)}"
            ) from error
    # An initializer that is an input too could be overridden. Nothing here does so, and onnxruntime
    # does not fold such constants.
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
    kept = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return proto


def _inline(proto: ModelProto, path: Path) -> ModelProto:
    if not proto.functions:
        return proto
    _align_versions(proto)
    versions = {o.domain: o.version for o in proto.opset_import}
    differ = any(versions[o.domain] != o.version for f in proto.functions for o in f.opset_import)
    try:
        # Without conversion the inliner skips a function of another version in silence. To convert
        # one, it has to know the types of what the function takes and gives.
        proto = onnx.inliner.inline_local_functions(
            _inferred(proto) if differ else proto, convert_version=differ
        )
    except ONNX_ERRORS as error:
        raise ModelError(f"{path}: its functions cannot be inlined: {one_line(error)}") from error
    if proto.functions:
        names = ", ".join(f.name for f in proto.functions)
        raise ModelError(f"{path}: these functions cannot be inlined: {names:.200}")
    return proto


def _align_versions(proto: ModelProto) -> None:
    """Give each function the model's version of a domain where its operators are the same in both.

    The inliner's own conversion knows the default domain only.
    """
    versions = {o.domain: o.version for o in proto.opset_import}
    for function in proto.functions:
        for entry in function.opset_import:
            if entry.domain not in versions:
                proto.opset_import.add(domain=entry.domain, version=entry.version)
                versions[entry.domain] = entry.version
            wanted = versions[entry.domain]
            used = {node.op_type for node in function.node if node.domain == entry.domain}
            if all(
                _since(op, entry.domain, entry.version) == _since(op, entry.domain, wanted)
                for op in used
            ):
                entry.version = wanted


def _since(op: str, domain: str, version: int) -> int | None:
    """The version in which an operator took its present form; None if onnx does not know it."""
    try:
        return int(onnx.defs.get_schema(op, version, domain).since_version)
    except (onnx.defs.SchemaError, TypeError):
        # TypeError: a version that does not fit 32 bits.
        return None
