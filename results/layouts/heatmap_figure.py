"""The static heat maps: rows of panels, ours and below each the paper's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.colour_scale import BETTER, SAME, WORSE, ColourScale, colour_scale
from results.figures import footer, title, wrapped
from results.heat_maps import HeatMap, cell_text, heat_maps, std_text
from results.runs import Run
from results.schema import Artefact, Metric
from results.ticks import in_math, row_ticks

COLOURS = LinearSegmentedColormap.from_list("better", (WORSE, SAME, BETTER))
CELL = (0.62, 0.40)  # width and height in inches
NO_VALUE, FRAME = "#DDDDDD", "#222222"
READING = "± is the standard deviation over seeds. A frame marks each panel's best cell"


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw rows of panels: ours, and below each the paper's if it prints values.

    A row has all panels, or the artefact's `panels_per_row`. Colours show the distance to the
    baseline's best cell of the same side (results/colour_scale.py). At paper scale, where the data
    set is the same, ours and the paper's have the same limits.
    """
    maps = heat_maps(artefact, table)
    sides = [[one for one in maps if one.side == side] for side in ("ours", "published")]
    blocks = sides if any(len(one.cells) for one in sides[1]) else sides[:1]
    scales = [colour_scale(artefact, own) for own in blocks]
    limits = [scale.limit for scale in scales]
    if artefact.scale == "paper":
        limits = [max(limits)] * len(limits)
    number = min(artefact.panels_per_row or len(artefact.panels), len(artefact.panels))
    # All panels at the same place in a row get the same width, so panels below each other are aligned.
    widths = [max(1.4, *(len(one.columns) for own in blocks for one in own[place::number])) for place in range(number)]
    rows = [
        (number_of_block, slice(first, first + number))
        for first in range(0, len(artefact.panels), number)
        for number_of_block in range(len(blocks))
    ]
    heights = [max(1, len(_rows(blocks[block][chunk]))) + 2.2 for block, chunk in rows]
    size = (max(7.0, 1.9 + CELL[0] * sum(widths) + 0.5 * number), 1.3 + CELL[1] * sum(heights))
    made = Figure(figsize=size, layout="constrained")
    parts = made.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (block, chunk) in zip(parts, rows, strict=True):
        own, scale = blocks[block], scales[block]
        shown = list(zip(own, scale.better_by, strict=True))[chunk]
        axes = part.subplots(1, number, width_ratios=widths, squeeze=False)[0]
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        _row_of_panels(part, list(axes[: len(shown)]), shown, artefact, limits[block])
        words = _about(artefact, own[0].side, scale, chunk)
        part.suptitle(wrapped(words, made, 8.5), fontsize=8.5, color="#444444", x=0.01, ha="left")
    title(made, artefact, data)
    footer(made, f"{foot}. {READING}")
    return made


def _about(artefact: Artefact, side: str, scale: ColourScale, chunk: slice) -> str:
    """Return what a row of panels shows, and which cells are white."""
    whose = "ours" if side == "ours" else f"published: {artefact.published_as}" if artefact.published_as else side
    digits, known = artefact.metric.digits, [centre for centre in scale.centres[chunk] if centre is not None]
    whites = dict.fromkeys(f"the best of {name} ({cell['mean']:.{digits}f})" for name, cell in known)
    return f"{whose}. White: {' and '.join(whites)}" if whites else whose


def _rows(maps: Sequence[HeatMap]) -> list[float]:
    return sorted({row for one in maps for row in one.rows})


def _row_of_panels(
    part: Any, axes: list[Axes], shown: Sequence[tuple[HeatMap, pd.Series]], artefact: Artefact, limit: float
) -> None:
    metric = artefact.metric
    rows, image = _rows([one for one, _ in shown]), None
    for index, (ax, (one, better_by)) in enumerate(zip(axes, shown, strict=True)):
        image = _draw(ax, one, better_by, rows, limit, metric)
        ax.set_title(one.panel.title, fontsize=9)
        ax.set_xlabel(one.panel.column_label, fontsize=8)
        ax.set_yticks(range(len(rows)), row_ticks(artefact, rows) if index == 0 else [])
        if index == 0:
            ax.set_ylabel(artefact.row_name, fontsize=8)
        if one.side == "published" and one.cells.empty:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "not published", ha="center", transform=ax.transAxes, fontsize=8, color="#777777")
    beyond = pd.concat([better_by for _, better_by in shown])
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = ends[bool((beyond < -limit).any()), bool((beyond > limit).any())]
    bar = part.colorbar(image, ax=axes, extend=extend, pad=0.01, fraction=0.03, aspect=14)
    unit = metric.unit.replace("%", "points") or metric.label
    bar.set_label(f"better (+) or\nworse (−), {unit}", fontsize=7.5)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")


def _draw(ax: Axes, one: HeatMap, better_by: pd.Series, rows: list[float], limit: float, metric: Metric) -> Any:
    columns = one.columns
    grid = np.full((max(1, len(rows)), max(1, len(columns))), np.nan)
    cells = one.cells.assign(better_by=better_by).to_dict("records")
    for cell in cells:
        grid[rows.index(cell["row"]), columns.index(cell["column"])] = cell["better_by"]
    image = ax.imshow(grid, cmap=COLOURS, norm=Normalize(-limit, limit), aspect="auto")
    ax.set_facecolor(NO_VALUE)
    for cell in cells:
        x, y, std = columns.index(cell["column"]), rows.index(cell["row"]), std_text(cell, metric.table_digits)
        _write(ax, (x, y), cell_text(cell, metric.digits), 8, 3.5 if std else 0)
        if std:
            _write(ax, (x, y), std, 6, -6)
        if one.best is not None and (cell["row"], cell["column"]) == (one.best["row"], one.best["column"]):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=FRAME, lw=2, clip_on=False, zorder=3))
    ax.set_xticks(range(len(columns)), [in_math(column) for column in columns], fontsize=8)
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    return image


def _write(ax: Axes, place: tuple[int, int], text: str, size: float, up: float) -> None:
    """Write text into a cell, some points above its middle."""
    ax.annotate(text, place, xytext=(0, up), textcoords="offset points", ha="center", va="center", fontsize=size)
