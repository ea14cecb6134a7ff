"""Paired differences: median, bootstrap interval and Wilcoxon's signed-rank test."""

import math
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

FEWEST = 6
RESAMPLES = 1999  # the median of few pairs takes few values, so more resamples don't move the ends


@dataclass(frozen=True)
class Median:
    """Median of paired differences, its 95 % interval (`interval`) and the number of pairs."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    def worded(self, unit: str = "") -> str:
        """Return a text such as "+0.15 points [+0.12, +0.18] over 22 pairs"."""
        between = f" [{self.low:+.2f}, {self.high:+.2f}]" if self.low is not None else ""
        return f"{self.value:+.2f}{unit}{between} over {self.pairs} pairs"


def median_of(differences: pd.Series) -> Median:
    """Return the median, without an interval if `interval` returns None."""
    low, high = interval(differences) or (None, None)
    return Median(float(differences.median()), low, high, len(differences))


def interval(differences: pd.Series) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the median. The order of the differences doesn't matter.

    The method is BCa, or percentiles if BCa is undefined (for example, if all differences are
    equal).

    The result is None in two cases. With fewer than six pairs, even the range from smallest to
    largest covers the median in less than 95 % of cases (1 - 2 / 2^n). A difference may also be
    infinite: a run diverged or never reached the target.

    Pairs are drawn as if they were independent. Pairs that share a seed or a learning rate are not
    quite independent, so the interval is somewhat too narrow.
    """
    values = np.sort(differences.to_numpy(dtype=float))
    if len(values) < FEWEST or not np.isfinite(values).all():
        return None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on degenerate data the ends are NaN
            found = stats.bootstrap(
                (values,), np.median, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(0)
            )
        low, high = (float(end) for end in found.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None


def signed_rank(differences: pd.Series, alternative: str = "two-sided") -> float:
    """Return the p-value of Wilcoxon's signed-rank test, or 1 if all differences are 0."""
    return float(stats.wilcoxon(differences, alternative=alternative).pvalue) if (differences != 0).any() else 1.0


@cache
def least_signed_rank(pairs: int, alternative: str = "two-sided") -> float:
    """Return the smallest p-value that this number of pairs can give: all differences have one sign.

    alternative: "two-sided" or "greater".
    """
    return float(stats.wilcoxon(range(1, pairs + 1), alternative=alternative).pvalue) if pairs else 1.0
