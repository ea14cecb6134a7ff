"""Compare two methods on the same seeds: mean difference, interval, p-value, and what could have been seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    mean, low, high: the mean and its 95 % interval, in the metric's unit.
    p: two-sided p-value of the paired t-test.
    std: standard deviation of the differences.
    pairs: number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    std: float
    pairs: int

    @property
    def visible(self) -> float:
        """The smallest true difference that these pairs would have shown with 80 % power."""
        return self.std * visible_effect(self.pairs)


def difference(left: Sequence[float], right: Sequence[float]) -> Difference | None:
    """Compare `left` and `right`, the scores of two methods on the same seeds in the same order.

    Return None with fewer than 2 seeds, or if a score is not finite: a diverged run has no size.

    Raises:
        ValueError: there are more scores of one method than of the other.
    """
    if len(left) != len(right):
        raise ValueError(f"{len(left)} scores can't be paired with {len(right)}")
    ours, theirs = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    if len(ours) < 2 or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    differences = ours - theirs
    mean, std = float(differences.mean()), float(differences.std(ddof=1))
    if std == 0:  # the t-test is undefined
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, 0.0, len(differences))
    error, freedom = std / math.sqrt(len(differences)), len(differences) - 1
    half = error * float(special.stdtrit(freedom, 1 - LEVEL / 2))
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, p, std, len(differences))


def power(effect: float, pairs: int, level: float = LEVEL) -> float:
    """Return the power of a two-sided paired t-test.

    Args:
        effect: true mean difference, in standard deviations of the differences.
    """
    if pairs < 2:
        return 0.0
    critical, shift = stats.t.ppf(1 - level / 2, pairs - 1), effect * math.sqrt(pairs)
    beyond = stats.nct.sf(critical, pairs - 1, shift) + np.nan_to_num(stats.nct.cdf(-critical, pairs - 1, shift))
    return float(beyond)


def visible_effect(pairs: int, wanted: float = POWER) -> float:
    """Return the effect that is found with power `wanted`, in standard deviations of the differences.

    Infinite with fewer than 2 pairs.
    """
    if pairs < 2:
        return math.inf
    return float(optimize.brentq(lambda effect: power(effect, pairs) - wanted, 0, 100))
