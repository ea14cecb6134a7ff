"""Data of single runs that the page shows on a click: record, configuration, and R, κ and λ over training."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.code import commit_of
from results.runs import Run, flatten
from results.thinning import evenly

# This many numbers of R, κ and λ take about 1.5 MB of the page. The matrices of all runs share them
# evenly.
NUMBERS, FEWEST_POINTS, MOST_POINTS = 600_000, 8, 80
QUANTITIES = {"R": "R", "kappa": "κ", "lambda": "λ"}


def pack(runs: Sequence[Run]) -> str:
    """Return the page's data on all runs, as base64 of gzip of JSON. The same runs give the same text.

    The JSON is {"matrices": [[name, ...], ...], "runs": {run id: {...}}}. A run's `dynamics` has
    its index into `matrices`, the kept steps, and for each quantity the values of every matrix at
    those steps.
    """
    points = points_each(runs)
    lists: list[list[str]] = []
    packed = {}
    for run_id, run in sorted({run.run_id: run for run in runs}.items()):
        packed[run_id] = _about(run) | {"dynamics": _dynamics(run, points, lists)}
    content = json.dumps({"matrices": lists, "runs": packed}, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode()


def unpack(text: str) -> dict[str, Any]:
    """Return what `pack` was given, as the page reads it."""
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return content


def points_each(runs: Sequence[Run]) -> int:
    """Return how many steps are kept for every matrix."""
    own = {run.run_id: run for run in runs}.values()
    matrices = sum(len(run.dynamics[0]["matrices"]) for run in own if run.dynamics)
    return max(FEWEST_POINTS, min(MOST_POINTS, NUMBERS // max(1, len(QUANTITIES) * matrices)))


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


def _dynamics(run: Run, points: int, lists: list[list[str]]) -> dict[str, Any] | None:
    """Return None without recorded dynamics, as for a method without regularized matrices."""
    if len(run.dynamics) < 2:
        return None
    names, *rows = run.dynamics
    if names["matrices"] not in lists:
        lists.append(names["matrices"])
    kept = [rows[place] for place in evenly(len(rows), points)]
    found: dict[str, Any] = {"list": lists.index(names["matrices"]), "steps": [row["step"] for row in kept]}
    for quantity in QUANTITIES:
        if any(quantity in row for row in kept):
            found[quantity] = [
                [_short(_at(row, quantity, number)) for row in kept] for number in range(len(names["matrices"]))
            ]
    return found


def _at(row: Mapping[str, Any], quantity: str, number: int) -> float | None:
    return row[quantity][number] if quantity in row else None


def _short(value: Any) -> Any:
    """Round to five digits. Non-finite values become None, since JSON can't hold them."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
