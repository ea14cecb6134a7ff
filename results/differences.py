"""Paired differences: their median with a bootstrap interval, and Wilcoxon's signed-rank test."""

import math
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

FEWEST = 6
RESAMPLES = 1999  # the medians of few pairs are few numbers: more resamples do not move the ends


@dataclass(frozen=True)
class Median:
    """The median of paired differences, the 95 % interval (`interval`) and the number of pairs."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    def worded(self, unit: str = "") -> str:
        """+0.15 points [+0.12, +0.18] over 22 pairs"""
        between = f" [{self.low:+.2f}, {self.high:+.2f}]" if self.low is not None else ""
        return f"{self.value:+.2f}{unit}{between} over {self.pairs} pairs"


def median_of(differences: pd.Series) -> Median:
    """Their median; without an interval where `interval` has none."""
    low, high = interval(differences) or (None, None)
    return Median(float(differences.median()), low, high, len(differences))


def interval(differences: pd.Series) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the median; equal differences have equal ones, in whatever order.

    BCa, or percentiles where BCa is not defined, as for differences that are all equal. None for fewer than six pairs, where even the
    smallest and the largest have the median between them in less than 95 % of cases (1 - 2 / 2^n), and where a difference is infinite
    (a run that diverged or never got to the target). Pairs are drawn as if they were independent; those of one seed, or of one
    learning rate, are not quite, so that the interval is rather too narrow.
    """
    values = np.sort(differences.to_numpy(dtype=float))
    if len(values) < FEWEST or not np.isfinite(values).all():
        return None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # degenerate data: the ends are NaN then
            found = stats.bootstrap(
                (values,), np.median, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(0)
            )
        low, high = (float(end) for end in found.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None


def signed_rank(differences: pd.Series, alternative: str = "two-sided") -> float:
    """The p-value of Wilcoxon's signed-rank test; 1 where no difference is other than 0."""
    return float(stats.wilcoxon(differences, alternative=alternative).pvalue) if (differences != 0).any() else 1.0


@cache
def least_signed_rank(pairs: int, alternative: str = "two-sided") -> float:
    """The smallest p-value that so many pairs can give, which is that of differences in one direction; `alternative`: or "greater"."""
    return float(stats.wilcoxon(range(1, pairs + 1), alternative=alternative).pvalue) if pairs else 1.0
