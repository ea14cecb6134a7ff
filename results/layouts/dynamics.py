"""`layout: dynamics`: R, its change, the multiplier λ and the validation loss over training, of single
matrices. Marks show when κ was set.

The artefact's `dynamics` names the matrices, the quantities, and whether a column of the figure is a
method or a matrix. The lines in a column are then the other of the two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart, run_line, thinned
from results.line_labels import LineEnd, name_lines
from results.runs import Run
from results.schema import Artefact
from results.series import Points, bound_set, runs_of, series, trace
from results.table import Table

DRAWN_FROM_TABLE = False
# The figure's rows in order, with their axis labels.
QUANTITIES = {"R": "R", "change": "ΔR per step", "lambda": "λ", "loss": "validation loss"}


def table(artefact: Artefact, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
    """Return a row per method and matrix, over seeds.

    The columns are R at the first and the last logged step, κ, when κ was set, and the largest λ.
    """
    rows = []
    for method in artefact.methods:
        chosen = [run for run in runs_of(method, runs) if len(run.dynamics) > 1]
        for matrix in artefact.dynamics.matrices:
            sizes, bounds, multipliers = (
                [trace(run, matrix, key)[1] for run in chosen] for key in ("R", "kappa", "lambda")
            )
            moments = [step for run in chosen if (step := bound_set(run, matrix)) is not None]
            rows.append(
                {
                    "method": method.title,
                    "matrix": short(matrix),
                    "seeds": len(chosen),
                    "R at first": _mean([values[0] for values in sizes]),
                    "R at last": _mean([values[-1] for values in sizes]),
                    "κ": _mean([values[-1] for values in bounds if values]),
                    "κ set at step": ", ".join(map(str, moments)) or "-",
                    "largest λ": _mean([max(values) for values in multipliers if values]),
                }
            )
    return pd.DataFrame(rows)


def _mean(values: list[float]) -> str:
    finite = pd.Series([value for value in values if math.isfinite(value)], dtype=float)
    if finite.empty:
        return "-"
    return f"{finite.mean():.3g}" + (f" ± {finite.std():.1g}" if len(finite) > 1 else "")


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the table of methods and matrices."""
    return [Table("Table", table)]


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return nothing: the common facts say all."""
    return {}


def short(name: str) -> str:
    """Return a matrix's name for people."""
    return name.removesuffix(".weight")


@dataclass(frozen=True)
class Line:
    """The runs of one method, and one of its matrices."""

    title: str
    regularizer: str
    matrix: str
    colour: str
    runs: Sequence[Run]


def columns_of(artefact: Artefact, runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Line]]:
    """Return the lines of each column of the figure, by the title of a method or the name of a matrix.

    Args:
        runs: by the title of their method.
    """
    matrices = artefact.dynamics.matrices
    of = {method.title: method.regularizer for method in artefact.methods if method.title in runs}
    places = (
        {title: [(title, matrix) for matrix in matrices] for title in of}
        if artefact.dynamics.columns == "methods"
        else {matrix: [(title, matrix) for title in of] for matrix in matrices}
    )
    return {
        column: [
            Line(title, of[title], matrix, colour, runs[title])
            for colour, (title, matrix) in zip(COLOURS, lines, strict=False)
        ]
        for column, lines in places.items()
    }


def quantities(artefact: Artefact) -> list[str]:
    """Return the artefact's quantities in the order of the figure."""
    return [quantity for quantity in QUANTITIES if quantity in artefact.dynamics.quantities]


def points(run: Run, matrix: str, quantity: str) -> tuple[Points, int | None]:
    """Return a quantity over the steps, and when the matrix's κ was set. The loss has no such step."""
    if quantity == "loss":
        return series(run, "validation_loss"), None
    return trace(run, matrix, quantity), bound_set(run, matrix)


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw a row per quantity and a column per method or matrix, from each method's run with the
    lowest seed.

    If there is only one column, its quantities stand side by side. The lines are named beside the
    first row's last panel.
    """
    first = {method.title: own[:1] for method in artefact.methods if (own := runs_of(method, runs))}
    columns, rows = columns_of(artefact, first), quantities(artefact)
    by_method, several = artefact.dynamics.columns == "methods", len(columns) > 1
    down, across = (len(rows), len(columns)) if several else (1, len(rows))
    made = Figure(figsize=(2.4 + 3.4 * across, 1.6 + 2.1 * max(down, 1.2)), layout="constrained")
    grid = made.subplots(down, across, squeeze=False, sharex=True, sharey="row" if several else False)
    grid = grid if several else grid.T
    for across, (column, lines) in enumerate(columns.items()):
        for down, quantity in enumerate(rows):
            axes = grid[down][across]
            for line in lines:
                of_all_matrices = by_method and quantity == "loss"
                _draw(axes, line, quantity, "black" if of_all_matrices else line.colour)
            axes.tick_params(labelsize=7)
            open_axes(axes)
        grid[0][across].set_title(short(column), fontsize=9)
    for axes in grid[-1] if several else grid[:, 0]:
        axes.set_xlabel("step", fontsize=8)
    for down, quantity in enumerate(rows):
        grid[down][0].set_ylabel(QUANTITIES[quantity], fontsize=9)
    title(made, artefact, data)
    footer(made, f"{foot}. Each method's run with its lowest seed. Dashed: κ is set")
    place = (0, -1) if several else (-1, 0)
    name_lines(made, grid[place], _ends(list(columns.values())[-1], rows[place[0]], by_method) if columns else [])
    return made


def _ends(lines: Sequence[Line], quantity: str, by_method: bool) -> list[LineEnd]:
    """Return where the lines of a panel end. A line without values gets its name at 0."""
    found = []
    for line in lines:
        (steps, values), _ = points(line.runs[0], line.matrix, quantity)
        x, y = (steps[-1], values[-1]) if steps else (0.0, 0.0)
        found.append(LineEnd(x, y, short(line.matrix) if by_method else line.title, line.colour))
    return found


def _draw(axes: Axes, line: Line, quantity: str, colour: str) -> None:
    (steps, values), moment = points(line.runs[0], line.matrix, quantity)
    axes.plot(steps, values, color=colour, lw=1.2 if quantity == "loss" else 1.3)
    if moment is not None:
        axes.axvline(moment, color=colour, lw=0.8, ls="--", alpha=0.7)


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return a chart per quantity and column (a method or a matrix) with all seeds. Dashes mark when κ
    was set.
    """
    recorded = {
        method.title: [run for run in runs_of(method, runs) if len(run.dynamics) > 1] for method in artefact.methods
    }
    by_method, charts = artefact.dynamics.columns == "methods", []
    for column, lines in columns_of(artefact, recorded).items():
        legend = tuple((line.colour, short(line.matrix) if by_method else line.title) for line in lines)
        for quantity in quantities(artefact):
            traces, shapes = _traces(quantity, lines)
            if traces:
                made = interactive.figure(
                    traces, shapes=shapes, xaxis={"title": {"text": "step"}}, yaxis={"exponentformat": "e"}
                )
                charts.append(Chart(made, QUANTITIES[quantity], 350, 260, short(column), legend))
                legend = ()  # one for all charts of a column
    return charts


def _traces(quantity: str, lines: Sequence[Line]) -> tuple[list[Any], list[Any]]:
    traces, shapes, loss_of = [], [], set()
    for line in lines:
        for number, run in enumerate(line.runs):
            if quantity == "loss" and run.run_id in loss_of:  # one line for all matrices of a run
                continue
            loss_of.add(run.run_id)
            (steps, values), moment = points(run, line.matrix, quantity)
            if steps:
                about = line.title if quantity == "loss" else f"{line.title}, {short(line.matrix)}"
                width = 1.6 if number == 0 else 0.8
                traces.append(run_line(*thinned(steps, values), run, about, line.colour, width=width))
            if moment is not None and number == 0:
                dashed = {"color": line.colour, "dash": "dot", "width": 1}
                shapes.append(
                    {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": moment, "x1": moment, "line": dashed}
                )
    return traces, shapes
