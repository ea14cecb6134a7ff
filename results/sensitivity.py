"""Measure how much the scores in a heat map depend on a method's settings, and count the settings tried."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from results.runs import best_cell, comparable, near, panel_cells
from results.schema import Artefact, BestClaim, SameBestClaim, ShareClaim, Side
from results.sides import panels_of, side_cells, sign
from results.statistics.tuning import best_of, profile


def sensitivity_table(artefact: Artefact, data: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: settings and runs tried, the share near the best, and the median's
    distance to the best.

    Near means within `metric.near` (default 1, in the metric's unit). It is measured from the
    method's own best cell and from the best of all methods with the same metric and task settings.
    A cell with a diverged run is not near, and worse than any other. Empty without runs.
    """
    better, within = artefact.metric.better, artefact.metric.near_at(artefact.scale)
    rows = []
    for title, cells, comparable_cells in _with_comparable(artefact, data):
        own, every = best_cell(cells, better), best_cell(comparable_cells, better)
        rows.append(
            {
                "method": title,
                "settings": len(cells),
                "runs": _runs(cells),
                f"within {within:g} of its own best": _share(cells, own, within, better),
                f"within {within:g} of the best of all": _share(cells, every, within, better),
                "median behind its own best by": _behind(artefact, cells, own),
            }
        )
    return pd.DataFrame(rows)


BUDGETS = (1, 2, 4, 8)  # settings tried
DISTANCES = (0.5, 1, 2, 4)  # in multiples of `metric.near`


def tuning_table(artefact: Artefact, data: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: the expected best score of k random settings, and the performance profile.

    The profile is the share of settings at most a distance behind the best of all methods with the
    same metric and task settings. A setting with a diverged run counts as the worst of all scores,
    and is within no distance. Empty without runs.
    """
    way, near_by = sign(artefact), artefact.metric.near_at(artefact.scale)
    rows: list[dict[str, Any]] = []
    for title, cells, comparable_cells in _with_comparable(artefact, data):
        reached = _scores(comparable_cells, way)
        finite = reached[reached > -math.inf]
        if finite.empty:
            continue
        scores = list(_scores(cells, way))
        curve = best_of(scores, float(finite.min()))
        row: dict[str, Any] = {"method": title, "settings": len(cells)}
        for budget in BUDGETS:
            text = f"{way * curve[budget - 1]:.{artefact.metric.table_digits}f}" if budget <= len(cells) else "-"
            row[f"best of {budget}"] = text
        shares = profile(scores, float(finite.max()), [near_by * multiple for multiple in DISTANCES])
        row |= {
            f"within {near_by * multiple:g}": f"{share:.0%}" for multiple, share in zip(DISTANCES, shares, strict=True)
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _with_comparable(artefact: Artefact, data: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield each method with runs: its title, its cells, and the cells of all panels that it is comparable with."""
    tables = [(panel, panel_cells(artefact, panel, data)) for panel in artefact.panels]
    filled = [(panel, cells) for panel, cells in tables if not cells.empty]
    for panel, cells in filled:
        group = [other for one, other in filled if comparable(one) == comparable(panel)]
        yield panel.title, cells, pd.concat(group, ignore_index=True)


def _scores(cells: pd.DataFrame, way: int) -> pd.Series:
    """Return the cells' means, higher being better, with -inf for a cell with a diverged run."""
    return (way * cells["mean"]).where((cells["diverged"] == 0) & cells["mean"].notna(), -math.inf)


def _runs(cells: pd.DataFrame) -> int:
    return int((cells["seeds"] + cells["diverged"]).sum())


def _share(cells: pd.DataFrame, best: pd.Series | None, within: float, better: str) -> str:
    if best is None:
        return "-"
    number = int(near(cells, best["mean"], within, better).sum())
    return f"{number / len(cells):.0%} ({number} of {len(cells)})"


def _behind(artefact: Artefact, cells: pd.DataFrame, best: pd.Series | None) -> str:
    """Return how far the median cell is behind the best one, or "diverged" if half of the cells have a
    diverged run.
    """
    if best is None:
        return "diverged"
    behind = (sign(artefact) * (best["mean"] - cells["mean"])).where(cells["diverged"] == 0, math.inf)
    return f"{behind.median():.2f}" if math.isfinite(behind.median()) else "diverged"


def tuning_budget(artefact: Artefact, data: pd.DataFrame) -> str:
    """Return whether both sides of each claim were tuned over equally many settings, with the numbers.

    Empty if no claim has two sides.
    """
    compared = {
        (_titles(artefact, claim.left), _titles(artefact, claim.right)): claim
        for claim in artefact.claims
        if isinstance(claim, BestClaim | ShareClaim | SameBestClaim)
    }
    said, equal = [], 0
    for titles, claim in compared.items():
        left, right = (side_cells(artefact, data, side) for side in (claim.left, claim.right))
        equal += len(left) == len(right)
        said.append(
            f"{titles[0]} {len(left)} settings ({_runs(left)} runs) against {titles[1]} {len(right)} ({_runs(right)})"
        )
    if not said:
        return ""
    whether = (
        "equal" if equal == len(said) else "not equal" if not equal else f"equal in {equal} of {len(said)} comparisons"
    )
    return f"{whether}: {'; '.join(said)}"


def _titles(artefact: Artefact, names: Side) -> str:
    return " + ".join(panel.title for panel in panels_of(artefact, names))
