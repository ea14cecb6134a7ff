"""What a tuning budget buys: best-of-k curves and performance profiles over a method's settings.

Scores here are "higher is better". Callers negate a loss. A diverged setting is -inf.
"""

from collections.abc import Sequence

import numpy as np


def best_of(scores: Sequence[float], worst: float) -> list[float]:
    """Return the expected best validation score of k random settings, for k = 1 to the number of settings.

    Settings are drawn with replacement (Dodge et al. 2019, equation 7).

    Args:
        worst: the score that a diverged setting counts with, such as that of an untrained model.
    """
    values = np.sort(np.where(np.isfinite(scores), np.asarray(scores, dtype=float), worst))
    ranks = np.arange(len(values) + 1) / max(1, len(values))
    return [float((values * (ranks[1:] ** k - ranks[:-1] ** k)).sum()) for k in range(1, len(values) + 1)]


def profile(scores: Sequence[float], best: float, distances: Sequence[float]) -> list[float]:
    """Return the share of settings whose score is at most each distance below `best`.

    Args:
        best: the best score of all compared methods.
        distances: in the metric's unit, from 0.
    """
    behind = best - np.asarray(scores, dtype=float)
    return [float((behind <= distance + 1e-9).mean()) for distance in distances]
