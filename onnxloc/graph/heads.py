"""Heads: what is computed from logits inside the graph, so that no vocabulary leaves it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxloc.errors import ModelError, OptionError
from onnxloc.graph.fragment import Fragment
from onnxloc.graph.load import PREFIX
from onnxloc.graph.narrow import INDICES, LAST_INDEX, POSITIONS
from onnxloc.graph.plan import Entropy, Head, TargetLogProbs, TopLogits
from onnxloc.graph.sites import Axis, Site

__all__ = ["TARGETS", "HeadWriter", "head_outputs"]

TARGETS = f"{PREFIX}targets"
_TOP = ("values", "ids", "mean", "variance", "log_sum_exp")


def head_outputs(head: Head) -> tuple[str, ...]:
    """The outputs that carry a head.

    Of `TargetLogProbs` one, ``[batch, tokens]``. Of `TopLogits` the values and ids, ``[batch,
    tokens, k]``, and the mean, variance and log-sum-exp, ``[batch, tokens]``. Of `Entropy` one,
    ``[batch, tokens]``. At the last token there is one token. At given positions all have one
    axis of positions in place of these two.
    """
    if isinstance(head, TargetLogProbs):
        return (f"{PREFIX}logprobs",)
    if isinstance(head, Entropy):
        return (f"{PREFIX}entropy",)
    return tuple(f"{PREFIX}top.{name}" for name in _TOP)


@dataclass(frozen=True)
class _Shifted:
    """Logits less the largest, their exponentials, the sum of these and its logarithm.

    The last two are in double precision.
    """

    largest: str
    less: str
    exp: str
    total: str
    log: str


class HeadWriter:
    """Writes heads behind logits.

    Parameters
    ----------
    fragment : Fragment
        Where the operations go.
    opset : int
        Of the default domain.
    inputs : dict of str to (int, list)
        Element type and sizes of the inputs that are added to the model; heads add theirs.
    """

    def __init__(
        self, fragment: Fragment, opset: int, inputs: dict[str, tuple[int, list[int | str]]]
    ) -> None:
        self._fragment = fragment
        self._opset = opset
        self._inputs = inputs
        self._shifted: dict[str, _Shifted] = {}

    def write(
        self, head: Head, site: Site, source: str, narrowed: Mapping[str, frozenset[str]]
    ) -> dict[str, int]:
        """Write a head; its outputs with their types are returned.

        Parameters
        ----------
        head : Head
            The head.
        site : Site
            The site of the logits.
        source : str
            Its tensor in the model's own graph.
        narrowed : mapping of str to frozenset of str
            As `narrow_plan` gives it.

        Raises
        ------
        ModelError
            If the site has other axes than ``[batch, tokens, vocabulary]``.
        OptionError
            If more logits are asked for than there are.
        """
        if site.axes != (Axis.BATCH, Axis.TOKEN, Axis.FEATURE):
            raise ModelError(f"{site.name} is not [batch, tokens, vocabulary]")
        if isinstance(head, TopLogits) and head.k > site.units:
            raise OptionError(
                f"{head.k} largest logits were asked for, and the vocabulary has {site.units} "
                f"tokens; ask for {site.units} or fewer"
            )
        logits, dtype = self._at(head, source, narrowed), site.dtype
        if dtype != "float64":
            # Half precision would lose most of a sum over a vocabulary.
            logits = self._fragment.once(f"single {logits}", "Cast", [logits], to=TensorProto.FLOAT)
            dtype = "float32"
        outs = head_outputs(head)
        real = TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT
        types: dict[str, int] = dict.fromkeys(outs, TensorProto.DOUBLE)
        if isinstance(head, TargetLogProbs):
            types[outs[0]] = real
            found = [self._targets(logits, flat=head.at == "given")]
        elif isinstance(head, Entropy):
            found = [self._entropy(logits, dtype)]
        else:
            found = self._top(logits, head, dtype)
            types |= {outs[0]: real, outs[1]: TensorProto.INT64}
        for out, name in zip(outs, found, strict=True):
            if head.at == "given":
                # Gathered as rows of one token each.
                name = self._fragment.op("Squeeze", [name, self._fragment.ints([1])])
            self._fragment.op("Identity", [name], out=out)
        return types

    def _at(self, head: Head, source: str, narrowed: Mapping[str, frozenset[str]]) -> str:
        """The logits at the positions that a head is read at, each a row of one token."""
        fragment = self._fragment
        if head.at == "all":
            return source
        index = LAST_INDEX if head.at == "last" else POSITIONS
        if head.logits in narrowed[index]:
            return source
        self._inputs[index] = INDICES[index]
        if head.at == "last":
            place = fragment.once("last row", "Unsqueeze", [index, fragment.ints([1, 2])])
            return fragment.once(f"last {source}", "GatherND", [source, place], batch_dims=1)
        place = fragment.once("places", "Unsqueeze", [index, fragment.ints([1])])
        return fragment.once(f"given {source}", "GatherND", [source, place])

    def _targets(self, logits: str, *, flat: bool) -> str:
        fragment = self._fragment
        dims: list[int | str] = ["onnxloc.batch", "onnxloc.tokens"]
        self._inputs[TARGETS] = (TensorProto.INT64, ["onnxloc.positions"] if flat else dims)
        logprobs = fragment.op("LogSoftmax", [logits], axis=-1)
        axes = [1, 2] if flat else [2]
        targets = fragment.op("Unsqueeze", [TARGETS, fragment.ints(axes)])
        chosen = fragment.op("GatherElements", [logprobs, targets], axis=2)
        return fragment.op("Squeeze", [chosen, fragment.ints([2])])

    def _top(self, logits: str, head: TopLogits, dtype: str) -> list[str]:
        fragment = self._fragment
        mean, variance = self._moments(logits)
        shifted = self._shift(logits, dtype)
        total = fragment.op("Add", [self._double(shifted.largest), shifted.log])
        # An operator's order of NaN is its own, so nothing is said of what it picks.
        nan = fragment.op("IsNaN", [total])
        values, ids = (f"{PREFIX}top.raw.{name}" for name in ("values", "ids"))
        fragment.op("TopK", [logits, fragment.ints([head.k])], out=values, more=(ids,), axis=-1)
        unknown = fragment.constant(np.array(np.nan, dtype=dtype))
        nobody = fragment.constant(np.array(-1, dtype=np.int64))
        return [
            fragment.op("Where", [nan, unknown, values]),
            fragment.op("Where", [nan, nobody, ids]),
            *(self._no_units(name) for name in (mean, variance, total)),
        ]

    def _moments(self, logits: str) -> tuple[str, str]:
        """Mean and variance in two passes: one pass would cancel."""
        wide = self._double(logits)
        mean = self._reduce("ReduceMean", wide)
        deviation = self._fragment.op("Sub", [wide, mean])
        return mean, self._reduce("ReduceMean", self._fragment.op("Mul", [deviation, deviation]))

    def _entropy(self, logits: str, dtype: str) -> str:
        """The entropy log S - sum(e d) / S, with d = x - max x, e = exp d and S = sum(e).

        No term is negative, so nothing cancels. What has no probability counts 0.
        """
        fragment, shifted = self._fragment, self._shift(logits, dtype)
        zero = fragment.constant(np.zeros((), dtype=dtype))
        weighted = fragment.op("Mul", [shifted.exp, shifted.less])
        none = fragment.op("Equal", [shifted.exp, zero])
        weighted = fragment.op("Where", [none, zero, weighted])
        mean = fragment.op("Div", [self._sum(weighted), shifted.total])
        return self._no_units(fragment.op("Sub", [shifted.log, mean]))

    def _shift(self, logits: str, dtype: str) -> _Shifted:
        if logits not in self._shifted:
            fragment = self._fragment
            top = self._reduce("ReduceMax", logits)
            # Infinity less infinity is nothing; scipy's logsumexp takes 0 there as well.
            zero = fragment.constant(np.zeros((), dtype=dtype))
            largest = fragment.op("Where", [fragment.op("IsInf", [top]), zero, top])
            less = fragment.op("Sub", [logits, largest])
            exp = fragment.op("Exp", [less])
            total = self._sum(exp)
            log = fragment.op("Log", [total])
            self._shifted[logits] = _Shifted(largest, less, exp, total, log)
        return self._shifted[logits]

    def _sum(self, tensor: str) -> str:
        fragment = self._fragment
        return fragment.op("ReduceSum", [self._double(tensor), fragment.ints([-1])], keepdims=1)

    def _double(self, tensor: str) -> str:
        # Summed in single precision, 50,000 terms are off by 1e-5 of the sum.
        return self._fragment.once(f"double {tensor}", "Cast", [tensor], to=TensorProto.DOUBLE)

    def _reduce(self, kind: str, tensor: str) -> str:
        """A reduction over the vocabulary, of those that took axes as an attribute up to 17."""
        fragment = self._fragment
        if self._opset >= 18:
            return fragment.op(kind, [tensor, fragment.ints([-1])], keepdims=1)
        return fragment.op(kind, [tensor], axes=[-1], keepdims=1)

    def _no_units(self, tensor: str) -> str:
        return self._fragment.op("Squeeze", [tensor, self._fragment.ints([2])])
