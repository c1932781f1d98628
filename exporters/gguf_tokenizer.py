"""The tokenizer of a GGUF file: byte-level BPE by the file's own vocabulary and rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from onnxloc_exporters.gguf_reader import GGUFFile

from onnxloc.errors import ExportError
from onnxloc.registry import did_you_mean

__all__ = ["GGUFTokenizer", "gguf_tokenizer"]

# Keys that say nothing about how a text is cut.
KEYS = (
    "tokenizer.chat_template",
    "tokenizer.chat_templates",
    "tokenizer.huggingface.json",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.tokens",
)

# The expressions that the models' own tokenizers split by.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """One value of ``tokenizer.ggml.pre``.

    Attributes
    ----------
    splits : tuple of str
        Expressions that cut the text one after another, matches and gaps alike being pieces.
    ignore_merges : bool
        Whether a piece that is itself a token is taken whole.
    add_bos : bool
        Whether a BOS token is put in front where the file does not say.
    nfc : bool
        Whether the text is first brought into Unicode's form NFC.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


_LLAMA3 = PreTokenizer(splits=(LLAMA3,), ignore_merges=True, add_bos=True)
PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer(splits=(GPT2,)),
    # What llama.cpp does with a file whose converter knew no better.
    "default": PreTokenizer(splits=(r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "smollm": PreTokenizer(splits=(r"\p{N}", GPT2)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": PreTokenizer(splits=(QWEN2,), nfc=True),
}


@dataclass(frozen=True, kw_only=True)
class GGUFTokenizer:
    """A tokenizer as a bundle needs it.

    Attributes
    ----------
    json : str
        The text of ``tokenizer.json``. It adds no BOS token; `add_bos` says whether to.
    size : int
        How many tokens there are.
    add_bos : bool
        Whether texts begin with the token `bos`.
    bos, eos, pad : int or None
        Special tokens.
    """

    json: str
    size: int
    add_bos: bool
    bos: int | None
    eos: int | None
    pad: int | None


def gguf_tokenizer(file: GGUFFile) -> GGUFTokenizer:
    """Build the tokenizer that a file's metadata describe.

    Raises
    ------
    ExportError
        If its model, its pre-tokenizer or a key is not known, or its parts do not fit.
    """
    model = file.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise ExportError(
            f"{file.path}: the tokenizer {model!r} is not known (known: 'gpt2', byte-level BPE)"
        )
    name = file.text("tokenizer.ggml.pre")
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        known = ", ".join(PRE_TOKENIZERS)
        raise ExportError(
            f"{file.path}: the pre-tokenizer {name!r} is not known"
            f"{did_you_mean(name, PRE_TOKENIZERS)} (known: {known})"
        )
    ids = (key for key in file.keys if key.endswith(("_token_id", "_token_ids")))
    templates = (key for key in file.keys if key.startswith("tokenizer.chat_template."))
    file.refuse_unknown("tokenizer.", (*KEYS, *ids, *templates))
    if file.flag("tokenizer.ggml.add_eos_token", False):
        raise ExportError(f"{file.path}: add_eos_token is set; a bundle cannot say so")
    tokens = file.texts("tokenizer.ggml.tokens")
    bos = _special(file, "bos", len(tokens))
    add_bos = file.flag("tokenizer.ggml.add_bos_token", pre.add_bos)
    if add_bos and bos is None:
        raise ExportError(f"{file.path}: the model wants a BOS token, but bos_token_id is missing")
    return GGUFTokenizer(
        json=_json(file, tokens, pre),
        size=len(tokens),
        add_bos=add_bos,
        bos=bos,
        eos=_special(file, "eos", len(tokens)),
        pad=_special(file, "padding", len(tokens)),
    )


def _special(file: GGUFFile, name: str, size: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in file.keys:
        return None
    value = file.integer(key)
    if value >= size:
        raise ExportError(f"{file.path}: {key} is {value}, but there are {size} tokens")
    return value


def _json(file: GGUFFile, tokens: list[str], pre: PreTokenizer) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    types = file.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise ExportError(f"{file.path}: {len(types)} token types for {len(tokens)} tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ExportError(f"{file.path}: the vocabulary holds the same token twice")
    merges = [_pair(file, merge) for merge in file.texts("tokenizer.ggml.merges")]
    added = [
        AddedToken(token, special=kind != TokenType.USER_DEFINED, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if _is_added(file, token, kind)
    ]
    try:
        tokenizer = Tokenizer(
            models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre.ignore_merges)
        )
    except Exception as error:  # tokenizers raises bare Exception
        raise ExportError(f"{file.path}: the vocabulary and merges do not fit: {error}") from error
    tokenizer.pre_tokenizer = _sequence(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens(added)
    return str(tokenizer.to_str(pretty=True))


def _pair(file: GGUFFile, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise ExportError(f"{file.path}: the merge {merge!r} is not a pair")
    return left, right


def _is_added(file: GGUFFile, token: str, kind: int) -> bool:
    """Whether a token is found in the text before it is cut."""
    if kind in (TokenType.NORMAL, TokenType.UNUSED):
        return False
    if kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN) and token:
        return True
    raise ExportError(f"{file.path}: the token {token!r} has the type {kind}, not known here")


def _sequence(pre: PreTokenizer) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split: Callable[[str], Any] = lambda pattern: pre_tokenizers.Split(  # noqa: E731
        Regex(pattern), behavior="isolated"
    )
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*map(split, pre.splits), to_bytes])
