"""Interactive heat maps: ours and the published one of every method.

All share one colour scale: a cell's distance to the best cell of its own side (ours or published)
with the same metric and task settings. Mini scale and the paper use different data sets, so only
the patterns compare. If lower is better (perplexity), the distance is in per cent of the best cell.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results.heatmap import column_order, power_of_ten
from results.published import published_cells
from results.report.panels import Panel, escaped, figure
from results.runs import Run, best_cell, comparable, flatten, frame, label, of_panel

CELL_WIDTH, CELL_HEIGHT, SIDES = 54, 38, ("ours", "published")
LETTER, LINE = 7, 18  # of an axis title, in pixels: average width of a letter, height of a line
Runs = Mapping[tuple[float, str], Sequence[Run]]


def heatmap_panels(artefact: Mapping[str, Any], table: pd.DataFrame, runs: Sequence[Run]) -> tuple[list[Panel], str]:
    """Return up to two panels per method, and the distance at the end of the colour scale.

    Args:
        table: the artefact's `cell_table`, computed or read from table.csv.
        runs: the runs behind it, if their records are available.
    """
    data = frame(runs, artefact["metric"]["name"])
    tables = {}
    for number, panel in enumerate(artefact["panels"]):
        ours = table[table["method"] == panel["title"]].rename(columns={artefact["row"]: "row", "setting": "column"})
        for side, cells in zip(SIDES, (ours, published_cells(artefact, panel)), strict=True):
            tables[number, side] = cells.assign(mean=pd.to_numeric(cells["mean"]), std=pd.to_numeric(cells["std"]))
    behind, far = _distances(artefact, tables)
    panels = []
    for (number, side), cells in tables.items():
        panel = artefact["panels"][number]
        if len(cells):
            of_cell = _runs_by_cell(artefact, panel, data, runs) if side == "ours" else {}
            panels.append(_panel(artefact, panel, side, cells.assign(behind=behind[number, side]), far, of_cell))
    unit = (
        "% of the best"
        if artefact["metric"]["better"] == "lower"
        else artefact["metric"].get("unit", "").replace("%", "points")
    )
    return panels, f"{far:.3g} {unit}"


def _distances(
    artefact: Mapping[str, Any], tables: Mapping[tuple[int, str], pd.DataFrame]
) -> tuple[dict[tuple[int, str], pd.Series], float]:
    """Return every cell's distance to the best one, and the distance at which the colour scale ends."""
    compared: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number, side in tables:
        compared.setdefault((side, comparable(artefact["panels"][number])), []).append((number, side))
    found = {}
    for keys in compared.values():
        best = best_cell(pd.concat([tables[key] for key in keys], ignore_index=True), artefact["metric"]["better"])
        for key in keys:
            mean = tables[key]["mean"]
            if best is None:
                found[key] = mean * float("nan")
            else:
                found[key] = (
                    best["mean"] - mean if artefact["metric"]["better"] == "higher" else 100 * (mean / best["mean"] - 1)
                )
    # Without this, the worst cells (a learning rate of 0.1) would leave no colours for the
    # differences that matter. So would a side that has more such cells.
    sides = [
        pd.concat([distance for key, distance in found.items() if key[1] == side]).quantile(0.85) for side in SIDES
    ]
    known = [float(quantile) for quantile in sides if pd.notna(quantile)]
    return found, max(min(known), max(known) / 4, 1e-3) if known else 1.0


def _runs_by_cell(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], data: pd.DataFrame, runs: Sequence[Run]
) -> Runs:
    """Return the runs of each (row, column), sorted by seed."""
    chosen, by_id = of_panel(data, panel), {run.record["run_id"]: run for run in runs}
    found: dict[Any, list[Run]] = {}
    if chosen.empty:
        return {}
    columns = chosen[panel["column"]].map(label) if "column" in panel else pd.Series("", index=chosen.index)
    for cell, own in chosen.groupby([chosen[artefact["row"]], columns]):
        found[cell] = [by_id[run_id] for run_id in own.sort_values("seed")["run_id"]]
    return found


def _panel(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], side: str, cells: pd.DataFrame, far: float, runs: Runs
) -> Panel:
    metric = artefact["metric"]
    rows = sorted(cells["row"].unique())
    columns = sorted(cells["column"].unique(), key=column_order)
    blank = {"z": None, "text": "", "hovertext": "not in this grid", "customdata": ""}
    shown: dict[str, list[list[Any]]] = {key: [[value] * len(columns) for _ in rows] for key, value in blank.items()}
    marks = []
    for cell in cells.to_dict("records"):
        y, x = rows.index(cell["row"]), columns.index(cell["column"])
        of_cell = runs.get((cell["row"], cell["column"]), ())
        shown["z"][y][x] = None if pd.isna(cell["behind"]) else round(cell["behind"], 4)
        shown["text"][y][x] = _text(cell, metric.get("digits", 1))
        shown["hovertext"][y][x] = _hover(artefact, panel, side, cell, of_cell)
        shown["customdata"][y][x] = " ".join(run.record["run_id"] for run in of_cell)
        if shown["z"][y][x] is None:  # Plotly writes no text into a cell without a value
            marks.append({"x": x, "y": y, "text": shown["text"][y][x], "showarrow": False})
    names = [label(column) if column else "" for column in columns]
    width = CELL_WIDTH * max(2, len(columns))
    fitting = int((width + 16) / LETTER)  # Plotly cuts off text wider than the figure
    title = textwrap.wrap(panel.get("column_label", ""), fitting, break_on_hyphens=False)
    trace = go.Heatmap(
        x=list(range(len(columns))), y=list(range(len(rows))), zmin=0, zmax=far, showscale=False, xgap=2, ygap=2, hoverongaps=True,
        texttemplate="%{text}", hovertemplate="%{hovertext}<extra></extra>", meta=panel["regularizer"], **shown,
    )  # fmt: skip
    made = figure(
        [trace],
        shapes=_outline(cells, rows, columns, metric["better"]),
        annotations=marks,
        xaxis=_axis(names, [-0.5, len(columns) - 0.5]) | {"title": {"text": "<br>".join(title)}},
        yaxis=_axis([power_of_ten(row) for row in rows], [len(rows) - 0.5, -0.5]),
    )
    height = CELL_HEIGHT * len(rows) + LINE * max(0, len(title) - 1)
    return Panel(made, side, (panel["regularizer"],), 74 + width, 74 + height, panel["title"])


def _axis(names: list[str], ends: list[float]) -> dict[str, Any]:
    # a lone column has no name and no tick
    named = [number for number, name in enumerate(names) if name]
    return {"tickvals": named, "ticktext": [names[number] for number in named], "range": ends}


def _outline(cells: pd.DataFrame, rows: list[float], columns: list[str], better: str) -> list[dict[str, Any]]:
    """Return a frame around the best cell."""
    best = best_cell(cells, better)
    if best is None:
        return []
    y, x = rows.index(best["row"]), columns.index(best["column"])
    return [
        {
            "type": "rect",
            "x0": x - 0.5,
            "x1": x + 0.5,
            "y0": y - 0.5,
            "y1": y + 0.5,
            "line": {"color": "#D55E00", "width": 2.5},
        }
    ]


def _text(cell: Mapping[str, Any], digits: int) -> str:
    if pd.isna(cell["mean"]):
        return "div." if cell["diverged"] else "TBA"  # the paper leaves one cell open ("TBA")
    return f"{cell['mean']:.{digits}f}" + ("*" if cell["diverged"] else "")


def _hover(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], side: str, cell: Mapping[str, Any], runs: Sequence[Run]
) -> str:
    """Return the cell's place, mean, std, every seed's value with its run id, and the runs' common
    settings.
    """
    name, column = panel.get("metric", artefact["metric"]["name"]), panel.get("column_label")
    place = f"lr {power_of_ten(cell['row'])}" + (f" · {column} {cell['column']}" if column else "")
    spread = f" ± {cell['std']:.3g}" if pd.notna(cell["std"]) else ""
    value = f"mean {cell['mean']:.4g}{spread}" if pd.notna(cell["mean"]) else "no value"
    seeds = f" over {int(cell['seeds'])} seed(s)" if pd.notna(cell["seeds"]) and cell["seeds"] else ""
    lines = [f"<b>{escaped(panel['title'])}</b>, {side}", escaped(place), f"{value}{seeds}"]
    lines += [f"{int(cell['diverged'])} diverged"] if cell["diverged"] and side == "ours" else []
    lines += [f"{int(cell['missing'])} missing"] if cell.get("missing") else []
    for run in runs:
        score = run.record["metrics"].get(name)
        said = f"{score:.4g}" if score is not None else "diverged"
        lines.append(escaped(f"seed {run.config['seed']}: {said} · {run.record['run_id']}"))
    if runs:
        config = flatten(runs[0].config)
        settings = [
            f"{key}={value}"
            for key, value in config.items()
            if key.startswith("regularizer.") or key in ("num_steps", "lr")
        ]
        lines += [
            "<br>".join(escaped(", ".join(settings[i : i + 3])) for i in range(0, len(settings), 3)),
            "<i>click: the runs</i>",
        ]
    if side == "ours" and pd.notna(cell.get("mean_paper")):
        lines.append(f"published beside it: {cell['mean_paper']:g}")
    return "<br>".join(lines)
