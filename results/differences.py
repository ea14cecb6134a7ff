"""The median of ratios or differences, with its bootstrap interval."""

import math
import warnings
from dataclasses import dataclass

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
