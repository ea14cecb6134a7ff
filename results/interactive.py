"""Interactive figures of the report page: Plotly figures with what the page needs for layout and filters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from results.runs import Run
from results.thinning import evenly

MOST_POINTS = 200  # per curve: more than a screen shows, and a paper-scale run logs thousands
LEVEL = "#888888"


@dataclass(frozen=True)
class Chart:
    """A figure with its `width` and `height` in CSS pixels. Narrow screens reduce the width.

    legend: (colour, text) of its lines.
    group: charts that stand together, such as ours and the published one of a method.
    scale: what a heat map's colours mean, in words.
    """

    figure: go.Figure
    title: str
    width: int
    height: int
    group: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    scale: str = ""


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


def thinned(
    steps: Sequence[int], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[int], list[float | None]]:
    """Return at most `most` evenly spaced points, always with the last. Non-finite values become None."""
    places = evenly(len(steps), most)
    shown = [float(f"{values[i]:.5g}") if math.isfinite(values[i]) else None for i in places]
    return [steps[i] for i in places], shown


def level(y: float) -> dict[str, Any]:
    """Return a dashed horizontal line."""
    look = {"color": LEVEL, "dash": "dash", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": look}


def run_line(
    x: Sequence[Any], y: Sequence[Any], run: Run, about: str, colour: str, mode: str = "lines", **line: Any
) -> go.Scatter:
    """Return one run's line or dot, with a hover text and with the run's id for clicks."""
    text = f"<b>{escaped(about)}</b>, seed {run.seed}<br>{escaped(run.run_id)}<br>%{{x:g}}: %{{y:.4g}}<extra></extra>"
    look: dict[str, Any] = (
        {"line": {"color": colour} | line}
        if mode == "lines"
        else {"marker": {"color": colour, "size": 9, "opacity": 0.75}}
    )
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode=mode,
        name=run.run_id,
        customdata=[run.run_id] * len(x),
        hovertemplate=text,
        **look,
    )
