"""One interactive figure of the report page: a Plotly figure with what the page needs to lay it out and to filter it."""

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True)
class Panel:
    """`width` and `height` are in CSS pixels; a narrow screen gets less width.

    methods: the regularizers that it shows; each trace names its own in `meta`, where there are several.
    legend: (colour, text, regularizer) of its lines.
    group: panels that stand together; ours and the published one of a method.
    """

    figure: go.Figure
    title: str
    methods: tuple[str, ...]
    width: int
    height: int
    group: str = ""
    legend: tuple[tuple[str, str, str], ...] = ()


def figure(traces: list[go.Scatter] | list[go.Heatmap] | list[go.Bar], **layout: object) -> go.Figure:
    """A figure with small margins and nothing fixed that light, dark or the screen's width should decide."""
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    axes = {"xaxis": {"automargin": True}, "yaxis": {"automargin": True}}
    for name, settings in axes.items():
        settings |= layout.pop(name, {})  # type: ignore[arg-type, call-overload]
    return go.Figure(traces, {"margin": margin, "showlegend": False, **axes, **layout})


def escaped(text: object) -> str:
    """For Plotly's hover texts, which know some of HTML's tags."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
