"""Plotly figures of results, for notebooks. The report has its own."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["effect_figure", "share_figure", "t_figure"]

_NETWORK, _CONTROL, _OTHER = "#c94f00", "#0072b2", "#9fb2c4"
_BINS = 80


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
