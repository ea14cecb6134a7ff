"""Interactive bars of Table I.1: the parts of the models' parameters."""

import pandas as pd
import plotly.graph_objects as go

from results.model_sizes import parts_of
from results.report.panels import Panel, figure
from results.step_time_limits import MODELS


def size_panel(data: pd.DataFrame) -> Panel:
    """Return a stacked bar per model."""
    names, traces, legend = [MODELS[name] for name in data["model"]], [], []
    for part, colour, millions in parts_of(data):
        text = f"<b>%{{y}}</b>, {part}<br>%{{x:.4g}} million parameters<extra></extra>"
        traces.append(go.Bar(x=millions, y=names, orientation="h", marker={"color": colour}, hovertemplate=text))
        legend.append((colour, part, ""))
    made = figure(
        traces, barmode="stack", xaxis={"title": {"text": "parameters, millions"}}, yaxis={"autorange": "reversed"}
    )
    return Panel(made, "parameters", (), 640, 90 + 32 * len(names), legend=tuple(legend))
