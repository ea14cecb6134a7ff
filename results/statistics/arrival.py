"""Compare when runs reach a target, some of which never do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Arrivals:
    """Steps at which runs reached a target.

    steps: of each run. None: it did not reach the target in its `length` steps.
    length: the number of steps of every run.
    """

    steps: Sequence[int | None]
    length: int

    @property
    def median(self) -> float:
        """The Kaplan-Meier median: the first step by which half of the runs arrived. Infinite if there is none."""
        survival = stats.ecdf(self._censored()).sf
        below = survival.quantiles[survival.probabilities <= 0.5]
        return float(below[0]) if len(below) else math.inf

    def _censored(self) -> stats.CensoredData:
        arrived = [step for step in self.steps if step is not None]
        return stats.CensoredData(uncensored=arrived, right=[self.length] * (len(self.steps) - len(arrived)))


def logrank(left: Arrivals, right: Arrivals) -> float:
    """Return the two-sided p-value of the log-rank test, or 1 if no run arrived."""
    if not any(step is not None for arrivals in (left, right) for step in arrivals.steps):
        return 1.0
    p = float(stats.logrank(left._censored(), right._censored()).pvalue)
    return 1.0 if np.isnan(p) else p
