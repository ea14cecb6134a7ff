"""Find the sides of a claim: the panels it names, their cells and values, and the setting that each plays."""

import pandas as pd

from results.runs import best_cell, cell_at, panel_cells
from results.schema import Artefact, Panel, Side, names_of


def panels_of(artefact: Artefact, names: Side) -> list[Panel]:
    """Return the panels of one side of a claim that the scale has. Several together are one method with more columns."""
    by_name = {panel.name: panel for panel in artefact.panels}
    return [by_name[name] for name in names_of(names) if name in by_name]


def side_cells(artefact: Artefact, data: pd.DataFrame, names: Side) -> pd.DataFrame:
    """Return `panel_cells` of a side. `panel` is the panel's number within the side."""
    tables = [
        panel_cells(artefact, panel, data).assign(panel=number)
        for number, panel in enumerate(panels_of(artefact, names))
    ]
    return pd.concat(tables, ignore_index=True)


def sign(artefact: Artefact) -> int:
    """Return 1 if a higher metric is better, else -1."""
    return 1 if artefact.metric.higher else -1


def best_by(artefact: Artefact, data: pd.DataFrame, names: Side, by: Side) -> pd.Series | None:
    """Return the cell of the panels `names` that is the best one of the panels `by`."""
    best = best_cell(side_cells(artefact, data, by), artefact.metric.better)
    if best is None or by == names:
        return best
    return cell_at(side_cells(artefact, data, names), best)
