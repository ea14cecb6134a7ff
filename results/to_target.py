"""Budget to target: the step at which one method's best cell reaches the other one's final score."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from results.runs import Run, metric_of, of_cell, place_of
from results.schema import Artefact, BestClaim, Panel
from results.series import first_at, series_over
from results.sides import best_by, panels_of


def target_table(artefact: Artefact, data: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Return two rows per claim of kind `best`: when each side's best cell first reached the other's
    final score.

    Both are means over seeds. Empty if no best cell was evaluated before its last step.
    """
    rows, compared = [], []
    for claim in artefact.claims:
        if not isinstance(claim, BestClaim) or (claim.left, claim.right) in compared:
            continue
        compared.append((claim.left, claim.right))
        sides = []
        for names, by in claim.sides_and_choosers:
            if (cell := best_by(artefact, data, names, by)) is not None:
                sides.append((panels_of(artefact, names)[int(cell["panel"])], cell))
        if len(sides) < 2:
            continue
        for (panel, cell), (other, target) in (sides, sides[::-1]):
            own = of_cell(artefact, panel, data, runs, cell)
            if row := _row(artefact, panel, target["mean"], own):
                rows.append(
                    {"method": _name(artefact, panel, cell), "final score of": _name(artefact, other, target)} | row
                )
    return pd.DataFrame(rows)


def _row(artefact: Artefact, panel: Panel, target: float, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the target and the step, or None if the cell's runs were evaluated at fewer than two steps."""
    steps, means = series_over(runs, metric_of(artefact, panel), "mean")
    if len(steps) < 2:
        return None
    step = first_at(steps, means, target, artefact.metric.higher)
    return {
        artefact.metric.label: f"{target:.2f}",
        "at step": "not reached" if step is None else str(step),
        "of": steps[-1],
        "seeds": len(runs),
    }


def _name(artefact: Artefact, panel: Panel, cell: pd.Series) -> str:
    return f"{panel.title} ({place_of(artefact, cell)})"
