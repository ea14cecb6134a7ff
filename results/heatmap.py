"""Draw heat maps as in Figure 2: one panel per method, ours above the paper's."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.published import published_cells
from results.runs import best_cell, panel_cells


def power_of_ten(value: float) -> str:
    """Print half decades as in the paper: 0.0003162 is 1e-3.5. Print other values unchanged."""
    halves = 2 * math.log10(value) if value > 0 else math.inf
    return f"1e{halves / 2:.1f}" if value > 0 and abs(halves - round(halves)) < 0.01 else f"{value:g}"


def heatmap_figure(
    artefact: Mapping[str, Any], data: pd.DataFrame, subtitle: str, footer: str, one_scale: bool = False
) -> Figure:
    """Draw rows of panels: ours, and below each the paper's if it prints values.

    A row has all panels, or the artefact's `panels_per_row`. With `one_scale`, ours and the paper's
    share their colours, which makes sense only for the same data set. Otherwise each side has its
    own.
    """
    panels = artefact["panels"]
    blocks = [(f"ours: {subtitle}", [panel_cells(artefact, p, data) for p in panels])]
    published = [published_cells(artefact, p) for p in panels]
    if any(len(table) for table in published):
        blocks.append(
            (f"published: {artefact['published_as']}{'' if one_scale else '; in colours of its own'}", published)
        )
    every = [table for _, tables in blocks for table in tables]
    scales = [_colours(every if one_scale else tables, artefact["metric"]) for _, tables in blocks]
    number = min(artefact.get("panels_per_row", len(panels)), len(panels))
    chunks = [slice(first, first + number) for first in range(0, len(panels), number)]
    # All panels at the same place in a row get the same width, so panels below each other are
    # aligned.
    widths = [
        max(1.4, *(table["column"].nunique() for _, tables in blocks for table in tables[place::number]))
        for place in range(number)
    ]
    rows = [
        (title, panels[chunk], tables[chunk], scale)
        for chunk in chunks
        for (title, tables), scale in zip(blocks, scales, strict=True)
    ]
    heights = [max(table["row"].nunique() for table in tables) + 2 for _, _, tables, _ in rows]
    figure = Figure(
        figsize=(1.9 + 0.62 * sum(widths) + 0.5 * number, 1.3 + 0.33 * sum(heights) + 0.5 * len(rows)),
        layout="constrained",
    )
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, own, tables, scale) in zip(parts, rows, strict=True):
        axes = part.subplots(1, number, width_ratios=widths, squeeze=False)[0]
        for ax in axes[len(own) :]:
            ax.set_axis_off()
        _row_of_panels(part, list(axes[: len(own)]), own, tables, artefact["metric"], scale)
        part.suptitle(_wrapped(title, figure, 9), fontsize=9, color="#444444", x=0.01, ha="left")
    figure.suptitle(_wrapped(artefact["title"], figure, 11), fontsize=11)
    figure.supxlabel(_wrapped(footer, figure, 7.5), fontsize=7.5, color="#444444")
    return figure


def _colours(tables: Sequence[pd.DataFrame], metric: Mapping[str, Any]) -> tuple[float, float]:
    """Return the values at the two ends of the colour scale: the best cell, and the limit of the worst
    15 %.

    Those worst cells (a learning rate of 0.1) would otherwise leave no colours for the differences
    that matter.
    """
    values = pd.concat([table["mean"] for table in tables]).dropna()
    if values.empty:
        return 0.0, 1.0
    if metric["better"] == "lower":
        return values.min(), values.quantile(0.85)
    return values.quantile(0.15), values.max()


def _wrapped(text: str, figure: Figure, points: float) -> str:
    """Wrap text to the figure's width. A character is about half as wide as its font size."""
    return textwrap.fill(text, int(figure.get_figwidth() * 72 / (0.55 * points)))


def _row_of_panels(
    part: Any,
    axes: list[Axes],
    panels: Sequence[Any],
    tables: Sequence[pd.DataFrame],
    metric: Mapping[str, Any],
    scale: tuple[float, float],
) -> None:
    lrs = sorted({lr for table in tables for lr in table["row"]})
    image = None
    for index, (ax, panel, table) in enumerate(zip(axes, panels, tables, strict=True)):
        image = _panel(ax, table, lrs, *scale, metric)
        ax.set_title(panel["title"], fontsize=9)
        ax.set_xlabel(panel.get("column_label", ""), fontsize=8)
        ax.set_yticks(range(len(lrs)), [power_of_ten(lr) for lr in lrs] if index == 0 else [])
        if index == 0:
            ax.set_ylabel("learning rate", fontsize=8)
    bar = part.colorbar(
        image, ax=axes, extend="min" if metric["better"] == "higher" else "max", pad=0.01, fraction=0.03
    )
    bar.set_label(", ".join(metric[key] for key in ("label", "unit") if key in metric), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    # print ticks in full, not as an offset such as "+ 20.9"
    bar.ax.yaxis.get_major_formatter().set_useOffset(False)


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
        without_value = "div." if cell.diverged else "TBA"  # the paper leaves one cell open ("TBA")
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
    """Return the number in a column's label, or 0 if it isn't a number."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return 0.0
