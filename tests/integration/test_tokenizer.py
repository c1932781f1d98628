import pytest
from helpers.byte_bpe import BYTE_SYMBOLS, sample_texts
from helpers.gguf_files import metadata_bpe
from onnxloc_exporters.gguf_reader import GGUFFile
from onnxloc_exporters.gguf_tokenizer import gguf_tokenizer
from tokenizers import Tokenizer

pytestmark = pytest.mark.integration


def test_smollm2_agrees_with_its_metadata(gguf_path):
    made = gguf_tokenizer(GGUFFile(gguf_path))
    tokenizer, reference = Tokenizer.from_str(made.json), metadata_bpe(gguf_path)
    assert (reference.pre, made.add_bos, made.bos, made.eos) == ("smollm", False, 1, 2)
    texts = sample_texts(3000, reference.added)
    # The file's vocabulary lacks some control bytes; none of them is in the texts.
    used = {BYTE_SYMBOLS[byte] for text in texts for byte in text.encode()}
    assert used <= set(reference.tokens)
    encoded = [tokenizer.encode(text).ids for text in texts]
    assert encoded == [reference.encode(text) for text in texts]
    assert [tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded] == texts
