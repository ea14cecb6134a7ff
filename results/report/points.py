"""Interactive points: pairs of runs against each other, and step times as multiples of a reference."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results.curves import COLOURS
from results.heatmap import power_of_ten
from results.report.lines import LEVEL
from results.report.panels import Panel, escaped, figure
from results.runs import Run, flatten
from results.step_times_figure import PARTS

# set by hand: Plotly's own ticks print 5 for 0.5
RATIOS = [ratio * power for power in (0.1, 1, 10, 100) for ratio in (1, 2, 5)]


def pair_panels(artefact: Mapping[str, Any], scale: str, table: pd.DataFrame, runs: Sequence[Run]) -> list[Panel]:
    """Return a panel per part with a point per pair: the first value's score on x, the second's on y.

    Dashed lines mark the margin around equality.

    Args:
        table: the artefact's `every_pair`, computed or read from table.csv.
    """
    first, second = artefact["pair"]["values"]
    of_pair: dict[tuple[str, float, int], list[str]] = {}
    for run in runs:
        config = flatten(run.config)
        of_pair.setdefault((config["task.name"], config["lr"], config["seed"]), []).append(run.record["run_id"])
    regularizers = {grid.get("task"): grid["regularizer"] for grid in artefact["scales"][scale]["grids"]}
    panels = []
    for part in artefact["parts"]:
        own = table[(table["task"] == part["task"])].astype({first: float, second: float})
        finite = own[(own[first].abs() < math.inf) & (own[second].abs() < math.inf)]
        if finite.empty:
            continue
        traces, legend, method = [], [], regularizers.get(part["task"], "")
        for colour, (lr, of_lr) in zip(COLOURS, finite.groupby("lr"), strict=False):
            ids = [" ".join(of_pair.get((part["task"], lr, seed), [])) for seed in of_lr["seed"]]
            said = [
                f"lr {power_of_ten(lr)}, seed {seed}<br>{escaped(names).replace(' ', '<br>')}"
                for seed, names in zip(of_lr["seed"], ids, strict=True)
            ]
            text = f"%{{hovertext}}<br>{escaped(first)} %{{x:.4g}}, {escaped(second)} %{{y:.4g}}<extra></extra>"
            look = {"color": colour, "size": 9, "opacity": 0.75}
            traces.append(
                go.Scatter(
                    x=of_lr[first].tolist(),
                    y=of_lr[second].tolist(),
                    mode="markers",
                    marker=look,
                    customdata=ids,
                    hovertext=said,
                    hovertemplate=text,
                )
            )
            legend.append((colour, f"lr {power_of_ten(lr)}", method))
        made = figure(
            traces,
            shapes=_around_equality(finite, first, second, part["margin"][scale]),
            xaxis=_axis(first),
            yaxis=_axis(second),
        )
        hidden = f"; {len(own) - len(finite)} pair(s) not shown" if len(finite) < len(own) else ""
        title = f"{part['title']}: {part['metric']['label']}, margin ± {part['margin'][scale]:g}{hidden}"
        panels.append(Panel(made, title, (method,), 500, 420, legend=tuple(legend)))
    return panels


def _axis(name: str) -> dict[str, Any]:
    return {"title": {"text": name}}


def _around_equality(pairs: pd.DataFrame, first: str, second: str, margin: float) -> list[dict[str, Any]]:
    low, high = min(pairs[first].min(), pairs[second].min()), max(pairs[first].max(), pairs[second].max())
    return [
        {
            "type": "line",
            "x0": low,
            "x1": high,
            "y0": low + off,
            "y1": high + off,
            "line": {"color": LEVEL, "width": 1, "dash": dash},
        }
        for off, dash in ((0, "solid"), (-margin, "dash"), (margin, "dash"))
    ]


def time_panels(data: pd.DataFrame) -> list[Panel]:
    """Return a panel per shape with a row per method: medians over rounds with quartiles, relative to
    fused AdamW.
    """
    panels = []
    for shape, own in data.groupby("shape", sort=False):
        methods, traces, legend = list(dict.fromkeys(own["method"])), [], []
        for part, (colour, _, title) in PARTS.items():
            chosen = own[own["part"] == part]
            if chosen.empty:
                continue
            legend.append((colour, title, ""))
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
        panels.append(Panel(made, str(shape), (), 530, 90 + 22 * len(methods), legend=tuple(legend)))
    return panels
