"""Plot single matrices over training: R, its change, the multiplier λ and the validation loss. Marks
show when κ was set.

An artefact with this layout has `methods` and `dynamics`. `dynamics` names the matrices, the
quantities, and whether a column of the figure is a method or a matrix. The lines in a column are
then the other of the two.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.curves import COLOURS, runs_of, series
from results.runs import Run

# The figure's rows in order, with their axis labels.
QUANTITIES = {"R": "R", "change": "ΔR a step", "lambda": "λ", "loss": "validation loss"}


def trace(run: Run, matrix: str, quantity: str) -> tuple[list[int], list[float]]:
    """Return steps and values of a matrix's "R", "change" (of R per step), "lambda" or "kappa".

    Rows without the quantity are left out. Raises KeyError if the run doesn't regularize the
    matrix.
    """
    names, *rows = run.dynamics
    if matrix not in names["matrices"]:
        raise KeyError(f"{matrix} is not among the regularized matrices of {run.record['run_id']}")
    place, key = names["matrices"].index(matrix), "R" if quantity == "change" else quantity
    known = [(row["step"], row[key][place]) for row in rows if key in row and row[key][place] is not None]
    if quantity == "change":
        known = [(b[0], (b[1] - a[1]) / (b[0] - a[0])) for a, b in itertools.pairwise(known)]
    return [step for step, _ in known], [value for _, value in known]


def bound_set(run: Run, matrix: str) -> int | None:
    """Return the first logged step at which the matrix has a κ, or None if it never has one."""
    steps, _ = trace(run, matrix, "kappa")
    return steps[0] if steps else None


def dynamics_table(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per method and matrix, over seeds.

    The columns are R at the first and the last logged step, κ, when κ was set, and the largest λ.
    """
    rows = []
    for method in artefact["methods"]:
        chosen = [run for run in runs_of(method, runs) if len(run.dynamics) > 1]
        for matrix in artefact["dynamics"]["matrices"]:
            sizes, bounds, multipliers = (
                [trace(run, matrix, key)[1] for run in chosen] for key in ("R", "kappa", "lambda")
            )
            moments = [step for run in chosen if (step := bound_set(run, matrix)) is not None]
            rows.append(
                {
                    "method": method["title"],
                    "matrix": matrix.removesuffix(".weight"),
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


def dynamics_figure(artefact: Mapping[str, Any], runs: Sequence[Run], footer: str) -> Figure:
    """Draw a row per quantity and a column per method or matrix, from each method's run with the
    lowest seed.

    If there is only one column, its quantities stand side by side.
    """
    settings = artefact["dynamics"]
    first = {method["title"]: chosen[0] for method in artefact["methods"] if (chosen := runs_of(method, runs))}
    matrices, by_method = settings["matrices"], settings["columns"] == "methods"
    columns = list(first) if by_method else matrices
    rows = [quantity for quantity in QUANTITIES if quantity in settings["quantities"]]
    down, across = (len(rows), len(columns)) if len(columns) > 1 else (1, len(rows))
    figure = Figure(figsize=(2.4 + 3.4 * across, 1.6 + 2.1 * max(down, 1.2)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey="row" if len(columns) > 1 else False)
    grid = grid if len(columns) > 1 else grid.T
    for across, column in enumerate(columns):
        lines = [(column, line) if by_method else (line, column) for line in (matrices if by_method else first)]
        for down, quantity in enumerate(rows):
            axes = grid[down][across]
            for colour, (title, matrix) in zip(COLOURS, lines, strict=False):
                label = (matrix.removesuffix(".weight") if by_method else title) if (down, across) == (0, 0) else None
                of_all_matrices = by_method and quantity == "loss"
                _line(axes, first[title], matrix, quantity, "black" if of_all_matrices else colour, label)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        grid[0][across].set_title(column.removesuffix(".weight"), fontsize=9)
    for axes in grid[-1] if len(columns) > 1 else grid[:, 0]:
        axes.set_xlabel("step", fontsize=8)
    for down, quantity in enumerate(rows):
        grid[down][0].set_ylabel(QUANTITIES[quantity], fontsize=9)
    figure.suptitle(artefact["title"], fontsize=11)
    figure.supxlabel(f"{footer}; of each method the lowest seed. Dashed: κ is set", fontsize=7.5, color="#444444")
    if first:
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def _line(axes: Axes, run: Run, matrix: str, quantity: str, colour: str, label: str | None) -> None:
    if quantity == "loss":
        axes.plot(*series(run, "validation_loss"), color=colour, lw=1.2, label=label)
        return
    axes.plot(*trace(run, matrix, quantity), color=colour, lw=1.3, label=label)
    if (moment := bound_set(run, matrix)) is not None:
        axes.axvline(moment, color=colour, lw=0.8, ls="--", alpha=0.7)
