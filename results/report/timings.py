"""Interactive figures of Tables I.1 to I.3: the parts of models' parameters, and step times as multiples of a
reference.
"""

import pandas as pd
import plotly.graph_objects as go

from results.interactive import LEVEL, Chart, figure
from results.model_sizes import parts_of
from results.step_time_limits import MODELS
from results.step_times_figure import PARTS

# set by hand: Plotly's own ticks print 5 for 0.5
RATIOS = [ratio * power for power in (0.1, 1, 10, 100) for ratio in (1, 2, 5)]


def size_panel(data: pd.DataFrame) -> Chart:
    """Return a stacked bar per model."""
    names, traces, legend = [MODELS[name] for name in data["model"]], [], []
    for part, colour, millions in parts_of(data):
        text = f"<b>%{{y}}</b>, {part}<br>%{{x:.4g}} million parameters<extra></extra>"
        traces.append(go.Bar(x=millions, y=names, orientation="h", marker={"color": colour}, hovertemplate=text))
        legend.append((colour, part))
    made = figure(
        traces, barmode="stack", xaxis={"title": {"text": "parameters, millions"}}, yaxis={"autorange": "reversed"}
    )
    return Chart(made, "parameters", 640, 90 + 32 * len(names), legend=tuple(legend))


def time_panels(data: pd.DataFrame) -> list[Chart]:
    """Return a chart per shape with a row per method: medians over rounds with quartiles, relative to
    fused AdamW.
    """
    panels = []
    for shape, own in data.groupby("shape", sort=False):
        methods, traces, legend = list(dict.fromkeys(own["method"])), [], []
        for part, (colour, _, title) in PARTS.items():
            chosen = own[own["part"] == part]
            if chosen.empty:
                continue
            legend.append((colour, title))
            spread = {
                "array": (chosen["ratio_q3"] - chosen["ratio"]).tolist(),
                "arrayminus": (chosen["ratio"] - chosen["ratio_q1"]).tolist(),
            }
            text = f"<b>%{{y}}</b>, {title}<br>%{{x:.3f}} x fused AdamW<br>%{{customdata:.4g}} s, %{{hovertext}} rounds<extra></extra>"
            points = {
                "x": chosen["ratio"].tolist(),
                "y": chosen["method"].tolist(),
                "customdata": chosen["seconds"].tolist(),
            }
            error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 0} | spread
            rounds = [str(number) for number in chosen["rounds"]]
            look = {"color": colour, "size": 8}
            traces.append(
                go.Scatter(**points, mode="markers", marker=look, error_x=error, hovertext=rounds, hovertemplate=text)
            )
        one = {
            "type": "line",
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "x0": 1,
            "x1": 1,
            "line": {"color": LEVEL, "dash": "dash", "width": 1},
        }
        x = {
            "type": "log",
            "title": {"text": "x fused AdamW"},
            "tickvals": RATIOS,
            "ticktext": [f"{ratio:g}" for ratio in RATIOS],
        }
        made = figure(traces, shapes=[one], xaxis=x, yaxis={"autorange": "reversed"})
        panels.append(Chart(made, str(shape), 530, 90 + 22 * len(methods), legend=tuple(legend)))
    return panels
