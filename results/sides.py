"""Find the sides of a claim: the panels it names, their cells and values, and the setting that each plays."""

import pandas as pd

from results.runs import best_cell, cell_at, columns_of, of_panel, panel_cells
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


def side_values(artefact: Artefact, data: pd.DataFrame, names: Side) -> pd.DataFrame:
    """Return the values of a side: a row per (row, seed), a column per panel column, missing for
    diverged runs.
    """
    panels, tables = panels_of(artefact, names), []
    for panel in panels:
        chosen = of_panel(data, panel)
        labels = columns_of(chosen, panel.column)
        if len(panels) > 1:
            labels = f"{panel.title} " + labels
        tables.append(chosen.assign(column=labels).pivot_table("value", [artefact.row, "seed"], "column", dropna=False))
    return pd.concat(tables, axis=1)


def best_by(artefact: Artefact, data: pd.DataFrame, names: Side, by: Side) -> pd.Series | None:
    """Return the cell of the panels `names` that is the best one of the panels `by`."""
    best = best_cell(side_cells(artefact, data, by), artefact.metric.better)
    if best is None or by == names:
        return best
    return cell_at(side_cells(artefact, data, names), best)


def held_out(values: pd.DataFrame, better: str, by: pd.DataFrame | None = None) -> pd.Series:
    """Return, by (row, seed), the value at that seed of the column with the best mean over the other
    seeds.

    `by` is another table with the same rows and columns; if given, it decides which column is best.
    """
    played = {}
    for row, of_row in (values if by is None else by).groupby(level=0):
        whole = of_row.droplevel(0).dropna(axis=1)  # a column with a diverged run can't be the best
        for seed in whole.index:
            others = whole.drop(index=seed).mean()
            if others.notna().any():
                played[row, seed] = values.loc[(row, seed), others.idxmax() if better == "higher" else others.idxmin()]
    return pd.Series(played, dtype=float)
