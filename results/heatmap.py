"""The heat map of Figure 2: one panel a method, ours above the paper's, one colour scale for each row of panels."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.published import published_cells
from results.runs import best_cell, panel_cells


def power_of_ten(value: float) -> str:
    """0.0003162 prints as 1e-3.5, as in the paper; what is not a half decade prints as it is."""
    halves = 2 * math.log10(value) if value > 0 else math.inf
    return f"1e{halves / 2:.1f}" if value > 0 and abs(halves - round(halves)) < 0.01 else f"{value:g}"


def heatmap_figure(artefact: Mapping[str, Any], data: pd.DataFrame, subtitle: str, footer: str) -> Figure:
    """Rows of panels: ours, and the paper's where it prints values."""
    panels = artefact["panels"]
    ours = [panel_cells(artefact, p, data) for p in panels]
    published = [published_cells(artefact, p) for p in panels]
    rows = [(f"ours: {subtitle}", ours)]
    if any(len(table) for table in published):
        rows.append((f"published: {artefact['published_as']}", published))
    widths = [max(1.4, max(table[i]["column"].nunique() for _, table in rows)) for i in range(len(panels))]
    heights = [max(table["row"].nunique() for table in tables) + 2 for _, tables in rows]
    figure = Figure(
        figsize=(1.9 + 0.62 * sum(widths) + 0.5 * len(panels), 1.3 + 0.33 * sum(heights) + 0.5 * len(rows)), layout="constrained"
    )
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, tables) in zip(parts, rows, strict=True):
        axes = part.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        _row_of_panels(part, list(axes), panels, tables, artefact["metric"])
        part.suptitle(_wrapped(title, figure, 9), fontsize=9, color="#444444", x=0.01, ha="left")
    figure.suptitle(_wrapped(artefact["title"], figure, 11), fontsize=11)
    figure.supxlabel(_wrapped(footer, figure, 7.5), fontsize=7.5, color="#444444")
    return figure


def _wrapped(text: str, figure: Figure, points: float) -> str:
    """In lines that a narrow figure has room for; a character is about half as wide as its size."""
    return textwrap.fill(text, int(figure.get_figwidth() * 72 / (0.55 * points)))


def _row_of_panels(part: Any, axes: list[Axes], panels: list[Any], tables: list[pd.DataFrame], metric: Mapping[str, Any]) -> None:
    values = pd.concat([table["mean"] for table in tables]).dropna()
    # The worst cells (a learning rate of 0.1) would otherwise leave no colours for the differences that matter.
    low, high = (values.quantile(0.15), values.max()) if len(values) else (0.0, 1.0)
    if metric["better"] == "lower":
        low, high = values.min(), values.quantile(0.85)
    lrs = sorted({lr for table in tables for lr in table["row"]})
    image = None
    for index, (ax, panel, table) in enumerate(zip(axes, panels, tables, strict=True)):
        image = _panel(ax, table, lrs, low, high, metric)
        ax.set_title(panel["title"], fontsize=9)
        ax.set_xlabel(panel.get("column_label", ""), fontsize=8)
        ax.set_yticks(range(len(lrs)), [power_of_ten(lr) for lr in lrs] if index == 0 else [])
        if index == 0:
            ax.set_ylabel("learning rate", fontsize=8)
    bar = part.colorbar(image, ax=axes, extend="min" if metric["better"] == "higher" else "max", pad=0.01, fraction=0.03)
    bar.set_label(", ".join(metric[key] for key in ("label", "unit") if key in metric), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.get_major_formatter().set_useOffset(False)  # not 0.01 "+ 20.9"


def _panel(ax: Axes, table: pd.DataFrame, lrs: list[float], low: float, high: float, metric: Mapping[str, Any]) -> Any:
    better, digits = metric["better"], metric.get("digits", 1)
    columns = sorted(table["column"].unique(), key=column_order)
    grid = np.full((max(1, len(lrs)), max(1, len(columns))), np.nan)
    best = best_cell(table, better)
    for cell in table.itertuples():
        grid[lrs.index(cell.row), columns.index(cell.column)] = cell.mean
    image = ax.imshow(grid, cmap="viridis" if better == "higher" else "viridis_r", vmin=low, vmax=high, aspect="auto")
    ax.set_facecolor("#dddddd")
    for cell in table.itertuples():
        y, x = lrs.index(cell.row), columns.index(cell.column)
        dark = pd.isna(cell.mean) or (cell.mean - low) / max(high - low, 1e-9) > 0.6
        without_value = "div." if cell.diverged else "TBA"  # the paper leaves one cell open
        text = without_value if pd.isna(cell.mean) else f"{cell.mean:.{digits}f}" + ("*" if cell.diverged else "")
        if better == "lower" and not pd.isna(cell.mean):
            dark = not dark
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color="black" if dark else "white")
        if best is not None and (cell.row, cell.column) == (best["row"], best["column"]):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec="#D55E00", lw=2.5, clip_on=False, zorder=3))
    ax.set_xticks(range(len(columns)), columns, fontsize=8)
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    return image


def column_order(text: str) -> float:
    """The number that a column's label stands for; 0 for one that is none."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return 0.0
