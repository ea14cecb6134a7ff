"""`layout: curves`: metrics over training, and when each method reached a target."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart, escaped, level, run_line, thinned
from results.line_labels import LineEnd, name_lines
from results.runs import Run
from results.schema import Artefact, Curves, Method
from results.series import Points, first_step_at, runs_of, series, series_over
from results.table import Table, spread

DRAWN_FROM_TABLE = False
STYLES: tuple[dict[str, Any], ...] = ({"lw": 2.2}, {"lw": 1.2, "ls": ":"})


def table(artefact: Artefact, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
    """Return a row per method: when it reached the target in each metric, and its final scores."""
    settings, rows = artefact.curves, []
    for method in artefact.methods:
        chosen = runs_of(method, runs)
        row: dict[str, Any] = {"method": method.title, "seeds": len(chosen)}
        for name in settings.y:
            words = name.replace("_", " ")
            row[f"{settings.x_label} of {settings.target:g} % {words}"] = _reached(artefact, method, chosen, name)
            row[f"final {words}"] = _final(chosen, name)
        rows.append(row)
    return pd.DataFrame(rows)


def _reached(artefact: Artefact, method: Method, chosen: Sequence[Run], name: str) -> str:
    reached, unit = list(first_step_at(artefact, method, chosen, name).values()), artefact.curves.x_unit_steps
    when = [f"{step / unit:g}" for step in reached if step is not None]
    if None in reached:
        seeds = f" in {reached.count(None)} of {len(reached)} seeds" if len(reached) > 1 else ""
        when.append(f"not within {chosen[0].num_steps / unit:g}{seeds}")
    return ", ".join(when)


def _final(chosen: Sequence[Run], name: str) -> str:
    final = pd.Series([run.scores[name] for run in chosen if name in run.scores], dtype=float)
    if final.empty:
        return "diverged" if chosen else "missing"
    diverged = f" ({len(chosen) - len(final)} diverged)" if len(final) < len(chosen) else ""
    return f"{final.mean():.2f}{spread(final.std())}{diverged}"


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the table of methods."""
    final = f"final {artefact.curves.y[0].replace('_', ' ')}"
    return [Table("Table", table, best={final: artefact.metric.better})]


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return nothing: the common facts say all."""
    return {}


@dataclass(frozen=True)
class Curve:
    """One metric of one method: the median over seeds, and each run."""

    method: Method
    metric: str
    colour: str
    median: Points
    runs: Sequence[tuple[Run, Points]]


def curves(artefact: Artefact, runs: Sequence[Run]) -> list[list[Curve]]:
    """Return the curves of each method that has runs, one for each of its metrics."""
    found = []
    for colour, method in zip(itertools.cycle(COLOURS), artefact.methods, strict=False):
        if own := runs_of(method, runs):
            found.append(
                [
                    Curve(
                        method,
                        name,
                        colour,
                        series_over(own, name, "median"),
                        [(run, series(run, name)) for run in own],
                    )
                    for name in artefact.curves.y
                ]
            )
    return found


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw one colour per method: the first metric's median over seeds, each seed as a thin line.

    The second metric's median is dotted. Methods are named where their first metric ends.
    """
    settings = artefact.curves
    made = Figure(figsize=(8, 4.8), layout="constrained")
    axes, ends = made.subplots(), list[LineEnd]()
    for of_method in curves(artefact, runs):
        first = of_method[0]
        lines = [(curve.median, style) for curve, style in zip(of_method, STYLES, strict=False)]
        if len(first.runs) > 1:
            lines += [(points, {"lw": 0.8, "alpha": 0.5}) for _, points in first.runs]
        for (steps, values), style in lines:
            axes.plot([step / settings.x_unit_steps for step in steps], values, color=first.colour, **style)
        if first.median[0]:
            x, y = first.median[0][-1] / settings.x_unit_steps, first.median[1][-1]
            ends.append(LineEnd(x, y, first.method.title, first.colour))
    axes.axhline(settings.target, color="black", lw=0.8, ls="--")
    place, said = (0.005, settings.target), " ".join(filter(None, (f"{settings.target:g}", artefact.metric.unit)))
    axes.annotate(said, place, xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axes.set_xlabel(settings.x_label)
    axes.set_ylabel(f"{artefact.metric.label} (solid), training (dotted), {artefact.metric.unit}")
    open_axes(axes)
    title(made, artefact, data)
    footer(made, f"{foot}. Thick: median over seeds")
    name_lines(made, axes, ends)
    return made


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return one chart: a colour per method, a line per run, and the median if there are several runs.

    The first metric is solid, the second dotted.
    """
    settings, traces, several = artefact.curves, [], False
    for of_method in curves(artefact, runs):
        for curve, dash, width in zip(of_method, ("solid", "dot"), (2.4, 1.2), strict=False):
            about = f"{curve.method.title}, {curve.metric.replace('_', ' ')}"
            if len(curve.runs) > 1:
                several = True
                traces.append(_median(settings, curve, about, dash=dash, width=width))
                width /= 3
            for run, points in curve.runs:
                traces.append(run_line(*_in_units(settings, points), run, about, curve.colour, dash=dash, width=width))
    made = interactive.figure(
        traces,
        shapes=[level(settings.target)],
        xaxis={"title": {"text": settings.x_label}},
        yaxis={"title": {"text": artefact.metric.label_and_unit}},
    )
    words = [name.replace("_", " ") for name in settings.y]
    title = f"{words[0]} (solid), {words[-1]} (dotted){'; thick: median over seeds' if several else ''}"
    legend = tuple(
        (colour, method.title) for colour, method in zip(itertools.cycle(COLOURS), artefact.methods, strict=False)
    )
    return [Chart(made, title, 1100, 420, legend=legend)]


def _in_units(settings: Curves, points: Points) -> tuple[list[float], list[float | None]]:
    steps, shown = thinned(*points)
    return [step / settings.x_unit_steps for step in steps], shown


def _median(settings: Curves, curve: Curve, about: str, **line: Any) -> go.Scatter:
    """Return a median line. It has a hover text, but a click on it opens no run."""
    x, y = _in_units(settings, curve.median)
    text = f"<b>{escaped(about)}</b>, median over seeds<br>%{{x:g}}: %{{y:.4g}}<extra></extra>"
    look = {"color": curve.colour} | line
    return go.Scatter(x=x, y=y, mode="lines", line=look, hovertemplate=text)
