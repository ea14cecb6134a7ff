"""What runs show of their regime: how far matrices grew, where bounds lie, and how hard they act."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from results.runs import Run

ABOVE = 1.05  # R / κ


@dataclass(frozen=True)
class Pressure:
    """How hard a run's bounds act, over all (matrix, logged step) pairs after step 0.

    most: the largest R / κ. None without a bound.
    above: share of pairs with R > 1.05 κ. R may exceed κ, because a bound pulls and doesn't clip.
    active: share of pairs with λ > 0.
    largest_lambda: the largest λ.
    """

    most: float | None = None
    above: float | None = None
    active: float | None = None
    largest_lambda: float | None = None


@dataclass(frozen=True)
class Measured(Pressure):
    """Sizes of one run, as medians over its regularized matrices.

    grown: R at the end over R at initialization.
    bound: κ at the end over R at initialization. None without a bound.
    """

    grown: float = 1.0
    bound: float | None = None


def pressure(run: Run) -> Pressure:
    """Return how hard a run's bounds act. Nothing is known without CPR or without a log."""
    rows = [row for row in run.dynamics if "kappa" in row and row["step"] > 0]
    if not rows:
        return Pressure()
    sizes = [ratio for row in rows for ratio in _ratios(row["R"], row["kappa"])]
    pressed = [value for row in rows for value in row["lambda"]]
    return Pressure(
        most=max(sizes, default=None),
        above=sum(size > ABOVE for size in sizes) / len(pressed),
        active=sum(value > 0 for value in pressed) / len(pressed),
        largest_lambda=max(pressed),
    )


def measured(run: Run) -> Measured | None:
    """Return the sizes of a run, or None if its log doesn't begin at step 0 or R(0) is zero for a matrix."""
    rows = [row for row in run.dynamics if "R" in row]
    if len(rows) < 2 or rows[0]["step"] != 0 or not all(rows[0]["R"]):
        return None
    start, last = rows[0]["R"], rows[-1]
    bounds = _ratios(last["kappa"], start) if "kappa" in last else []
    grown, bound = median(_ratios(last["R"], start)), median(bounds) if bounds else None
    return Measured(**vars(pressure(run)), grown=grown, bound=bound)


def _ratios(values: Sequence[Any], by: Sequence[Any]) -> list[float]:
    """Return the quotients of two lists, without those that lack a value."""
    return [value / one for value, one in zip(values, by, strict=True) if value is not None and one]
