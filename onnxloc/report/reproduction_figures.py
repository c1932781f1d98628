"""The figures of a reproduction: sizes, phenomena, layers and the profile."""

from collections.abc import Mapping

from onnxloc.report.svg import CONTROL, INK, INTACT, NETWORK, OTHER, Canvas, Scale
from onnxloc.report.words import percent, score
from onnxloc.studies.reproduced import Measured

__all__ = ["figures"]

_KINDS = {"count": "#7d8ca3", "site": CONTROL, "norm": OTHER}
_LABELS = {
    "count": "random, by number",
    "site": "random, by site",
    "norm": "random, by activation",
}
_WIDTH = 760
_CHANCE = 0.5


def figures(measured: Measured) -> Mapping[str, str]:
    """Every figure as SVG, by its name."""
    return {
        "sizes": _sizes(measured),
        "phenomena": _phenomena(measured),
        "layers": _layers(measured),
        "profile": _profile(measured),
    }


def _sizes(measured: Measured) -> str:
    """Accuracy on pairs against the share of units ablated, with every random control."""
    effects = measured.pairs
    last = effects[-1]
    canvas = Canvas(
        _WIDTH,
        380,
        f"Accuracy on minimal pairs: intact {score(last.intact)}; with {percent(last.size)} of the "
        f"units zeroed {score(last.network)}",
    )
    values = [
        value
        for e in effects
        for value in (
            e.intact + e.low, e.intact + e.high, e.intact, e.network, _CHANCE,
            *(s for k in e.kinds for s in k.scores),
        )
    ]  # fmt: skip
    y = Scale(min(values) - 0.03, max(values) + 0.03, 325, 50)
    _horizontal(canvas, y, 60, _WIDTH - 20)
    step = (_WIDTH - 100) / len(effects)
    canvas.line([(60, y(last.intact)), (_WIDTH - 20, y(last.intact))], INTACT, 2)
    canvas.line([(60, y(_CHANCE)), (_WIDTH - 20, y(_CHANCE))], INK, 1, "2 4")
    canvas.text(_WIDTH - 20, y(_CHANCE) - 5, "chance", "end")
    for i, effect in enumerate(effects):
        x = 80 + step * (i + 0.5)
        for place, kind in enumerate(k for k in effect.kinds if k.kind in _KINDS):
            for j, value in enumerate(kind.scores):
                canvas.mark(x - 26 + 26 * place + 3 * (j % 3 - 1), y(value), _KINDS[kind.kind])
        own = x - 56
        ends = (effect.intact + effect.low, effect.intact + effect.high)
        canvas.line([(own, y(ends[0])), (own, y(ends[1]))], NETWORK, 2)
        canvas.mark(own, y(effect.network), NETWORK, "diamond")
        canvas.text(x - 15, 345, f"{effect.size:g} % ({effect.units})", "middle")
    canvas.text(_WIDTH / 2, 368, "units zeroed, percent of all (and number)", "middle")
    canvas.legend(
        60,
        22,
        [
            ("line", INTACT, "intact"),
            ("diamond", NETWORK, "network, 95 %"),
            *(("circle", colour, _LABELS[kind]) for kind, colour in _KINDS.items()),
        ],
    )
    return canvas.render()


def _horizontal(canvas: Canvas, y: Scale, left: float, right: float) -> None:
    for tenth in range(11):
        value = tenth / 10
        if y.low <= value <= y.high:
            canvas.rule(left, y(value), right, y(value))
            canvas.text(left - 8, y(value) + 4, f"{value:.1f}", "end")


def _phenomena(measured: Measured) -> str:
    """Accuracy by phenomenon at the largest size."""
    size = measured.pairs[-1].size
    groups = sorted(measured.groups, key=lambda g: g.network[size] - g.intact)
    height = 90 + 22 * len(groups)
    canvas = Canvas(
        _WIDTH, height, f"Accuracy by phenomenon with {percent(size)} of the units zeroed"
    )
    x = Scale(0, 1, 260, _WIDTH - 30)
    for quarter in range(5):
        canvas.rule(x(quarter / 4), 45, x(quarter / 4), height - 40)
        canvas.text(x(quarter / 4), height - 22, f"{quarter / 4:.2f}", "middle")
    for row, group in enumerate(groups):
        at = 58 + 22 * row
        canvas.text(250, at + 4, group.group.replace("_", " "), "end")
        canvas.line([(x(group.intact), at), (x(group.network[size]), at)], "#bbbbbb", 1)
        for kind in ("site", "norm"):
            if kind in group.controls:
                canvas.mark(x(group.controls[kind]), at, _KINDS[kind])
        canvas.mark(x(group.intact), at, INTACT, "square")
        canvas.mark(x(group.network[size]), at, NETWORK, "diamond")
    canvas.text((260 + _WIDTH) / 2, height - 5, "accuracy", "middle")
    canvas.legend(
        60,
        22,
        [
            ("square", INTACT, "intact"),
            ("diamond", NETWORK, "network"),
            ("circle", CONTROL, "random, by site: median"),
            ("circle", OTHER, "random, by activation: median"),
        ],
    )
    return canvas.render()


def _layers(measured: Measured) -> str:
    """Units of the network in each block, of the model and of its untrained copy."""
    trained, copy = measured.language.blocks, measured.untrained.blocks
    canvas = Canvas(_WIDTH, 300, f"Units of the language network in each of {len(trained)} blocks")
    top = max(*trained, *copy, 1)
    y = Scale(0, top, 245, 45)
    tick = max(1, round(top / 4))
    for value in range(0, top + 1, tick):
        canvas.rule(50, y(value), _WIDTH - 20, y(value))
        canvas.text(42, y(value) + 4, str(value), "end")
    step = (_WIDTH - 80) / len(trained)
    for block, (own, other) in enumerate(zip(trained, copy, strict=True)):
        x = 55 + step * block
        canvas.box(x, y(own), step * 0.42, 245 - y(own), NETWORK)
        canvas.box(x + step * 0.45, y(other), step * 0.42, 245 - y(other), "#999999")
        if len(trained) <= 16 or block % 2 == 0:
            canvas.text(x + step * 0.43, 262, str(block), "middle")
    canvas.text(_WIDTH / 2, 286, "block", "middle")
    canvas.legend(60, 22, [("box", NETWORK, "trained"), ("box", "#999999", "untrained copy")])
    return canvas.render()


def _profile(measured: Measured) -> str:
    """Response to each condition, beside random networks."""
    rows = measured.responses
    height = 90 + 30 * len(rows)
    canvas = Canvas(_WIDTH, height, "Response of the language network to each condition")
    ends = [v for r in rows for v in (r.low, r.high, r.controls_low, r.controls_high, 0.0)]
    x = Scale(min(ends) - 0.05, max(ends) + 0.05, 180, _WIDTH - 30)
    canvas.line([(x(0), 45), (x(0), height - 40)], INK, 1, "2 4")
    for value in (x.low, 0.0, x.high):
        canvas.text(x(value), height - 22, f"{value:.2f}".replace("-", "−"), "middle")
    for i, row in enumerate(rows):
        at = 60 + 30 * i
        canvas.text(170, at + 4, row.label, "end")
        left = x(row.controls_low)
        canvas.box(left, at - 7, x(row.controls_high) - left, 14, "#c9d8ee")
        canvas.line([(x(row.low), at), (x(row.high), at)], NETWORK, 2)
        canvas.mark(x(row.mean), at, NETWORK, "diamond")
    canvas.text((180 + _WIDTH) / 2, height - 5, "mean response, standardised", "middle")
    canvas.legend(
        60, 22, [("diamond", NETWORK, "network, 95 %"), ("box", "#c9d8ee", "random, middle 95 %")]
    )
    return canvas.render()
