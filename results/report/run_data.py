"""Data of single runs that the page shows on a click: record, configuration, and R, κ and λ over training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from results.code import commit_of
from results.runs import Run, flatten
from results.thinning import evenly

POINTS = 24  # of a curve, which keeps the page of 1,500 runs small
# How a quantity's values of all matrices become one.
OVER_MATRICES = {"R": median, "kappa": median, "lambda": max}


def run_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the page shows of each run, by run id.

    A run's `dynamics` has the kept steps, and at those steps the medians of R and κ and the largest λ
    over its regularized matrices.
    """
    by_id = {run.run_id: run for run in runs}
    return {run_id: _about(run) | {"dynamics": _dynamics(run)} for run_id, run in sorted(by_id.items())}


def _about(run: Run) -> dict[str, Any]:
    record = run.record
    hardware, versions = record["hardware"], record["versions"]
    machine = f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} thread(s)"
    return {
        "task": run.task,
        "method": run.regularizer,
        "seed": run.seed,
        "status": run.status,
        "reason": record.get("reason"),
        "metrics": {name: _short(value) for name, value in run.scores.items()},
        "seconds": _short(record["seconds"]),
        "commit": commit_of(record),
        "kernel": record.get("kernel"),
        "machine": f"{machine}, Python {versions['python']}, torch {versions['torch']}",
        "config": {key: value for key, value in flatten(run.config).items() if key != "task.data.description"},
    }


def _dynamics(run: Run) -> dict[str, Any] | None:
    """Return None without recorded dynamics, as for a method without regularized matrices."""
    if len(run.dynamics) < 2:
        return None
    rows: Sequence[Mapping[str, Any]] = run.dynamics[1:]
    kept = [rows[place] for place in evenly(len(rows), POINTS)]
    found: dict[str, Any] = {"steps": [row["step"] for row in kept]}
    for quantity, over in OVER_MATRICES.items():
        if any(quantity in row for row in kept):
            found[quantity] = [_of_all(row.get(quantity, ()), over) for row in kept]
    return found


def _of_all(values: Iterable[float | None], over: Any) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return _short(float(over(known))) if known else None


def _short(value: Any) -> Any:
    """Round to five digits. Non-finite values become None, since JSON can't hold them."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
