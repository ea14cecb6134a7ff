"""Tables of a heat map's cells, ours beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from results.published import FOLDER, published_rows
from results.runs import (
    Run,
    best_cell,
    column_order,
    held_out_best,
    label,
    panel_cells,
    place_of,
    power_of_ten,
    row_value,
)
from results.schema import Artefact, Panel
from results.table import spread

HELD_OUT = "ours, chosen by half of the test set and scored on the other"
TASKS_WITH_HALVES = (
    "cifar100",
    "cifar100c",
    "clip",
    "gpt2",
    "imagenet",
    "lora",
)  # tasks that score the halves of tasks/engine/halves.py


def published_cells(artefact: Artefact, panel: Panel) -> pd.DataFrame:
    """Return row, column, mean, std, seeds and diverged runs of one panel; empty if the paper prints
    no values.
    """
    path, rows = FOLDER / f"{artefact.name}.yaml", []
    if panel.published is not None and path.exists():
        for published in published_rows(path):
            if all(published.get(key) == value for key, value in panel.published.items()):
                # the rows of a table with one learning rate don't print it
                row = published.get(artefact.row) if panel.published_row is None else panel.published_row
                about = [published["mean"], published.get("std"), published.get("seeds")]
                rows.append([row, _column(published, panel), *about, int(published.get("diverged", False))])
    cells = pd.DataFrame(rows, columns=["row", "column", "mean", "std", "seeds", "diverged"])
    return cells.assign(mean=pd.to_numeric(cells["mean"]), std=pd.to_numeric(cells["std"]))


def published_best(artefact: Artefact) -> dict[str, pd.Series]:
    """Return the best published cell of each panel, by title. A panel without published values is left out."""
    best = {
        panel.title: best_cell(published_cells(artefact, panel), artefact.metric.better) for panel in artefact.panels
    }
    return {title: cell for title, cell in best.items() if cell is not None}


def _column(published: Mapping[str, Any], panel: Panel) -> str:
    key, unit = panel.published_column, panel.published_column_unit
    if key is None:
        return ""
    return label(published[key] / unit) + "x" if unit else label(published[key])


def cell_table(artefact: Artefact, data: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Return a row per cell of our grid: mean, std and seeds of ours and the paper's.

    At paper scale, where the data set is the same, `difference` is between the means. A panel may
    have its own number of `seeds`, if its grids do.
    """
    parts = []
    for panel in artefact.panels:
        ours = panel_cells(artefact, panel, data)
        theirs = published_cells(artefact, panel).rename(columns={"diverged": "diverged_paper"})
        # The paper's 0.0003162 and a configured 3.162e-4 are the same row, so floats are joined by
        # their printed power of ten. If the paper has only one row, its cells may stand beside ours
        # of any row.
        for table in (ours, theirs):
            table["key"] = "" if artefact.published_beside == "every row" else table["row"].map(power_of_ten)
        joined = ours.merge(theirs.drop(columns="row"), on=["key", "column"], how="left", suffixes=("", "_paper")).drop(
            columns="key"
        )
        joined.insert(0, "method", panel.title)
        joined["expected"] = panel.seeds or seeds
        parts.append(joined)
    table = pd.concat(parts, ignore_index=True)
    if artefact.scale == "paper":
        table["difference"] = table["mean"] - pd.to_numeric(table["mean_paper"])
    table["missing"] = (table.pop("expected") - table["seeds"] - table["diverged"]).clip(lower=0)
    return table.rename(columns={"row": artefact.row, "column": "setting"})


def readable(artefact: Artefact, table: pd.DataFrame) -> pd.DataFrame:
    """Return `cell_table` for people: mean ± std (seeds), with missing and diverged runs noted in the cell.

    At paper scale, where the data set is the same, it has the difference to the paper.
    """
    rows, digits, methods = [], artefact.metric.digits, list(dict.fromkeys(table["method"]))
    cells = [cell for _, cell in table.iterrows()]
    for cell in sorted(
        cells, key=lambda cell: (methods.index(cell["method"]), cell[artefact.row], column_order(cell["setting"]))
    ):
        # the paper leaves one cell open ("TBA")
        without_value = {1: "diverged", 0: "TBA"}.get(cell.get("diverged_paper"), "-")
        paper = (
            f"{cell['mean_paper']:.{digits}f}{spread(cell['std_paper'])}"
            if pd.notna(cell["mean_paper"])
            else without_value
        )
        row = {
            "method": cell["method"],
            artefact.row: row_value(artefact, cell[artefact.row]),
            "setting": cell["setting"] or "-",
            "ours": _ours(cell, artefact.metric.table_digits),
            "paper": paper,
        }
        if artefact.scale == "paper":
            known = pd.notna(cell["difference"])
            row["ours - paper"] = f"{cell['difference']:+.{artefact.metric.table_digits}f}" if known else "-"
        rows.append(row)
    columns = ["method", artefact.row, "setting", "ours", "paper"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def best_table(artefact: Artefact, data: pd.DataFrame) -> pd.DataFrame:
    """Return the best cell of every method, ours and the paper's, both by the printed scores.

    If the runs have scores on halves, add the cell chosen by one half of the test examples, with
    its score on the other half.
    """
    rows = []
    for panel in artefact.panels:
        row: dict[str, str] = {"method": panel.title}
        ours = panel_cells(artefact, panel, data)
        for title, table in (("ours", ours), ("paper", published_cells(artefact, panel))):
            row[f"best of {title}"] = _with_setting(artefact, best_cell(table, artefact.metric.better))
        row[HELD_OUT] = _with_setting(artefact, held_out_best(artefact, panel, data))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if (table[HELD_OUT] != "-").any() else table.drop(columns=HELD_OUT)


def held_out_note(artefact: Artefact, runs: Sequence[Run], best: pd.DataFrame) -> str:
    """Explain why the `best_table` has no cells chosen by half of the test set; empty if it has, or
    without runs.
    """
    if HELD_OUT in best or not runs:
        return ""
    tasks = {run.task for run in runs}
    if any(name.endswith("_selection") for run in runs for name in run.scores):
        why = "this score is not written for halves"
    else:
        why = (
            "these runs are of a time before scores on halves"
            if tasks & {*TASKS_WITH_HALVES}
            else "this task writes no scores on halves"
        )
    chosen = "The best of ours are chosen by the scores that are printed, as in the paper."
    return f"{chosen} There are none chosen by one half of the test set and scored on the other: {why}."


def _with_setting(artefact: Artefact, best: pd.Series | None) -> str:
    if best is None:
        return "-"
    digits = artefact.metric.table_digits
    return f"{best['mean']:.{digits}f}{spread(best['std'], digits)} ({place_of(artefact, best)})"


def _ours(cell: pd.Series, digits: int) -> str:
    notes = [f"{cell['seeds']} seeds" if cell["seeds"] != 1 else "1 seed"]
    notes += [f"{cell['diverged']} diverged"] if cell["diverged"] else []
    notes += [f"{cell['missing']} missing"] if cell["missing"] else []
    value = f"{cell['mean']:.{digits}f}{spread(cell['std'], digits)}" if pd.notna(cell["mean"]) else "-"
    return f"{value} ({', '.join(notes)})"
