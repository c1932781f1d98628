import dataclasses

import numpy as np
import pytest
from helpers import torch_models
from helpers.fused_graphs import Graph, Variant, transformer
from helpers.read_sites import read_sites
from onnx import TensorProto, helper

from onnxloc.runtime.model import Model

pytestmark = pytest.mark.unit

IDS = np.random.default_rng(0).integers(1, 100, (3, 7))
LENGTHS = np.array([7, 5, 6])
TOLERANCE = 1e-4

# The newer exporter is slow: some models have one block there.
DYNAMO = {"gpt2": 1, "llama": 2, "bert": 2, "gpt_neox": 1, "gptj": 1, "falcon": 1, "t5": 1}
CASES = [(name, "torchscript", 2) for name in torch_models.MODELS] + [
    (name, "dynamo", blocks) for name, blocks in DYNAMO.items()
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case[:2]))
def exported(request, tmp_path_factory):
    name, exporter, blocks = request.param
    made = torch_models.make(name, blocks)
    file = tmp_path_factory.mktemp("anatomy") / "model.onnx"
    torch_models.export(made, file, dynamo=exporter == "dynamo")
    return made, Model.open(file)


def test_every_named_site_is_what_a_torch_hook_gives(exported):
    made, model = exported
    mask = np.arange(IDS.shape[1]) < LENGTHS[:, None]
    want = made.values(IDS, mask)
    named = {name for site in model.sites for name in site.names if not name.startswith("op:")}
    assert named == set(want)
    compare(read_sites(model, named, IDS, LENGTHS), want, mask)


def compare(got, want, mask):
    for name, a in sorted(got.items()):
        b = want[name]
        assert a.shape == b.shape, name
        if name.endswith("probs"):
            a, b = (np.where(mask[:, None, :, None], x, 0) for x in (a, b))
        else:
            a, b = a[mask], b[mask]
        assert np.abs(a - b).max() <= TOLERANCE, name
        assert np.abs(b).max() > 100 * TOLERANCE, name


# What onnxruntime's own optimizer hides inside fused operators, by model.
HIDDEN_BY_FUSION = {
    "bert": {"attn.q", "attn.k", "attn.v", "attn.probs", "attn.out", "mlp.pre", "mlp.out"},
    "gpt2": {"mlp.pre", "mlp.out", "last out"},
    "gptj": {"mlp.pre", "last out"},
    "llama": {"last out"},
}


@pytest.mark.parametrize("name", HIDDEN_BY_FUSION)
def test_graphs_that_onnxruntime_fused(name, tmp_path):
    from onnxruntime.transformers.optimizer import optimize_model

    made = torch_models.make(name)
    plain = torch_models.export(made, tmp_path / "plain.onnx", dynamo=False)
    file = tmp_path / "model.onnx"
    fused = optimize_model(
        str(plain), "bert" if name == "bert" else "gpt2", num_heads=4, hidden_size=32, opt_level=0
    )
    fused.save_model_to_file(str(file))
    model = Model.open(file)
    assert any(node.op_type.startswith("Skip") for node in model.graph.proto.graph.node)
    mask = np.arange(IDS.shape[1]) < LENGTHS[:, None]
    want = made.values(IDS, mask)
    hidden = {f"block.{i}.{role}" for i in range(2) for role in HIDDEN_BY_FUSION[name]}
    if "last out" in HIDDEN_BY_FUSION[name]:
        hidden.add("block.1.out")
    named = {n for site in model.sites for n in site.names if not n.startswith("op:")}
    assert named == set(want) - hidden
    compare(read_sites(model, named, IDS, LENGTHS), want, mask)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_graphs_quantised_to_int8(name, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    made = torch_models.make(name)
    plain = torch_models.export(made, tmp_path / "plain.onnx", dynamo=False)
    quantize_dynamic(plain, tmp_path / "model.onnx")
    model = Model.open(tmp_path / "model.onnx")
    mask = np.arange(IDS.shape[1]) < LENGTHS[:, None]
    want = made.values(IDS, mask)
    named = {n for site in model.sites for n in site.names if not n.startswith("op:")}
    assert named == set(want)
    with_units = {name for name in named if model.sites.find(name).units}
    assert {"block.1.attn.q", "block.1.attn.out", "block.1.mlp.out", "block.1.out"} <= with_units
    got = read_sites(model, with_units, IDS, LENGTHS)
    for key, value in got.items():
        assert np.corrcoef(value[mask].ravel(), want[key][mask].ravel())[0, 1] > 0.98, key


VARIANTS = [
    Variant(),
    Variant(norm="rms", mlp="swiglu", bias="none", tied=True),
    Variant(norm="rms reciprocal", mlp="gated gelu", bias="before"),
    Variant(norm="layer fused", mlp="erf", bias="before", between=("Identity", "Cast", "Dropout")),
    Variant(norm="layer", mlp="tanh", hidden=12),
    Variant(norm="layer", mlp="tanh", hidden=12, post_norm=True, head="none"),
    Variant(norm="layer fused", mlp="relu max", post_norm=True, head="pooled"),
    Variant(post_norm=True, blocks=1, mlp="erf"),
    Variant(blocks=1, final_norm=False),
    Variant(final_norm=False, head="none"),
    Variant(head="pooled", mlp="quick gelu"),
    Variant(head="tagger", attention="einsum"),
    Variant(attention="exp"),
    Variant(parallel="nested"),
    Variant(parallel="one by one", mlp="tanh", hidden=12),
    Variant(parallel="Sum", norm="rms"),
    Variant(norm="layer fused", attention="mha", mlp="fast gelu"),
    Variant(norm="layer fused", attention="mha bias", mlp="fast gelu bias"),
    Variant(norm="layer fused", attention="attention packed", mlp="bias gelu"),
    Variant(norm="rms simplified", attention="gqa", mlp="swiglu", bias="none"),
    Variant(norm="rms fused", attention="attention23", mlp="swiglu", bias="none", opset=23),
    Variant(norm="rms fused", attention="attention23 probs", opset=23),
    Variant(residual="SkipLayerNormalization", norm="layer fused", attention="mha"),
    Variant(residual="SkipLayerNormalization bias", norm="layer fused", mlp="bias gelu"),
    Variant(residual="SkipLayerNormalization", post_norm=True, attention="attention packed"),
    Variant(residual="SkipSimplifiedLayerNormalization", norm="rms simplified", attention="gqa"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(differences(v)) or "default")
def test_ways_of_writing_a_transformer(variant, tmp_path):
    graph = transformer(variant)
    model = Model.open(graph.save(tmp_path / "model.onnx"))
    found = {
        name: site.tensor
        for site in model.sites
        for name in site.names
        if not name.startswith("op:")
    }
    assert found == graph.sites
    assert model.blocks == variant.blocks


def differences(variant):
    return [
        f"{f.name}={getattr(variant, f.name)}"
        for f in dataclasses.fields(variant)
        if getattr(variant, f.name) != f.default
    ]


# --- graphs in which nothing is a block ----------------------------------------------------------


def convolutional(graph):
    """A residual CNN."""
    graph.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8]))
    x = graph.op("Conv", "x", graph.weight(6, 3, 3, 3), pads=[1, 1, 1, 1])
    for _ in range(3):
        y = graph.op("Relu", graph.op("Conv", x, graph.weight(6, 6, 3, 3), pads=[1, 1, 1, 1]))
        x = graph.op("Relu", graph.op("Add", x, y))
    pooled = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    graph.output(graph.op("Softmax", graph.op("MatMul", pooled, graph.weight(6, 4))))


def only_mlps(graph):
    """A residual network without attention: an MLP-Mixer's half."""
    x = graph.op("Gather", graph.weight(29, 12), graph.ids())
    for _ in range(3):
        y = graph.mlp(graph.norm(x, "layer"), Variant(), "", "after")
        x = graph.op("Add", x, y)
    graph.output(graph.linear(x, 12, 29))


def mixture(graph):
    """A softmax that weights experts is no attention."""
    x = graph.op("Gather", graph.weight(29, 12), graph.ids())
    for _ in range(2):
        gates = graph.op("Softmax", graph.linear(x, 12, 2), axis=-1)
        experts = [
            graph.op("Mul", graph.mlp(x, Variant(), "", "after"), gate)
            for gate in (graph.op("Gather", gates, graph.constant([i]), axis=2) for i in range(2))
        ]
        x = graph.op("Add", x, graph.op("Add", *experts))
    graph.output(graph.linear(x, 12, 29))


def recurrent(graph):
    """A recurrence in a Loop over the tokens."""
    x = graph.op("Gather", graph.weight(29, 12), graph.ids())
    first = graph.op("Transpose", x, perm=[1, 0, 2])
    tokens = graph.op("Gather", graph.op("Shape", "input_ids"), graph.constant(1))
    state = graph.op("ReduceMean", x, graph.constant([1]), keepdims=0)
    weight = graph.weight(12, 12)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["went"]),
            helper.make_node("Gather", [first, "i"], ["now"], axis=0),
            helper.make_node("MatMul", ["before", weight], ["carried"]),
            helper.make_node("Add", ["now", "carried"], ["summed"]),
            helper.make_node("Tanh", ["summed"], ["after"]),
            helper.make_node("Identity", ["after"], ["kept"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["b", 12]),
        ],
        [
            helper.make_tensor_value_info("went", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["b", 12]),
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["b", 12]),
        ],
    )
    graph.op("Loop", tokens, "", state, outputs=2, body=body)
    out = graph.op("Transpose", graph.last(1), perm=[1, 0, 2])
    graph.output(graph.linear(out, 12, 29))


def two_towers(graph):
    """Two transformers side by side: which is the network?"""
    ends = []
    for name in ("input_ids", "other_input_ids"):
        x = graph.op("Gather", graph.weight(29, 12), graph.ids(name))
        for part in (graph.attention, graph.mlp) * 2:
            x = graph.op("Add", x, part(graph.norm(x, "layer"), Variant(), "", "after"))
        ends.append(graph.op("ReduceMean", x, graph.constant([1]), keepdims=0))
    graph.output(graph.op("Mul", *ends))


def macaron(graph):
    """MLPs on both sides of the attention: where a block begins is not to be seen."""
    x = graph.op("Gather", graph.weight(29, 12), graph.ids())
    for part in (graph.mlp, graph.attention, graph.mlp) * 2:
        x = graph.op("Add", x, part(graph.norm(x, "layer"), Variant(), "", "after"))
    graph.output(graph.linear(x, 12, 29))


@pytest.mark.parametrize(
    "build", [convolutional, only_mlps, mixture, recurrent, two_towers, macaron],
    ids=lambda build: build.__name__,
)  # fmt: skip
def test_no_block_is_claimed_where_there_is_none(build, tmp_path):
    graph = Graph()
    build(graph)
    model = Model.open(graph.save(tmp_path / "model.onnx"))
    assert model.blocks == 0
    assert len(model.sites) > 5
    assert {site.role for site in model.sites} == {"op"}
    assert all(site.names == (f"op:{site.tensor}",) for site in model.sites)
