"""Metrics and sizes of matrices over a run's steps, and when they reach a target."""

import itertools
from collections.abc import Sequence

import pandas as pd

from results.runs import Run, flatten
from results.schema import Artefact, Method

Points = tuple[list[int], list[float]]  # steps and values


def runs_of(method: Method, runs: Sequence[Run]) -> list[Run]:
    """Return the runs of one method, sorted by seed."""
    chosen = []
    for run in runs:
        config = flatten(run.config)
        if config["regularizer.name"] == method.regularizer and all(
            config.get(key) == value for key, value in method.select.items()
        ):
            chosen.append(run)
    return sorted(chosen, key=lambda run: run.seed)


def series(run: Run, name: str) -> Points:
    """Return the steps and values of one metric of a run."""
    rows = [row for row in run.metrics if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def series_over(runs: Sequence[Run], name: str, how: str) -> Points:
    """Return the "mean" or "median" `series` over runs, at the steps at which all of them were evaluated."""
    table = pd.DataFrame([dict(zip(*series(run, name), strict=True)) for run in runs], dtype=float)
    values = table.dropna(axis=1).agg(how).sort_index()
    return [int(step) for step in values.index], values.to_list()


def first_at(steps: Sequence[int], values: Sequence[float], target: float, higher: bool) -> int | None:
    """Return the first step with a value at the target or better, or None."""
    return next(
        (step for step, value in zip(steps, values, strict=True) if (value >= target if higher else value <= target)),
        None,
    )


def first_step(run: Run, name: str, target: float, higher: bool) -> int | None:
    """Return the first evaluated step at which the metric is at the target or better, or None."""
    return first_at(*series(run, name), target, higher)


def first_step_at(
    artefact: Artefact, method: Method, runs: Sequence[Run], name: str | None = None
) -> dict[int, int | None]:
    """Return the method's `first_step` to the artefact's target, by seed."""
    name, target, higher = name or artefact.metric.name, artefact.curves.target, artefact.metric.higher
    return {run.seed: first_step(run, name, target, higher) for run in runs_of(method, runs)}


def trace(run: Run, matrix: str, quantity: str) -> Points:
    """Return steps and values of a matrix's "R", "change" (of R per step), "lambda" or "kappa".

    Rows without the quantity are left out. Raises KeyError if the run doesn't regularize the
    matrix.
    """
    names, *rows = run.dynamics
    if matrix not in names["matrices"]:
        raise KeyError(f"{matrix} is not among the regularized matrices of {run.run_id}")
    place, key = names["matrices"].index(matrix), "R" if quantity == "change" else quantity
    known = [(row["step"], row[key][place]) for row in rows if key in row and row[key][place] is not None]
    if quantity == "change":
        known = [(b[0], (b[1] - a[1]) / (b[0] - a[0])) for a, b in itertools.pairwise(known)]
    return [step for step, _ in known], [value for _, value in known]


def bound_set(run: Run, matrix: str) -> int | None:
    """Return the first logged step at which the matrix has a κ, or None if it never has one."""
    steps, _ = trace(run, matrix, "kappa")
    return steps[0] if steps else None
