"""A model as a whole: sites, tokens, errors."""

import pytest
from helpers import tiny_graphs as tiny
from tokenizers import Tokenizer, models, pre_tokenizers

from onnxloc.bundle import Bundle, BundleInfo
from onnxloc.errors import AnatomyError, BundleError, ModelError, OptionError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

pytestmark = pytest.mark.unit


def bundle(folder, *, tokenizer=True, **info) -> Model:
    tiny.write(folder, tiny.decoder())
    if tokenizer:
        words = {word: i for i, word in enumerate(["<s>", "the", "cat", "dog", "saw", "a", "mat"])}
        made = Tokenizer(models.WordLevel(words))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.save(str(folder / "tokenizer.json"))
    Bundle.describe(folder, BundleInfo(name="tiny", **info))
    return Model.open(folder)


def test_sites_blocks_and_description(tmp_path):
    model = bundle(tmp_path, framework="made here")
    assert model.blocks == 2
    assert [site.tensor for site in model.sites.match(["block.*.out"])] == ["b0.out", "b1.out"]
    assert model.logits.tensor == "logits"
    assert model.description == {
        "name": "tiny",
        "hash": model.graph.hash,
        "framework": "made here",
        "blocks": 2,
    }
    assert model.pad == 0


def test_a_model_without_logits_says_so(tmp_path):
    model = Model.open(tiny.write(tmp_path, tiny.picture()))
    assert model.blocks == 0
    with pytest.raises(AnatomyError, match="has no logits over a vocabulary"):
        _ = model.logits
    session = model.compile(Plan(taps=(Tap("means"),)), RuntimeOptions())
    with pytest.raises(ModelError, match="input 'image' cannot be filled from text"):
        session.taps(Batch.of([[1, 2]], [0], pad=0))


def test_texts_become_tokens(tmp_path):
    model = bundle(tmp_path, bos_token_id=0, max_tokens=4)
    texts = ["the cat", "a dog saw"]
    assert model.encode(texts, bos=False) == [[1, 2], [5, 3, 4]]
    assert model.encode(texts, bos=True) == [[0, 1, 2], [0, 5, 3, 4]]
    assert model.encode(texts, bos=True, max_tokens=2) == [[0, 1], [0, 5]]
    assert model.encode_scored(texts) == [[0, 1, 2], [0, 5, 3, 4]]


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("", {}, OptionError, "this text has no tokens: ''"),
        (" \n", {}, OptionError, r"this text has no tokens: ' \\n'"),
        ("zebra", {}, BundleError, "the tokenizer of .* fails: WordLevel error"),
        (
            "the\nthe the the the",
            {},
            OptionError,
            r"has 5 tokens, the model takes 4; .* 'the\\nthe",
        ),
        ("the " * 90, {}, OptionError, "has 90 tokens"),
        ("the cat", {"bos": True, "max_tokens": 1}, OptionError, "leaves nothing of a text"),
        ("the", {"max_tokens": -1}, OptionError, "must be 0"),
        ("the \ud800", {}, OptionError, "is not valid Unicode"),
    ],
)
def test_texts_that_cannot_be_run(tmp_path, text, options, error, message):
    model = bundle(tmp_path, bos_token_id=0, max_tokens=4)
    with pytest.raises(error, match=message) as caught:
        model.encode([text], **{"bos": False, **options})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_cut_text_may_be_long(tmp_path):
    model = bundle(tmp_path, max_tokens=4)
    assert model.encode(["the " * 90], bos=False, max_tokens=4) == [[1, 1, 1, 1]]


def test_prefix_tokens(tmp_path):
    assert bundle(tmp_path / "eos", eos_token_id=6).encode_scored(["the"]) == [[6, 1]]
    bare = bundle(tmp_path / "bare")
    with pytest.raises(BundleError, match="names neither a BOS nor an EOS token"):
        bare.encode_scored(["the"])
    with pytest.raises(BundleError, match="has no BOS token; use --no-bos"):
        bare.encode(["the"], bos=True)


def test_a_model_without_a_tokenizer(tmp_path):
    model = bundle(tmp_path, tokenizer=False)
    with pytest.raises(BundleError, match=r"has no tokenizer.json; put the model's own beside"):
        model.encode(["the"], bos=False)


def test_a_text_longer_than_the_graph_can_take_is_a_model_error(tmp_path):
    g = tiny.Builder()
    g.op("Gather", [g.weight("table", 11, 8), "input_ids"], "words")
    g.op("Gather", [g.weight("places", 9, 8), "position_ids"], "place")
    g.op("Add", ["words", "place"], "x")
    inputs = [tiny.value(name, tiny.TEXT_DIMS) for name in ("input_ids", "position_ids")]
    model = Model.open(tiny.write(tmp_path, g.model(inputs, ["x"])))
    session = model.compile(Plan(taps=(Tap("x"),)), RuntimeOptions())
    assert session.taps(Batch.of([[1] * 9], [0], pad=0))[Tap("x")].shape == (1, 8)
    with pytest.raises(ModelError, match=r"out of .*bounds.*\(on 1 rows of 10 tokens\)"):
        session.taps(Batch.of([[1] * 10], [0], pad=0))
