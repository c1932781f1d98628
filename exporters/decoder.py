"""The graph of a Llama-family decoder, in plain operators only.

Every intermediate tensor is an ordinary value of the graph, so that each can be read and changed.
The equations are those of RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864, halves
rotated as in Hugging Face's models), grouped-query attention (arXiv 2305.13245) and SwiGLU
(arXiv 2002.05202).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxloc_exporters.graph_builder import GraphBuilder

__all__ = ["IR_VERSION", "OPSET", "DecoderConfig", "decoder_model", "decoder_weights"]

IR_VERSION = 10
OPSET = 21
TOTAL = "past_sequence + sequence"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes and switches of a decoder.

    Attributes
    ----------
    blocks, width, heads, kv_heads, head_width, hidden, vocabulary : int
        Sizes; `width` is that of the residual stream, `hidden` that of the MLP.
    epsilon : float
        Added to the mean square in RMSNorm.
    tied : bool
        Whether the output head is the transposed embedding.
    qkv_bias : bool
        Whether the query, key and value projections have biases.
    half : bool
        Whether weights and activations are float16; norms and angles stay float32.
    with_past : bool
        Whether the graph takes the keys and values of earlier tokens, and gives those of all.
    """

    blocks: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    epsilon: float
    tied: bool
    qkv_bias: bool = False
    half: bool = False
    with_past: bool = False


def decoder_weights(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a decoder's weights, in the order of their use.

    The names are Hugging Face's; projections are ``[in, out]``, so that no run-time transposition
    is needed, and the embedding (the tied head, too) is ``[vocabulary, width]``.
    """
    width, hidden = config.width, config.hidden
    queries = config.heads * config.head_width
    keys = config.kv_heads * config.head_width
    yield "model.embed_tokens.weight", (config.vocabulary, width)
    for i in range(config.blocks):
        block = f"model.layers.{i}"
        yield f"{block}.input_layernorm.weight", (width,)
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{block}.self_attn.{name}_proj.weight", (width, size)
            if config.qkv_bias:
                yield f"{block}.self_attn.{name}_proj.bias", (size,)
        yield f"{block}.self_attn.o_proj.weight", (queries, width)
        yield f"{block}.post_attention_layernorm.weight", (width,)
        yield f"{block}.mlp.gate_proj.weight", (width, hidden)
        yield f"{block}.mlp.up_proj.weight", (width, hidden)
        yield f"{block}.mlp.down_proj.weight", (hidden, width)
    yield "model.norm.weight", (width,)
    if not config.tied:
        yield "lm_head.weight", (width, config.vocabulary)


def decoder_model(
    config: DecoderConfig,
    inverse_frequencies: NDArray[np.float32],
    weight: Callable[[str], TensorProto],
    producer: tuple[str, str],
) -> onnx.ModelProto:
    """Build the graph.

    Inputs are ``input_ids``, ``attention_mask`` and ``position_ids``, all int64 ``[batch,
    sequence]``; the output is ``logits``, float32 ``[batch, sequence, vocabulary]``.

    With past, there are also inputs ``past_key_values.N.key`` and ``.value``, ``[batch, kv_heads,
    past_sequence, head_width]``, and outputs ``present.N.key`` and ``.value`` with the same axes,
    which hold the earlier tokens and then the new ones. The attention mask is then ``[batch,
    past_sequence + sequence]``. There may be no earlier tokens. Names and axes are as optimum's
    exports have them.

    Parameters
    ----------
    config : DecoderConfig
        Sizes and switches.
    inverse_frequencies : array of shape (head_width / 2,)
        Radians that each pair of coordinates turns for each position.
    weight : callable
        Gives the initializer of each name that `decoder_weights` lists.
    producer : pair of str
        Name and version that the model records as its maker.
    """
    return _Decoder(config, inverse_frequencies, weight).model(producer)


class _Decoder:
    def __init__(
        self,
        config: DecoderConfig,
        inverse_frequencies: NDArray[np.float32],
        weight: Callable[[str], TensorProto],
    ) -> None:
        self.config = config
        self.float = TensorProto.FLOAT16 if config.half else TensorProto.FLOAT
        self.numpy = np.dtype(np.float16 if config.half else np.float32)
        self.graph = GraphBuilder()
        self.weights = {
            name: self.graph.weight(weight(name)) for name, _ in decoder_weights(config)
        }
        self.allowed = self.mask()
        self.cos, self.sin = self.rotation(inverse_frequencies)

    def model(self, producer: tuple[str, str]) -> onnx.ModelProto:
        config, g = self.config, self.graph
        embedding = self.weights["model.embed_tokens.weight"]
        stream = g.add("Gather", "/model/embed_tokens", [embedding, "input_ids"], axis=0)
        for i in range(config.blocks):
            scope = f"/model/layers.{i}"
            attention = self.attention(i, self.norm(scope, "input_layernorm", stream))
            stream = g.add("Add", scope, [stream, attention])
            mlp = self.mlp(scope, self.norm(scope, "post_attention_layernorm", stream))
            stream = g.add("Add", scope, [stream, mlp])
        self.head(self.norm("/model", "norm", stream))
        shape = ["batch", "sequence"]
        shapes = {"attention_mask": ["batch", TOTAL]} if config.with_past else {}
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, shapes.get(name, shape))
            for name in ("input_ids", "attention_mask", "position_ids")
        ]
        logits = helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, [*shape, config.vocabulary]
        )
        return g.model(
            "decoder",
            [*inputs, *self.cache("past_key_values", "past_sequence")],
            [logits, *self.cache("present", TOTAL)],
            opset=OPSET,
            ir_version=IR_VERSION,
            producer=producer,
        )

    def cache(self, stem: str, length: str) -> list[onnx.ValueInfoProto]:
        """Keys and values of every block, as inputs or outputs of the graph."""
        if not self.config.with_past:
            return []
        shape = ["batch", self.config.kv_heads, length, self.config.head_width]
        return [
            helper.make_tensor_value_info(f"{stem}.{i}.{part}", self.float, shape)
            for i in range(self.config.blocks)
            for part in ("key", "value")
        ]

    def mask(self) -> str:
        """Which key each query may see: bool ``[batch, 1, sequence, past and sequence]``."""
        g, scope = self.graph, "/model/mask"
        length = g.add("Shape", scope, ["input_ids"], start=1, end=2)
        size = g.add("Squeeze", scope, [length])
        zero = g.constant("/constants/zero", np.array(0, np.int64))
        one = g.constant("/constants/one", np.array(1, np.int64))
        if self.config.with_past:
            # Earlier tokens come first; the queries are the places behind them.
            length = g.add("Shape", scope, ["attention_mask"], start=1, end=2)
            total = g.add("Squeeze", scope, [length])
            places = g.add("Range", scope, [zero, total, one])
            g.declare(places, TensorProto.INT64, [TOTAL])
            past = g.add("Sub", scope, [total, size])
            queries = g.add("Range", scope, [past, total, one])
            g.declare(queries, TensorProto.INT64, ["sequence"])
        else:
            places = queries = g.add("Range", scope, [zero, size, one])
            g.declare(places, TensorProto.INT64, ["sequence"])
        queries = g.add("Unsqueeze", scope, [queries, g.integers(1)])
        causal = g.add("LessOrEqual", scope, [places, queries])
        real = g.add("Cast", scope, ["attention_mask"], to=TensorProto.BOOL)
        return g.add("And", scope, [causal, g.add("Unsqueeze", scope, [real, g.integers(1, 2)])])

    def rotation(self, inverse_frequencies: NDArray[np.float32]) -> tuple[str, str]:
        """Cosines and signed sines, both ``[batch, 1, sequence, head_width]``.

        The sines of the first half carry the minus sign of the rotation.
        """
        g, scope = self.graph, "/model/rotary_emb"
        places = g.add("Cast", scope, ["position_ids"], to=TensorProto.FLOAT)
        places = g.add("Unsqueeze", scope, [places, g.integers(1, 3)])
        frequencies = g.constant("model.rotary_emb.inv_freq", inverse_frequencies)
        angles = g.add("Mul", scope, [places, frequencies])
        cos, sin = g.add("Cos", scope, [angles]), g.add("Sin", scope, [angles])
        pair = (
            g.add("Concat", scope, [cos, cos], axis=-1),
            g.add("Concat", scope, [g.add("Neg", scope, [sin]), sin], axis=-1),
        )
        if not self.config.half:
            return pair
        return (
            g.add("Cast", scope, [pair[0]], to=self.float),
            g.add("Cast", scope, [pair[1]], to=self.float),
        )

    def norm(self, scope: str, name: str, x: str) -> str:
        """RMSNorm, ``x / sqrt(mean(x^2) + epsilon) * weight``, computed in float32."""
        g, scope = self.graph, f"{scope}/{name}"
        weight = self.weights[f"{scope[1:].replace('/', '.')}.weight"]
        wide = g.add("Cast", scope, [x], to=TensorProto.FLOAT) if self.config.half else x
        two = g.constant("/constants/two", np.array(2, np.float32))
        square = g.add("Pow", scope, [wide, two])
        mean = g.add("ReduceMean", scope, [square, g.integers(-1)], keepdims=1)
        epsilon = g.constant("/constants/epsilon", np.array(self.config.epsilon, np.float32))
        root = g.add("Sqrt", scope, [g.add("Add", scope, [mean, epsilon])])
        x = g.add("Div", scope, [wide, root])
        if self.config.half:
            x = g.add("Cast", scope, [x], to=self.float)
        return g.add("Mul", scope, [x, weight])

    def linear(self, scope: str, x: str) -> str:
        """``x @ weight (+ bias)``; `scope` names the layer."""
        g, name = self.graph, scope[1:].replace("/", ".")
        y = g.add("MatMul", scope, [x, self.weights[f"{name}.weight"]])
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else g.add("Add", scope, [y, bias])

    def attention(self, block: int, x: str) -> str:
        g, config, scope = self.graph, self.config, f"/model/layers.{block}/self_attn"

        def split(name: str, heads: int) -> str:
            y = self.linear(f"{scope}/{name}_proj", x)
            y = g.add("Reshape", scope, [y, g.integers(0, 0, heads, config.head_width)])
            return g.add("Transpose", scope, [y], perm=[0, 2, 1, 3])

        query = self.rotate(scope, split("q", config.heads))
        key = self.rotate(scope, split("k", config.kv_heads))
        value = split("v", config.kv_heads)
        if config.with_past:
            key = self.extend(scope, f"{block}.key", key)
            value = self.extend(scope, f"{block}.value", value)
        if config.heads != config.kv_heads:
            key, value = self.shared(scope, key), self.shared(scope, value)
        key = g.add("Transpose", scope, [key], perm=[0, 1, 3, 2])
        scores = g.add("MatMul", scope, [query, key])
        scale = g.constant("/constants/scale", np.array(config.head_width**-0.5, self.numpy))
        scores = g.add("Mul", scope, [scores, scale])
        # A finite floor: a query that sees no key gets even weights, not NaN.
        floor = g.constant("/constants/floor", np.array(-65504, self.numpy))
        scores = g.add("Where", scope, [self.allowed, scores, floor])
        weights = g.add("Softmax", scope, [scores], axis=-1)
        mixed = g.add("MatMul", scope, [weights, value])
        mixed = g.add("Transpose", scope, [mixed], perm=[0, 2, 1, 3])
        mixed = g.add("Reshape", scope, [mixed, g.integers(0, 0, config.heads * config.head_width)])
        return self.linear(f"{scope}/o_proj", mixed)

    def extend(self, scope: str, name: str, new: str) -> str:
        """The cached keys or values of earlier tokens with the new ones behind them."""
        past = f"past_key_values.{name}"
        return self.graph.add("Concat", scope, [past, new], output=f"present.{name}", axis=2)

    def shared(self, scope: str, x: str) -> str:
        """Give each query head the key or value head of its group."""
        config = self.config
        group = config.heads // config.kv_heads
        heads = np.repeat(np.arange(config.kv_heads, dtype=np.int64), group)
        index = self.graph.constant("/constants/heads", heads)
        return self.graph.add("Gather", scope, [x, index], axis=1)

    def rotate(self, scope: str, x: str) -> str:
        """Turn each pair ``(x[i], x[i + head_width / 2])`` by its token's angle."""
        g = self.graph
        first, second = g.add_many("Split", scope, [x], ["", ""], axis=-1, num_outputs=2)
        swapped = g.add("Concat", scope, [second, first], axis=-1)
        return g.add(
            "Add",
            scope,
            [g.add("Mul", scope, [x, self.cos]), g.add("Mul", scope, [swapped, self.sin])],
        )

    def mlp(self, scope: str, x: str) -> str:
        """SwiGLU: ``down(silu(gate(x)) * up(x))``."""
        g, scope = self.graph, f"{scope}/mlp"
        gate = self.linear(f"{scope}/gate_proj", x)
        up = self.linear(f"{scope}/up_proj", x)
        sigmoid = g.add("Sigmoid", f"{scope}/act_fn", [gate])
        active = g.add("Mul", f"{scope}/act_fn", [gate, sigmoid])
        return self.linear(f"{scope}/down_proj", g.add("Mul", scope, [active, up]))

    def head(self, x: str) -> None:
        g, config, scope = self.graph, self.config, "/lm_head"
        logits = "" if config.half else "logits"
        if config.tied:
            # The runtime folds this once at load; on disk the embedding stands once.
            embedding = self.weights["model.embed_tokens.weight"]
            weight = g.add("Transpose", scope, [embedding], perm=[1, 0])
        else:
            weight = self.weights["lm_head.weight"]
        logits = g.add("MatMul", scope, [x, weight], output=logits)
        if config.half:
            g.add("Cast", scope, [logits], output="logits", to=TensorProto.FLOAT)
