"""Running a graph token by token, with the keys and values of earlier tokens kept (a KV cache)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.load import Graph, InputSpec
from onnxloc.graph.narrow import LAST_INDEX
from onnxloc.graph.rewrite import TOKEN_MASK
from onnxloc.graph.topology import Topology
from onnxloc.registry import one_line
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.feeds import fixed_sizes, input_role, model_feeds
from onnxloc.runtime.providers import import_onnxruntime
from onnxloc.runtime.session import EditValues, Session

__all__ = ["CachedRows", "cache_pairs", "takes_padding"]

# Which output continues an input of earlier keys and values: past_key_values.0.key is continued by
# present.0.key, past.0.key by the same.
STEMS = ("past_key_values", "past_key_value", "past")


def cache_pairs(graph: Graph) -> dict[str, str]:
    """For each input of earlier keys or values, the output that continues it; empty if none.

    Raises
    ------
    ModelError
        If the graph takes earlier keys and values in a way that cannot be handled.
    """
    if any(spec.name == "use_cache_branch" for spec in graph.inputs):
        raise ModelError(
            "the model has two branches and an input use_cache_branch; export it again with one "
            "graph for both (optimum 1.14 or later does so)"
        )
    outputs = {value.name for value in graph.proto.graph.output}
    pairs = {}
    for spec in graph.inputs:
        if input_role(spec) != "past":
            continue
        stem = next(stem for stem in STEMS if stem in spec.name.lower())
        wanted = spec.name.lower().replace(stem, "present", 1)
        found = [name for name in outputs if name.lower() == wanted]
        if not found:
            raise ModelError(
                f"the model takes {spec.name} but gives no output {wanted} to continue it"
            )
        pairs[spec.name] = found[0]
    if pairs and any(size is not None for size in fixed_sizes(graph.inputs)):
        raise ModelError(
            "the model takes earlier keys and values but fixes its rows or tokens; export it with "
            "both free"
        )
    return pairs


def takes_padding(graph: Graph) -> bool:
    """Whether rows of different lengths can be cached together.

    Their padding must be masked, and positions be given: a graph that counts positions by itself
    would count the padding too.
    """
    masked = any(input_role(spec) == "mask" for spec in graph.inputs)
    return masked and any(
        input_role(spec) == "positions" and len(spec.dims) == 2 for spec in graph.inputs
    )


class CachedRows:
    """Some rows, and what the graph keeps of the tokens that it has seen of them.

    Padding stands behind a row's tokens, so that no token ever looks at nothing but padding, which
    would be NaN in some graphs. It stays in the cache, masked.

    Parameters
    ----------
    session : Session
        Its plan reads the logits of the last token and keeps every output of `cache_pairs`.
    rows : int
        Number of rows.
    edits : mapping of str to tuple of ndarray, or None
        As `Session.taps` takes them, with one token: they hold at every token. None if each run is
        given its own.

    Raises
    ------
    OptionError
        If an edit does not fit, or changes what the cache itself holds otherwise than by putting
        the same in its place at every token.
    """

    def __init__(self, session: Session, rows: int, edits: EditValues | None) -> None:
        graph = session.instrumented.graph
        self._pairs = cache_pairs(graph)
        _check_edits(session, self._pairs, edits)
        self._edited = session
        self._ort = import_onnxruntime()
        self._device = "cuda" if session.provider.startswith("CUDA") else "cpu"
        self._session = session.handle
        self._logits = session.instrumented.tap_outputs[session.plan.taps[0]]
        self._extra = session.instrumented.input_names & {LAST_INDEX, TOKEN_MASK}
        self._specs = [
            spec for spec in graph.inputs if spec.name in session.instrumented.input_names
        ]
        # Which of the places in the cache hold tokens, and how many do.
        self._real = np.zeros((rows, 0), dtype=np.bool_)
        self._binding = self._session.io_binding()
        one = _batch(rows, 1)
        if edits is not None:
            for name, value in session.operands(one, edits).items():
                self._put(name, value)
        # Also refuses a graph with inputs that text cannot fill. The cache begins empty.
        first = model_feeds(self._specs, one)
        for name in self._pairs:
            self._put(name, first[name])

    def run(
        self, ids: NDArray[np.int64], real: NDArray[np.bool_], edits: EditValues | None = None
    ) -> NDArray[np.float32]:
        """Run more tokens.

        Parameters
        ----------
        ids : ndarray of int64, [rows, tokens]
            The tokens, padded on the right.
        real : ndarray of bool, [rows, tokens]
            Which of them are tokens. A row may have none; what it gives then means nothing.
        edits : mapping of str to tuple of ndarray, optional
            Edits of these tokens, where the rows have none that hold at every token.

        Returns
        -------
        ndarray, [rows, vocabulary]
            The logits behind each row's last token.

        Raises
        ------
        ModelError
            If the model fails.
        OptionError
            If an edit does not fit.
        """
        before = self._real.shape[1]
        positions = self._real.sum(axis=1)[:, None] + np.cumsum(real, axis=1) - 1
        self._real = np.concatenate([self._real, real], axis=1)
        values: dict[str, NDArray[Any]] = {
            "ids": ids,
            "mask": self._real,
            "positions": np.maximum(positions, 0),
            "types": np.zeros_like(ids),
        }
        feeds = {}
        for spec in self._specs:
            role = input_role(spec)
            if role == "past":
                continue
            value = values[role]
            if role == "positions" and len(spec.dims) == 1:
                value = np.arange(before, self._real.shape[1])
            feeds[spec.name] = np.array(value, dtype=_dtype(spec), order="C")
        last = np.maximum(real.sum(axis=1) - 1, 0)
        for name, extra in ((LAST_INDEX, last), (TOKEN_MASK, np.array(real, order="C"))):
            if name in self._extra:
                feeds[name] = extra
        if edits is not None:
            operands = self._edited.operands(_batch(*ids.shape), edits)
            feeds |= {name: np.array(value, order="C") for name, value in operands.items()}
        return self._bound(feeds)

    def _bound(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        binding = self._binding
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        # Bound anew each time: else the old result, which is now an input, would be written over.
        binding.bind_output(self._logits, "cpu")
        for name in self._pairs.values():
            binding.bind_output(name, self._device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            rows, tokens = self._real.shape
            raise ModelError(
                f"onnxruntime failed while running: {one_line(error)} (on {rows} rows of "
                f"{tokens} tokens)"
            ) from error
        logits, *kept = binding.get_outputs()
        for name, value in zip(self._pairs, kept, strict=True):
            binding.bind_ortvalue_input(name, value)
        return np.array(logits.numpy())

    def _put(self, name: str, value: NDArray[Any]) -> None:
        """Put an input that stays on the device."""
        value = np.array(value, order="C")
        self._binding.bind_ortvalue_input(
            name, self._ort.OrtValue.ortvalue_from_numpy(value, self._device, 0)
        )


def _batch(rows: int, tokens: int) -> Batch:
    """A batch of that shape, its tokens no matter."""
    ids = np.zeros((rows, tokens), dtype=np.int64)
    return Batch(np.arange(rows), ids, np.full(rows, tokens))


def _dtype(spec: InputSpec) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(spec.dtype)


def _check_edits(session: Session, pairs: Mapping[str, str], edits: EditValues | None) -> None:
    forms = {edit.site: edit.form for edit in session.plan.edits}
    changed = set(forms if edits is None else edits)
    # The same value may be put in the place of every token, of earlier ones again and again.
    again = {site for site in changed & set(forms) if edits is None or forms[site] == "affine"}
    if not again:
        return
    topology = Topology(session.instrumented.graph.proto)
    for past, present in pairs.items():
        held = topology.descendants([past]) & ({present} | topology.ancestors([present]))
        for site in sorted(again & held):
            raise OptionError(
                f"{site} is what the cache holds, so an edit would change earlier tokens again "
                "at each new one; edit the key or value of the new token (block.N.attn.k or "
                "block.N.attn.v)"
            )
