"""`layout: transfer`: does the learning rate that is best for one model shape stay best for others?

The artefact's `transfer` names the keys of the model's shape, and the shape whose learning rate was tuned.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart, escaped, run_line
from results.runs import Run, chosen_and_reported, flatten, power_of_ten
from results.schema import Artefact
from results.series import runs_of
from results.table import Table, spread

DRAWN_FROM_TABLE = False
NUMBERS = ("lr", "chosen by", "score")


def shape_of(artefact: Artefact, values: dict[str, Any]) -> str:
    """Return a model's shape in words, such as "width 96, 3 layers", from its values by key."""
    return ", ".join(words.format(values[key]) for key, words in artefact.transfer.shape.items())


def table(artefact: Artefact, runs: Sequence[Run], seeds: int = 0) -> pd.DataFrame:
    """Return a row per run: its method, shape, learning rate, seed and score.

    `chosen by` is its score on the half of the test examples that chooses learning rates, and `score`
    that on the other half.
    """
    chosen_by, reported = chosen_and_reported(artefact.metric.name, runs)
    tuned, rows = shape_of(artefact, artefact.transfer.tuned), []
    for method in artefact.methods:
        for run in runs_of(method, runs):
            shape = shape_of(artefact, flatten(run.config))
            scores = (run.scores.get(name, math.nan) for name in (chosen_by, reported))
            rows.append((method.title, shape, shape != tuned, run.config["lr"], run.seed, *scores))
    order = [method.title for method in artefact.methods]
    made = pd.DataFrame(rows, columns=["method", "shape", "other", "lr", "seed", "chosen by", "score"])
    made = made.sort_values(
        ["method", "other", "shape", "lr", "seed"],
        key=lambda column: column.map(order.index) if column.name == "method" else column,
        ignore_index=True,
    )
    return with_numbers(made.drop(columns="other"))


def with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with NUMBERS as floats. A table that was read from table.csv has texts."""
    return table.assign(**{name: pd.to_numeric(table[name]) for name in NUMBERS})


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds of each method, shape and learning rate. A mean with a diverged run is nan."""
    groups = with_numbers(table).groupby(["method", "shape", "lr"], sort=False)
    return groups[["chosen by", "score"]].agg(lambda values: values.mean(skipna=False)).reset_index()


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the best learning rate of each method and shape, and every run."""
    numbers, rows, tuned = with_numbers(table), [], shape_of(artefact, artefact.transfer.tuned)
    for method, own in means(table).groupby("method", sort=False):
        best = {shape: best_lr(artefact, cells) for shape, cells in own.groupby("shape", sort=False)}
        for shape, cells in own.groupby("shape", sort=False):
            rows.append(_row(artefact, numbers, method, shape, cells, best[shape], best.get(tuned)))
    above = (
        f"The learning rate was tuned for {tuned}. A shape's best one is the best mean over seeds. *Off by* is its "
        "distance from the tuned one, in powers of ten. *Lost* is what the tuned one costs in place of the best one."
    )
    return [Table("The best learning rate of each shape", pd.DataFrame(rows), above), Table("Every run", table)]


def best_lr(artefact: Artefact, cells: pd.DataFrame) -> float | None:
    """Return the learning rate with the best mean, None if all diverged."""
    known = cells.dropna(subset="chosen by")
    if known.empty:
        return None
    place = known["chosen by"].idxmax() if artefact.metric.higher else known["chosen by"].idxmin()
    return float(known.loc[place, "lr"])


def _row(
    artefact: Artefact,
    table: pd.DataFrame,
    method: Any,
    shape: Any,
    cells: pd.DataFrame,
    best: float | None,
    tuned: float | None,
) -> dict[str, Any]:
    digits = artefact.metric.table_digits
    own = table[(table["method"] == method) & (table["shape"] == shape)]
    score = {lr: own.loc[own["lr"] == lr, "score"] for lr in cells["lr"]}
    lost = None
    if best is not None and tuned in score:
        lost = (score[tuned].mean(skipna=False) - score[best].mean()) * (-1 if artefact.metric.higher else 1)
    return {
        "method": method,
        "shape": shape,
        "tried": ", ".join(map(power_of_ten, cells["lr"])),
        "best lr": "-" if best is None else power_of_ten(best),
        "at the edge": "-" if best is None else "yes" if best in (cells["lr"].min(), cells["lr"].max()) else "no",
        "off by": "-" if best is None or tuned is None else f"{math.log10(best / tuned):+.1f}",
        artefact.metric.label: "-"
        if best is None
        else f"{score[best].mean():.{digits}f}{spread(score[best].std(), digits)}",
        "lost": "-" if lost is None else "diverged" if math.isnan(lost) else f"{lost:.{digits}f}",
    }


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return nothing: the common facts say all."""
    return {}


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw a panel per method, with a line per shape: the mean score over the learning rate."""
    made = Figure(figsize=(3.4 * max(1, len(artefact.methods)) + 1.8, 3.9), layout="constrained")
    places = made.subplots(1, len(artefact.methods), sharey=True, squeeze=False)[0]
    cells = means(table)
    colours = dict(zip(dict.fromkeys(cells["shape"]), COLOURS, strict=False))
    for axes, method in zip(places, artefact.methods, strict=True):
        for shape, line in cells[cells["method"] == method.title].groupby("shape", sort=False):
            axes.plot(line["lr"], line["score"], "o-", color=colours[shape], lw=1.6, ms=4)
        axes.set_xscale("log")
        axes.set_title(method.title, fontsize=9)
        axes.set_xlabel("learning rate", fontsize=9)
        axes.tick_params(which="both", labelsize=8)
        open_axes(axes)
    places[0].set_ylabel(f"{artefact.metric.label_and_unit} ({artefact.metric.better} is better)", fontsize=9)
    for shape, colour in colours.items():
        places[0].plot([], [], "o-", color=colour, label=shape)
    title(made, artefact, data)
    footer(made, foot)
    if len(table):
        made.legend(loc="outside right center", frameon=False, fontsize=8)
    return made


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return a chart per method, with a dot per run and a colour per shape."""
    _, reported = chosen_and_reported(artefact.metric.name, runs)
    colours = dict(zip(dict.fromkeys(table["shape"]), COLOURS, strict=False))
    charts = []
    for method in artefact.methods:
        traces = [
            run_line([run.config["lr"]], [run.scores[reported]], run, shape, colours[shape], "markers")
            for run in runs_of(method, runs)
            if reported in run.scores and (shape := shape_of(artefact, flatten(run.config)))
        ]
        if traces:
            made = interactive.figure(
                traces,
                xaxis={"title": {"text": "learning rate"}, "type": "log"},
                yaxis={"title": {"text": escaped(artefact.metric.label_and_unit)}},
            )
            legend = tuple((colour, shape) for shape, colour in colours.items())
            charts.append(Chart(made, method.title, 420, 380, legend=legend))
    return charts
