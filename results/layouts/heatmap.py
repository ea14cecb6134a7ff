"""`layout: heatmap`: one heat map per method, ours and the paper's (Figure 2).

The static figure has one colour scale for ours and one for the published values. The interactive
figures share one scale: a cell's distance to the best cell of its own side (ours or published) with
the same metric and task settings. Mini scale and the paper use different data sets, so only the
patterns compare. If lower is better (perplexity), the distance is in per cent of the best cell.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results import interactive
from results.cells import best_table, cell_table, held_out_note, published_cells, readable
from results.figures import footer
from results.interactive import Chart, escaped
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
SIDES = ("ours", "published")
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
    return [
        Table("Best cells", best, held_out_note(artefact, runs, best), CHOICE),
        *(one for one in tuning if not one.rows.empty),
        Table("Every cell", readable(artefact, table), f"{metric.label}{unit}, mean ± std over seeds."),
    ]


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return over how many settings each side of a claim was tuned."""
    tuned = tuning_budget(artefact, frame(runs, artefact.metric.name)) if runs else ""
    return {"tuning budget": tuned} if tuned else {}


@dataclass(frozen=True)
class HeatMap:
    """The cells of one panel, ours or the published ones.

    cells: row, column, mean, std, seeds and diverged runs, as `runs.cells` returns them.
    best: the best one.
    """

    panel: Panel
    side: str
    cells: pd.DataFrame
    best: pd.Series | None

    @property
    def rows(self) -> list[float]:
        return sorted(self.cells["row"].unique())

    @property
    def columns(self) -> list[str]:
        return sorted(self.cells["column"].unique(), key=column_order)


def heat_maps(artefact: Artefact, table: pd.DataFrame) -> list[HeatMap]:
    """Return ours and the published one of each panel, from the artefact's `table`."""
    maps = []
    for panel in artefact.panels:
        ours = table[table["method"] == panel.title].rename(columns={artefact.row: "row", "setting": "column"})
        for side, cells in zip(SIDES, (ours, published_cells(artefact, panel)), strict=True):
            cells = cells.assign(mean=pd.to_numeric(cells["mean"]), std=pd.to_numeric(cells["std"]))
            maps.append(HeatMap(panel, side, cells, best_cell(cells, artefact.metric.better)))
    return maps


def column_order(text: str) -> float:
    """Return the number in a column's label, or 0 if it isn't a number."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return 0.0


def cell_text(cell: Mapping[str, Any], digits: int) -> str:
    """Return what a cell shows."""
    if pd.isna(cell["mean"]):
        return "div." if cell["diverged"] else "TBA"  # the paper leaves one cell open ("TBA")
    return f"{cell['mean']:.{digits}f}" + ("*" if cell["diverged"] else "")


# ---- The static figure


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw rows of panels: ours, and below each the paper's if it prints values.

    A row has all panels, or the artefact's `panels_per_row`. At paper scale, where the data set is
    the same, ours and the paper's share their colours. Otherwise each side has its own.
    """
    one_scale, maps = artefact.scale == "paper", heat_maps(artefact, table)
    blocks = [(f"ours: {data}", [one for one in maps if one.side == "ours"])]
    published = [one for one in maps if one.side == "published"]
    if any(len(one.cells) for one in published):
        title = f"published: {artefact.published_as}{'' if one_scale else '; in colours of its own'}"
        blocks.append((title, published))
    scales = [
        _colours([one for _, group in blocks for one in group] if one_scale else own, artefact.metric)
        for _, own in blocks
    ]
    number = min(artefact.panels_per_row or len(artefact.panels), len(artefact.panels))
    chunks = [slice(first, first + number) for first in range(0, len(artefact.panels), number)]
    # All panels at the same place in a row get the same width, so panels below each other are
    # aligned.
    widths = [
        max(1.4, *(len(one.columns) for _, own in blocks for one in own[place::number])) for place in range(number)
    ]
    rows = [(title, own[chunk], scale) for chunk in chunks for (title, own), scale in zip(blocks, scales, strict=True)]
    heights = [max(len(one.rows) for one in own) + 2 for _, own, _ in rows]
    size = (1.9 + 0.62 * sum(widths) + 0.5 * number, 1.3 + 0.33 * sum(heights) + 0.5 * len(rows))
    made = Figure(figsize=size, layout="constrained")
    parts = made.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, own, scale) in zip(parts, rows, strict=True):
        axes = part.subplots(1, number, width_ratios=widths, squeeze=False)[0]
        for ax in axes[len(own) :]:
            ax.set_axis_off()
        _row_of_panels(part, list(axes[: len(own)]), own, artefact, scale)
        part.suptitle(_wrapped(title, made, 9), fontsize=9, color="#444444", x=0.01, ha="left")
    made.suptitle(_wrapped(artefact.title, made, 11), fontsize=11)
    footer(made, _wrapped(foot, made, 7.5))
    return made


def _colours(maps: Sequence[HeatMap], metric: Metric) -> tuple[float, float]:
    """Return the values at the two ends of the colour scale: the best cell, and the limit of the worst
    15 %.

    Those worst cells (a learning rate of 0.1) would otherwise leave no colours for the differences
    that matter.
    """
    values = pd.concat([one.cells["mean"] for one in maps]).dropna()
    if values.empty:
        return 0.0, 1.0
    return (values.quantile(0.15), values.max()) if metric.higher else (values.min(), values.quantile(0.85))


def _wrapped(text: str, made: Figure, points: float) -> str:
    """Wrap text to the figure's width. A character is about half as wide as its font size."""
    return textwrap.fill(text, int(made.get_figwidth() * 72 / (0.55 * points)))


def _row_of_panels(
    part: Any, axes: list[Axes], maps: Sequence[HeatMap], artefact: Artefact, scale: tuple[float, float]
) -> None:
    metric = artefact.metric
    lrs = sorted({lr for one in maps for lr in one.rows})
    image = None
    for index, (ax, one) in enumerate(zip(axes, maps, strict=True)):
        image = _draw(ax, one, lrs, *scale, metric)
        ax.set_title(one.panel.title, fontsize=9)
        ax.set_xlabel(one.panel.column_label, fontsize=8)
        ax.set_yticks(range(len(lrs)), [row_value(artefact, row) for row in lrs] if index == 0 else [])
        if index == 0:
            ax.set_ylabel(artefact.row_name, fontsize=8)
    bar = part.colorbar(image, ax=axes, extend="min" if metric.higher else "max", pad=0.01, fraction=0.03)
    bar.set_label(metric.label_and_unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    # print ticks in full, not as an offset such as "+ 20.9"
    bar.ax.yaxis.get_major_formatter().set_useOffset(False)


def _draw(ax: Axes, one: HeatMap, lrs: list[float], low: float, high: float, metric: Metric) -> Any:
    columns = one.columns
    grid = np.full((max(1, len(lrs)), max(1, len(columns))), np.nan)
    cells = [(lrs.index(cell["row"]), columns.index(cell["column"]), cell) for cell in one.cells.to_dict("records")]
    for y, x, cell in cells:
        grid[y, x] = cell["mean"]
    image = ax.imshow(grid, cmap="viridis" if metric.higher else "viridis_r", vmin=low, vmax=high, aspect="auto")
    ax.set_facecolor("#dddddd")
    for y, x, cell in cells:
        missing = pd.isna(cell["mean"])
        bright = not missing and (cell["mean"] - low) / max(high - low, 1e-9) > 0.6
        dark = missing or bright == metric.higher
        colour = "black" if dark else "white"
        ax.text(x, y, cell_text(cell, metric.digits), ha="center", va="center", fontsize=8, color=colour)
        if one.best is not None and (cell["row"], cell["column"]) == (one.best["row"], one.best["column"]):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec="#D55E00", lw=2.5, clip_on=False, zorder=3))
    ax.set_xticks(range(len(columns)), columns, fontsize=8)
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    return image


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
