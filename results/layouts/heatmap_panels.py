"""The interactive heat maps: up to two charts per panel, ours and the published one."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results import interactive
from results.colour_scale import ColourScale, colour_scale
from results.heat_maps import SIDES, HeatMap, cell_text, heat_maps, std_text
from results.interactive import Chart, escaped
from results.runs import Run, columns_of, flatten, frame, label, metric_of, of_panel
from results.schema import Artefact, Panel
from results.ticks import lr_text, typeset

CELL_WIDTH, CELL_HEIGHT = 54, 40
LETTER, LINE = 7, 18  # of an axis title, in pixels: average width of a letter, height of a line
FRAME = "#888888"  # visible in light and dark


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return up to two charts per panel, with the colours of results/colour_scale.py.

    Args:
        table: computed, or read from table.csv.
        runs: the runs behind it, if their records are available.
    """
    maps, data = heat_maps(artefact, table), frame(runs, artefact.metric.name)
    made: dict[tuple[str, str], Chart] = {}
    for side in SIDES:
        own = [one for one in maps if one.side == side]
        scale = colour_scale(artefact, own)
        words = _words(artefact, side, scale)
        for one, better_by in zip(own, scale.better_by, strict=True):
            if len(one.cells):
                of_cell = _runs_by_cell(artefact, one.panel, data, runs) if side == "ours" else {}
                made[one.panel.name, side] = _chart(artefact, one, better_by, scale.limit, words, of_cell)
    return [made[key] for panel in artefact.panels for side in SIDES if (key := (panel.name, side)) in made]


def _words(artefact: Artefact, side: str, scale: ColourScale) -> str:
    """Return which cells are white on a side, and how far from them the colours end."""
    metric = artefact.metric
    whites = dict.fromkeys(
        f"the best of {name} ({cell['mean']:.{metric.digits}f})" for name, cell in filter(None, scale.centres)
    )
    unit = metric.unit.replace("%", "points") or metric.label
    return f"{side}: white is {' and '.join(whites)}, colours end {scale.limit:.2g} {unit} from it" if whites else ""


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
    better_by: pd.Series,
    limit: float,
    scale: str,
    runs: Mapping[tuple[float, str], Sequence[Run]],
) -> Chart:
    panel, rows, columns = one.panel, one.rows, one.columns
    blank = {"z": None, "text": "", "hovertext": "not in this grid", "customdata": ""}
    shown: dict[str, list[list[Any]]] = {key: [[value] * len(columns) for _ in rows] for key, value in blank.items()}
    marks = []
    for cell in one.cells.assign(better_by=better_by).to_dict("records"):
        y, x = rows.index(cell["row"]), columns.index(cell["column"])
        of_cell = runs.get((cell["row"], cell["column"]), ())
        shown["z"][y][x] = None if pd.isna(cell["better_by"]) else round(cell["better_by"], 4)
        shown["text"][y][x] = cell_text(cell, artefact.metric.digits)
        shown["hovertext"][y][x] = _hover(artefact, one, cell, of_cell)
        shown["customdata"][y][x] = " ".join(run.run_id for run in of_cell)
        marks += _words_in(x, y, shown["text"][y][x], std_text(cell, artefact.metric.table_digits))
    names = [typeset(label(column)) if column else "" for column in columns]
    width = CELL_WIDTH * max(2, len(columns))
    fitting = int((width + 16) / LETTER)  # Plotly cuts off text wider than the figure
    title = textwrap.wrap(panel.column_label, fitting, break_on_hyphens=False)
    trace = go.Heatmap(
        x=list(range(len(columns))), y=list(range(len(rows))), zmin=-limit, zmax=limit, showscale=False, xgap=2, ygap=2, hoverongaps=True,
        hovertemplate="%{hovertext}<extra></extra>", **shown,
    )  # fmt: skip
    made = interactive.figure(
        [trace],
        shapes=_outline(one),
        annotations=marks,
        xaxis=_axis(names, [-0.5, len(columns) - 0.5]) | {"title": {"text": "<br>".join(title)}},
        yaxis=_axis([_row(artefact, row) for row in rows], [len(rows) - 0.5, -0.5]),
    )
    height = CELL_HEIGHT * len(rows) + LINE * max(0, len(title) - 1)
    return Chart(made, one.side, 74 + width, 74 + height, panel.title, scale=scale)


def _words_in(x: int, y: int, mean: str, std: str) -> list[dict[str, Any]]:
    """Return a cell's mean and, below it, its standard deviation over seeds if there is one.

    Plotly's own text of a cell has one size, and shrinks where it is wide.
    """
    at = {"x": x, "y": y, "showarrow": False, "borderpad": 0}
    if not std:
        return [{**at, "text": mean, "font": {"size": 12}}]
    return [
        {**at, "text": mean, "font": {"size": 12}, "yshift": 6},
        {**at, "text": std, "font": {"size": 9}, "yshift": -8},
    ]


def _row(artefact: Artefact, row: float) -> str:
    return lr_text(row) if artefact.row == "lr" else typeset(label(row))


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
    return [{"type": "rect", **corners, "line": {"color": FRAME, "width": 2}}]


def _hover(artefact: Artefact, one: HeatMap, cell: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return the cell's place, mean, std, every seed's value with its run id, and the runs' common
    settings.
    """
    panel, ours = one.panel, one.side == "ours"
    column = panel.column_label
    row = f"{artefact.row.rpartition('.')[2]} {_row(artefact, cell['row'])}"
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
