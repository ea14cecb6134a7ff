"""The cells of heat maps, ours and the published ones, for the static and the interactive drawing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results.cells import published_cells
from results.runs import best_cell, column_order
from results.schema import Artefact, Panel

SIDES = ("ours", "published")


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
            cells = cells.assign(**{key: pd.to_numeric(cells[key]) for key in ("mean", "std", "seeds")})
            maps.append(HeatMap(panel, side, cells, best_cell(cells, artefact.metric.better)))
    return maps


def cell_text(cell: Mapping[str, Any], digits: int) -> str:
    """Return what a cell shows."""
    if pd.isna(cell["mean"]):
        return "div." if cell["diverged"] else "TBA"  # the paper leaves one cell open ("TBA")
    return f"{cell['mean']:.{digits}f}" + ("*" if cell["diverged"] else "")


def std_text(cell: Mapping[str, Any], digits: int) -> str:
    """Return the ± std of a cell, empty with a single seed."""
    return "" if pd.isna(cell["mean"]) or pd.isna(cell["std"]) else f"±{cell['std']:.{digits}f}"
