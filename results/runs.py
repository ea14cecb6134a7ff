"""Runs: read from their folders, and as a data frame with one row per run."""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from results.schema import Artefact, Panel
from results.thinning import thin_dynamics, thin_metrics


@dataclass(frozen=True)
class Run:
    """A run: its resolved configuration, its record.json and the lines of its metrics.jsonl.

    record: empty until the run has ended.
    dynamics: the lines of its dynamics.jsonl (the matrices' names, then their sizes).
    folder: the folder of its other files, such as pictures.
    """

    config: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    dynamics: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    folder: Path | None = field(default=None, kw_only=True)

    @classmethod
    def read(cls, folder: Path, record: Mapping[str, Any]) -> "Run":
        """Return the run in a folder. A run without record.json has its configuration from config.yaml.

        Args:
            record: the checked content of record.json (`tasks/engine/records.py`). {} if there is none.
        """
        config = record["config"] if record else yaml.safe_load((folder / "config.yaml").read_text())
        sizes = Lines(lambda: read_lines(folder / "dynamics.jsonl"))
        return cls(config, record, read_lines(folder / "metrics.jsonl"), sizes, folder=folder)

    def thinned(self) -> "Run":
        """Return the run with the rows of its logs that tables and committed records keep (results/thinning.py)."""
        return replace(
            self,
            metrics=Lines(lambda: thin_metrics(self.metrics)),
            dynamics=Lines(lambda: thin_dynamics(self.dynamics)),
        )

    @property
    def status(self) -> str:
        """finished, diverged, failed, or missing without a record."""
        return str(self.record.get("status", "missing"))

    @property
    def run_id(self) -> str:
        """The id in its record, else the name of its folder."""
        return str(self.record["run_id"] if self.record or self.folder is None else self.folder.name)

    @property
    def scores(self) -> Mapping[str, float]:
        """The final metrics, empty for a diverged run or without a record."""
        found: Mapping[str, float] = self.record.get("metrics", {})
        return found

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def num_steps(self) -> int:
        return int(self.config["num_steps"])

    @property
    def task(self) -> str:
        return str(self.config["task"]["name"])

    @property
    def regularizer(self) -> str:
        return str(self.config["regularizer"]["name"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log, without one that is being written. Empty without the file."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


class Lines(Sequence[Mapping[str, Any]]):
    """The lines of a log, read when they are first needed. The sizes of matrices are most of a run's bytes."""

    def __init__(self, read: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self.read = read

    @functools.cached_property
    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return self.read()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]


def with_result(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """Return the finished or diverged runs by id, with thinned logs, and a line on the others.

    No table counts the others: a run that ran out of memory has no score. Thinned, a run in its folder and its
    committed record give the same tables and figures.
    """
    lost = [run for run in runs if run.status == "failed"]
    kept = sorted((run.thinned() for run in runs if run.status != "failed"), key=lambda run: run.run_id)
    said = "; ".join(sorted(f"{run.run_id} ({run.record['reason']})" for run in lost))
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
        result = {"run_id": run.run_id, "status": run.status, "value": run.scores.get(metric)}
        rows.append(flatten(run.config) | flatten(run.scores, "metrics.") | result)
    data = pd.DataFrame(rows)
    if data.empty:
        return pd.DataFrame(columns=["run_id", "status", "value", "seed", "lr", "regularizer.name"])
    data["value"] = pd.to_numeric(data["value"])
    return data.sort_values("run_id", ignore_index=True)


def data_of(runs: Sequence[Run]) -> str:
    """Return what the runs were trained on and for how many steps, or "-" without runs."""
    steps: dict[str, set[int]] = {}
    for run in runs:
        steps.setdefault(run.config["task"]["data"]["description"], set()).add(run.num_steps)
    words = [f"{name}; {', '.join(map(str, sorted(numbers)))} steps" for name, numbers in sorted(steps.items())]
    return "; ".join(words) or "-"


def chosen_and_reported(metric: str, runs: Sequence[Run]) -> tuple[str, str]:
    """Return the names of a metric on the half of the test examples that chooses, and on the half that is reported.

    Both are the metric itself if a finished run has no such halves (tasks/engine/halves.py).
    """
    halves = f"{metric}_selection", f"{metric}_report"
    finished = [run for run in runs if run.status == "finished"]
    return halves if finished and all(name in run.scores for run in finished for name in halves) else (metric, metric)


def label(value: Any) -> str:
    """Print a hyperparameter's value. Equal numbers print alike."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def column_order(text: str) -> float:
    """Return the number in a column's label, or 0 if it isn't a number."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return 0.0


def power_of_ten(value: float) -> str:
    """Print half decades as in the paper: 0.0003162 is 1e-3.5. Print other values unchanged."""
    halves = 2 * math.log10(value) if value > 0 else math.inf
    return f"1e{halves / 2:.1f}" if value > 0 and abs(halves - round(halves)) < 0.01 else f"{value:g}"


def row_value(artefact: Artefact, value: float) -> str:
    """Print a value of a heat map's rows: a learning rate as a power of ten, another key as it is."""
    return power_of_ten(value) if artefact.row == "lr" else label(value)


def place_of(artefact: Artefact, cell: Any) -> str:
    """Return a cell's row and column in words, such as `lr 1e-3.0, 2x`."""
    row = f"{artefact.row.rpartition('.')[2]} {row_value(artefact, cell['row'])}"
    return f"{row}, {cell['column']}" if cell["column"] else row


def metric_of(artefact: Artefact, panel: Panel) -> str:
    """Return the name of the panel's own metric, else the artefact's."""
    return panel.metric or artefact.metric.name


def of_panel(data: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Return the runs with a panel's regularizer and its `select` values (flattened configuration
    keys).

    `value` is the panel's own `metric` if it names one.
    """
    chosen = data["regularizer.name"] == panel.regularizer
    for key, value in panel.select.items():
        chosen &= data[key] == value if key in data else False
    if panel.metric is None:
        return data[chosen]
    name = f"metrics.{panel.metric}"
    return data[chosen].assign(value=pd.to_numeric(data[name]) if name in data else float("nan"))


def columns_of(data: pd.DataFrame, column: str | None) -> pd.Series:
    """Return the printed value of a panel's column for every run, empty texts without a column."""
    return data[column].map(label) if column else pd.Series("", index=data.index)


def panel_cells(artefact: Artefact, panel: Panel, data: pd.DataFrame) -> pd.DataFrame:
    """Return the `cells` of a panel's runs, by the artefact's row and the panel's column."""
    return cells(of_panel(data, panel), panel.regularizer, artefact.row, panel.column)


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
            "column": columns_of(chosen, column),
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


def held_out_best(artefact: Artefact, panel: Panel, data: pd.DataFrame) -> pd.Series | None:
    """Return the best cell by one half of the test examples, scored on the other half
    (tasks/engine/halves.py).

    None if the panel's metric has no such halves, or the runs are older than these scores.
    """
    selection, report = (
        panel_cells(artefact, panel.model_copy(update={"metric": metric_of(artefact, panel) + half}), data)
        for half in ("_selection", "_report")
    )
    best = best_cell(selection, artefact.metric.better)
    return None if best is None else cell_at(report, best)


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


def comparable(panel: Panel) -> tuple[Any, ...]:
    """Return a key that is equal for comparable panels: their metric and the settings of their task."""
    return panel.metric, *((key, value) for key, value in panel.select.items() if key.startswith("task."))


def of_cell(artefact: Artefact, panel: Panel, data: pd.DataFrame, runs: Sequence[Run], cell: pd.Series) -> list[Run]:
    """Return the runs of a panel's cell, sorted by seed."""
    chosen = of_panel(data, panel)
    chosen = chosen[chosen[artefact.row] == cell["row"]]
    ids = set(chosen[columns_of(chosen, panel.column) == cell["column"]]["run_id"])
    return sorted((run for run in runs if run.run_id in ids), key=lambda run: run.seed)


def of_best_cell(artefact: Artefact, panel: Panel, data: pd.DataFrame, runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Return the runs of a panel's best cell by seed, each with its column, or "-" without a column."""
    best = best_cell(panel_cells(artefact, panel, data), artefact.metric.better)
    return [] if best is None else [(run, best["column"] or "-") for run in of_cell(artefact, panel, data, runs, best)]
