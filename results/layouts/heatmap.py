"""`layout: heatmap`: one heat map per method, ours and the paper's (Figure 2).

heatmap_figure.py draws the static figure, and heatmap_panels.py the interactive ones. Colours show how
much better or worse a cell is than the best cell of the baseline on its own side, ours or published.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from results.cells import HELD_OUT, best_table, cell_table, held_out_note, readable
from results.layouts.heatmap_figure import figure as figure
from results.layouts.heatmap_panels import panels as panels
from results.runs import (
    Run,
    comparable,
    frame,
)
from results.schema import Artefact
from results.sensitivity import sensitivity_table, tuning_budget, tuning_table
from results.table import Table
from results.to_target import target_table

CHOICE = (
    "Best cells and the frames in the figures take the setting that is best by the printed score itself, or by the score that an "
    "artefact names to choose by (Figure K.1), as the paper does. That flatters a method with more settings. The claims don't: they "
    "choose a setting by one half of the evaluation data, where the task scores halves, and score it on the other, on fresh seeds where "
    "there are any. The column *chosen by half of the test set* does the same for each method."
)
TUNING = (
    "Best of k: the expected best score of k random settings (Dodge et al. 2019). Within: the share of settings at most that far "
    "behind the best of all comparable methods."
)
DRAWN_FROM_TABLE = True
SCORES = ("ours", "paper", "best of ours", "best of paper", HELD_OUT)  # columns with a best value


def table(artefact: Artefact, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
    """Return a row per cell."""
    return cell_table(artefact, frame(runs, artefact.metric.name), seeds)


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the best cells, how sensitive each method is and when it reaches another's score, and every cell."""
    data, metric = frame(runs, artefact.metric.name), artefact.metric
    best = best_table(artefact, data)
    tuning = [
        Table("Sensitivity", sensitivity_table(artefact, data)),
        Table("What tuning buys", tuning_table(artefact, data), TUNING),
        Table("Steps to the other's final score", target_table(artefact, data, runs)),
    ]
    unit = f" in {metric.unit}" if metric.unit else ""
    every = Table("Every cell", readable(artefact, table), f"{metric.label}{unit}, mean ± std over seeds.")
    return [
        with_bests(artefact, Table("Best cells", best, held_out_note(artefact, runs, best), CHOICE)),
        *(one for one in tuning if not one.rows.empty),
        with_bests(artefact, every),
    ]


def with_bests(artefact: Artefact, table: Table) -> Table:
    """Return a table with a method in each row so that LaTeX marks the best scores among comparable ones."""
    groups = {panel.title: comparable(panel) for panel in artefact.panels}
    best = {name: artefact.metric.better for name in table.rows if name in SCORES}
    return replace(table, best=best, groups=[groups.get(method) for method in table.rows["method"]])


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return over how many settings each side of a claim was tuned."""
    tuned = tuning_budget(artefact, frame(runs, artefact.metric.name)) if runs else ""
    return {"tuning budget": tuned} if tuned else {}
