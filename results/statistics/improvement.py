"""Probability of improvement: how often a run of one method beats a run of another."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 2000


def probability_of_improvement(better: Sequence[float], worse: Sequence[float]) -> tuple[float, float, float]:
    """Return P(a score of `better` is higher than one of `worse`) with the ends of its 95 % interval.

    A tie counts half. Runs are compared across all seeds (Agarwal et al. 2021). A diverged run is
    -inf. The interval is a percentile bootstrap over the runs of both methods.
    """
    left, right = np.asarray(better, dtype=float), np.asarray(worse, dtype=float)
    estimate = float(_share_of_wins(left, right))
    if min(len(left), len(right)) < 2:
        return estimate, 0.0, 1.0
    found = stats.bootstrap(
        (left, right),
        _share_of_wins,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    return estimate, float(found.low), float(found.high)


def _share_of_wins(left: np.ndarray, right: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the share of pairs that `left` wins, over the last axis of both."""
    wins = left[..., :, None] > right[..., None, :]
    ties = left[..., :, None] == right[..., None, :]
    return (wins + 0.5 * ties).mean(axis=(-2, -1))
