"""`layout: heatmap`: one heat map per method, ours and the paper's (Figure 2).

heatmap_figure.py draws the static figure. The interactive figures share one scale: a cell's distance
to the best cell of its own side (ours or published) with the same metric and task settings. Mini
scale and the paper use different data sets, so only the patterns compare. If lower is better
(perplexity), the distance is in per cent of the best cell.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results import interactive
from results.cells import HELD_OUT, best_table, cell_table, held_out_note, readable
from results.heat_maps import SIDES, HeatMap, cell_text, heat_maps
from results.interactive import Chart, escaped
from results.layouts.heatmap_figure import figure as figure
from results.runs import (
    Run,
    best_cell,
    columns_of,
    comparable,
    flatten,
    frame,
    label,
    metric_of,
    of_panel,
    row_value,
)
from results.schema import Artefact, Metric, Panel
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
CELL_WIDTH, CELL_HEIGHT = 54, 38
LETTER, LINE = 7, 18  # of an axis title, in pixels: average width of a letter, height of a line


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


# ---- The interactive figures


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return up to two charts per panel.

    Args:
        table: computed, or read from table.csv.
        runs: the runs behind it, if their records are available.
    """
    maps, data, metric = heat_maps(artefact, table), frame(runs, artefact.metric.name), artefact.metric
    behind, far = _distances(maps, metric)
    unit = metric.unit.replace("%", "points") if metric.higher else "% of the best"
    charts = []
    for one, distances in zip(maps, behind, strict=True):
        if len(one.cells):
            of_cell = _runs_by_cell(artefact, one.panel, data, runs) if one.side == "ours" else {}
            charts.append(_chart(artefact, one, distances, far, f"{far:.3g} {unit}", of_cell))
    return charts


def _distances(maps: Sequence[HeatMap], metric: Metric) -> tuple[list[pd.Series], float]:
    """Return every cell's distance to the best one, and the distance at which the colour scale ends."""
    compared: dict[Any, list[HeatMap]] = {}
    for one in maps:
        compared.setdefault((one.side, comparable(one.panel)), []).append(one)
    found = []
    for one in maps:
        group = compared[one.side, comparable(one.panel)]
        best, mean = (
            best_cell(pd.concat([other.cells for other in group], ignore_index=True), metric.better),
            one.cells["mean"],
        )
        if best is None:
            found.append(mean * math.nan)
        else:
            found.append(best["mean"] - mean if metric.higher else 100 * (mean / best["mean"] - 1))
    # Without this, the worst cells (a learning rate of 0.1) would leave no colours for the
    # differences that matter. So would a side that has more such cells.
    sides = [
        pd.concat([distance for one, distance in zip(maps, found, strict=True) if one.side == side]).quantile(0.85)
        for side in SIDES
    ]
    known = [float(quantile) for quantile in sides if pd.notna(quantile)]
    return found, max(min(known), max(known) / 4, 1e-3) if known else 1.0


def _runs_by_cell(
    artefact: Artefact, panel: Panel, data: pd.DataFrame, runs: Sequence[Run]
) -> dict[tuple[float, str], list[Run]]:
    """Return the runs of each (row, column), sorted by seed."""
    chosen, by_id = of_panel(data, panel), {run.run_id: run for run in runs}
    if chosen.empty:
        return {}
    grouped = chosen.groupby([chosen[artefact.row], columns_of(chosen, panel.column)])
    return {cell: [by_id[run_id] for run_id in own.sort_values("seed")["run_id"]] for cell, own in grouped}


def _chart(
    artefact: Artefact,
    one: HeatMap,
    behind: pd.Series,
    far: float,
    far_text: str,
    runs: Mapping[tuple[float, str], Sequence[Run]],
) -> Chart:
    panel, rows, columns = one.panel, one.rows, one.columns
    blank = {"z": None, "text": "", "hovertext": "not in this grid", "customdata": ""}
    shown: dict[str, list[list[Any]]] = {key: [[value] * len(columns) for _ in rows] for key, value in blank.items()}
    marks = []
    for cell in one.cells.assign(behind=behind).to_dict("records"):
        y, x = rows.index(cell["row"]), columns.index(cell["column"])
        of_cell = runs.get((cell["row"], cell["column"]), ())
        shown["z"][y][x] = None if pd.isna(cell["behind"]) else round(cell["behind"], 4)
        shown["text"][y][x] = cell_text(cell, artefact.metric.digits)
        shown["hovertext"][y][x] = _hover(artefact, one, cell, of_cell)
        shown["customdata"][y][x] = " ".join(run.run_id for run in of_cell)
        if shown["z"][y][x] is None:  # Plotly writes no text into a cell without a value
            marks.append({"x": x, "y": y, "text": shown["text"][y][x], "showarrow": False})
    names = [label(column) if column else "" for column in columns]
    width = CELL_WIDTH * max(2, len(columns))
    fitting = int((width + 16) / LETTER)  # Plotly cuts off text wider than the figure
    title = textwrap.wrap(panel.column_label, fitting, break_on_hyphens=False)
    trace = go.Heatmap(
        x=list(range(len(columns))), y=list(range(len(rows))), zmin=0, zmax=far, showscale=False, xgap=2, ygap=2, hoverongaps=True,
        texttemplate="%{text}", hovertemplate="%{hovertext}<extra></extra>", meta=panel.regularizer, **shown,
    )  # fmt: skip
    made = interactive.figure(
        [trace],
        shapes=_outline(one),
        annotations=marks,
        xaxis=_axis(names, [-0.5, len(columns) - 0.5]) | {"title": {"text": "<br>".join(title)}},
        yaxis=_axis([row_value(artefact, row) for row in rows], [len(rows) - 0.5, -0.5]),
    )
    height = CELL_HEIGHT * len(rows) + LINE * max(0, len(title) - 1)
    return Chart(made, one.side, (panel.regularizer,), 74 + width, 74 + height, panel.title, far=far_text)


def _axis(names: list[str], ends: list[float]) -> dict[str, Any]:
    # a lone column has no name and no tick
    named = [number for number, name in enumerate(names) if name]
    return {"tickvals": named, "ticktext": [names[number] for number in named], "range": ends}


def _outline(one: HeatMap) -> list[dict[str, Any]]:
    """Return a frame around the best cell."""
    if one.best is None:
        return []
    y, x = one.rows.index(one.best["row"]), one.columns.index(one.best["column"])
    corners = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
    return [{"type": "rect", **corners, "line": {"color": "#D55E00", "width": 2.5}}]


def _hover(artefact: Artefact, one: HeatMap, cell: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return the cell's place, mean, std, every seed's value with its run id, and the runs' common
    settings.
    """
    panel, ours = one.panel, one.side == "ours"
    column = panel.column_label
    row = f"{artefact.row.rpartition('.')[2]} {row_value(artefact, cell['row'])}"
    place = row + (f" · {column} {cell['column']}" if column else "")
    spread = f" ± {cell['std']:.3g}" if pd.notna(cell["std"]) else ""
    value = f"mean {cell['mean']:.4g}{spread}" if pd.notna(cell["mean"]) else "no value"
    seeds = f" over {int(cell['seeds'])} seed(s)" if pd.notna(cell["seeds"]) and cell["seeds"] else ""
    lines = [f"<b>{escaped(panel.title)}</b>, {one.side}", escaped(place), f"{value}{seeds}"]
    lines += [f"{int(cell['diverged'])} diverged"] if cell["diverged"] and ours else []
    lines += [f"{int(cell['missing'])} missing"] if cell.get("missing") else []
    for run in runs:
        score = run.scores.get(metric_of(artefact, panel))
        said = f"{score:.4g}" if score is not None else "diverged"
        lines.append(escaped(f"seed {run.seed}: {said} · {run.run_id}"))
    if runs:
        lines += [_settings(runs[0]), "<i>click: the runs</i>"]
    if ours and pd.notna(cell.get("mean_paper")):
        lines.append(f"published beside it: {cell['mean_paper']:g}")
    return "<br>".join(lines)


def _settings(run: Run) -> str:
    settings = [
        f"{key}={value}"
        for key, value in flatten(run.config).items()
        if key.startswith("regularizer.") or key in ("num_steps", "lr")
    ]
    return "<br>".join(escaped(", ".join(settings[i : i + 3])) for i in range(0, len(settings), 3))
