"""Generating: with and without a cache, alone and in a batch, edited and not; drawing tokens."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers.gguf_files import TinyModel
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnxloc_exporters.gguf_ import GGUFExporter
from scipy.stats import chisquare

from onnxloc.cli import main
from onnxloc.errors import ModelError, NetworkError, OptionError
from onnxloc.graph.plan import Edit, Plan, Tap
from onnxloc.network import network_from_flat
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.cache import cache_pairs
from onnxloc.runtime.generate import Sampling, generate, generation_plan
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.sampling import next_tokens, probabilities
from onnxloc.stimuli import StimulusSet
from onnxloc.studies.ablate import AblateOptions, ablate
from onnxloc.studies.continuations import ContinueOptions, continue_prompts
from onnxloc.studies.localize import LocalizeOptions, localize
from onnxloc.tasks.readers import text_task

pytestmark = pytest.mark.unit

PROMPTS = [[5, 9, 300, 17], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11], [200, 7], [7], [42, 43, 44, 45]]
GREEDY = Sampling(max_new_tokens=10)
DRAWN = Sampling(max_new_tokens=10, temperature=1.5, seed=3)
# Untied: a tied random model repeats its last token for ever.
TINY = TinyModel(tied=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    source = TINY.write(folder / "m.gguf")
    GGUFExporter().export(source, folder / "plain")
    GGUFExporter(with_past=True).export(source, folder / "past")
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return {form: Model.open(folder / form) for form in ("plain", "past")}


def compiled(model, edited=("block.*.out",), form="replace"):
    edits = [Edit(site.tensor, form) for site in model.sites.match(edited)] if edited else []
    return model.compile(generation_plan(model, edits), RuntimeOptions())


@pytest.fixture(scope="module")
def sessions(models):
    """The plain graph, the graph with past, and the latter without using its cache."""
    plan = generation_plan(models["past"])
    unused = models["past"].compile(Plan(taps=plan.taps), RuntimeOptions())
    return {form: compiled(model) for form, model in models.items()} | {"unused": unused}


def ids(found):
    return [one.ids for one in found]


def zeroed(model, sites=("block.0.out",), rows=1, which=slice(None)):
    edits = {}
    for site in model.sites.match(sites):
        mask = np.zeros((rows, 1, site.units), dtype=bool)
        mask[which] = True
        edits[site.tensor] = (mask, np.zeros((1, 1, site.units), site.dtype))
    return edits


def reference(prompt, count):
    """Greedy tokens by the model's equations in float64, the whole text run for each."""
    text = list(prompt)
    for _ in range(count):
        now = np.array([text])
        logits = TINY.logits(now, np.ones_like(now), np.arange(len(text))[None])[0, -1]
        text.append(int(logits.argmax()))
    return tuple(text[len(prompt) :])


# --- the graph with past ------------------------------------------------------------------------


def shapes(values):
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


@pytest.mark.parametrize(("dtype", "kind"), [("float32", 1), ("float16", 10)])
def test_the_graph_has_the_inputs_and_outputs_of_optimum(folder, dtype, kind):
    out = folder / f"past-{dtype}"
    GGUFExporter(with_past=True, dtype=dtype).export(folder / "m.gguf", out)
    onnx.checker.check_model(out / "model.onnx", full_check=True)
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    total = "past_sequence + sequence"
    cache = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert shapes(graph.input) == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", total],
        "position_ids": ["batch", "sequence"],
    } | {f"past_key_values.{name}": ["batch", 2, "past_sequence", 16] for name in cache}
    assert shapes(graph.output) == {
        "logits": ["batch", "sequence", len(TINY.vocabulary.tokens)]
    } | {f"present.{name}": ["batch", 2, total, 16] for name in cache}
    kinds = {v.type.tensor_type.elem_type for v in graph.input if "past" in v.name}
    assert kinds == {kind}
    assert not any("unk" in str(d) for dims in shapes(graph.value_info).values() for d in dims)


def test_what_is_read_with_past_is_what_is_read_without(models):
    names = [[s.name for s in m.sites if s.role != "op"] for m in models.values()]
    assert names[0] == names[1]
    batch = Batch.of(PROMPTS, range(len(PROMPTS)), pad=0)
    found = []
    for model in models.values():
        sites = model.sites.match(["block.**", "logits"])
        taps = tuple(Tap(site.tensor, pool) for site in sites for pool in ("last", "mean"))
        read = model.compile(Plan(taps=taps), RuntimeOptions()).taps(batch)
        found.append([read[tap] for tap in taps])
    assert len(found[0]) == len(found[1]) > 40
    for plain, past in zip(*found, strict=True):
        np.testing.assert_allclose(past, plain, atol=1e-5, rtol=1e-4)


def test_only_the_last_token_meets_the_vocabulary(sessions):
    for form in ("plain", "past"):
        proto = sessions[form].instrumented.proto
        (head,) = (n for n in proto.graph.node if n.name == "/lm_head/MatMul")
        assert head.input[0] != "/model/norm/Mul_output_0" or any(
            n.op_type == "GatherND" for n in proto.graph.node
        )
        assert any(n.op_type == "GatherND" for n in proto.graph.node)
        assert "logits" not in {v.name for v in proto.graph.output}


def test_localize_and_ablate_give_the_same_with_past(models):
    words = ["the quick brown fox", "dogs sleep in the sun", "they know it", "I've 42 of them"]
    other = ["xq zv kk", "wpw qqx rrt zz", "mnb vcx lkj", "qaz wsx edc rfv"]
    stimuli = StimulusSet(name="tiny", positive=tuple(words), control=tuple(other))
    task = text_task("text", words, "words")
    tables, effects = [], []
    for model in models.values():
        found = localize(model, stimuli, LocalizeOptions())
        tables.append(found.units())
        done = ablate(model, found.network, [task], AblateOptions(controls=2))
        effects.append(done.effects())
    assert (tables[0]["site"] == tables[1]["site"]).all()
    np.testing.assert_allclose(tables[1]["t"], tables[0]["t"], rtol=1e-3, atol=1e-3)
    assert (effects[0]["condition"] == effects[1]["condition"]).all()
    np.testing.assert_allclose(effects[1]["score"], effects[0]["score"], rtol=1e-4, atol=1e-4)
    assert effects[0]["score"].nunique() > 8


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "past", "unused"])
def test_greedy_tokens_are_those_of_the_models_equations(sessions, form):
    found = generate(sessions[form], PROMPTS, GREEDY)
    assert ids(found) == [reference(prompt, 10) for prompt in PROMPTS]
    assert len({token for one in found for token in one.ids}) > 15
    assert {one.stopped for one in found} == {"length"}


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, replace(DRAWN, top_k=20, top_p=0.9)])
def test_the_cache_changes_nothing(sessions, sampling):
    plain, past = (generate(sessions[form], PROMPTS, sampling) for form in ("plain", "past"))
    assert ids(plain) == ids(past)
    for a, b in zip(plain, past, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_log_probabilities_are_the_models_own(sessions):
    (found,) = generate(sessions["past"], [PROMPTS[0]], DRAWN)
    text = np.array([[*PROMPTS[0], *found.ids]])
    logits = TINY.logits(text, np.ones_like(text), np.arange(text.size)[None])[0]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.arange(len(PROMPTS[0]) - 1, text.size - 1)
    np.testing.assert_allclose(found.logprobs, logprobs[at, found.ids], atol=1e-4)


@pytest.mark.parametrize("form", ["plain", "past"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_a_batch_is_its_rows_run_singly(sessions, form, sampling):
    session = sessions[form]
    prompts = [PROMPTS[i] for i in (0, 1, 2, 3, 5)]
    together = ids(generate(session, prompts, sampling))
    assert together == [generate(session, [prompt], sampling)[0].ids for prompt in prompts]
    assert together[::-1] == ids(generate(session, prompts[::-1], sampling))


def test_equal_prompts_are_drawn_apart_unless_told_otherwise(sessions):
    session = sessions["past"]
    first, second = ids(generate(session, [[7], [7]], DRAWN))
    assert first != second
    assert ids(generate(session, [[7], [7]], DRAWN, draws=[0, 0])) == [first, first]
    assert ids(generate(session, [[7]], DRAWN, draws=[1])) == [second]
    assert ids(generate(session, [[7]], replace(DRAWN, seed=4))) != [first]


@pytest.mark.parametrize("form", ["plain", "past"])
def test_a_row_that_ends_leaves_the_others_alone(sessions, form):
    free = generate(sessions[form], PROMPTS, GREEDY)
    eos = {free[0].ids[3], free[2].ids[6]}
    found = generate(sessions[form], PROMPTS, GREEDY, eos=eos)
    for one, whole in zip(found, free, strict=True):
        ends = [i for i, token in enumerate(whole.ids) if token in eos]
        count = ends[0] + 1 if ends else len(whole.ids)
        assert one.ids == whole.ids[:count]
        assert len(one.logprobs) == count
        assert one.stopped == ("eos" if ends else "length")
    assert {one.stopped for one in found} == {"eos", "length"}


def test_steps_are_told(sessions):
    seen = []
    generate(sessions["past"], [[7], [8, 9]], Sampling(max_new_tokens=3), watch=seen.append)
    assert seen == [2, 2, 2]


# --- edits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "past"])
def test_an_edit_changes_the_text_and_the_identity_does_not(models, sessions, form):
    session, model = sessions[form], models[form]
    intact = ids(generate(session, PROMPTS, GREEDY))
    same = zeroed(model, ("block.*.out",), which=slice(0, 0))
    assert ids(generate(session, PROMPTS, GREEDY, edits=same)) == intact
    changed = ids(generate(session, PROMPTS, GREEDY, edits=zeroed(model)))
    assert all(a != b for a, b in zip(intact, changed, strict=True))


def test_an_edit_holds_on_prompt_and_new_tokens_alike(models, sessions):
    edits = [zeroed(model, ("block.0.out",), which=(0, 0, slice(20))) for model in models.values()]
    plain, past = (
        generate(sessions[form], PROMPTS, GREEDY, edits=edit)
        for form, edit in zip(("plain", "past"), edits, strict=True)
    )
    assert ids(plain) == ids(past)
    assert ids(past) != ids(generate(sessions["past"], PROMPTS, GREEDY))


@pytest.mark.parametrize("form", ["plain", "past"])
def test_each_row_has_its_own_edit(models, sessions, form):
    session, model = sessions[form], models[form]
    rows = len(PROMPTS)
    some = zeroed(model, rows=rows, which=slice(1, rows, 2))
    mixed = ids(generate(session, PROMPTS, GREEDY, edits=some))
    intact = ids(generate(session, PROMPTS, GREEDY))
    every = ids(generate(session, PROMPTS, GREEDY, edits=zeroed(model)))
    assert mixed == [every[i] if i % 2 else intact[i] for i in range(rows)]


def test_scaling_is_the_same_with_and_without_the_cache(models):
    found = []
    for model in models.values():
        session = compiled(model, ("block.*.attn.k",), "affine")
        edits = {
            edit.site: (
                np.zeros((1, 1, 32), bool),
                np.full((1, 1, 32), 3, np.float32),
                np.full((1, 1, 32), 0.5, np.float32),
            )
            for edit in session.plan.edits
        }
        found.append(ids(generate(session, PROMPTS, GREEDY, edits=edits)))
    assert found[0] == found[1]


def test_what_the_cache_holds_is_replaced_but_not_scaled(models):
    model = models["past"]
    name = "op:present.0.value"
    replaced = compiled(model, (name,))
    edits = zeroed(model, (name,), which=(0, 0, slice(16)))
    unused = model.compile(
        Plan(taps=replaced.plan.taps, edits=replaced.plan.edits), RuntimeOptions()
    )
    found = ids(generate(replaced, PROMPTS, GREEDY, edits=edits))
    assert found == ids(generate(unused, PROMPTS, GREEDY, edits=edits))
    assert found != ids(generate(replaced, PROMPTS, GREEDY))
    scaled = compiled(model, (name,), "affine")
    zero = np.zeros((1, 1, 32), np.float32)
    with pytest.raises(OptionError, match="is what the cache holds"):
        generate(scaled, PROMPTS, GREEDY, edits={"present.0.value": (zero > 0, zero + 2, -zero)})


def test_nan_logits_are_an_error(models, sessions):
    (site,) = models["past"].sites.match(["block.1.out"])
    edits = {site.tensor: (np.ones((1, 1, 64), bool), np.full((1, 1, 64), np.nan, np.float32))}
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        generate(sessions["past"], PROMPTS, GREEDY, edits=edits)


# --- graphs of other kinds ----------------------------------------------------------------------


def changed(folder, tmp_path, change):
    """A copy of the bundle with past, its graph changed."""
    out = tmp_path / "changed"
    out.mkdir()
    for file in (folder / "past").iterdir():
        if file.name != "bundle.json":
            (out / file.name).write_bytes(file.read_bytes())
    proto = onnx.load(out / "model.onnx", load_external_data=False)
    change(proto.graph)
    onnx.save(proto, out / "model.onnx")
    return out


def without_positions(graph):
    """As optimum exports GPT-2: the graph counts positions by itself."""
    (value,) = (v for v in graph.input if v.name == "position_ids")
    graph.input.remove(value)
    places = next(i for i, n in enumerate(graph.node) if n.name == "/model/mask/Range_1")
    axis = numpy_helper.from_array(np.array([0]), "axis_0")
    graph.initializer.append(axis)
    node = helper.make_node(
        "Unsqueeze", [graph.node[places].output[0], "axis_0"], ["position_ids"], name="/count"
    )
    graph.node.insert(places + 1, node)


def test_a_graph_that_counts_positions_gets_rows_of_one_length(folder, tmp_path, sessions):
    session = compiled(Model.open(changed(folder, tmp_path, without_positions)))
    assert "position_ids" not in session.instrumented.input_names
    for sampling in (GREEDY, DRAWN):
        found = generate(session, PROMPTS, sampling)
        assert ids(found) == ids(generate(sessions["past"], PROMPTS, sampling))


def test_edits_follow_rows_that_are_run_apart(folder, tmp_path, models, sessions):
    model = Model.open(changed(folder, tmp_path, without_positions))
    edits = zeroed(models["past"], rows=len(PROMPTS), which=slice(0, None, 2))
    found = generate(compiled(model), PROMPTS, GREEDY, edits=edits)
    assert ids(found) == ids(generate(sessions["past"], PROMPTS, GREEDY, edits=edits))


def test_two_branches_are_refused(folder, tmp_path):
    def branch(graph):
        flag = helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
        graph.input.append(flag)

    model = Model.open(changed(folder, tmp_path, branch))
    with pytest.raises(ModelError, match="use_cache_branch; export it again"):
        generation_plan(model)


def test_a_past_that_nothing_continues_is_refused(folder, tmp_path):
    def cut(graph):
        (value,) = (v for v in graph.output if v.name == "present.1.key")
        graph.output.remove(value)

    with pytest.raises(ModelError, match=r"past_key_values\.1\.key but gives no output"):
        cache_pairs(Model.open(changed(folder, tmp_path, cut)).graph)


def test_a_fixed_batch_is_refused(folder, tmp_path):
    def fix(graph):
        for value in graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 2

    with pytest.raises(ModelError, match="fixes its rows or tokens"):
        cache_pairs(Model.open(changed(folder, tmp_path, fix)).graph)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ([], {}, "no prompt"),
        ([[5], []], {}, "prompt 2 has no tokens"),
        ([[5], [-1]], {}, "negative token"),
        ([[5] * 60], {"limit": 64}, "prompt 1 has 60 .* lower --max-new-tokens to 4"),
        ([[5] * 64], {"limit": 64}, "shorten it"),
        ([[5]], {"draws": [0, 1]}, "as many draws"),
        ([[5]], {"draws": [-1]}, "as many draws"),
    ],
)
@pytest.mark.parametrize("form", ["plain", "past"])
def test_bad_prompts(sessions, form, prompts, more, message):
    with pytest.raises(OptionError, match=message):
        generate(sessions[form], prompts, GREEDY, **more)


@pytest.mark.parametrize("form", ["plain", "past"])
def test_a_token_outside_the_vocabulary_is_an_error(sessions, form):
    with pytest.raises(ModelError, match="onnxruntime failed"):
        generate(sessions[form], [[10**6]], GREEDY)


def test_the_limit_can_be_reached(sessions):
    (found,) = generate(sessions["past"], [[5] * 54], GREEDY, limit=64)
    assert len(found.ids) == 10


@pytest.mark.parametrize("shape", [(2, 1, 64), (1, 4, 64), (1, 64), (1, 1, 63)])
@pytest.mark.parametrize("form", ["plain", "past"])
def test_edits_that_do_not_fit(models, sessions, form, shape):
    (site,) = models[form].sites.match(["block.0.out"])
    edits = {site.tensor: (np.ones(shape, bool), np.zeros(shape, np.float32))}
    with pytest.raises(OptionError):
        generate(sessions[form], [[5, 6, 7, 8]], GREEDY, edits=edits)


def test_another_plan_is_refused(models):
    model = models["plain"]
    session = model.compile(Plan(taps=(Tap(model.logits.tensor, "mean"),)), RuntimeOptions())
    with pytest.raises(OptionError, match="generation_plan"):
        generate(session, [[5]], GREEDY)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
    ],
)
def test_bad_sampling(bad):
    with pytest.raises(OptionError):
        Sampling(**bad)


# --- drawing ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.1, 5),
    st.integers(0, 60),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
)
def test_the_distribution_is_that_of_transformers(seed, temperature, top_k, top_p):
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(seed).standard_normal(50) * 3
    scores = torch.from_numpy(logits)[None]
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    ours = probabilities(logits, sampling)
    np.testing.assert_allclose(ours, torch.softmax(scores, -1)[0].numpy(), atol=1e-12)


def test_equal_tokens_are_kept_by_lower_id():
    logits = np.array([0.0, 2.0, 1.0, 1.0, 1.0, -1.0])
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, top_k=3))).tolist() == [
        1, 2, 3,
    ]  # fmt: skip
    share = np.exp(2) / np.exp(logits).sum()
    sampling = Sampling(temperature=1.0, top_p=share + 0.01)
    assert np.flatnonzero(probabilities(logits, sampling)).tolist() == [1, 2]
    greedy, _ = next_tokens(np.array([[1.0, 3.0, 3.0]]), Sampling(), [np.random.default_rng(0)])
    assert greedy.tolist() == [1]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-300, 1e300), st.integers(0, 9), st.floats(1e-9, 1))
def test_it_is_a_distribution_whatever_the_options(seed, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).standard_normal(8) * 100
    logits[3] = -np.inf
    found = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert found.sum() == pytest.approx(1)
    assert found[logits.argmax()] == found.max()
    assert top_k == 0 or np.count_nonzero(found) <= top_k


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7, top_k=5),
        Sampling(temperature=1.3, top_p=0.8),
    ],
)
def test_draws_follow_the_distribution(sampling):
    logits = np.random.default_rng(8).standard_normal((1, 12)).astype(np.float32) * 2
    expected = probabilities(logits[0].astype(np.float64), sampling)
    count = 4000
    rngs = [np.random.default_rng([1, i]) for i in range(count)]
    drawn, logprobs = next_tokens(np.repeat(logits, count, axis=0), sampling, rngs)
    seen = np.bincount(drawn, minlength=12)
    assert not seen[expected == 0].any()
    some = expected > 0
    assert chisquare(seen[some], expected[some] * count).pvalue > 1e-3
    whole = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    np.testing.assert_allclose(logprobs, whole[drawn], atol=1e-6)


# --- the command --------------------------------------------------------------------------------


TEXTS = ("the quick brown fox", "they know it")


@pytest.fixture(scope="module")
def network(models):
    sites = {site.name: site.units for site in models["past"].sites.match(["block.*.out"])}
    return network_from_flat(list(range(0, 128, 2)), sites, models["past"].graph.hash, {"how": "x"})


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_both_conditions_of_a_prompt(models, network, replacement):
    options = ContinueOptions(sampling=DRAWN, replacement=replacement)
    model = models["past"]
    found = continue_prompts(model, TEXTS, options, network=network)
    assert [(one.prompt, one.condition) for one in found.items] == [
        (text, condition) for text in TEXTS for condition in ("intact", "network")
    ]
    alone = continue_prompts(model, TEXTS, options)
    assert [one for one in found.items if one.condition == "intact"] == list(alone.items)
    assert found.items[0].ids != found.items[1].ids
    one_by_one = continue_prompts(model, TEXTS, replace(options, batch_size=1), network=network)
    assert [(a.prompt, a.text, a.ids) for a in one_by_one.items] == [
        (b.prompt, b.text, b.ids) for b in found.items
    ]
    assert model.bundle.tokenizer.decode(list(alone.items[0].ids)) == alone.items[0].text


def test_a_network_of_another_model_is_refused(models, network):
    with pytest.raises(NetworkError, match="--force-model"):
        continue_prompts(models["plain"], TEXTS, network=network)
    options = ContinueOptions(sampling=GREEDY)
    forced = continue_prompts(models["plain"], TEXTS, options, network=network, force_model=True)
    own = continue_prompts(models["past"], TEXTS, options, network=network)
    assert [one.ids for one in forced.items] == [one.ids for one in own.items]


def test_command(folder, network, tmp_path, capsys):
    network.save(tmp_path / "network.parquet")
    lines = tmp_path / "lines.txt"
    lines.write_text("they know it\n\nthe dogs\n")
    words = ["generate", str(folder / "past"), "--prompt", "the fox", "--prompts", str(lines)]
    words += ["--network", str(tmp_path / "network.parquet"), "--max-new-tokens", "5"]
    assert main(words) == 0
    shown = capsys.readouterr().out.split("\n\n")
    assert [part.split("\n")[0].strip() for part in shown] == [
        "the fox",
        "they know it",
        "the dogs",
    ]
    assert all("  intact  " in part and "  network " in part for part in shown)
    assert main([*words, "--json", "--temperature", "1", "--top-p", "0.9", "--no-bos"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [one["condition"] for one in record["continuations"]] == ["intact", "network"] * 3
    assert all(len(one["ids"]) == 5 for one in record["continuations"])
    assert record["sampling"]["top_p"] == 0.9
    assert record["bos"] is False


def test_control_characters_do_not_reach_the_terminal():
    from onnxloc.cli.generate_ import printable

    assert printable("a\nb\x1b[2Jc\u202e é") == r"a\nb\x1b[2Jc\u202e é"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no prompt"),
        (["--prompt", ""], "no tokens"),
        (["--prompt", "the " * 100], "the model takes 64"),
        (["--prompt", "the", "--max-new-tokens", "100"], "lower --max-new-tokens to"),
        (["--prompts", "nowhere.txt"], "cannot read"),
        (["--prompt", "the", "--network", "nowhere"], "nowhere"),
        (["--prompt", "the", "--top-p", "0"], "top-p"),
    ],
)
def test_command_with_bad_input(folder, capsys, words, message):
    assert main(["generate", str(folder / "past"), *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().split("\n")) == 1
    assert not shown.out


def test_export_command(folder, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert main(["export", "gguf", str(folder / "m.gguf"), "--with-past", "-o", str(out)]) == 0
    assert (out / "model.onnx").read_bytes() == (folder / "past" / "model.onnx").read_bytes()
    plain = onnx.load(folder / "plain" / "model.onnx", load_external_data=False)
    assert {v.name for v in plain.graph.input} == {"input_ids", "attention_mask", "position_ids"}
    assert str(out) in capsys.readouterr().out
