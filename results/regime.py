"""What runs show of their regime: how far matrices grew, where bounds lie, and how hard they act."""

from dataclasses import dataclass
from statistics import median

from results.runs import Run
from results.thinning import quotients, thin_dynamics


@dataclass(frozen=True)
class Measured:
    """Sizes of one run, as medians over its regularized matrices if not said otherwise.

    grown: R at the end over R at initialization.
    bound: κ at the end over R at initialization. None without a bound.
    most: the largest R / κ of any matrix at any logged step with a bound.
    active: share of the (matrix, step) pairs of the rows that are kept (results/thinning.py) with λ > 0.
    largest_lambda: of any matrix at any logged step.
    """

    grown: float
    bound: float | None = None
    most: float | None = None
    active: float | None = None
    largest_lambda: float | None = None


def measured(run: Run) -> Measured | None:
    """Return the sizes of a run, or None if its log doesn't begin at step 0 or R(0) is zero for a matrix."""
    rows = [row for row in thin_dynamics(run.dynamics) if "R" in row]
    if len(rows) < 2 or rows[0]["step"] != 0 or not all(rows[0]["R"]):
        return None
    start, last = rows[0]["R"], rows[-1]
    grown = median(quotients(last["R"], start))
    if "kappa" not in last:
        return Measured(grown)
    bounds = quotients(last["kappa"], start)
    later = rows[1:]
    sizes = [ratio for row in later for ratio in quotients(row["R"], row["kappa"])]
    pressed = [value for row in later for value in row["lambda"]]
    return Measured(
        grown,
        median(bounds) if bounds else None,
        max(sizes, default=None),
        sum(value > 0 for value in pressed) / len(pressed),
        max(pressed),
    )
