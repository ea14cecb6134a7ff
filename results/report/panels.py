"""One interactive figure of the report page: a Plotly figure with what the page needs for layout and
filters.
"""

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True)
class Panel:
    """A figure with its `width` and `height` in CSS pixels. Narrow screens reduce the width.

    methods: the regularizers that it shows. If there are several, each trace names its own in
    `meta`.
    legend: (colour, text, regularizer) of its lines.
    group: panels that stand together, such as ours and the published one of a method.
    """

    figure: go.Figure
    title: str
    methods: tuple[str, ...]
    width: int
    height: int
    group: str = ""
    legend: tuple[tuple[str, str, str], ...] = ()


def figure(traces: list[go.Scatter] | list[go.Heatmap] | list[go.Bar], **layout: object) -> go.Figure:
    """Return a figure with small margins. Colours and width are left to the page."""
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    axes = {"xaxis": {"automargin": True}, "yaxis": {"automargin": True}}
    for name, settings in axes.items():
        settings |= layout.pop(name, {})  # type: ignore[arg-type, call-overload]
    return go.Figure(traces, {"margin": margin, "showlegend": False, **axes, **layout})


def escaped(text: object) -> str:
    """Escape text for Plotly's hover texts, which interpret some HTML tags."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
