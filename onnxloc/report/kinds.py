"""The controls of an ablation by kind: in words, as a table, and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxloc.report.chart import (
    CHANCE,
    CIRCLE,
    DIAMOND,
    INTACT,
    NETWORK,
    Chart,
    Column,
    Table,
    cell,
    chart,
    layout,
    plain,
    scale,
    wrapped,
)
from onnxloc.report.finding import Finding
from onnxloc.report.folder import Ablated, Effect, KindEffect, NetworkFacts
from onnxloc.report.words import count, integer, number, percent, probability, score

__all__ = [
    "KIND_NAMES",
    "KindRow",
    "kind_chart",
    "kind_finding",
    "kind_rows",
    "kind_table",
    "massive_warnings",
]

KIND_NAMES = {
    "count": "random, matched in number",
    "site": "random, matched by site",
    "norm": "random, matched by site and activation",
    "least": "least selective units",
    "shuffled": "localized with shuffled labels",
    "untrained": "localized in an untrained copy",
}
WITHOUT = "network without its massive units"
# So many massive units or controls are named one by one.
_NAMED = 4
# Above this ratio of mean |activation| a match is called bad.
_GOOD_MATCH = 2.0


@dataclass(frozen=True)
class KindRow:
    """One line of the table, as text."""

    name: str
    networks: str
    median: str
    range: str
    as_harmful: str
    p: str
    massive: str


def kind_rows(effect: Effect, ablated: Ablated) -> list[KindRow]:
    """Intact, the network, the network without its massive units, and each kind of control."""
    shown = _Shown(effect)
    facts = _facts(ablated, effect.size)
    rows = [
        KindRow("intact", "-", shown.write(shown.intact), "-", "-", "-", "-"),
        KindRow(
            "network", "1", shown.write(shown.network), "-", "-", "-",
            _massive([facts["network"]] if "network" in facts else []),
        ),
    ]  # fmt: skip
    if effect.without_massive is not None:
        rows.append(KindRow(WITHOUT, "1", shown.write(shown.rest), "-", "-", "-", "0"))
    for kind in effect.kinds:
        values = sorted(shown.of(kind))
        own = [facts[name] for name in kind.names if name in facts]
        n = len(kind.names)
        rows.append(
            KindRow(
                KIND_NAMES.get(kind.kind, kind.kind),
                str(n),
                shown.write(_median(values)),
                f"{shown.write(values[0])} to {shown.write(values[-1])}" if values else "–",
                f"{len(kind.as_harmful)} of {n}",
                probability(_p(kind)),
                _massive(own),
            )
        )
    return rows


def kind_table(effect: Effect, ablated: Ablated) -> Table:
    """The same as the page's table."""
    heads = ("Networks", "Median", "Range", "As harmful", "p", "Massive units")
    return Table(
        f"Task {effect.task}, {percent(effect.size)} of the units: {_Shown(effect).name} by kind "
        "of control",
        (Column("Condition", numeric=False), *map(Column, heads)),
        tuple(
            tuple(map(cell, (r.name, r.networks, r.median, r.range, r.as_harmful, r.p, r.massive)))
            for r in kind_rows(effect, ablated)
        ),
    )


def kind_finding(effect: Effect, ablated: Ablated) -> Finding:
    """Say which controls are as harmful as the network, and what massive units have to do with it.

    Parameters
    ----------
    effect : Effect
        The effect of one size on one task.
    ablated : Ablated
        The study, for what is known of each network.
    """
    title = f"Task {effect.task}: controls by kind, {percent(effect.size)} of the units"
    if effect.intact is None or effect.network is None:
        return Finding(title, "The effect is not defined", "A score of this task is not a number.")
    total = sum(len(kind.names) for kind in effect.kinds)
    harmful = sum(len(kind.as_harmful) for kind in effect.kinds)
    lowers = effect.network < effect.intact
    of_all = f"{count(total, 'control')} of all kinds"
    if not lowers:
        verdict = (
            f"Ablating the network does not lower the score; {integer(harmful)} of {of_all} score "
            "as low or lower"
        )
    elif harmful:
        verb = "is" if harmful == 1 else "are"
        verdict = f"{integer(harmful)} of {of_all} {verb} as harmful as the network or more"
    else:
        verdict = f"None of {of_all} is as harmful as the network"
    many = [kind for kind in effect.kinds if len(kind.names) > 1]
    sure = lowers and not harmful and all((_p(kind) or 1) <= 0.05 for kind in many)
    warnings = (*massive_warnings(effect, ablated), *_match_warning(effect, ablated))
    return Finding(title, verdict, _compared(effect, lowers), warnings, "yes" if sure else "open")


def _compared(effect: Effect, lowers: bool) -> str:
    """Each kind in a few words, the harmful ones first."""
    named, clean = [], []
    for kind in effect.kinds:
        name, n = KIND_NAMES.get(kind.kind, kind.kind), len(kind.names)
        if kind.as_harmful:
            named.append(f"{_named(kind.as_harmful)} ({len(kind.as_harmful)} of {n} {name})")
        else:
            clean.append(f"{name} ({n}, p = {probability(_p(kind))})")
    said = []
    if named:
        what = "As harmful as the network or more" if lowers else "At or below the network's score"
        said.append(f"{what}: {'; '.join(named)}.")
    if clean:
        what = "does less harm" if lowers else "scores higher"
        said.append(f"Every network of these kinds {what}: {', '.join(clean)}.")
    sizes = sorted({len(kind.names) for kind in effect.kinds})
    floors = [f"{probability(1 / (n + 1))} for {count(n, 'network')}" for n in sizes]
    if floors:
        said.append(f"The smallest p that a kind can have is {', '.join(floors)}.")
    return " ".join(said)


def massive_warnings(effect: Effect, ablated: Ablated) -> tuple[str, ...]:
    """Name the network's massive units, and the controls that hold some."""
    shown, facts = _Shown(effect), _facts(ablated, effect.size)
    warnings = []
    whole = facts.get("network")
    if whole is not None and whole.n_massive:
        units = ", ".join(f"unit {at.unit} of {at.site}" for at in whole.massive[:_NAMED])
        more = ", …" if whole.n_massive > _NAMED else ""
        warning = (
            f"{integer(whole.n_massive)} of the network's units "
            f"{'is' if whole.n_massive == 1 else 'are'} massive (mean |activation| above 100 times "
            f"the median of the site): {units}{more}."
        )
        if effect.without_massive is not None:
            warning += (
                f" Without them {shown.name} is {shown.write(shown.rest)}; with them "
                f"{shown.write(shown.network)}, intact {shown.write(shown.intact)}."
            )
        warnings.append(warning)
    holders = [
        (name, name in kind.as_harmful)
        for kind in effect.kinds
        for name in kind.names
        if name in facts and facts[name].n_massive
    ]
    if holders:
        both = sum(harmful for _, harmful in holders)
        warnings.append(
            f"{count(len(holders), 'control')} hold{'s' if len(holders) == 1 else ''} massive "
            f"units: {_named([name for name, _ in holders])}. {integer(both)} of these "
            f"{'is' if both == 1 else 'are'} as harmful as the network or more."
        )
    return tuple(warnings)


def _match_warning(effect: Effect, ablated: Ablated) -> tuple[str, ...]:
    """Say where controls matched by activation do not match."""
    facts = _facts(ablated, effect.size)
    norm = [facts[n] for k in effect.kinds if k.kind == "norm" for n in k.names if n in facts]
    medians = [one.match_median for one in norm if one.match_median is not None]
    worst = [one.match_largest for one in norm if one.match_largest is not None]
    if not medians or not worst or max(worst) <= _GOOD_MATCH:
        return ()
    return (
        f"Controls matched by activation match to a factor of {number(max(medians))} in the median "
        f"unit, but only to {number(max(worst))} in the worst: some units of the network have no "
        "like in their site.",
    )


def kind_chart(effect: Effect, ablated: Ablated) -> Chart:
    """Every control as a point, a row for each kind, with the network on top."""
    import plotly.graph_objects as go

    shown = _Shown(effect)
    facts = _facts(ablated, effect.size)
    names = ["network"]
    figure = go.Figure()
    for value, colour, name in (
        (shown.intact, INTACT, "intact"),
        (None if shown.log else effect.chance, CHANCE, "chance"),
    ):
        if value is not None:
            figure.add_scatter(
                x=[value] * 2,
                y=[-len(effect.kinds) - 1.6, 0.6],
                mode="lines",
                line={"color": colour, "width": 2, "dash": "dot" if name == "chance" else "solid"},
                name=f"{name} {shown.write(value)}",
                hoverinfo="skip",
            )
    for value, symbol, name in (
        (shown.network, "diamond", "network"),
        (shown.rest, "diamond-open", WITHOUT),
    ):
        if value is not None:
            figure.add_scatter(
                x=[value],
                y=[0],
                mode="markers",
                marker=DIAMOND | {"symbol": symbol, "color": NETWORK},
                name=f"{name} {shown.write(value)}",
                hovertext=[f"{name}: {shown.write(value)}"],
                hoverinfo="text",
            )
    for row, kind in enumerate(effect.kinds, start=1):
        names.append(KIND_NAMES.get(kind.kind, kind.kind))
        values = shown.all(kind)
        figure.add_scatter(
            x=values,
            # A fixed zigzag, with a single point in its row's middle.
            y=[-row + 0.12 * ((i * 2 + 2) % 5 - 2) for i in range(len(values))],
            mode="markers",
            marker=CIRCLE
            | {"symbol": ["x" if n in facts and facts[n].n_massive else "circle"
                          for n in kind.names]},
            name=plain(names[-1]),
            showlegend=False,
            hovertext=[
                plain(f"{name}: {shown.write(value)}{_hover(facts.get(name))}")
                for name, value in zip(kind.names, values, strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
    height = 150 + 44 * len(names)
    figure.update_layout(layout(height, meta={"narrow": [wrapped(name) for name in names]}))
    everything = [v for kind in effect.kinds for v in shown.of(kind)]
    axis = f"{shown.name.capitalize()} (log axis)" if shown.log else shown.name.capitalize()
    values = [*everything, shown.intact, shown.network, shown.rest]
    figure.update_xaxes(scale(axis, shown.log, values, effect.chance))
    figure.update_yaxes(
        tickvals=[-i for i in range(len(names))],
        ticktext=[plain(name).replace(", ", ",<br>", 1) for name in names],
        range=[-len(names) + 0.4, 0.6],
        showgrid=False,
    )
    label = f"{shown.name} on task {effect.task} by kind of control. " + "; ".join(
        f"{row.name}: {row.median}" for row in kind_rows(effect, ablated)
    )
    return chart(figure, label, height, name=percent(effect.size))


class _Shown:
    """The scores of an effect as they are shown: perplexity where all are finite, else scores."""

    def __init__(self, effect: Effect) -> None:
        text, rest = effect.finite_perplexity, effect.without_massive
        self.intact, self.network = effect.intact, effect.network
        self.rest = rest.score if rest else None
        lists = [kind.perplexity for kind in effect.kinds]
        finite = all(one and None not in one for one in lists)
        self.log = text is not None and finite and (rest is None or rest.perplexity is not None)
        if text is not None and self.log:
            self.intact, self.network = text.intact, text.network
            self.rest = rest.perplexity if rest else None
        plain = "accuracy" if effect.kind == "pairs" else effect.metric or "score"
        self.name = "perplexity" if self.log else plain

    def all(self, kind: KindEffect) -> list[float | None]:
        return list((kind.perplexity or ()) if self.log else kind.scores)

    def of(self, kind: KindEffect) -> list[float]:
        return [value for value in self.all(kind) if value is not None]

    def write(self, value: float | None) -> str:
        return number(value) if self.log else score(value)


def _facts(ablated: Ablated, size: float) -> dict[str, NetworkFacts]:
    return {one.condition: one for one in ablated.networks if one.size == size}


def _p(kind: KindEffect) -> float | None:
    return kind.p_empirical if None not in kind.scores else None


def _median(values: Sequence[float]) -> float | None:
    from statistics import median

    return median(values) if values else None


def _massive(facts: Sequence[NetworkFacts]) -> str:
    """How many of the networks hold massive units, or of one network how many it holds."""
    if not facts:
        return "–"
    if len(facts) == 1:
        return integer(facts[0].n_massive)
    return f"in {sum(one.n_massive > 0 for one in facts)} of {len(facts)}"


def _hover(fact: NetworkFacts | None) -> str:
    if fact is None or not fact.n_massive:
        return ""
    return f" ({count(fact.n_massive, 'massive unit')})"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])}, …"
