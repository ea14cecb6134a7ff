"""The sides of a claim: the panels that it names, their cells and their values, and the setting that each plays."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from results.runs import best_cell, cell_at, label, of_panel, panel_cells

Names = str | Sequence[str]


def panel_named(artefact: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The panel that a claim names: by its id, or by its regularizer where it has none."""
    return next(p for p in artefact["panels"] if p.get("id", p["regularizer"]) == name)


def panels_of(artefact: Mapping[str, Any], names: Names) -> list[Mapping[str, Any]]:
    """The panels of one side of a claim: one, or several that together are a method with more columns."""
    return [panel_named(artefact, name) for name in ([names] if isinstance(names, str) else names)]


def side_cells(artefact: Mapping[str, Any], data: pd.DataFrame, names: Names) -> pd.DataFrame:
    """`panel_cells` of a side, with the number of the panel among the side's as `panel`."""
    tables = [
        panel_cells(artefact, panel, data).assign(panel=number)
        for number, panel in enumerate(panels_of(artefact, names))
    ]
    return pd.concat(tables, ignore_index=True)


def sign(artefact: Mapping[str, Any]) -> int:
    """1 where a higher metric is better, else -1."""
    return 1 if artefact["metric"]["better"] == "higher" else -1


def side_values(artefact: Mapping[str, Any], data: pd.DataFrame, names: Names) -> pd.DataFrame:
    """The values of a side: a row per (row, seed), a column per column of its panels; missing where a run diverged."""
    panels, tables = panels_of(artefact, names), []
    for panel in panels:
        column, chosen = panel.get("column"), of_panel(data, panel)
        labels = chosen[column].map(label) if column else pd.Series("", index=chosen.index)
        if len(panels) > 1:
            labels = f"{panel['title']} " + labels
        tables.append(
            chosen.assign(column=labels).pivot_table("value", [artefact["row"], "seed"], "column", dropna=False)
        )
    return pd.concat(tables, axis=1)


def best_by(artefact: Mapping[str, Any], data: pd.DataFrame, names: Names, by: Names) -> pd.Series | None:
    """Of the panels `names`, the cell that is the best one of the panels `by`."""
    best = best_cell(side_cells(artefact, data, by), artefact["metric"]["better"])
    if best is None or by == names:
        return best
    return cell_at(side_cells(artefact, data, names), best)


def held_out(values: pd.DataFrame, better: str, by: pd.DataFrame | None = None) -> pd.Series:
    """(row, seed) -> the value, at that seed, of the column that is best by the mean over the row's other seeds.

    Best by `by`, if that is given, a table of the same rows and columns.
    """
    played = {}
    for row, of_row in (values if by is None else by).groupby(level=0):
        whole = of_row.droplevel(0).dropna(axis=1)  # a column with a diverged run is not the best
        for seed in whole.index:
            others = whole.drop(index=seed).mean()
            if others.notna().any():
                played[row, seed] = values.loc[(row, seed), others.idxmax() if better == "higher" else others.idxmin()]
    return pd.Series(played, dtype=float)
