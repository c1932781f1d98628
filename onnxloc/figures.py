"""Plotly figures of results, for notebooks. The report has its own."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

__all__ = [
    "depth_figure",
    "effect_figure",
    "matrix_figure",
    "profile_figure",
    "ratio_figure",
    "share_figure",
    "splits_figure",
    "t_figure",
]

_NETWORK, _CONTROL, _OTHER = "#c94f00", "#0072b2", "#9fb2c4"
_BINS, _SPLIT_BINS = 80, 40


def t_figure(t: NDArray[np.float64], chosen: NDArray[np.bool_]) -> "Figure":
    """Draw a histogram of t, the units of the network apart.

    Parameters
    ----------
    t : array, shape [units]
        NaN where undefined; such units are left out.
    chosen : array, shape [units]
        Whether a unit is in the network.
    """
    import plotly.graph_objects as go

    defined = np.isfinite(t)
    figure = go.Figure()
    edges = np.histogram_bin_edges(t[defined], _BINS)
    for picked, name, colour in (
        (~chosen & defined, "not chosen", _OTHER),
        (chosen & defined, "in the network", _NETWORK),
    ):
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(t[picked], edges)[0],
            width=edges[1] - edges[0],
            name=name,
            marker={"color": colour, "line": {"width": 0}},
        )
    figure.update_layout(barmode="stack", bargap=0, xaxis_title="t", yaxis_title="Units")
    return figure


def share_figure(sites: Mapping[str, int], taken: Mapping[str, int]) -> "Figure":
    """Draw the share of each site's units that is in a network, in percent.

    Parameters
    ----------
    sites : mapping of str to int
        Every site that was searched, and its number of units.
    taken : mapping of str to int
        How many of them are in the network; a site that is left out has none.
    """
    import plotly.graph_objects as go

    names = [escape(site) for site in sites]
    share = [100 * taken.get(site, 0) / n if n else 0.0 for site, n in sites.items()]
    total = sum(sites.values())
    figure = go.Figure()
    figure.add_bar(x=names, y=share, marker={"color": _NETWORK}, name="share in the network")
    if total:
        even = 100 * sum(taken.values()) / total
        figure.add_hline(y=even, line={"dash": "dash"}, annotation_text="expected by chance")
    # Names such as "1" would be read as numbers.
    figure.update_xaxes(type="category")
    figure.update_layout(yaxis_title="Share in the network (%)")
    return figure


def effect_figure(effects: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the scores of one task: intact, the network, and each random control, by size.

    Parameters
    ----------
    effects : sequence of mapping
        Entries of ``effects`` in an ablation's summary, of one task.
    """
    import plotly.graph_objects as go

    sizes = [f"{effect['size']:.3g} %" for effect in effects]
    controls = [(i, v) for i, effect in enumerate(effects) for v in effect["controls"]]
    figure = go.Figure()
    figure.add_scatter(
        x=[sizes[i] for i, _ in controls],
        y=[value for _, value in controls],
        mode="markers",
        marker={"color": _CONTROL, "size": 8, "opacity": 0.6},
        name="random controls",
    )
    for key, symbol, colour in (("network", "diamond", _NETWORK), ("intact", "line-ew-open", None)):
        figure.add_scatter(
            x=sizes,
            y=[effect[key] for effect in effects],
            mode="markers",
            marker={"symbol": symbol, "size": 14, **({"color": colour} if colour else {})},
            name=key,
        )
    figure.update_xaxes(type="category", title="Units ablated (% of all)")
    figure.update_yaxes(title=escape(str(effects[0].get("metric") or "score")))
    figure.update_layout(title=f"Task {escape(str(effects[0]['task']))}")
    return figure


def profile_figure(conditions: "DataFrame", unit: str) -> "Figure":
    """Draw a network's response to each condition, and that of random networks.

    Parameters
    ----------
    conditions : DataFrame
        `conditions` of a profile.
    unit : str
        What a response is measured in.
    """
    import plotly.graph_objects as go

    own = conditions[conditions["kind"] == "network"]
    controls = conditions[conditions["kind"] == "control"]
    figure = go.Figure()
    figure.add_bar(
        x=_names(own["label"]),
        y=own["mean"],
        error_y={
            "array": own["high"] - own["mean"],
            "arrayminus": own["mean"] - own["low"],
            "symmetric": False,
        },
        marker={"color": _NETWORK},
        name="network, 95 % interval",
    )
    figure.add_scatter(
        x=_names(controls["label"]),
        y=controls["mean"],
        mode="markers",
        marker={"color": _CONTROL, "size": 6, "opacity": 0.5},
        name="random networks",
    )
    figure.update_xaxes(type="category")
    figure.update_layout(yaxis_title=f"Mean response ({escape(unit)})")
    return figure


def ratio_figure(groups: "DataFrame", what: str) -> "Figure":
    """Draw what groups of units hold of a network over their share of units.

    Parameters
    ----------
    groups : DataFrame
        Rows of `groups` of `Where`, of one kind of group.
    what : str
        That kind.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_bar(x=_names(groups["group"]), y=groups["ratio"], marker={"color": _NETWORK})
    figure.add_hline(y=1, line={"dash": "dash"}, annotation_text="its share of units")
    figure.update_xaxes(type="category", title=escape(what))
    figure.update_layout(yaxis_title="Units chosen, over the share of units")
    return figure


def matrix_figure(names: Sequence[str], values: NDArray[np.float64], what: str) -> "Figure":
    """Draw how much each two of some networks have in common.

    Parameters
    ----------
    names : sequence of str
        Of the networks.
    values : array, shape [networks, networks]
        Between 0 and 1.
    what : str
        What the values are.
    """
    import plotly.graph_objects as go

    labels = _names(names)
    figure = go.Figure()
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=values,
        zmin=0,
        zmax=1,
        colorscale="Oranges",
        text=np.round(values, 2),
        texttemplate="%{text}",
        colorbar={"title": escape(what)},
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    return figure


def depth_figure(depth: "DataFrame") -> "Figure":
    """Draw which share of each run's network lies at which relative depth.

    Parameters
    ----------
    depth : DataFrame
        `depth` of a comparison.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for run, rows in depth.groupby("run", sort=False):
        figure.add_scatter(
            x=(rows["depth_from"] + rows["depth_to"]) / 2,
            y=100 * rows["share_of_network"],
            mode="lines+markers",
            name=escape(str(run)),
        )
    figure.update_layout(
        xaxis_title="Relative depth", yaxis_title="Share of the network (%)", showlegend=True
    )
    return figure


def splits_figure(
    dice: NDArray[np.float64], shuffled: NDArray[np.float64], chance: float
) -> "Figure":
    """Draw the overlap of the networks of halves, over many splits.

    Parameters
    ----------
    dice, shuffled : array, shape [splits]
        With the true conditions and with shuffled ones.
    chance : float
        Of two random networks.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    bins: dict[str, Any] = {"start": 0, "end": 1, "size": 1 / _SPLIT_BINS}
    for values, name, colour in (
        (dice, "true conditions", _NETWORK),
        (shuffled, "shuffled conditions", _OTHER),
    ):
        figure.add_histogram(x=values, xbins=bins, name=name, marker={"color": colour})
    figure.add_vline(x=chance, line={"dash": "dash"}, annotation_text="chance")
    figure.update_layout(barmode="overlay", xaxis_title="Dice of two halves", yaxis_title="Splits")
    return figure


def _names(names: Iterable[object]) -> list[str]:
    return [escape(str(name)) for name in names]
