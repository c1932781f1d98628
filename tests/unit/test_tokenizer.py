from unicodedata import ucd_3_2_0

import pytest
from helpers.byte_bpe import sample_texts
from helpers.gguf_files import TinyModel, metadata_bpe, tiny_vocabulary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxloc_exporters.gguf_reader import GGUFFile
from onnxloc_exporters.gguf_tokenizer import PRE_TOKENIZERS, gguf_tokenizer
from tokenizers import Tokenizer

from onnxloc.errors import ExportError

pytestmark = pytest.mark.unit

RULES = ["gpt-2", "default", "smollm", "llama-bpe", "qwen2"]


def built(path, **options):
    path = TinyModel(blocks=1, **options).write(path / "m.gguf")
    made = gguf_tokenizer(GGUFFile(path))
    return made, Tokenizer.from_str(made.json), metadata_bpe(path)


@pytest.fixture(scope="module", params=RULES)
def pair(request, tmp_path_factory):
    _, tokenizer, reference = built(tmp_path_factory.mktemp("tok"), pre=request.param)
    return tokenizer, reference


def test_agrees_with_the_rules_on_many_strings(pair):
    tokenizer, reference = pair
    texts = sample_texts(1000, reference.added)
    assert len(texts) >= 1000
    wrong = [text for text in texts if tokenizer.encode(text).ids != reference.encode(text)]
    assert wrong == []


def test_decoding_gives_the_text_back(pair):
    tokenizer, reference = pair
    for text in sample_texts(1000, reference.added):
        whole = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)
        if reference.pre == "qwen2":
            assert tokenizer.encode(whole).ids == tokenizer.encode(text).ids
        else:
            assert whole == text


# Characters that are old enough for every library's tables.
OLD = [chr(code) for code in range(0x3100) if ucd_3_2_0.category(chr(code)) != "Cn"]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.sampled_from(OLD)))
def test_agrees_on_any_text(pair, text):
    tokenizer, reference = pair
    assert tokenizer.encode(text).ids == reference.encode(text)


def test_the_pre_tokenizers_differ():
    texts = sample_texts(300)
    cuts = {name: tuple(map(repr, map(rule_pieces(name), texts))) for name in RULES}
    assert len(set(cuts.values())) == len(RULES)
    assert set(RULES) <= set(PRE_TOKENIZERS)


def rule_pieces(name):
    from onnxloc_exporters.gguf_tokenizer import _sequence

    cut = _sequence(PRE_TOKENIZERS[name])
    return lambda text: cut.pre_tokenize_str(text)


def test_smollm_cuts_every_numeral_alone(tmp_path):
    _, tokenizer, _ = built(tmp_path, pre="smollm")
    assert tokenizer.encode("1998").tokens == ["1", "9", "9", "8"]
    for numeral in "٣५²½Ⅷ":
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(f"a{numeral}{numeral}b")
        assert [end - start for _, (start, end) in pieces] == [1, 1, 1, 1]


def test_whole_tokens_win_where_merges_are_ignored(tmp_path):
    _, plain, _ = built(tmp_path, pre="gpt-2")
    _, whole, _ = built(tmp_path, pre="llama-bpe")
    assert "Ġsleeping" not in plain.encode(" sleeping").tokens
    assert whole.encode(" sleeping").tokens == ["Ġsleeping"]


def test_added_tokens(tmp_path):
    made, tokenizer, _ = built(tmp_path)
    ids = tokenizer.encode("a<|end|>b[user]c").ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["a", "<|end|>", "b", "[user]", "c"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab[user]c"
    assert tokenizer.get_vocab_size() == made.size == len(tiny_vocabulary().tokens)
    vocabulary = {token: i for i, token in enumerate(tiny_vocabulary().tokens)}
    assert tokenizer.get_vocab() == vocabulary


def test_no_bos_is_added_and_the_bundle_says_whether_to(tmp_path):
    for pre, metadata, want in (
        ("gpt-2", {}, False),
        ("gpt-2", {"tokenizer.ggml.add_bos_token": True}, True),
        ("gpt-2", {"tokenizer.ggml.add_bos_token": None}, False),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": None}, True),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, False),
    ):
        made, tokenizer, _ = built(tmp_path, pre=pre, metadata=metadata)
        assert (made.add_bos, made.bos) == (want, 1)
        assert tokenizer.encode("").ids == []


KEY = "tokenizer.ggml."
TOKENS = list(tiny_vocabulary().tokens)
REFUSED = {
    "model": ({"model": "llama"}, "tokenizer 'llama' is not known"),
    "pre": ({"pre": "tekken"}, "pre-tokenizer 'tekken' is not known"),
    "near pre": ({"pre": "smollm2"}, "did you mean 'smollm'"),
    "no pre": ({"pre": None}, "lacks tokenizer.ggml.pre"),
    "unknown key": ({"precompiled_charsmap": "x"}, "precompiled_charsmap is not known"),
    "eos": ({"add_eos_token": True}, "add_eos_token is set"),
    "no bos": ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id is missing"),
    "bos": ({"bos_token_id": 10**6}, "but there are"),
    "twice": ({"tokens": [*TOKENS[:-1], TOKENS[0]]}, "the same token twice"),
    "types": ({"token_type": [1, 1]}, "2 token types"),
    "type": ({"token_type": [6, *tiny_vocabulary().types[1:]]}, "has the type 6"),
    "merge": ({"merges": ["t h e"]}, "is not a pair"),
    "half a merge": ({"merges": ["the"]}, "is not a pair"),
    "merge of no token": ({"merges": ["Q Q"]}, "do not fit"),
    "merges": ({"merges": "t h"}, "must be a list of texts"),
    "no list": ({"tokens": "x"}, "must be a list of texts"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused(change, message, tmp_path):
    metadata = {KEY + key: value for key, value in change.items()}
    path = TinyModel(blocks=1, metadata=metadata).write(tmp_path / "m.gguf")
    with pytest.raises(ExportError, match=message) as caught:
        gguf_tokenizer(GGUFFile(path))
    assert "\n" not in str(caught.value)
