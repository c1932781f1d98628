"""Claims of the paper beside what was measured, judged by rules.

The paper is B. AlKhamissi, G. Tuckute, A. Bosselut and M. Schrimpf, *The LLM Language Network*,
arXiv:2411.02280. Its claims are put in this project's words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxloc.stats.resample import Interval
from onnxloc.studies.reproduced import Difference, KindScores, Located, Measured, SizeEffect

__all__ = ["Claim", "Verdict", "judge"]

Verdict = Literal["agrees", "agrees in part", "differs", "cannot be told"]
RANDOM = ("count", "site", "norm")
NAMES = {
    "count": "matched in number",
    "site": "matched by site",
    "norm": "matched by site and activation",
}
# A control is called harmless if it loses less than this part of what the network loses.
HARMLESS = 0.25
SMALL = 0.25
ALPHA = 0.05
# What the paper's profile says: the first responds more than the second.
ORDER = (
    ("sentences", "nonwords"),
    ("sentences", "word-lists"),
    ("sentences", "jabberwocky"),
    ("word-lists", "nonwords"),
    ("jabberwocky", "nonwords"),
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and what came out.

    Attributes
    ----------
    title : str
        In a few words.
    paper : str
        The claim.
    rule : str
        What it takes to agree.
    verdict : {"agrees", "agrees in part", "differs", "cannot be told"}
        By the rule.
    found : tuple of str
        What came out.
    short : str
        The same in a line or two; empty for the first of `found`.
    """

    title: str
    paper: str
    rule: str
    verdict: Verdict
    found: tuple[str, ...]
    short: str = ""

    @property
    def line(self) -> str:
        """What came out, in short."""
        return self.short or self.found[0]


def judge(measured: Measured) -> tuple[Claim, ...]:
    """Every claim, with its verdict."""
    return (
        _selective(measured),
        _breaks(measured),
        _small(measured),
        _profile(measured),
        _others(measured),
    )


def _interval(value: Interval) -> str:
    return f"{value.estimate:.2f} ({value.low:.2f} to {value.high:.2f})"


def _selective(measured: Measured) -> Claim:
    own, copy = measured.language, measured.untrained
    spread = own.n_blocks >= len(own.blocks) / 2
    ok = (own.n_significant >= own.k, own.holds, spread)
    found = [
        f"{own.n_significant:,} of {own.n_units:,} units respond more to {own.positive} than to "
        f"{own.control} at a false discovery rate of 5 %.",
        f"The {own.k:,} units with the largest t lie in {own.n_blocks} of {len(own.blocks)} "
        f"blocks; {_fullest(own)}.",
        _halves(own),
        f"In an untrained copy {copy.n_significant:,} units do so. Its network shares Dice "
        f"{_number(copy.dice_language)} with the trained one; chance is "
        f"{_number(copy.dice_language_chance)}. {_halves(copy)}",
    ]
    if copy.holds:
        found.append(
            "So selectivity that repeats itself from one half to the other is found without "
            "training as well: by itself it does not show that language was learned."
        )
    return Claim(
        title="Selective units",
        paper="In every model studied, units that respond more to sentences than to strings of "
        "nonwords can be localized, and the top 1 % lie in many layers.",
        rule="at least as many units as the network has are significant; the middle 95 % of the "
        "Dice of two halves lies above that of shuffled labels and above chance; half of the "
        "blocks or more hold units of the network. If none is significant, or halves do not "
        "agree: differs.",
        verdict=_verdict(ok) if own.n_significant and own.holds else "differs",
        found=tuple(found),
        short=f"{found[0]} In an untrained copy {copy.n_significant:,} do.",
    )


def _halves(own: Located) -> str:
    return (
        f"Networks of two halves of the stimuli share Dice {_interval(own.reliability)}; with "
        f"shuffled labels {_interval(own.shuffled)}; by chance {_interval(own.chance)}."
    )


def _fullest(own: Located) -> str:
    best = max(range(len(own.blocks)), key=lambda block: own.blocks[block])
    return f"block {best} holds most, {own.blocks[best]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _breaks(measured: Measured) -> Claim:
    effect = measured.pairs[-1]
    found = [_drop(effect)]
    for kind in _random(effect):
        share = f", {_percent(effect.share(kind))} of the network's loss" if effect.harms else ""
        found.append(
            f"Random networks {NAMES[kind.kind]}: median {kind.median:.3f}{share}; "
            f"{kind.as_harmful} of {len(kind.scores)} score as the network or lower "
            f"(p = {kind.p:.3f})."
        )
    rest = _rest(effect)
    return Claim(
        title="Ablation breaks language",
        paper="Zeroing the top 1 % of units lowers scores on linguistic tests drastically; zeroing "
        "as many random units does not.",
        rule="the 95 % interval of network minus intact lies below 0; and of each kind of random "
        f"control no network scores as low, and the median loses less than {_percent(HARMLESS)} "
        "of what the network loses. In part, if the interval lies below 0.",
        verdict=_harm([effect]),
        found=(*found, rest) if rest else tuple(found),
        short=f"{found[0]} {_worst(effect)}".strip(),
    )


def _random(effect: SizeEffect) -> list[KindScores]:
    return [kind for kind in effect.kinds if kind.kind in RANDOM]


def _harm(effects: Sequence[SizeEffect]) -> Verdict:
    """Whether the network does harm at every size, and random networks do none beside it."""
    if not any(effect.harms for effect in effects):
        return "differs"
    alone = all(
        effect.harms and kind.as_harmful == 0 and effect.share(kind) < HARMLESS
        for effect in effects
        for kind in _random(effect)
    )
    return "agrees" if alone and all(effect.harms for effect in effects) else "agrees in part"


def _drop(effect: SizeEffect) -> str:
    return (
        f"With {effect.size:g} % of the units zeroed ({effect.units:,}), accuracy on "
        f"{effect.n_items:,} minimal pairs goes from {effect.intact:.3f} to {effect.network:.3f}: "
        f"{_signed(effect.difference, 3)} ({_signed(effect.low, 3)} to {_signed(effect.high, 3)})."
    )


def _worst(effect: SizeEffect) -> str:
    """The kind of random network that does most harm, if the network does any."""
    if not effect.harms or not _random(effect):
        return ""
    kind = max(_random(effect), key=effect.share)
    return (
        f"Random networks {NAMES[kind.kind]} lose {_percent(effect.share(kind))} of that in the "
        "median."
    )


def _rest(effect: SizeEffect) -> str:
    """What the network does without its massive units."""
    if effect.without_massive is None:
        return ""
    return (
        "With its units of very large activation left as they are, zeroing the others takes "
        f"accuracy to {effect.without_massive:.3f}."
    )


def _small(measured: Measured) -> Claim:
    small = [effect for effect in measured.pairs if effect.size <= SMALL]
    found = []
    for effect in small:
        counts = ", ".join(
            f"{kind.as_harmful} of {len(kind.scores)} {NAMES[kind.kind]}"
            for kind in _random(effect)
        )
        parts = (_drop(effect), f"As harmful: {counts}.", _worst(effect), _rest(effect))
        found.append(" ".join(part for part in parts if part))
    return Claim(
        title="Few units are enough",
        paper="Effects are there already when 0.125 or 0.25 % of the units are zeroed.",
        rule=f"that of the claim that ablation breaks language, at each size of {SMALL} % or less.",
        verdict=_harm(small) if small else "cannot be told",
        found=tuple(found) or ("No such size was run.",),
        short=f"{_drop(small[0])} {_worst(small[0])}".strip() if small else "",
    )


def _profile(measured: Measured) -> Claim:
    compared = [(pair, measured.between(*pair)) for pair in ORDER]
    known = [one for _, one in compared if one is not None]
    verdict: Verdict = "cannot be told"
    if len(known) == len(ORDER):
        verdict = _verdict([one.low > 0 and one.p < ALPHA for one in known])
        if not (known[0].low > 0 and known[0].p < ALPHA):
            verdict = "differs"
    return Claim(
        title="Response profile",
        paper="The units respond as the brain's language network does: most to sentences, less to "
        "word lists and to jabberwocky, least to nonwords.",
        rule="on texts that did not find the network, each of the five differences is above 0 in "
        "its 95 % interval and at p < 0.05, corrected by Holm's method; in part, if that of "
        "sentences and nonwords is.",
        verdict=verdict,
        found=tuple(map(_said, known)) or ("The conditions were not shown.",),
    )


def _said(one: Difference) -> str:
    yes = "yes" if one.low > 0 and one.p < ALPHA else "no"
    return (
        f"{one.a} above {one.b}: {yes}; {_signed(one.difference, 2)} "
        f"({_signed(one.low, 2)} to {_signed(one.high, 2)}), "
        f"p {_p(one.p)}; beside random networks p {_p(one.p_controls)}."
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _others(measured: Measured) -> Claim:
    found, short = [], []
    for own in measured.others:
        there = "found" if own.n_significant > 0 and own.holds else "not found"
        short.append(f"{own.name}: {there}")
        found.append(
            f"{own.name}: {there}. {own.n_significant:,} of "
            f"{own.n_units:,} units respond more to {own.positive} than to {own.control} at a "
            f"false discovery rate of 5 %. {_halves(own)} With the language network it shares Dice "
            f"{_number(own.dice_language)} (chance {_number(own.dice_language_chance)})."
        )
    return Claim(
        title="Other networks",
        paper="The same procedure finds multiple-demand and theory-of-mind units in some models, "
        "but not in all.",
        rule="one model cannot show that. A network counts as found here if a unit is significant, "
        "and the middle 95 % of the Dice of two halves lies above that of shuffled labels and "
        "above chance.",
        verdict="cannot be told",
        found=tuple(found),
        short=f"{'; '.join(short)}.",
    )


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _verdict(ok: Iterable[bool]) -> Verdict:
    values = list(ok)
    return "agrees" if all(values) else "agrees in part" if any(values) else "differs"
