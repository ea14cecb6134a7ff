"""Agreement of our runs at paper scale with the values that the paper prints."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.cells import published_cells
from results.evidence.contenders import Contender
from results.runs import Run, best_cell, columns_of, frame, of_panel, place_of, power_of_ten
from results.schema import Artefact
from results.sides import sign
from results.statistics.published import LEVEL, welch
from results.table import Table

COLUMNS = ["method", "setting", "ours", "paper", "p", "agreement"]
DIFFERS, AGREES, UNTESTED = "differs", "agrees", "too few seeds"


def agreement(artefact: Artefact, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per cell that has a published value: both values, p of Welch's test, and the agreement.

    Empty at other scales, and for layouts of which the paper prints no values.
    """
    if artefact.scale != "paper" or artefact.layout != "heatmap":
        return pd.DataFrame(columns=COLUMNS)
    data, rows = frame(runs, artefact.metric.name), []
    for panel in artefact.panels:
        if (own := of_panel(data, panel)).empty:
            continue
        keys = own[artefact.row].map(power_of_ten), columns_of(own, panel.column)
        for cell in published_cells(artefact, panel).to_dict("records"):
            values = own[(keys[0] == power_of_ten(cell["row"])) & (keys[1] == cell["column"])]["value"]
            if len(values) and pd.notna(cell["mean"]):
                rows.append(
                    {"method": panel.title, "setting": place_of(artefact, cell)} | _compared(artefact, values, cell)
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def _compared(artefact: Artefact, values: pd.Series, cell: dict[Any, Any]) -> dict[str, Any]:
    digits, std = artefact.metric.table_digits, cell["std"]
    p = welch(list(values), cell["mean"], None if pd.isna(std) else std, int(cell["seeds"] or 1))
    return {
        "ours": f"{values.mean():.{digits}f} (n = {len(values)})",
        "paper": f"{cell['mean']:.{artefact.metric.digits}f}",
        "p": p,
        "agreement": UNTESTED if p is None else AGREES if p >= LEVEL else DIFFERS,
    }


def published_lead(artefact: Artefact, *sides: Contender) -> float | None:
    """Return how far the first side's best published cell is ahead of the second's.

    None if the paper prints no value of one, or if a side's cell is chosen by another score.
    """
    if artefact.layout != "heatmap" or len(sides) != 2 or any(side.by is not None for side in sides):
        return None
    first, second = (_best_published(artefact, side) for side in sides)
    if first is None or second is None:
        return None
    return round(float(sign(artefact) * (first["mean"] - second["mean"])), 6)


def _best_published(artefact: Artefact, side: Contender) -> pd.Series | None:
    every = [published_cells(artefact, panel) for panel in artefact.panels if panel.name in side.names]
    if not every:  # a scale may lack a panel
        return None
    cells = pd.concat(every, ignore_index=True)
    if side.column is not None:
        cells = cells[cells["column"] == side.column]
    if side.but is not None:
        cells = cells[cells["column"] != side.but]
    return best_cell(cells, artefact.metric.better)


def agreement_table(artefact: Artefact, runs: Sequence[Run]) -> Table | None:
    """Return the cells beside the published values, or None without any."""
    rows = agreement(artefact, runs)
    if rows.empty:
        return None
    shown = rows.assign(p=rows["p"].map(lambda p: "-" if p is None or pd.isna(p) else f"{p:.3f}"))
    return Table("Beside the published values", shown, agreement_sentence(rows))


def agreement_sentence(rows: pd.DataFrame) -> str:
    """Return how many cells differ from the paper, and how many would by chance."""
    tested = rows[rows["agreement"] != UNTESTED]
    if tested.empty:
        return "No cell has the two seeds that a comparison with the published value needs."
    differ = int((tested["agreement"] == DIFFERS).sum())
    return (
        f"{differ} of {len(tested)} cells differ from the published value (Welch's t-test at {LEVEL:.0%}). "
        f"About {LEVEL * len(tested):.1f} would by chance."
    )
