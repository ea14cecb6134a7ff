"""Compare our runs at paper scale with a published mean."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.01


def welch(ours: Sequence[float], mean: float, std: float | None, seeds: int) -> float | None:
    """Return the p-value of Welch's t-test against a published mean.

    Args:
        std: the published standard deviation over `seeds` seeds. With one seed, or without it, the
            published value is taken for one draw with our standard deviation s, so that the
            difference has the standard error s sqrt(1 + 1/n).

    With three published seeds the test rejects equal means in about 2 % of cases rather than in the
    nominal 1 %.

    Return None with fewer than 2 finite scores, or if a score is not finite.
    """
    values = np.asarray(ours, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    own, n = float(values.std(ddof=1)), len(values)
    if std is None or seeds < 2:
        if own == 0:
            return 1.0 if values.mean() == mean else 0.0
        t = (float(values.mean()) - mean) / (own * math.sqrt(1 + 1 / n))
        return float(2 * stats.t.sf(abs(t), n - 1))
    if own == 0 and std == 0:
        return 1.0 if values.mean() == mean else 0.0
    return float(stats.ttest_ind_from_stats(values.mean(), own, n, mean, std, seeds, equal_var=False).pvalue)
