"""Budget to target: the step at which one method's best cell reaches the other one's final score."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from results.curves import first_at, series_over
from results.heatmap import power_of_ten
from results.interpolation import of_cell
from results.runs import Run
from results.sides import best_by, panels_of


def target_table(artefact: Mapping[str, Any], data: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Return two rows per claim of kind `best`: when each side's best cell first reached the other's
    final score.

    Both are means over seeds. Empty if no best cell was evaluated before its last step.
    """
    rows, compared = [], set()
    for claim in artefact["claims"]:
        by = claim.get("chosen_by", claim)
        if claim["kind"] != "best" or str((claim["left"], claim["right"])) in compared:
            continue
        compared.add(str((claim["left"], claim["right"])))
        found = [best_by(artefact, data, claim[side], by[side]) for side in ("left", "right")]
        cells = [cell for cell in found if cell is not None]
        if len(cells) < 2:
            continue
        panels = [
            panels_of(artefact, claim[side])[int(cell["panel"])]
            for side, cell in zip(("left", "right"), cells, strict=True)
        ]
        for own, other in ((0, 1), (1, 0)):
            row = _row(
                artefact,
                panels[own],
                cells[own],
                cells[other]["mean"],
                of_cell(artefact, panels[own], data, runs, cells[own]),
            )
            if row:
                rows.append(
                    {"method": _name(panels[own], cells[own]), "final score of": _name(panels[other], cells[other])}
                    | row
                )
    return pd.DataFrame(rows)


def _row(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], cell: pd.Series, target: float, runs: Sequence[Run]
) -> dict[str, Any] | None:
    """Return the target and the step, or None if the cell's runs were evaluated at fewer than two steps."""
    metric = artefact["metric"]
    steps, means = series_over(runs, panel.get("metric", metric["name"]), "mean")
    if len(steps) < 2:
        return None
    step = first_at(steps, means, target, metric["better"] == "higher")
    return {
        metric["label"]: f"{target:.2f}",
        "at step": "not reached" if step is None else str(step),
        "of": steps[-1],
        "seeds": len(runs),
    }


def _name(panel: Mapping[str, Any], cell: pd.Series) -> str:
    setting = f", {cell['column']}" if cell["column"] else ""
    return f"{panel['title']} (lr {power_of_ten(cell['row'])}{setting})"
