"""Interactive curves: metrics over training, training budgets, single matrices and interpolated weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results.budget import budget_of, scores
from results.curves import COLOURS, runs_of, series, series_over
from results.dynamics import QUANTITIES, bound_set, trace
from results.progress import curve_of
from results.report.panels import Panel, escaped, figure
from results.runs import Run

MOST_POINTS = 200  # per curve: more than a screen shows, and a paper-scale run logs thousands
LEVEL = "#888888"


def thinned(
    steps: Sequence[int], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[int], list[float | None]]:
    """Return at most `most` evenly spaced points, always with the last. Non-finite values become None."""
    places = (
        sorted({round(i * (len(steps) - 1) / max(1, most - 1)) for i in range(most)})
        if len(steps) > most
        else range(len(steps))
    )
    return [steps[i] for i in places], [
        float(f"{values[i]:.5g}") if abs(values[i]) < float("inf") else None for i in places
    ]


def curve_panels(artefact: Mapping[str, Any], runs: Sequence[Run]) -> list[Panel]:
    """Return one panel: a colour per method, a line per run, and the median if there are several runs.

    The first metric is solid, the second dotted.
    """
    settings, traces, legend = artefact["curves"], [], []
    for colour, method in zip(cycle(COLOURS), artefact["methods"], strict=False):
        legend.append((colour, method["title"], method["regularizer"]))
        own = runs_of(method, runs)
        for name, dash, width in zip(settings["y"], ("solid", "dot"), (2.4, 1.2), strict=False):
            about = f"{method['title']}, {name.replace('_', ' ')}"
            if len(own) > 1:
                line = {"color": colour, "dash": dash, "width": width}
                traces.append(
                    _median_line(
                        *_in_units(settings, *series_over(own, name, "median")), method["regularizer"], about, line
                    )
                )
                width /= 3
            for run in own:
                traces.append(
                    _line(*_in_units(settings, *series(run, name)), run, about, colour, dash=dash, width=width)
                )
    target = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": settings["target"], "y1": settings["target"]}
    made = figure(
        traces,
        shapes=[target | {"line": {"color": LEVEL, "dash": "dash", "width": 1}}],
        xaxis={"title": {"text": settings["x_label"]}},
        yaxis={"title": {"text": f"{artefact['metric']['label']}, {artefact['metric']['unit']}"}},
    )
    words = [name.replace("_", " ") for name in settings["y"]]
    several = (
        "; thick: median over seeds" if any(len(runs_of(method, runs)) > 1 for method in artefact["methods"]) else ""
    )
    title = f"{words[0]} (solid), {words[-1]} (dotted){several}"
    return [Panel(made, title, _methods(artefact), 1100, 420, legend=tuple(legend))]


def _in_units(
    settings: Mapping[str, Any], steps: Sequence[int], values: Sequence[float]
) -> tuple[list[float], list[float | None]]:
    steps, shown = thinned(steps, values)
    return [step / settings["x_unit_steps"] for step in steps], shown


def _median_line(
    x: Sequence[float], y: Sequence[float | None], regularizer: str, about: str, line: Mapping[str, Any]
) -> go.Scatter:
    """Return a median line. It has a hover text, but a click on it opens no run."""
    text = f"<b>{escaped(about)}</b>, median over seeds<br>%{{x:g}}: %{{y:.4g}}<extra></extra>"
    return go.Scatter(x=x, y=y, mode="lines", line=line, meta=regularizer, hovertemplate=text)


def budget_panels(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run]) -> list[Panel]:
    """Return the curves over training, and the final scores over the budget with the goal's mean as a
    level.
    """
    name, metric = artefact["metric"]["name"], artefact["metric"]
    table, colours = scores(artefact, scale, runs), cycle(COLOURS)
    curves, finals, legend, shapes = [], [], [], []
    for method in artefact["methods"]:
        shades = {
            budget: next(colours) for budget in sorted(table[table["method"] == method["title"]]["budget"].unique())
        }
        own = runs_of(method, runs)
        for run in own:
            budget = budget_of(artefact, scale, run)
            about, colour = f"{method['title']}, {budget:g}x", shades[budget]
            curves.append(_line(*thinned(*series(run, name)), run, about, colour, width=1.2))
            score = run.record["metrics"].get(name)
            finals.append(_line([budget], [score], run, about, colour, mode="markers"))
        legend += [
            (colour, f"{method['title']}, {budget:g}x", method["regularizer"]) for budget, colour in shades.items()
        ]
        mean = table[table["method"] == method["title"]]["score"].mean()
        if method["title"] == artefact["budget"]["goal"] and pd.notna(mean):
            level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean}
            shapes.append(level | {"line": {"color": LEVEL, "dash": "dash", "width": 1}})
    y: dict[str, Any] = {"title": {"text": metric["label"]}, "type": "log"}
    known = table["score"].dropna()
    if len(known):  # otherwise the start of training would flatten the end
        y["range"] = [math.log10(known.min() * 0.98), math.log10(known.max() * 1.3)]
    left = figure(curves, xaxis={"title": {"text": "step"}}, yaxis=y)
    budgets = sorted(table["budget"].unique().tolist())
    x = {"title": {"text": "training budget"}, "tickvals": budgets, "ticksuffix": "x"}
    x |= {"range": [budgets[0] - 0.25, budgets[-1] + 0.25]} if budgets else {}
    right = figure(finals, shapes=shapes, xaxis=x, yaxis={"title": {"text": metric["label"]}})
    return [
        Panel(left, "over training", _methods(artefact), 640, 380, legend=tuple(legend)),
        Panel(right, "at the end; dashed: the mean of " + artefact["budget"]["goal"], _methods(artefact), 420, 380),
    ]


def dynamics_panels(artefact: Mapping[str, Any], runs: Sequence[Run]) -> list[Panel]:
    """Return a panel per quantity and column (a method or a matrix) with all seeds. Dashes mark when κ
    was set.
    """
    settings = artefact["dynamics"]
    own = {
        method["title"]: [run for run in runs_of(method, runs) if len(run.dynamics) > 1]
        for method in artefact["methods"]
    }
    regularizers = {method["title"]: method["regularizer"] for method in artefact["methods"]}
    by_method = settings["columns"] == "methods"
    panels: list[Panel] = []
    for column in regularizers if by_method else settings["matrices"]:
        lines = [
            (column, line) if by_method else (line, column)
            for line in (settings["matrices"] if by_method else regularizers)
        ]
        for quantity in (q for q in QUANTITIES if q in settings["quantities"]):
            traces, shapes = _traces_of(quantity, lines, own)
            if not traces:
                continue
            made = figure(traces, shapes=shapes, xaxis={"title": {"text": "step"}}, yaxis={"exponentformat": "e"})
            legend = tuple(
                (colour, _short(matrix) if by_method else title, regularizers[title])
                for colour, (title, matrix) in zip(COLOURS, lines, strict=False)
            )
            # one legend for all panels of a column
            has_legend = any(panel.group == _short(column) for panel in panels)
            methods = tuple(dict.fromkeys(regularizers[title] for title, _ in lines))
            panels.append(
                Panel(made, QUANTITIES[quantity], methods, 350, 260, _short(column), () if has_legend else legend)
            )
    return panels


def _traces_of(
    quantity: str, lines: Iterable[tuple[str, str]], own: Mapping[str, Sequence[Run]]
) -> tuple[list[Any], list[Any]]:
    traces, shapes, loss_of = [], [], set()
    for colour, (title, matrix) in zip(COLOURS, lines, strict=False):
        for number, run in enumerate(own[title]):
            if quantity == "loss":  # one line for all matrices of a run
                if run.record["run_id"] in loss_of:
                    continue
                loss_of.add(run.record["run_id"])
                points = series(run, "validation_loss")
            else:
                points = trace(run, matrix, quantity)
            if points[0]:
                about = title if quantity == "loss" else f"{title}, {_short(matrix)}"
                traces.append(_line(*thinned(*points), run, about, colour, width=1.6 if number == 0 else 0.8))
            moment = None if quantity == "loss" else bound_set(run, matrix)
            if moment is not None and number == 0:
                dashed = {"color": colour, "dash": "dot", "width": 1}
                shapes.append(
                    {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": moment, "x1": moment, "line": dashed}
                )
    return traces, shapes


def interpolation_panels(artefact: Mapping[str, Any], points: pd.DataFrame) -> list[Panel]:
    """Return a line per method: its mean over seeds at every share of the second model."""
    regularizers, traces, legend = {panel["title"]: panel["regularizer"] for panel in artefact["panels"]}, [], []
    for colour, ((method, setting), own) in zip(
        cycle(COLOURS), points.groupby(["method", "setting"], sort=False), strict=False
    ):
        means, name = own.groupby("share")["value"].mean(), method if setting == "-" else f"{method}, {setting}"
        legend.append((colour, name, regularizers[method]))
        text = f"{escaped(name)}<br>share %{{x:g}}: %{{y:.4g}}<extra></extra>"
        traces.append(
            go.Scatter(
                x=means.index.tolist(),
                y=means.tolist(),
                mode="lines+markers",
                line={"color": colour},
                meta=regularizers[method],
                hovertemplate=text,
            )
        )
    settings = artefact["interpolation"]
    made = figure(
        traces, xaxis={"title": {"text": settings["x_label"]}}, yaxis={"title": {"text": artefact["metric"]["label"]}}
    )
    return (
        [Panel(made, settings["title"], tuple(regularizers.values()), 760, 340, legend=tuple(legend))] if traces else []
    )


def progress_panels(artefact: Mapping[str, Any], rows: pd.DataFrame) -> list[Panel]:
    """Return one panel for the best cells: a colour per method, its mean over runs thick, each run thin."""
    regularizers, traces, legend = {panel["title"]: panel["regularizer"] for panel in artefact["panels"]}, [], []
    metric = curve_of(artefact)
    known = rows.dropna(subset=metric["name"])
    for colour, ((method, setting), own) in zip(
        cycle(COLOURS), known.groupby(["method", "setting"], sort=False), strict=False
    ):
        name = method if setting == "-" else f"{method}, {setting}"
        legend.append((colour, name, regularizers[method]))
        means = own.groupby("step")[metric["name"]].mean()
        lines = [(f"seed {seed}", 0.7, one["step"], one[metric["name"]]) for seed, one in own.groupby("seed")]
        for who, width, steps, values in (*lines, ("mean", 2.4, means.index, means)):
            text = f"<b>{escaped(name)}</b>, {who}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
            x, y = thinned(list(map(int, steps)), values.to_list())
            line = {"color": colour, "width": width}
            traces.append(go.Scatter(x=x, y=y, mode="lines", line=line, meta=regularizers[method], hovertemplate=text))
    label = f"{metric['label']}, {metric['unit']}"
    made = figure(traces, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": label}})
    title = f"{artefact['progress']['title']}, best cells"
    return [Panel(made, title, tuple(regularizers.values()), 760, 340, legend=tuple(legend))] if traces else []


def _line(
    x: Sequence[Any], y: Sequence[Any], run: Run, about: str, colour: str, mode: str = "lines", **line: Any
) -> go.Scatter:
    """Return one run's line or dot, with a hover text and with the run's id for clicks."""
    text = f"<b>{escaped(about)}</b>, seed {run.config['seed']}<br>{escaped(run.record['run_id'])}<br>%{{x:g}}: %{{y:.4g}}<extra></extra>"
    name, regularizer = run.record["run_id"], run.config["regularizer"]["name"]
    look: dict[str, Any] = (
        {"line": {"color": colour} | line}
        if mode == "lines"
        else {"marker": {"color": colour, "size": 9, "opacity": 0.75}}
    )
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode=mode,
        name=name,
        meta=regularizer,
        customdata=[name] * len(x),
        hovertemplate=text,
        **look,
    )


def _methods(artefact: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(method["regularizer"] for method in artefact["methods"]))


def _short(name: str) -> str:
    return name.removesuffix(".weight")
