"""Runs as a data frame: one row per run, the configuration's keys flattened with dots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run that ended: its resolved configuration, its record.json and the lines of its
    metrics.jsonl.

    dynamics: the lines of its dynamics.jsonl (the matrices' names, then their sizes), for artefacts
    that show them.
    folder: the folder of its other files, for artefacts that show pictures.
    """

    config: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    dynamics: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    folder: Path | None = field(default=None, kw_only=True)


def with_result(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """Return the finished or diverged runs by id, and a line on the others.

    No table counts the others: a run that ran out of memory has no score.
    """
    lost = [run for run in runs if run.record["status"] == "failed"]
    kept = sorted((run for run in runs if run not in lost), key=lambda run: run.record["run_id"])
    said = "; ".join(sorted(f"{run.record['run_id']} ({run.record['reason']})" for run in lost))
    return kept, f"Failed without a result, and counted as missing: {said}." if lost else ""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn {"a": {"b": 1}} into {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def frame(runs: Sequence[Run], metric: str) -> pd.DataFrame:
    """Return one row per run in a fixed order.

    `value` is the metric, missing for a diverged run, and `metrics.<name>` is each of its metrics.
    """
    rows = []
    for run in runs:
        result = {
            "run_id": run.record["run_id"],
            "status": run.record["status"],
            "value": run.record["metrics"].get(metric),
        }
        rows.append(flatten(run.config) | flatten(run.record["metrics"], "metrics.") | result)
    data = pd.DataFrame(rows)
    if data.empty:
        return pd.DataFrame(columns=["run_id", "status", "value", "seed", "lr", "regularizer.name"])
    data["value"] = pd.to_numeric(data["value"])
    return data.sort_values("run_id", ignore_index=True)


def label(value: Any) -> str:
    """Print a hyperparameter's value. Equal numbers print alike."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def of_panel(data: pd.DataFrame, panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return the runs with a panel's regularizer and its `select` values (flattened configuration
    keys).

    `value` is the panel's own `metric` if it names one.
    """
    chosen = data["regularizer.name"] == panel["regularizer"]
    for key, value in panel.get("select", {}).items():
        chosen &= data[key] == value if key in data else False
    if "metric" not in panel:
        return data[chosen]
    name = f"metrics.{panel['metric']}"
    return data[chosen].assign(value=pd.to_numeric(data[name]) if name in data else float("nan"))


def panel_cells(artefact: Mapping[str, Any], panel: Mapping[str, Any], data: pd.DataFrame) -> pd.DataFrame:
    """Return the `cells` of a panel's runs, by the artefact's row and the panel's column."""
    return cells(of_panel(data, panel), panel["regularizer"], artefact["row"], panel.get("column"))


def cells(data: pd.DataFrame, regularizer: str, row: str, column: str | None) -> pd.DataFrame:
    """Return mean, std (over seeds, n - 1), seeds and diverged runs of every (row, column) of one
    method.

    The mean is over finished runs. `diverged` counts the others, and a cell with any can't be a
    best cell.
    """
    chosen = data[data["regularizer.name"] == regularizer]
    if chosen.empty:
        return pd.DataFrame(columns=["row", "column", "mean", "std", "seeds", "diverged"])
    keyed = pd.DataFrame(
        {
            "row": chosen[row],
            "column": chosen[column].map(label) if column else "",
            "value": chosen["value"],
            "diverged": chosen["status"] == "diverged",
            "seed": chosen["seed"],
        }
    )
    grouped = keyed.groupby(["row", "column"], sort=True)
    table = grouped.agg(
        mean=("value", "mean"), std=("value", "std"), seeds=("value", "count"), diverged=("diverged", "sum")
    )
    return table.reset_index()


def held_out_best(artefact: Mapping[str, Any], panel: Mapping[str, Any], data: pd.DataFrame) -> pd.Series | None:
    """Return the best cell by one half of the test examples, scored on the other half
    (tasks/engine/halves.py).

    None if the panel's metric has no such halves, or the runs are older than these scores.
    """
    name = panel.get("metric", artefact["metric"]["name"])
    halves = [panel_cells(artefact, dict(panel) | {"metric": name + half}, data) for half in ("_selection", "_report")]
    best = best_cell(halves[0], artefact["metric"]["better"])
    if best is None:
        return None
    return cell_at(halves[1], best)


def cell_at(table: pd.DataFrame, cell: pd.Series) -> pd.Series:
    """Return the cell of `table` at the row and column of `cell`, which comes from another score of
    the same runs.
    """
    return table[(table["row"] == cell["row"]) & (table["column"] == cell["column"])].iloc[0]


def best_cell(table: pd.DataFrame, better: str) -> pd.Series | None:
    """Return the cell with the best mean among those without a diverged run, or None."""
    whole = table[(table["diverged"] == 0) & table["mean"].notna()]
    if whole.empty:
        return None
    return whole.loc[whole["mean"].idxmax() if better == "higher" else whole["mean"].idxmin()]


def near(table: pd.DataFrame, best: float, within: float, better: str) -> pd.Series:
    """Return which cells are at most `within` behind the score `best` and have no diverged run."""
    behind = best - table["mean"] if better == "higher" else table["mean"] - best
    return (behind <= within + 1e-9) & (table["diverged"] == 0)


def comparable(panel: Mapping[str, Any]) -> str:
    """Return a key that is equal for comparable panels: their metric and the settings of their task."""
    return str(
        (panel.get("metric"), {key: value for key, value in panel.get("select", {}).items() if key.startswith("task.")})
    )
