"""Byte-level BPE in plain Python, written from the rules that GGUF metadata name.

It shares no code with the exporter: pieces are cut with the `regex` package and merged one pair at
a time, lowest rank first and leftmost first.
"""

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex

__all__ = ["BYTE_SYMBOLS", "ByteBPE", "sample_texts"]

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
RULES = {
    "gpt-2": [WORDS],
    "default": [r"[\p{P}$+<=>^~|]+", WORDS, r"\p{N}+", r"[0-9]{3}"],
    "smollm": [r"\p{N}", WORDS],
    "llama-bpe": [rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}" + TAIL],
    "qwen2": [rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}" + TAIL],
}


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, spare = [], 256
    for byte in range(256):
        if byte in printable:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(spare))
            spare += 1
    return symbols


BYTE_SYMBOLS = _byte_symbols()


@dataclass(frozen=True)
class ByteBPE:
    """An encoder for one vocabulary.

    `added` tokens are found in the text first, the longest first; `pre` is a key of `RULES`.
    """

    tokens: Sequence[str]
    merges: Sequence[str]
    added: Sequence[str]
    pre: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {token: i for i, token in enumerate(self.tokens)})
        ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(self.merges)}
        object.__setattr__(self, "_ranks", ranks)

    def encode(self, text: str) -> list[int]:
        ids = []
        longest = sorted(self.added, key=len, reverse=True)
        marks = "|".join(map(regex.escape, longest)) or r"(?!)"
        for part in regex.split(f"({marks})", text):
            if part in self.added:
                ids.append(self._ids[part])
            elif part:
                ids += self._encode_plain(part)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if self.pre == "qwen2":
            text = unicodedata.normalize("NFC", text)
        pieces = [text]
        for rule in RULES[self.pre]:
            pieces = [cut for piece in pieces for cut in _cut(rule, piece)]
        return [i for piece in pieces for i in self._merge(piece)]

    def _merge(self, piece: str) -> list[int]:
        symbols = [BYTE_SYMBOLS[byte] for byte in piece.encode()]
        if self.pre == "llama-bpe" and "".join(symbols) in self._ids:
            return [self._ids["".join(symbols)]]
        while True:
            pairs = list(pairwise(symbols))
            ranked = [(self._ranks[pair], i) for i, pair in enumerate(pairs) if pair in self._ranks]
            if not ranked:
                return [self._ids[symbol] for symbol in symbols]
            _, i = min(ranked)
            symbols[i : i + 2] = ["".join(pairs[i])]


def _cut(rule: str, text: str) -> list[str]:
    """Matches and the gaps between them, in order."""
    pieces, end = [], 0
    for match in regex.finditer(rule, text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in (*pieces, text[end:]) if piece]


FRAGMENTS = [
    *("the", " quick", "Paris", "naïve", "Straße", "Ωmega", "привет"),
    *("हिन्दी", "日本語", "中文", "한국어", "ไทย", "עברית"),
    *("0", "7", "42", "1998", "3.14", "1,000,000", "٣", "५", "²", "½", "Ⅷ", "１２", "①", "x²+1"),
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'LL", "’s", "don't", "I'VE"),
    *(
        "😀",
        "👩\u200d👩\u200d👧",
        "🇫🇷",
        "e\u0301",
        "\u200b",
        "\ufeff",
        "\u00a0",
        "\u3000",
        "\u2028",
    ),
    *(" ", "  ", "     ", "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "   \n\n  "),
    *("!", "?!", "...", "—", "…", "«»", "(", ")", "$5"),
    *("a_b", "a-b", "==", "<=", "<|", "|>", "`x`"),
]


def sample_texts(count: int, added: Sequence[str] = (), seed: int = 0) -> list[str]:
    """Seeded strings of words, numerals, emoji, spaces and the `added` tokens' own text."""
    draw = random.Random(seed)
    fragments = [*FRAGMENTS, *added]
    singles = [*fragments, *(f" {fragment} " for fragment in fragments)]
    mixed = ("".join(draw.choices(fragments, k=draw.randint(1, 12))) for _ in range(count))
    return [*singles, *mixed][:count] if count < len(singles) else [*singles, *mixed]
