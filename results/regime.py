"""What runs show of their regime: how far matrices grew, where bounds lie, and how hard they act."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from results.runs import Run

ABOVE = 1.05  # R / κ


@dataclass(frozen=True)
class Measured:
    """Sizes of one run, as medians over its regularized matrices if not said otherwise.

    grown: R at the end over R at initialization.
    bound: κ at the end over R at initialization. None without a bound.
    most: the largest R / κ of any matrix at any logged step with a bound.
    active: share of all (matrix, logged step) pairs with λ > 0.
    largest_lambda: of any matrix at any logged step.
    above: share of the same pairs with R > 1.05 κ. R may exceed κ: a bound pulls, it doesn't clip.
    """

    grown: float
    bound: float | None = None
    most: float | None = None
    active: float | None = None
    largest_lambda: float | None = None
    above: float | None = None


def measured(run: Run) -> Measured | None:
    """Return the sizes of a run, or None if its log doesn't begin at step 0 or R(0) is zero for a matrix."""
    rows = [row for row in run.dynamics if "R" in row]
    if len(rows) < 2 or rows[0]["step"] != 0 or not all(rows[0]["R"]):
        return None
    start, last = rows[0]["R"], rows[-1]
    grown = median(_ratios(last["R"], start))
    if "kappa" not in last:
        return Measured(grown)
    bounds = _ratios(last["kappa"], start)
    later = rows[1:]
    sizes = [ratio for row in later for ratio in _ratios(row["R"], row["kappa"])]
    pressed = [value for row in later for value in row["lambda"]]
    return Measured(
        grown,
        median(bounds) if bounds else None,
        max(sizes, default=None),
        sum(value > 0 for value in pressed) / len(pressed),
        max(pressed),
        sum(size > ABOVE for size in sizes) / len(pressed),
    )


def _ratios(values: Sequence[Any], by: Sequence[Any]) -> list[float]:
    """Return the quotients of two lists, without those that lack a value."""
    return [value / one for value, one in zip(values, by, strict=True) if value is not None and one]
